import copy
import importlib
import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn
from toy import Jitter, Largest, Numbers, Scale, Total, toy

from kmr.cache import CacheWarning, PrefixCache, Store
from kmr.core import (
    Budget,
    Choice,
    Cost,
    Instantiation,
    IntRange,
    KMRError,
    Knob,
    Move,
    NotApplicable,
    Policy,
    Reading,
    Readings,
    Rule,
    RuleWarning,
    Run,
    Step,
    Value,
    budgeted_kmr,
    run_sequence,
)
from kmr.core.trace import TransformationSequence

Start = Callable[..., subprocess.Popen[str]]

BASE = Numbers(8.0, 1.0)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "cache", 10**9)


@dataclass(frozen=True, kw_only=True)
class Shift(Rule):
    """Adds a whole number; warns that it does; cannot add more than 5."""

    name: str = "shift"
    unit: float = 1.0
    data: Any = field(default=None, compare=False)

    @property
    def knobs(self) -> tuple[Knob, ...]:
        return Knob("shift.by", IntRange(0, 9, neutral=0)), Knob("shift.to", Choice((8, 4, 2), neutral=32))

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        if float(value) > 5:
            raise NotApplicable("too far")
        warnings.warn(RuleWarning("shifted all"), stacklevel=2)
        with torch.no_grad():
            model.values += self.unit * float(value)  # type: ignore[operator]
        return model


@dataclass(frozen=True, kw_only=True)
class Count(Cost):
    name: str = "count"
    unit: str = field(init=False, default="1")

    def read(self, seen: nn.Module) -> Reading:
        return Reading(sum(p.numel() for p in seen.parameters()), 0.5)


def moves(*pairs: tuple[str, Value]) -> tuple[Move, ...]:
    return tuple(Move(knob, value) for knob, value in pairs)


THREE = moves(("scale.by", 0.5), ("jitter.size", 0.25), ("scale.by", 0.25))


def taken_by(
    workers: ModuleType, cache: PrefixCache, instantiation: Instantiation, sequence: tuple[Move, ...], **more: Any
) -> list[str]:
    taken: list[str] = []
    workers.follow(BASE, instantiation, sequence, cache, taken=lambda move: taken.append(str(move)), **more)
    return taken


def recalled(
    cache: PrefixCache, base: nn.Module, instantiation: Instantiation, sequence: tuple[Move, ...]
) -> tuple[nn.Module, tuple[Step, ...]]:
    """Return the model of the longest known beginning of these moves, and its steps, taking no move."""

    def refuse() -> tuple[nn.Module, Step]:
        raise LookupError

    model, steps = base, ()
    for move in sequence:
        try:
            model, step = cache.reach(base, instantiation, steps, move, refuse)
        except LookupError:
            break
        steps = (*steps, step)
    return model, steps


def test_a_sequence_is_taken_once_and_recalled_with_all_it_recorded(store: Store, workers: ModuleType) -> None:
    instantiation = toy(Scale(), Jitter(), Shift())
    sequence = (*THREE, *moves(("shift.by", 3)))
    live = workers.follow(BASE, instantiation, sequence, PrefixCache(store, BASE, {}))
    plain = run_sequence(BASE, instantiation, TransformationSequence(sequence))
    assert tuple(step for _, step in live) == plain.trace.accepted[1:]

    cache = PrefixCache(Store(store.folder, 10**9), BASE, {})
    again = workers.follow(BASE, instantiation, sequence, cache, taken=lambda _: pytest.fail("taken again"))
    model, steps = recalled(cache, BASE, instantiation, sequence)
    assert steps == tuple(step for _, step in again) == tuple(step for _, step in live)
    assert [step.seconds for step in steps] == [step.seconds for _, step in live]
    assert steps[-1].notes == ("shifted all",)
    for (one, _), (other, _) in zip(live, again, strict=True):
        assert torch.equal(one.values, other.values)
    assert torch.equal(model.values, plain.model.values)  # type: ignore[arg-type]
    found = cache.counts
    assert (found.hits, found.misses) == (8, 0)
    assert 80 < found.seconds_saved < 88
    assert cache.store.statistics().bytes > 0


def test_the_longest_known_beginning_is_found(store: Store, workers: ModuleType) -> None:
    instantiation, cache = workers.two_rules(), PrefixCache(store, BASE, {})
    assert recalled(cache, BASE, instantiation, THREE) == (BASE, ())
    reached = workers.follow(BASE, instantiation, THREE[:2], cache)
    longer = (*THREE, *moves(("jitter.size", 0.5)))
    model, steps = recalled(cache, BASE, instantiation, longer)
    assert steps == tuple(step for _, step in reached)
    assert torch.equal(model.values, reached[-1][0].values)  # type: ignore[arg-type]
    assert taken_by(workers, cache, instantiation, longer) == ["scale.by=0.25", "jitter.size=0.5"]
    assert taken_by(workers, cache, instantiation, THREE[1:]) == ["jitter.size=0.25", "scale.by=0.25"]


def test_a_recalled_model_is_the_callers_own(store: Store, workers: ModuleType) -> None:
    instantiation, cache = workers.two_rules(), PrefixCache(store, BASE, {})
    workers.follow(BASE, instantiation, THREE[:1], cache)
    for _ in range(2):
        model, _ = recalled(cache, BASE, instantiation, THREE[:1])
        assert torch.equal(model.values, torch.tensor([4.0, 1.0]))  # type: ignore[arg-type]
        model.values.data.zero_()  # type: ignore[operator, union-attr]
    assert torch.equal(BASE.values, torch.tensor([8.0, 1.0]))


def test_everything_a_model_depends_on_is_in_its_key(store: Store, workers: ModuleType) -> None:
    first = moves(("shift.by", 2))
    variants: list[tuple[dict[str, Any], Instantiation]] = [
        ({}, toy(Shift())),
        ({"finetune": 1}, toy(Shift())),
        ({"finetune": 1.0}, toy(Shift())),
        ({"data": torch.ones(2)}, toy(Shift())),
        ({"data": torch.zeros(2)}, toy(Shift())),
        ({}, toy(Shift(unit=2.0))),
        ({}, toy(Shift(seed=1))),
        ({}, toy(Shift(data=torch.ones(1)))),
    ]
    for context, instantiation in variants:
        assert taken_by(workers, PrefixCache(store, BASE, context), instantiation, first) == ["shift.by=2"]
    for context, instantiation in variants:
        assert taken_by(workers, PrefixCache(store, BASE, context), instantiation, first) == []


def test_a_rule_with_other_code_behind_it_is_another_rule(
    store: Store, workers: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def taken(helper: str) -> list[str]:
        (tmp_path / "steps_of_mine.py").write_text(helper)
        (tmp_path / "rule_of_mine.py").write_text(
            "from dataclasses import dataclass\nimport steps_of_mine\nfrom toy import Scale\n\n\n"
            "@dataclass(frozen=True, kw_only=True)\nclass Mine(Scale):\n"
            "    def apply(self, model, knob, value):\n"
            "        return super().apply(model, knob, steps_of_mine.step(value))\n"
        )
        for name in ("steps_of_mine", "rule_of_mine"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        rule = importlib.import_module("rule_of_mine").Mine()
        return taken_by(workers, PrefixCache(store, BASE, {}), toy(rule), moves(("scale.by", 0.25)))

    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    assert taken("def step(value):\n    return value\n") == ["scale.by=0.25"]
    assert taken('def step(value):  # as it is\n    """Keep it."""\n    return value\n') == []
    assert taken("def step(value):\n    return 2 * value\n") == ["scale.by=0.25"]


def test_a_model_of_another_library_version_is_not_recalled(
    store: Store, workers: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = moves(("shift.by", 2))
    assert taken_by(workers, PrefixCache(store, BASE, {}), toy(Shift()), first) != []
    monkeypatch.setattr(torch, "__version__", "0.0")
    assert taken_by(workers, PrefixCache(store, BASE, {}), toy(Shift()), first) != []


def test_another_base_is_another_chain(store: Store, workers: ModuleType) -> None:
    cache = PrefixCache(store, BASE, {})
    workers.follow(BASE, workers.two_rules(), THREE[:1], cache)
    other = Numbers(8.0, 1.5)
    assert recalled(PrefixCache(store, other, {}), other, workers.two_rules(), THREE) == (other, ())
    same = copy.deepcopy(BASE)
    assert len(recalled(PrefixCache(store, same, {}), same, workers.two_rules(), THREE)[1]) == 1
    with pytest.raises(KMRError, match="another base model"):
        recalled(cache, same, workers.two_rules(), THREE)


def test_one_setting_has_one_key_whatever_number_says_it(store: Store, workers: ModuleType) -> None:
    cache = PrefixCache(store, BASE, {})
    assert taken_by(workers, cache, toy(Shift()), moves(("shift.by", 2), ("shift.to", 4))) != []
    again = moves(("shift.by", 2.0), ("shift.to", 4.0))
    reached = workers.follow(BASE, toy(Shift()), again, cache, taken=lambda _: pytest.fail("taken again"))
    assert repr(reached[-1][1].sequence.moves) == repr(again)


def test_another_meter_reads_the_models_there_are(store: Store, workers: ModuleType) -> None:
    rules = (Scale(), Jitter())
    live = workers.follow(BASE, toy(*rules), THREE, PrefixCache(store, BASE, {}))
    counted = Instantiation("counted", rules, (Total(), Count()), (Largest(),))
    cache = PrefixCache(store, BASE, {})
    read = workers.follow(BASE, counted, THREE, cache, taken=lambda _: pytest.fail("taken again"))
    for (_, before), (_, after) in zip(live, read, strict=True):
        assert after.costs == {**before.costs, "count": Reading(2, 0.5)}
        assert after.qualities == before.qualities
        assert after.notes == before.notes
        assert after.seconds.rule == 10.0
        assert 0 < after.seconds.meter < 1.0
    assert recalled(cache, BASE, counted, THREE)[1] == tuple(step for _, step in read)


def test_what_cannot_be_done_is_tried_again(store: Store, workers: ModuleType) -> None:
    cache = PrefixCache(store, BASE, {})
    for _ in range(2):
        tried: list[Move] = []
        with pytest.raises(NotApplicable, match="too far"):
            workers.follow(BASE, toy(Shift()), moves(("shift.by", 7)), cache, taken=tried.append)
        assert len(tried) == 1
    assert cache.counts.misses == 2
    assert recalled(cache, BASE, toy(Shift()), moves(("shift.by", 7))) == (BASE, ())


def test_a_rule_of_unknown_content_is_taken_each_time(store: Store, workers: ModuleType) -> None:
    instantiation = toy(Scale(), Shift(data=lambda: 0))
    cache = PrefixCache(store, BASE, {})
    sequence = moves(("scale.by", 0.5), ("shift.by", 2), ("scale.by", 0.25))
    with pytest.warns(CacheWarning, match=r"models of shift are not cached.*lambda") as warned:
        taken = [taken_by(workers, cache, instantiation, sequence) for _ in range(2)]
    assert taken == [["scale.by=0.5", "shift.by=2", "scale.by=0.25"], ["shift.by=2", "scale.by=0.25"]]
    assert len(warned) == 1


def test_a_model_that_would_not_come_back_is_not_kept(store: Store, workers: ModuleType) -> None:
    def hook(model: nn.Module) -> nn.Module:
        model.register_forward_hook(lambda module, inputs, output: output)
        return model

    cache = PrefixCache(store, BASE, {})
    with pytest.warns(CacheWarning, match="hooks"):
        reached = workers.follow(BASE, workers.two_rules(), THREE[:1], cache, finetune=hook)
    assert torch.equal(reached[0][0].values, torch.tensor([4.0, 1.0]))
    assert recalled(cache, BASE, workers.two_rules(), THREE) == (BASE, ())


def test_a_damaged_prefix_is_taken_again_and_longer_ones_recalled(store: Store, workers: ModuleType) -> None:
    instantiation, cache = workers.two_rules(), PrefixCache(store, BASE, {})
    live = workers.follow(BASE, instantiation, THREE, cache)
    damaged = 0
    for card in store.folder.rglob("entry.json"):
        steps = json.loads(card.read_text())["metadata"].get("steps", [])
        if len(steps) == 2 and "seconds" in steps[0]:
            (card.parent / "tensors.safetensors").write_bytes(b"?")
            damaged += 1
    assert damaged == 1
    with pytest.warns(CacheWarning, match="damaged"):
        assert taken_by(workers, cache, instantiation, THREE) == ["jitter.size=0.25"]
    assert cache.store.statistics().quarantined == 1
    assert recalled(cache, BASE, instantiation, THREE)[1] == tuple(step for _, step in live)


def test_what_many_sequences_begin_with_stays_longest(tmp_path: Path, workers: ModuleType) -> None:
    measure = PrefixCache(Store(tmp_path / "one", 10**9), BASE, {})
    workers.follow(BASE, workers.two_rules(), THREE[:1], measure)
    room = 9 * measure.store.statistics().bytes
    cache = PrefixCache(Store(tmp_path / "cache", room), BASE, {})
    for size in range(1, 20):
        workers.follow(BASE, workers.two_rules(), moves(("scale.by", 0.5), ("jitter.size", size / 20)), cache)
    assert cache.store.statistics().bytes <= room
    assert cache.counts.misses == 20
    assert taken_by(workers, cache, workers.two_rules(), THREE[:1]) == []


def test_a_beginning_counts_as_used_after_what_follows_from_it(store: Store, workers: ModuleType) -> None:
    cache = PrefixCache(store, BASE, {})
    workers.follow(BASE, workers.two_rules(), THREE, cache)
    used: dict[int, list[int]] = {}
    for card in store.folder.rglob("entry.json"):
        used.setdefault(len(json.loads(card.read_text())["metadata"]["steps"]), []).append(card.stat().st_mtime_ns)
    assert [len(used[length]) for length in (1, 2, 3)] == [2, 2, 2]  # a model and its readings
    assert min(used[1]) > max(used[2]) >= min(used[2]) > max(used[3])


def test_a_full_disk_does_not_stop_a_run(store: Store, workers: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    cache = PrefixCache(store, BASE, {})
    with pytest.warns(CacheWarning, match="No space left") as warned:
        reached = workers.follow(BASE, workers.two_rules(), THREE, cache)
    assert len(warned) == 1
    assert [step for _, step in reached] == list(
        run_sequence(BASE, workers.two_rules(), TransformationSequence(THREE)).trace.accepted[1:]
    )


def test_a_context_of_unknown_content_is_refused(store: Store) -> None:
    with pytest.raises(KMRError, match="cache key"):
        PrefixCache(store, BASE, {"recipe": object()})


def test_processes_that_ask_for_one_sequence_take_each_move_once(
    tmp_path: Path, start: Start, workers: ModuleType
) -> None:
    processes = [start("sequence", tmp_path) for _ in range(2)]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n", process.communicate()
    before = time.perf_counter()
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    said = [process.communicate(timeout=60) for process in processes]
    assert time.perf_counter() - before > 0.9
    found = [json.loads(output) for output, _ in said]
    assert sorted(move for result in found for move in result["taken"]) == sorted(map(str, workers.SEQUENCE))
    alone = run_sequence(BASE, workers.two_rules(), TransformationSequence(workers.SEQUENCE))
    readings = [[reading.value for reading in step.readings.values()] for step in alone.trace.accepted[1:]]
    for result in found:
        assert result["readings"] == readings
        assert result["values"] == found[0]["values"]
        assert torch.equal(torch.tensor(result["values"][-1]), alone.model.values.detach())  # type: ignore[operator, union-attr]


class Listed(Policy):
    def __init__(self, *proposed: Move) -> None:
        self.left = list(proposed)

    def __call__(self, model: nn.Module, costs: Readings, qualities: Readings) -> Move | None:
        return self.left.pop(0) if self.left else None


def test_runs_under_a_budget_recall_what_they_accepted_and_refuse_again(store: Store) -> None:
    trained: list[int] = []

    def train(model: nn.Module) -> nn.Module:
        trained.append(1)
        return model

    def run(limit: float, prefixes: PrefixCache | None) -> Run:
        proposed = moves(("scale.by", 0.5), ("scale.by", -0.5), ("shift.by", 9), ("scale.by", 0.25), ("scale.by", 0.5))
        return budgeted_kmr(
            BASE, toy(Scale(), Shift()), Listed(*proposed), Budget("total", limit, 9),
            finetune=train, on_no_progress="next", prefixes=prefixes,
        )  # fmt: skip

    plain = run(2.0, None)
    assert len(trained) == 3
    for times in (3, 0):
        trained.clear()
        cached = run(2.0, PrefixCache(store, BASE, {}))
        assert cached.trace == plain.trace
        assert torch.equal(cached.model.values, plain.model.values)  # type: ignore[arg-type]
        assert len(trained) == times
    assert len(run(4.0, PrefixCache(store, BASE, {})).trace.accepted) < len(plain.trace.accepted)
    assert trained == [], "a looser budget begins alike"
    assert [step.accepted for step in plain.trace][1:4] == [True, False, False]
