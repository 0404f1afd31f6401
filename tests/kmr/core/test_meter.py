import math
from dataclasses import dataclass, field

import pytest
import torch
from torch import nn
from toy import Largest, Numbers, Total

from kmr.core import Cost, KMRError, NonFiniteReading, Reading, WeightedCost, WeightedQuality, measure


@dataclass(frozen=True, kw_only=True)
class Fixed(Cost):
    """Reads a value it is given, and stirs whatever a meter could disturb."""

    value: float
    stderr: float | None = None
    unit: str = field(init=False, default="1")

    def read(self, seen: nn.Module) -> Reading:
        seen.train()
        torch.rand(3)
        return Reading(self.value, self.stderr)


def test_measuring_leaves_modes_and_random_state_as_they_were() -> None:
    model = nn.Sequential(nn.Dropout(), nn.BatchNorm1d(2))
    model[0].eval()
    state = torch.random.get_rng_state()
    measure(model, [Fixed(name="fixed", value=1.0)])
    assert [module.training for module in model.modules()] == [True, False, True]
    assert torch.equal(state, torch.random.get_rng_state())


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reading_that_is_not_finite_is_refused(value: float) -> None:
    with pytest.raises(NonFiniteReading, match="fixed"):
        Fixed(name="fixed", value=value)(Numbers(1.0))


def test_a_negative_cost_is_refused() -> None:
    with pytest.raises(KMRError, match="negative"):
        Fixed(name="fixed", value=-1.0)(Numbers(1.0))


def test_meters_of_one_view_share_the_work_of_making_it() -> None:
    looks = []

    def look(model: nn.Module) -> float:
        looks.append(model)
        return 7.0

    @dataclass(frozen=True, kw_only=True)
    class Looking(Cost):
        unit: str = field(init=False, default="1")

        @property
        def view(self):
            return look

        def read(self, seen: float) -> Reading:
            return Reading(seen)

    readings = measure(Numbers(1.0), [Looking(name="a"), Looking(name="b")])
    assert (readings["a"].value, readings["b"].value, len(looks)) == (7.0, 7.0, 1)


def test_an_aggregate_is_the_weighted_sum_with_errors_in_quadrature() -> None:
    parts = (Fixed(name="a", value=2.0, stderr=0.3), Fixed(name="b", value=5.0, stderr=0.4))
    reading = WeightedCost(name="both", meters=parts, weights=(1.0, 1.0))(Numbers(1.0))
    assert reading.value == 7.0
    assert reading.stderr == pytest.approx(0.5)
    exact = WeightedCost(name="exact", meters=(Total(),), weights=(0.5,))(Numbers(3.0, -1.0))
    assert exact == Reading(2.0, None)
    quality = WeightedQuality(name="quality", meters=(Largest(),), weights=(2.0,))
    assert (quality(Numbers(3.0, -1.0)).value, quality.direction) == (6.0, "maximize")


@pytest.mark.parametrize("weights", [(), (1.0, 2.0), (-1.0,), (0.0,), (math.nan,)])
def test_an_aggregate_refuses_weights_that_make_no_sum(weights: tuple[float, ...]) -> None:
    with pytest.raises(KMRError, match="both"):
        WeightedCost(name="both", meters=(Total(),), weights=weights)
