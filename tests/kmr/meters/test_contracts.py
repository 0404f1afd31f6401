"""What every meter owes: found among the subclasses of `Meter` that `kmr.meters` defines."""

import copy
import dataclasses
import gc
import importlib
import inspect
import pkgutil
import random
import re

import numpy as np
import pytest
import torch
from torch import nn

import kmr.meters
from kmr.core import Cost, Meter, NotHere, Quality, isolated_rng, measure
from kmr.data import Split
from kmr.representation.weights import Grid, WeightState, strip_all, write_weight

torch.set_num_threads(1)


def all_meters():
    found = set()
    for info in pkgutil.iter_modules(kmr.meters.__path__, "kmr.meters."):
        for _, kind in inspect.getmembers(importlib.import_module(info.name), inspect.isclass):
            if issubclass(kind, Meter) and kind.__module__ == info.name and not kind.__name__.startswith("_"):
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
    given = {
        "example_inputs": X[:2],
        "data": Split((X, targets), batch_size=6),
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
def test_a_meter_leaves_everything_as_it_was(kind):
    net = model()
    meter = make(kind)
    random.seed(3)
    np.random.seed(3)
    torch.manual_seed(3)
    before = (
        copy.deepcopy(net.state_dict()),
        [module.training for module in net.modules()],
        [(p.requires_grad, p.grad is None) for p in net.parameters()],
        [id(p) for p in net.parameters()],
        [len(module._forward_hooks) for module in net.modules()],
        torch.get_rng_state(),
        random.getstate(),
        str(np.random.get_state()),
    )
    switches = (
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        gc.isenabled(),
        torch.backends.mha.get_fastpath_enabled(),
        torch._C._get_mkldnn_enabled(),
        torch.backends.cudnn.enabled,
        torch.backends.cuda.flash_sdp_enabled(),
    )
    meter(net)
    after = (
        net.state_dict(),
        [module.training for module in net.modules()],
        [(p.requires_grad, p.grad is None) for p in net.parameters()],
        [id(p) for p in net.parameters()],
        [len(module._forward_hooks) for module in net.modules()],
        torch.get_rng_state(),
        random.getstate(),
        str(np.random.get_state()),
    )
    assert before[0].keys() == after[0].keys()
    assert all(torch.equal(tensor, after[0][name]) for name, tensor in before[0].items())
    assert torch.equal(before[5], after[5])
    assert before[1:5] + before[6:] == after[1:5] + after[6:]
    assert switches == (
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        gc.isenabled(),
        torch.backends.mha.get_fastpath_enabled(),
        torch._C._get_mkldnn_enabled(),
        torch.backends.cudnn.enabled,
        torch.backends.cuda.flash_sdp_enabled(),
    )


@pytest.mark.parametrize("kind", METERS)
def test_a_meter_has_a_name_a_unit_and_a_direction(kind):
    meter = make(kind)
    assert meter.name
    assert meter.unit
    assert isinstance(meter, Cost if meter.kind == "cost" else Quality)
    assert meter.kind == "quality" or meter.direction == "minimize"
    renamed = dataclasses.replace(meter, name="mine")
    assert list(measure(model(), [renamed])) == ["mine"]
    assert kind.__doc__
    names = [field.default for other in METERS for field in dataclasses.fields(other) if field.name == "name"]
    assert len(set(names)) == len(METERS)


@pytest.mark.parametrize("kind", [kind for kind in METERS if kind.__name__ != "Deployed"])
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
def test_a_meter_reads_the_same_twice_and_whatever_the_mode(kind):
    if kind.__name__ in ("BOPs", "Latency", "SampleTime", "Energy"):
        pytest.skip("times differ")
    meter = make(kind)
    reading = meter(model())
    assert reading == meter(model().eval())
    with isolated_rng(7):
        torch.rand(3)
        assert reading == meter(model().train())
    if reading.stderr is not None:
        assert reading.stderr >= 0


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
