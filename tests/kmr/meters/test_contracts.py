"""What every meter owes: found among the subclasses of `Meter` that `kmr.meters` defines."""

import dataclasses
import importlib
import inspect
import pkgutil
import re

import pytest
import torch
from torch import nn

import kmr.meters
from kmr.core import Meter, NotHere
from kmr.data import Split
from kmr.meters.wrapped import WrappedQuality
from kmr.representation.weights import Grid, WeightState, strip_all, write_weight
from kmr.tasks import Embedding
from kmr.testing import check_meter

torch.set_num_threads(1)


def all_meters():
    found = set()
    for info in pkgutil.iter_modules(kmr.meters.__path__, "kmr.meters."):
        for _, kind in inspect.getmembers(importlib.import_module(info.name), inspect.isclass):
            public = kind.__module__ == info.name and not kind.__name__.startswith("_")
            # Those of lists of images and of texts are tested in their own files.
            other = kind.__name__ in ("MeanAveragePrecision", "WordErrorRate", "CharacterErrorRate")
            if issubclass(kind, Meter) and public and not inspect.isabstract(kind) and not other:
                found.add(kind)
    return sorted(found, key=lambda kind: kind.__name__)


METERS = all_meters()


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(1, 4, 3)
        self.norm = nn.BatchNorm1d(4)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(16, 3)
        self.register_buffer("calls", torch.zeros((), dtype=torch.long))
        self.register_buffer("last", torch.zeros(1))

    def forward(self, x):
        self.calls += 1
        self.last = x.mean(dim=(1, 2))
        return self.head(self.drop(torch.relu(self.norm(self.conv(x))).flatten(1)))


def model():
    torch.manual_seed(0)
    net = Net()
    weight = net.head.weight.detach()
    grid = Grid(torch.full((3, 1), 0.05), torch.full((3, 1), 4.0), 3)
    write_weight(net.head, WeightState(weight, grid, torch.rand(3, 16) < 0.5))
    net.conv.weight.requires_grad_(False)
    net.norm.eval()
    net.head.bias.grad = torch.ones(3)
    return net


X = torch.randn(20, 1, 6, generator=torch.Generator().manual_seed(1))


def make(kind):
    names = {field.name for field in dataclasses.fields(kind) if field.init}
    regression = kind.__name__ in ("R2", "MeanSquaredError", "MeanAbsoluteError")
    targets = torch.randn(20, 3, generator=torch.Generator().manual_seed(2)) if regression else torch.arange(20) % 3
    task = Embedding() if kind.__name__ in ("CosineSimilarity", "RecallAtK") else None
    given = {
        "example_inputs": X[:2],
        "data": Split((X, targets), batch_size=6, task=task, subgroups=torch.arange(20) // 10),
        "original": model(),
        "calibration": Split((X, targets), batch_size=6),
        "repeats": 5,
        "warmup": 1,
    }
    try:
        return kind(**{name: value for name, value in given.items() if name in names})
    except NotHere as why:
        pytest.skip(str(why))


def test_there_are_meters():
    assert len(METERS) >= 11
    assert {kind.__name__ for kind in METERS} <= set(kmr.meters.__all__)


@pytest.mark.parametrize("kind", METERS)
def test_a_meter_keeps_its_contract(kind):
    check_meter(make(kind), model(), repeatable=kind.__name__ not in ("BOPs", "Latency", "SampleTime", "Energy"))
    assert kind.__doc__
    names = [field.default for other in METERS for field in dataclasses.fields(other) if field.name == "name"]
    assert len(set(names)) == len(METERS)


@pytest.mark.parametrize("kind", [kind for kind in METERS if not issubclass(kind, WrappedQuality)])
def test_a_meter_says_its_unit_range_and_direction(kind):
    said = re.search(r"^    Unit: (.+?)\. Range: ([\[(].+?[\])])\. Direction: (\w+)\.", kind.__doc__, re.MULTILINE)
    assert said is not None
    meter = make(kind)
    assert said[1].partition(", or ")[0] == meter.unit
    assert said[3] == meter.direction
    low, high = (float(end.replace("∞", "inf").replace("−", "-")) for end in said[2][1:-1].split(", "))
    assert low <= meter(model()).value <= high
    assert low >= 0 or meter.kind == "quality"


@pytest.mark.parametrize("kind", METERS)
def test_masks_and_grids_change_no_reading_but_those_of_what_is_stored(kind):
    if kind.__name__ in (
        "BOPs",
        "Latency",
        "SampleTime",
        "Energy",
        "WeightBytes",
        "NonzeroParameters",
        "ArtifactBytes",
    ):
        pytest.skip("not a function of what is computed")
    meter = make(kind)
    assert meter(model()) == meter(strip_all(model()))
