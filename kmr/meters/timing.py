"""Timing of repeated calls in turns, so that other load on the machine affects all of them equally."""

import gc
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from kmr.core import KMRError

NOISY = 0.1
"""The spread above which the machine is too busy to compare small differences."""


@dataclass(frozen=True)
class Timing:
    """The times of repeated forward passes, in milliseconds, and the hardware they ran on.

    `spread` is the interquartile range divided by the median. `load` is the machine's 1-minute load average before the
    first run, if it has one.
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

    @property
    def noisy(self) -> bool:
        """Whether the machine was too busy to compare small differences."""
        return self.spread > NOISY


def time_calls(
    calls: Sequence[Callable[[], Any]], *, warmup: int, repeats: int, threads: int, hardware: str
) -> list[Timing]:
    """Time calls in turns: each once, then each again, so that a slow phase of the machine affects all of them.

    Args:
        calls: the calls to time; each returns when its work is done.
        warmup: untimed turns at the start.
        repeats: timed turns.
        threads: the calls' threads, to record.
        hardware: the calls' hardware, to record.

    Raises:
        KMRError: repeats or threads are below 1, or warmup below 0.
    """
    if threads < 1 or repeats < 1 or warmup < 0:
        raise KMRError(f"timing needs threads and repeats >= 1 and warmup >= 0, not {threads}, {repeats} and {warmup}")
    load = os.getloadavg()[0] if hasattr(os, "getloadavg") else None
    samples: list[list[float]] = [[] for _ in calls]
    with _no_garbage_collection():
        for _ in range(warmup):
            for call in calls:
                call()
        for _ in range(repeats):
            for call, taken in zip(calls, samples, strict=True):
                start = time.perf_counter_ns()
                call()
                taken.append((time.perf_counter_ns() - start) / 1e6)
    return [_timing(taken, threads, hardware, load) for taken in samples]


def _timing(samples: Sequence[float], threads: int, hardware: str, load: float | None) -> Timing:
    ordered = sorted(samples)
    median = quantile(ordered, 0.5)
    return Timing(
        median=median,
        p95=quantile(ordered, 0.95),
        minimum=ordered[0],
        spread=(quantile(ordered, 0.75) - quantile(ordered, 0.25)) / median,
        repeats=len(samples),
        threads=threads,
        hardware=hardware,
        load=load,
        samples=tuple(samples),
    )


def quantile(ordered: Sequence[float], fraction: float) -> float:
    """Return a quantile of ascending values, by linear interpolation."""
    return _at(ordered, fraction * (len(ordered) - 1))


def quantile_stderr(ordered: Sequence[float], fraction: float) -> float | None:
    """Return the standard error of a sample quantile; None for fewer than three values.

    The number of values below the true quantile is binomial with standard deviation √(n·q·(1−q)). The values at the
    ranks one standard deviation to either side thus bound the quantile by about one standard error (the
    distribution-free interval of David & Nagaraja, 2003, §7.1).
    """
    count = len(ordered)
    if count < 3:
        return None
    rank = fraction * (count - 1)
    deviation = math.sqrt(count * fraction * (1 - fraction))
    return (_at(ordered, rank + deviation) - _at(ordered, rank - deviation)) / 2


def hardware(device: torch.device) -> str:
    """Return the name of a device's processor, with the vector instructions that affect its speed."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return str(device)
    info = _cpu_info()
    model = info.get("model name", platform.processor() or platform.machine())
    vectors = [name for name in ("avx2", "avx512f", "avx512_vnni", "amx_int8") if name in instructions()]
    return ", ".join([f"{model} ({os.cpu_count()} logical cores)", *vectors])


def instructions() -> frozenset[str]:
    """Return the instruction sets that this machine's processor reports; empty if it reports none."""
    return frozenset(_cpu_info().get("flags", "").split())


def _cpu_info() -> dict[str, str]:
    info = Path("/proc/cpuinfo")
    if not info.is_file():
        return {}
    pairs = (line.partition(":") for line in info.read_text().splitlines())
    return {key.strip(): value.strip() for key, _, value in pairs}


def _at(ordered: Sequence[float], rank: float) -> float:
    rank = min(max(rank, 0.0), len(ordered) - 1.0)
    below = math.floor(rank)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (rank - below) * (ordered[above] - ordered[below])


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()
