import gc
import time

import pytest
import torch
from torch import nn

from kmr.core import KMRError
from kmr.meters import Latency, Timing, time_sessions
from kmr.meters.latency import quantile, quantile_stderr
from kmr.representation.weights import WeightState, write_weight
from kmr.runtimes import Eager

torch.set_num_threads(1)


def time_model(model: nn.Module, inputs: torch.Tensor, threads: int = 1, warmup: int = 5, repeats: int = 50) -> Timing:
    session = Eager().prepare(model, inputs, threads=threads)
    return time_sessions([session], inputs, warmup=warmup, repeats=repeats)[0]


class Sleeps(nn.Module):
    """Takes 2 ms, and notes the circumstances of each call; copies of it note in the same place."""

    notes: list = []  # noqa: RUF012

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(2, 2)

    def forward(self, x, y=None):
        Sleeps.notes.append(
            (torch.get_num_threads(), gc.isenabled(), torch.is_inference_mode_enabled(), self.training, len(x))
        )
        time.sleep(0.002)
        return self.linear(x)


@pytest.fixture(autouse=True)
def notes():
    Sleeps.notes.clear()
    return Sleeps.notes


def test_what_a_timing_holds(notes):
    timing = time_model(Sleeps(), torch.randn(3, 2), threads=2, warmup=2, repeats=7)
    assert len(notes) == 9
    assert set(notes) == {(2, False, True, False, 3)}
    assert torch.get_num_threads() == 1
    assert gc.isenabled()
    assert (timing.repeats, timing.threads, len(timing.samples)) == (7, 2, 7)
    assert 2 <= timing.minimum <= timing.median <= timing.p95 <= max(timing.samples)
    assert timing.minimum == min(timing.samples)
    ordered = sorted(timing.samples)
    assert timing.median == ordered[3]
    assert timing.spread == pytest.approx(((ordered[4] + ordered[5]) / 2 - (ordered[1] + ordered[2]) / 2) / ordered[3])
    assert "cores" in timing.hardware
    assert timing.load is None or timing.load >= 0


def test_masks_are_taken_off_a_copy():
    seen = []

    class Probe(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, 3)

        def forward(self, x):
            seen.append(type(self.linear) is nn.Linear)
            return self.linear(x)

    model = Probe()
    write_weight(model.linear, WeightState(model.linear.weight.detach(), keep=torch.eye(3) > 0))
    time_model(model, torch.randn(1, 3), repeats=1)
    assert all(seen)
    assert len(list(model.linear.parametrizations.weight)) == 1


@pytest.mark.parametrize("inputs", [(torch.randn(4, 2), None), {"x": torch.randn(4, 2), "y": torch.randn(1)}])
def test_inputs_are_passed_as_the_model_takes_them(inputs, notes):
    reading = Latency(example_inputs=inputs, warmup=0, repeats=3)(Sleeps())
    assert reading.value >= 2
    assert reading.stderr >= 0
    assert len(notes) == 3
    assert notes[0][-1] == 4


def test_everything_is_put_back_when_the_model_fails():
    class Fails(nn.Module):
        def forward(self, x):
            raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        time_model(Fails(), torch.zeros(1), threads=2)
    assert torch.get_num_threads() == 1
    assert gc.isenabled()


def test_quantiles_and_their_errors_by_hand():
    values = [float(value) for value in range(101)]
    assert quantile(values, 0.5) == 50
    assert quantile(values, 0.95) == 95
    assert quantile([1.0, 2.0], 0.25) == 1.25
    # One standard deviation of ranks: √(101/4) = 5.025 around the median.
    assert quantile_stderr(values, 0.5) == pytest.approx(5.0249, abs=1e-4)
    assert quantile_stderr(values, 0.95) == pytest.approx((101 * 0.95 * 0.05) ** 0.5)
    assert quantile_stderr([1.0, 2.0], 0.5) is None
    assert quantile_stderr([4.0] * 9, 0.5) == 0


def test_the_error_of_a_median_is_that_of_repeated_experiments():
    samples = torch.randn(4000, 51, generator=torch.Generator().manual_seed(0)).sort(dim=1).values
    for fraction in (0.5, 0.95):
        spread = float(torch.tensor([quantile(row.tolist(), fraction) for row in samples]).std())
        stated = [quantile_stderr(row.tolist(), fraction) for row in samples[:500]]
        assert sum(stated) / len(stated) == pytest.approx(spread, rel=0.15)


@pytest.mark.parametrize("wrong", [{"statistic": "mean"}, {"statistic": "p95", "repeats": 20}])
def test_statistics_that_cannot_be_stated_are_refused(wrong):
    with pytest.raises(KMRError):
        Latency(example_inputs=torch.zeros(1), **wrong)


@pytest.mark.parametrize("wrong", [{"threads": 0}, {"repeats": 0}, {"warmup": -1}])
def test_timing_needs_threads_and_repeats(wrong):
    with pytest.raises(KMRError, match="timing needs"):
        Latency(example_inputs=torch.zeros(1, 1), **wrong)(nn.Linear(1, 1))
