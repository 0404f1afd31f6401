import pytest
import torch
from toy import Jitter, Numbers, Scale, toy

from kmr.cache import PrefixCache, Store
from kmr.core import Move, NotApplicable, Prefixes, TransformationSequence, run_sequence


def test_recalled_prefixes_give_the_same_run_and_tell_the_same_steps(tmp_path):
    base = Numbers(8.0, 1.0)
    inst = toy(Scale(), Jitter())
    cache: Prefixes = PrefixCache(Store(tmp_path, 10**9), base, {})
    seq = TransformationSequence(
        (Move("scale.by", 0.5), Move("jitter.size", 0.0), Move("jitter.size", 0.25), Move("scale.by", 0.25))
    )
    plain_told, told, again = [], [], []

    def rec(to):
        return lambda step, model: to.append((step, model.values.tolist()))

    plain = run_sequence(base, inst, seq, on_step=rec(plain_told))
    one = run_sequence(base, inst, seq, on_step=rec(told), prefixes=cache)
    two = run_sequence(base, inst, seq, on_step=rec(again), prefixes=cache)
    three = run_sequence(base, inst, seq, prefixes=cache)
    assert plain_told == told == again
    assert plain.trace == one.trace == two.trace == three.trace
    assert torch.equal(three.model.values, plain.model.values)
    none = run_sequence(base, inst, TransformationSequence(), prefixes=cache)
    assert none.model is base
    assert len(none.trace) == 1
    counts = cache.counts
    assert (counts.hits, counts.misses) == (6, 3)
    bad = toy(Scale(index=-1))
    with pytest.raises(NotApplicable):
        run_sequence(base, bad, TransformationSequence((Move("scale.by", 0.5),)), prefixes=cache)
