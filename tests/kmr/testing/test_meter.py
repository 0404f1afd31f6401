"""Every clause of a meter's contract is broken once, and found."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import pytest
import torch
from torch import nn

from kmr.core import Cost, Meter, Quality, Reading
from kmr.meters import Parameters, WeightBytes
from kmr.testing import check_meter

TICKS = count()


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 2))


@dataclass(frozen=True, kw_only=True)
class One(Cost):
    """Reads 1, and does one more thing."""

    also: Callable[[nn.Module], Any] = lambda seen: None
    name: str = "one"
    unit: str = field(init=False, default="1")

    def read(self, seen: nn.Module) -> Reading:
        found = self.also(seen)
        return Reading(1.0 if found is None else found)


@dataclass(frozen=True, kw_only=True)
class Unitless(Quality):
    name: str = "one"
    unit: str = field(init=False, default="")

    def read(self, seen: nn.Module) -> Reading:
        return Reading(1.0)


@dataclass(frozen=True, kw_only=True)
class Unsure(Quality):
    name: str = "one"
    unit: str = field(init=False, default="1")

    def read(self, seen: nn.Module) -> Reading:
        return Reading(1.0, stderr=-0.1)


def write(seen: nn.Module) -> None:
    seen[0].bias.data += 1


def hook(seen: nn.Module) -> None:
    seen[0].register_forward_hook(lambda *_: None)


def threads(seen: nn.Module) -> None:
    torch.set_num_threads(torch.get_num_threads() % 2 + 1)


def identity(seen: nn.Module) -> None:
    seen[0].bias = nn.Parameter(seen[0].bias.clone())


BROKEN: dict[str, tuple[Meter, str]] = {
    "tensors": (One(also=write), "tensor 0.bias"),
    "hooks": (One(also=hook), "number of hooks"),
    "threads": (One(also=threads), "number of threads"),
    "parameters": (One(also=identity), "identity of 0.bias"),
    "negative": (One(also=lambda _: -1.0), "a cost cannot be negative"),
    "not finite": (One(also=lambda _: float("nan")), "reading raised NonFiniteReading"),
    "clock": (One(also=lambda _: float(next(TICKS))), "the same model reads"),
    "system": (One(also=lambda _: random.SystemRandom().random()), "the same model reads"),
    "object": (One(also=id), "a copy of it reads"),
    "unit": (Unitless(), "no unit"),
    "stderr": (Unsure(), "standard error is -0.1"),
}


@pytest.fixture(autouse=True)
def _threads() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_meter_is_found_and_named(name: str) -> None:
    made, violated = BROKEN[name]
    with pytest.raises(AssertionError, match=f"^meter one: .*{violated}"):
        check_meter(made, net())


def test_a_clock_need_not_read_the_same_twice() -> None:
    start = next(TICKS)
    check_meter(One(also=lambda _: float(next(TICKS))), net(), repeatable=False)
    assert next(TICKS) > start + 1, "it was read"


@pytest.mark.parametrize("made", [Parameters(), WeightBytes()])
def test_a_meter_that_keeps_its_contract_passes(made: Meter) -> None:
    model = net()
    check_meter(made, model)
    assert model.training
