"""How long a forward pass takes, on this machine, in the runtime named, with the threads stated."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, final
from weakref import WeakKeyDictionary

import torch
from torch import nn

from kmr.core import Cost, KMRError, Reading
from kmr.data import Inputs, Split
from kmr.meters.deployment import Deployment, batch_of
from kmr.meters.timing import Timing, hardware, quantile, quantile_stderr, time_calls
from kmr.runtimes import Eager, Runtime, Session

FEWEST_FOR_P95 = 21
"""Runs below which the error of a 95th percentile would need a run slower than the slowest."""

_DRIFT = 0.1
_FIRST: "WeakKeyDictionary[Session, float]" = WeakKeyDictionary()
"""The median of each original's session when it was timed first."""

_ORIGINALS: "WeakKeyDictionary[Deployment, tuple[nn.Module, Session]]" = WeakKeyDictionary()


def time_sessions(
    sessions: Sequence[Session],
    inputs: Inputs,
    *,
    warmup: int = 5,
    repeats: int = 50,
) -> list[Timing]:
    """Time sessions in turns on one batch, with the threads of the first.

    Args:
        sessions: what to time.
        inputs: the batch.
        warmup: turns before the first timed one.
        repeats: timed turns.
    """
    calls = [session.bind(inputs) for session in sessions]
    with sessions[0].pinned():
        return time_calls(
            calls, warmup=warmup, repeats=repeats, threads=sessions[0].threads,
            hardware=hardware(torch.device("cpu")),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Timed(Cost):
    """What is read off times in a runtime."""

    example_inputs: Inputs = field(repr=False, compare=False)
    original: nn.Module | None = field(default=None, repr=False, compare=False)
    calibration: Split | None = field(default=None, repr=False, compare=False)
    runtime: Runtime = field(default_factory=Eager)
    batch: int | None = None
    threads: int = 1
    warmup: int = 5
    repeats: int = 50
    statistic: Literal["median", "p95", "ratio"] = "median"

    def __post_init__(self) -> None:
        if self.statistic not in ("median", "p95", "ratio"):
            raise KMRError(f"the statistic of a latency is median, p95 or ratio, not {self.statistic!r}")
        if self.statistic == "p95" and self.repeats < FEWEST_FOR_P95:
            raise KMRError(f"a 95th percentile needs at least {FEWEST_FOR_P95} repeats, not {self.repeats}")
        if self.statistic == "ratio":
            if self.original is None:
                raise KMRError("the ratio of a latency to the original's needs the original")
            object.__setattr__(self, "unit", "of the original's")
        _check_threads(self.threads)
        self.runtime.require()
        deployment = Deployment.of(self.runtime, self.example_inputs, self.calibration, self.threads)
        object.__setattr__(self, "_deployment", deployment)

    @property
    def view(self) -> Deployment:
        """The model as it runs."""
        return self._deployment  # type: ignore[attr-defined, no-any-return]

    def _time(self, seen: Session) -> Reading:
        inputs = batch_of(self.example_inputs, self.batch)
        original = None if self.original is None else _original(self.view, self.original)
        sessions = [seen] if original is None else [seen, original]
        timing, *beside = time_sessions(sessions, inputs, warmup=self.warmup, repeats=self.repeats)
        note = self._note(timing, original, beside)
        if self.statistic == "ratio":
            ratios = sorted(a / b for a, b in zip(timing.samples, beside[0].samples, strict=True))
            return Reading(quantile(ratios, 0.5), quantile_stderr(ratios, 0.5), note)
        fraction = 0.5 if self.statistic == "median" else 0.95
        return Reading(getattr(timing, self.statistic), quantile_stderr(sorted(timing.samples), fraction), note)

    def _note(self, timing: Timing, original: Session | None, beside: Sequence[Timing]) -> str | None:
        flags = []
        if timing.noisy:
            flags.append(f"its times spread over {timing.spread:.0%} of their median")
        if original is not None and self.statistic != "ratio":
            now, first = beside[0].median, _FIRST.setdefault(original, beside[0].median)
            if abs(now / first - 1) > _DRIFT:
                flags.append(f"the original took {now:.3g} ms beside it and {first:.3g} ms when it was timed first")
        return f"{self.name}: the machine was busy: {'; '.join(flags)}" if flags else None


@final
@dataclass(frozen=True, kw_only=True)
class Latency(_Timed):
    """The time of one forward pass in a runtime, in turns with the original model in the same runtime.

    Unit: ms, or of the original's for the statistic `ratio`. Range: [0, ∞). Direction: minimize.

    In eager PyTorch it is that of the dense kernels that run: masks and simulated grids change nothing. The standard
    error is that of the sample quantile, from its order statistics; it holds noise within the run, not between runs.
    The reading is flagged where the machine was too busy (a spread over 10 %), or is faster or slower by more than
    that than when the original was timed first. `ratio` takes each pass over the original's beside it, so that a
    machine whose speed changes over a long study changes nothing.

    Args:
        example_inputs: the batch to time, whole unless `batch` is given.
        original: the model to take turns with; None to time alone.
        calibration: data that the runtime may read ranges of activations on.
        runtime: where it runs.
        batch: samples in a batch, those of the example over and over.
        threads: CPU threads.
        warmup: passes before the first timed one.
        repeats: timed passes; a 95th percentile needs 21 or more.
        statistic: what to report of them.
    """

    name: str = "latency_ms"
    unit: str = field(init=False, default="ms")

    def read(self, seen: Session) -> Reading:
        return self._time(seen)


@final
@dataclass(frozen=True, kw_only=True)
class SampleTime(_Timed):
    """The time of one sample in a batch of many: throughput as a cost, 1000 / it is the samples per second.

    Unit: ms/sample, or of the original's for the statistic `ratio`. Range: [0, ∞). Direction: minimize.

    Args:
        batch: samples in a batch, those of the example over and over.
        others: see `Latency`.
    """

    batch: int | None = 32
    name: str = "ms_per_sample"
    unit: str = field(init=False, default="ms/sample")

    def read(self, seen: Session) -> Reading:
        whole = self._time(seen)
        samples = 1 if self.statistic == "ratio" else _samples(batch_of(self.example_inputs, self.batch))
        stderr = None if whole.stderr is None else whole.stderr / samples
        return Reading(whole.value / samples, stderr, whole.note)


def _samples(inputs: Inputs) -> int:
    from kmr.runtimes.program import Signature

    return max((len(tensor) for tensor in Signature.of(inputs).flatten(inputs) if tensor.dim()), default=1)


def _original(deployment: Deployment, original: nn.Module) -> Session:
    """Return the original's session, which is kept for as long as the deployment is."""
    known = _ORIGINALS.get(deployment)
    if known is None or known[0] is not original:
        known = _ORIGINALS[deployment] = (original, deployment.prepare(original))
    return known[1]


def _check_threads(threads: int) -> None:
    if threads < 1:
        raise KMRError(f"timing needs threads and repeats >= 1 and warmup >= 0, not {threads} threads")
