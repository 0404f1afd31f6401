import itertools
import math

import pytest
import torch
from torch import Tensor

from kmr.instantiations.joint.projection import Bill, Losses, ProjectedPoint, project, whole_widths


def vector(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


NONE = torch.zeros(0, dtype=torch.bool)
NO_UNITS = vector()
NO_SETS = torch.zeros(0, dtype=torch.long)


def widths_alone(per_bit: Tensor) -> Bill:
    none = torch.zeros(len(per_bit), 0, dtype=torch.float64)
    return Bill(per_bit, torch.ones_like(per_bit), none, none, 0.0)


def two_layers() -> Bill:
    """Two linear layers, 4 → 6 → 2, whose six hidden channels are the units; and 10 operations besides."""
    macs, inputs = vector(24, 12), vector(32, 8)
    reads, makes = torch.zeros(2, 6, dtype=torch.float64), torch.zeros(2, 6, dtype=torch.float64)
    makes[0], reads[1] = 1 / 6, 1 / 6
    return Bill(macs, inputs, reads, makes, 10.0)


def test_the_bill_is_that_of_the_smaller_layers() -> None:
    gone = torch.tensor([True, False, False, True, False, False])
    assert two_layers()(gone, vector(3, 5)) == pytest.approx(10 + 4 * 4 * 32 * 3 + 4 * 2 * 8 * 5)
    before, after = (two_layers()(torch.arange(6) < count, vector(3, 5)) for count in (2, 3))
    saved = two_layers().saved(torch.arange(6) < 2, vector(3, 5))
    assert saved[3:].tolist() == pytest.approx([before - after] * 3)


def test_widths_fall_by_reverse_water_filling() -> None:
    """Where no bound is met, the least Σ N·4^(b₀ − b) at Σ c·b = B has N·4^(b₀ − b)/c the same in all layers."""
    per_bit, noise, start = vector(3, 1, 2), vector(0.1, 0.4, 0.05), vector(8, 8, 8)
    limit = 25.0
    found = project(
        widths_alone(per_bit),
        ProjectedPoint(NONE, start),
        Losses(NO_UNITS, noise),
        vector(0, 0, 0),
        NO_SETS,
        NO_UNITS,
        limit,
    )
    level = (limit - float((per_bit * (8 + 0.5 * torch.log2(noise / per_bit))).sum())) / float(per_bit.sum())
    expected = 8 + 0.5 * torch.log2(noise / per_bit) + level
    assert bool((expected < 8).all())
    assert found.widths.tolist() == pytest.approx(expected.tolist())


def test_widths_do_not_fall_below_the_lowest_nor_rise() -> None:
    per_bit, noise = vector(1, 1, 1), vector(1e-9, 1e3, 1.0)
    found = project(
        widths_alone(per_bit), ProjectedPoint(NONE, vector(8, 3, 8)), Losses(NO_UNITS, noise), vector(2, 2, 2), NO_SETS,
        NO_UNITS, 12.0,
    )  # fmt: skip
    assert found.widths.tolist() == pytest.approx([2, 3, 7])


def test_the_units_that_lose_least_go_and_as_many_stay_as_must() -> None:
    bill, widths = two_layers(), vector(2, 2)
    losses = Losses(vector(5, 1, 3, 0, 2, 4), vector(1e9, 1e9))
    sets, lowest = torch.zeros(6, dtype=torch.long), vector(2, 2)
    start = ProjectedPoint(torch.zeros(6, dtype=torch.bool), widths)
    three = bill(torch.arange(6) < 3, widths)
    found = project(bill, start, losses, lowest, sets, vector(2), three)
    assert found.gone.tolist() == [False, True, False, True, True, False]
    all_but_two = project(bill, start, losses, lowest, sets, vector(2), 0.0)
    assert all_but_two.gone.tolist() == [False, True, True, True, True, False], "no price meets this limit"


def test_units_and_widths_go_at_one_price() -> None:
    bill, start = two_layers(), ProjectedPoint(torch.zeros(6, dtype=torch.bool), vector(8, 8))
    losses = Losses(vector(1, 2, 4, 8, 16, 32) * 1e-3, vector(1e-3, 1e-3))
    sets = torch.zeros(6, dtype=torch.long)
    limit = 0.5 * bill(start.gone, start.widths)
    found = project(bill, start, losses, vector(2, 2), sets, vector(1), limit)
    assert bill(found.gone, found.widths) <= limit
    prices = losses.units / bill.saved(start.gone, start.widths)
    fallen = found.widths < 8
    bits = 2 * math.log(2) * losses.noise * 4 ** (8 - found.widths) / bill.per_bit(start.gone)
    free = fallen & (found.widths > 2)
    assert bool(found.gone.any())
    assert bool(free.any())
    assert float(prices[found.gone].max()) <= float(bits[free].max()) * (1 + 1e-9)
    assert float(prices[~found.gone].min()) >= float(bits[free].max()) * (1 - 1e-9)


def test_what_is_within_the_limit_stays_and_nothing_comes_back() -> None:
    bill, gone = two_layers(), torch.tensor([True] + [False] * 5)
    start = ProjectedPoint(gone, vector(4, 4))
    losses = Losses(torch.ones(6, dtype=torch.float64), vector(1, 1))
    sets = torch.zeros(6, dtype=torch.long)
    assert project(bill, start, losses, vector(2, 2), sets, vector(1), 1e9) is start
    assert bool(project(bill, start, losses, vector(2, 2), sets, vector(1), 500.0).gone[0])


@pytest.mark.parametrize("limit", [14.0, 17.5, 30.0])
def test_whole_widths_are_the_best_of_all_that_fit(limit: float) -> None:
    """At layers of equal cost the greedy choice is the best, as the gains of a layer's bits fall."""
    noise, start = vector(3, 0.2, 0.9), vector(8, 8, 8)
    bill = widths_alone(vector(1, 1, 1))
    losses = Losses(NO_UNITS, noise)
    point = project(bill, ProjectedPoint(NONE, start), losses, vector(2, 2, 2), NO_SETS, NO_UNITS, limit)
    at_point = Losses(NO_UNITS, noise * 4 ** (start - point.widths))
    found = whole_widths(bill, point, at_point, start, limit)

    def lost(widths: Tensor) -> float:
        return float((noise * 4 ** (start - widths)).sum())

    fits = [vector(*each) for each in itertools.product(range(2, 9), repeat=3) if sum(each) <= limit]
    assert bill(NONE, found) <= limit
    assert torch.equal(found, found.round())
    assert lost(found) == pytest.approx(min(map(lost, fits)))
