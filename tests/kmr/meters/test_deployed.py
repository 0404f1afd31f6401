import time
from dataclasses import dataclass, replace

import pytest
import torch
from torch import nn

from kmr.core import KMRError, NotHere, measure
from kmr.data import Split
from kmr.meters import Accuracy, Agreement, ArtifactBytes, Deployed, Latency, SampleTime
from kmr.meters.deployment import batch_of
from kmr.runtimes import Runtime, Session


class Halved(Session):
    """Runs the model on half of its inputs' values, taking some milliseconds, and notes each batch."""

    def __init__(self, model, threads, delay):
        super().__init__(threads, b"12345")
        self.model, self.delay, self.seen = model, delay, []

    def bind(self, inputs):
        return lambda: self(inputs)

    def __call__(self, inputs):
        self.seen.append((len(inputs), torch.get_num_threads()))
        time.sleep(self.delay / 1000)
        with torch.no_grad():
            return self.model(inputs / 2)


@dataclass(frozen=True, kw_only=True)
class Halving(Runtime):
    name: str = "halving"
    here: bool = True
    delay: float = 0.0

    def probe(self):
        return None if self.here else "it is away"

    def prepare(self, model, example_inputs, *, threads=1, calibration=None):
        SESSIONS.append(Halved(model, threads, self.delay))
        return SESSIONS[-1]


SESSIONS: list = []
X = torch.tensor([[1.0, 0.0], [3.0, 0.0], [0.0, 1.0]])
SPLIT = Split((X, torch.tensor([1, 1, 0])), 2)


class Threshold(nn.Module):
    """Says 1 where the first input is above 1."""

    def __init__(self):
        super().__init__()
        self.at = nn.Parameter(torch.ones(()))

    def forward(self, x):
        above = (x[:, :1] > self.at - 0.1).float()
        return torch.cat([1 - above, above], dim=1)


@pytest.fixture(autouse=True)
def sessions():
    SESSIONS.clear()
    return SESSIONS


def test_one_session_serves_size_and_qualities_of_what_the_runtime_computes():
    runtime = Halving()
    meters = [
        Accuracy(data=SPLIT),
        ArtifactBytes(example_inputs=X, runtime=runtime),
        Deployed(example_inputs=X, runtime=runtime, data=SPLIT),
        Deployed(example_inputs=X, runtime=runtime, data=SPLIT, quality=Agreement, original=Threshold(), name="same"),
    ]
    found = measure(Threshold(), meters)
    assert [round(reading.value, 4) for reading in found.values()] == [1.0, 5.0, 0.6667, 0.6667]
    assert meters[2].unit == "fraction"
    # Sizes and qualities are read one after the other by the engine, costs twice.
    model = Threshold()
    measure(model, meters[1:2])
    measure(model, meters[2:])
    assert len(SESSIONS) == 1
    with torch.no_grad():
        model.at += 10
    assert measure(model, meters[2:3])["deployed_accuracy"].value == pytest.approx(1 / 3)
    assert len(SESSIONS) == 2


def test_the_size_of_a_file_is_what_it_is_after_training():
    assert ArtifactBytes.trained, "numbers take as many bytes as they need: not a cost that training leaves alone"


def test_a_quality_takes_what_makes_it():
    with pytest.raises(KMRError, match=r"must make a kmr\.meters\.PredictionQuality"):
        Deployed(example_inputs=X, runtime=Halving(), data=SPLIT, quality=lambda data: 3)


def test_a_runtime_that_is_not_here_is_refused_when_the_meter_is_made():
    for kind, more in ((Latency, {}), (SampleTime, {}), (ArtifactBytes, {}), (Deployed, {"data": SPLIT})):
        with pytest.raises(NotHere, match="halving is not available: it is away"):
            kind(example_inputs=X, runtime=Halving(here=False), **more)


def test_a_latency_takes_turns_with_the_original_at_the_batch_asked_for():
    meter = Latency(
        example_inputs=X[:2], original=Threshold(), runtime=Halving(), batch=5, threads=2, warmup=1, repeats=4
    )
    meter(Threshold())
    candidate, original = SESSIONS
    assert candidate.seen == original.seen == [(5, 2)] * 5
    model = Threshold()
    with torch.no_grad():
        model.at += 1
    meter(model)
    assert len(SESSIONS) == 3, "the original is made ready once"
    assert len(original.seen) == 10


def test_the_ratio_is_of_neighbours_in_time():
    meter = Latency(example_inputs=X, original=Threshold(), runtime=Halving(delay=1.0), statistic="ratio", repeats=5)
    reading = meter(Threshold())
    assert meter.unit == "of the original's"
    assert reading.value > 0
    assert reading.stderr >= 0
    with pytest.raises(KMRError, match="needs the original"):
        replace(meter, original=None)


def test_the_time_of_a_sample_is_that_of_the_batch_over_its_samples():
    reading = SampleTime(example_inputs=X, runtime=Halving(delay=8.0), batch=4, warmup=0, repeats=3)(Threshold())
    assert 2 <= reading.value < 8
    assert {batch for batch, _ in SESSIONS[0].seen} == {4}


def test_a_busy_machine_is_noted():
    class Uneven(Halved):
        def __call__(self, inputs):
            time.sleep(0.002 * (len(self.seen) % 2))
            return super().__call__(inputs)

    @dataclass(frozen=True, kw_only=True)
    class Unsteady(Halving):
        def prepare(self, model, example_inputs, *, threads=1, calibration=None):
            return Uneven(model, threads, 0.0)

    reading = Latency(example_inputs=X, runtime=Unsteady(), repeats=10)(Threshold())
    assert "the machine was busy: the interquartile range of its times is" in reading.note


def test_a_batch_repeats_its_samples():
    assert batch_of(X, 5)[:, 0].tolist() == [1, 3, 0, 1, 3]
    assert batch_of({"x": X, "n": torch.tensor(3)}, 1)["n"] == 3
    assert batch_of(X, None) is X
    with pytest.raises(KMRError, match="at least 1 sample"):
        batch_of(X, 0)
