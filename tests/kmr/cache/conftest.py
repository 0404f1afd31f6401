"""Worker processes for claims about processes, and a model's whole state to compare by."""

import importlib.util
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn

torch.set_num_threads(1)

HERE = Path(__file__).parent
ROOT = HERE.parents[2]

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="session")
def workers() -> ModuleType:
    """The module of the worker processes, for what tests share with them."""
    spec = importlib.util.spec_from_file_location("cache_workers", HERE / "workers.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def start() -> Iterator[Start]:
    """Start `workers.py` with arguments; what still runs at the end of the test is killed."""
    running: list[subprocess.Popen[str]] = []
    paths = os.pathsep.join([str(ROOT), str(ROOT / "tests" / "support")])

    def run(*arguments: object) -> subprocess.Popen[str]:
        command = [sys.executable, str(HERE / "workers.py"), *map(str, arguments)]
        environment = {**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        running.append(process)
        return process

    yield run
    for process in running:
        process.kill()
        process.communicate()


@pytest.fixture
def whole_state() -> Callable[[nn.Module], list[Any]]:
    return state


def state(model: nn.Module) -> list[Any]:
    """Everything that decides what a model computes and how it goes on, in order, in comparable values."""
    listed: list[Any] = [(path, module.training) for path, module in model.named_modules(remove_duplicate=False)]
    first: dict[int, str] = {}
    groups = (model.named_parameters(remove_duplicate=False), model.named_buffers(remove_duplicate=False))
    for place, group in enumerate(groups):
        found = [
            (
                name,
                first.setdefault(id(tensor), name),
                tuple(tensor.shape),
                tensor.stride(),
                tensor.dtype,
                tensor.requires_grad,
                tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(),
            )
            for name, tensor in group
        ]
        listed += sorted(found) if place else found
    return listed
