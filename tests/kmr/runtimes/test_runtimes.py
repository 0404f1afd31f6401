"""What every runtime owes, found among the subclasses of `Runtime`."""

import importlib
import inspect
import pkgutil

import pytest
import torch

import kmr.runtimes
from kmr.core import NotHere
from kmr.runtimes import Eager, Runtime
from kmr.runtimes.runtime import missing


def all_runtimes():
    found = set()
    for info in pkgutil.iter_modules(kmr.runtimes.__path__, "kmr.runtimes."):
        for _, kind in inspect.getmembers(importlib.import_module(info.name), inspect.isclass):
            if issubclass(kind, Runtime) and not inspect.isabstract(kind):
                found.add(kind)
    return sorted(found, key=lambda kind: kind.__name__)


RUNTIMES = all_runtimes()


@pytest.mark.parametrize("kind", RUNTIMES)
def test_a_runtime_says_whether_it_is_here(kind):
    runtime = kind()
    assert runtime.name
    assert runtime == kind()
    why = runtime.probe()
    if why is None:
        runtime.require()
    else:
        with pytest.raises(NotHere, match="is not available: "):
            runtime.require()
        with pytest.raises(NotHere):
            runtime.prepare(torch.nn.Linear(2, 2), torch.zeros(1, 2))


def test_what_is_missing_is_named_with_the_way_to_get_it():
    assert missing("torch", "json", extra="x") is None
    assert missing("torch", "no_such_package", extra="x") == "no package no_such_package; pip install 'kmr-sweeps[x]'"
    assert missing("torch.no_such_part", extra="x") is not None


def test_eager_pytorch_is_the_model_with_its_threads(net, images):
    session = Eager().prepare(net, images, threads=2)
    with torch.no_grad():
        assert torch.equal(session(images), net(images))
        assert torch.equal(session.bind(images)(), net(images))
    before = torch.get_num_threads()
    with session.pinned():
        assert torch.get_num_threads() == 2
    assert torch.get_num_threads() == before
    assert session.artifact is None
