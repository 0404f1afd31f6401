"""How long a forward pass takes, on this machine, in eager PyTorch, with the threads stated."""

import copy
import gc
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from kmr.core import Cost, KMRError, Reading
from kmr.data import Inputs, map_tensors
from kmr.weights import strip_all

FEWEST_FOR_P95 = 21
"""Runs below which the error of a 95th percentile would need a run slower than the slowest."""


@dataclass(frozen=True)
class Timing:
    """The times of repeated forward passes, in milliseconds, and where they were taken.

    `spread` is the interquartile range over the median: above about 0.1 the machine was too busy to compare small
    differences. `load` is the machine's 1-minute load average before the first run, where it has one.
    """

    median: float
    p95: float
    minimum: float
    spread: float
    repeats: int
    threads: int
    hardware: str
    load: float | None = None
    samples: tuple[float, ...] = field(default=(), repr=False)


def time_model(model: nn.Module, inputs: Inputs, *, threads: int = 1, warmup: int = 5, repeats: int = 50) -> Timing:
    """Time forward passes of a plain copy of a model: grids and masks are taken off, gradients are off.

    Args:
        model: any module, on the device to be timed; it is not changed.
        inputs: the batch to time, as the model takes it.
        threads: for operations on the CPU; put back afterwards.
        warmup: passes before the first timed one.
        repeats: timed passes.

    Raises:
        KMRError: threads or repeats are below 1, or warmup below 0.
    """
    if threads < 1 or repeats < 1 or warmup < 0:
        raise KMRError(f"timing needs threads and repeats >= 1 and warmup >= 0, not {threads}, {repeats} and {warmup}")
    model = strip_all(copy.deepcopy(model)).eval()
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    call = _bind(model, map_tensors(lambda tensor: tensor.to(device), inputs))
    synchronize = torch.cuda.synchronize if device.type == "cuda" else _nothing
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    samples: list[float] = []
    with _threads(threads), _no_garbage_collection(), torch.inference_mode():
        for _ in range(warmup):
            call()
        for _ in range(repeats):
            synchronize()
            start = time.perf_counter_ns()
            call()
            synchronize()
            samples.append((time.perf_counter_ns() - start) / 1e6)
    ordered = sorted(samples)
    median = quantile(ordered, 0.5)
    return Timing(
        median=median,
        p95=quantile(ordered, 0.95),
        minimum=ordered[0],
        spread=(quantile(ordered, 0.75) - quantile(ordered, 0.25)) / median,
        repeats=repeats,
        threads=threads,
        hardware=hardware(device),
        load=load,
        samples=tuple(samples),
    )


@dataclass(frozen=True, kw_only=True)
class Latency(Cost):
    """The time of one forward pass over `example_inputs` in eager PyTorch, see `time_model`.

    It is that of the dense kernels that run: masks and simulated grids change nothing. The standard error is that of
    the sample quantile, from its order statistics; it holds noise within the run, not between runs.

    Args:
        example_inputs: the batch to time, whole.
        threads: CPU threads.
        warmup: passes before the first timed one.
        repeats: timed passes; a 95th percentile needs 21 or more.
        statistic: what to report of them.
    """

    example_inputs: Inputs = field(repr=False, compare=False)
    threads: int = 1
    warmup: int = 5
    repeats: int = 50
    statistic: Literal["median", "p95"] = "median"
    name: str = "latency_ms"
    unit: str = field(init=False, default="ms")

    def __post_init__(self) -> None:
        if self.statistic not in ("median", "p95"):
            raise KMRError(f"the statistic of a latency is median or p95, not {self.statistic!r}")
        if self.statistic == "p95" and self.repeats < FEWEST_FOR_P95:
            raise KMRError(f"a 95th percentile needs at least {FEWEST_FOR_P95} repeats, not {self.repeats}")

    def read(self, seen: nn.Module) -> Reading:
        timing = time_model(seen, self.example_inputs, threads=self.threads, warmup=self.warmup, repeats=self.repeats)
        fraction = 0.5 if self.statistic == "median" else 0.95
        return Reading(getattr(timing, self.statistic), quantile_stderr(sorted(timing.samples), fraction))


def quantile(ordered: Sequence[float], fraction: float) -> float:
    """Return a quantile of ascending values, interpolated linearly between the two nearest."""
    return _at(ordered, fraction * (len(ordered) - 1))


def quantile_stderr(ordered: Sequence[float], fraction: float) -> float | None:
    """Return the standard error of a sample quantile, None of fewer than three values.

    The number of values below the true quantile is binomial, so the ranks one standard deviation √(n·q·(1−q)) to either
    side bound it as one standard error would (the distribution-free interval of David & Nagaraja, 2003, §7.1).
    """
    count = len(ordered)
    if count < 3:
        return None
    rank = fraction * (count - 1)
    deviation = math.sqrt(count * fraction * (1 - fraction))
    return (_at(ordered, rank + deviation) - _at(ordered, rank - deviation)) / 2


def hardware(device: torch.device) -> str:
    """Name the processor that runs a model, with the vector instructions that decide its speed."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model, flags = platform.processor() or platform.machine(), ""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        lines = {
            key.strip(): value.strip()
            for key, _, value in (line.partition(":") for line in info.read_text().splitlines())
        }
        model, flags = lines.get("model name", model), lines.get("flags", "")
    vectors = [name for name in ("avx2", "avx512f", "avx512_vnni", "amx_int8") if name in flags.split()]
    return ", ".join([f"{model} ({os.cpu_count()} logical cores)", *vectors])


def _at(ordered: Sequence[float], rank: float) -> float:
    rank = min(max(rank, 0.0), len(ordered) - 1.0)
    below = math.floor(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (rank - below) * (ordered[above] - ordered[below])


def _bind(model: nn.Module, inputs: Inputs) -> Callable[[], Any]:
    match inputs:
        case Mapping():
            return lambda: model(**inputs)
        case tuple():
            return lambda: model(*inputs)
        case _:
            return lambda: model(inputs)


def _nothing() -> None:
    pass


@contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
