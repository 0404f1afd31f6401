"""What rules find out on the way: kept while a store is open, the same bits with and without one."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from kmr.cache import Store, derived, fingerprint, keeping
from kmr.core import Rule, Value
from kmr.data import Split
from kmr.finetune import FineTune
from kmr.instantiations.distillation import Response
from kmr.instantiations.lowrank import LowRank
from kmr.instantiations.pruning import StructuredPruning, UnstructuredPruning
from kmr.instantiations.pruning.criteria import Taylor
from kmr.instantiations.pruning.saliency import SNIP, Wanda
from kmr.instantiations.quantization import StaticQuantization


def batch(count: int = 24) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(count, 3, 8, 8, generator=generator)
    return x, torch.randint(0, 4, (count,), generator=generator)


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten())
    return nn.Sequential(*layers, nn.Linear(128, 4)).eval()


DATA = Split(batch(), 8)
EXAMPLE = batch()[0][:1]
RULES: dict[str, tuple[Callable[[], Rule], Value]] = {
    "snip": (lambda: UnstructuredPruning(criterion=SNIP(), data=DATA, samples=16), 0.5),
    "wanda": (lambda: UnstructuredPruning(criterion=Wanda(), data=DATA, samples=16), 0.5),
    "taylor": (lambda: StructuredPruning(example_inputs=EXAMPLE, criterion=Taylor(), data=DATA), 0.5),
    "aware": (lambda: LowRank(error="outputs", data=DATA, samples=16), 0.4),
    "static": (lambda: StaticQuantization(data=DATA, example_inputs=EXAMPLE, samples=16), 4),
}


def test_a_store_is_asked_first_and_random_choices_flow_from_the_seed(tmp_path: Path) -> None:
    store, calls = Store(tmp_path, 10**8), []

    def make() -> dict[str, Tensor]:
        calls.append(1)
        return {"noise": torch.rand(3)}

    before = torch.get_rng_state()
    bare = derived("noise", make, 3, of=[1, 2])
    with keeping(store):
        first, second = derived("noise", make, 3, of=[1, 2]), derived("noise", make, 3, of=[1, 2])
        other = derived("noise", make, 4, of=[1, 2])
        with keeping(None):
            derived("noise", make, 3, of=[1, 2])
    assert len(calls) == 4, "without a store, for two keys, and where it is closed"
    assert torch.equal(bare["noise"], first["noise"])
    assert torch.equal(first["noise"], second["noise"])
    assert not torch.equal(first["noise"], other["noise"])
    assert torch.equal(before, torch.get_rng_state()), "the caller draws as before"


def test_what_cannot_be_described_is_computed_each_time(tmp_path: Path) -> None:
    store, calls = Store(tmp_path, 10**8), []

    def make() -> dict[str, Tensor]:
        calls.append(1)
        return {"one": torch.ones(1)}

    with keeping(store):
        for _ in range(2):
            derived("one", make, of=lambda: None)
    assert len(calls) == 2
    assert store.statistics().bytes == 0


@pytest.mark.parametrize("name", RULES)
def test_a_rule_gives_the_same_model_computed_and_recalled(name: str, tmp_path: Path) -> None:
    make, value = RULES[name]
    store = Store(tmp_path, 10**8)
    knob = make().knobs[0].name
    bare = fingerprint(make()(net(), knob, value))
    with keeping(store):
        computed = fingerprint(make()(net(), knob, value))
        had = store.statistics()
        recalled = fingerprint(make()(net(), knob, value))
    assert (had.hits, had.misses) == (0, 1)
    assert store.statistics().hits == 1
    assert bare == computed == recalled


def test_what_a_teacher_answers_is_recalled_by_a_later_training(tmp_path: Path) -> None:
    store, teacher = Store(tmp_path, 10**8), net()
    torch.manual_seed(5)
    trained = []
    for opened in (None, store, store):
        student = net()
        with keeping(opened):
            FineTune(data=DATA, steps=3, guides={"answers": Response()}, original=teacher)(student)
        trained.append(fingerprint(student))
    assert store.statistics().hits == 1
    assert len(set(trained)) == 1
