"""Latency of a forward pass on this machine, in a given runtime with a given number of threads."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal, final
from weakref import WeakKeyDictionary

from torch import nn

from kmr.core import Cost, KMRError, Reading
from kmr.data import Inputs, Split
from kmr.meters.deployment import Deployment, batch_of
from kmr.meters.timing import Timing, hardware, quantile, quantile_stderr, time_calls
from kmr.runtimes import Eager, Runtime, Session

FEWEST_FOR_P95 = 21
"""Smallest number of runs for which the 95th percentile's error bounds lie within the sample."""

_DRIFT = 0.1
_FIRST: "WeakKeyDictionary[Session, float]" = WeakKeyDictionary()
"""The first median of each original's session."""

_ORIGINALS: "WeakKeyDictionary[Deployment, tuple[nn.Module, Session]]" = WeakKeyDictionary()


def time_sessions(
    sessions: Sequence[Session],
    inputs: Inputs,
    *,
    warmup: int = 5,
    repeats: int = 50,
) -> list[Timing]:
    """Time sessions in turns on one batch, with the first session's threads.

    Args:
        sessions: the sessions to time.
        inputs: the batch.
        warmup: untimed turns at the start.
        repeats: timed turns.
    """
    calls = [session.bind(inputs) for session in sessions]
    with sessions[0].pinned():
        return time_calls(
            calls, warmup=warmup, repeats=repeats, threads=sessions[0].threads,
            hardware=hardware(sessions[0].device),
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class _Timed(Cost):
    """A statistic of times in a runtime."""

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
            raise KMRError(f"statistic must be median, p95 or ratio, not {self.statistic!r}")
        if self.statistic == "p95" and self.repeats < FEWEST_FOR_P95:
            raise KMRError(f"statistic p95 needs at least {FEWEST_FOR_P95} repeats, not {self.repeats}")
        if self.statistic == "ratio":
            if self.original is None:
                raise KMRError("statistic ratio needs the original model: pass original")
            object.__setattr__(self, "unit", "of the original's")
        _check_threads(self.threads)
        self.runtime.require()
        deployment = Deployment.of(self.runtime, self.example_inputs, self.calibration, self.threads)
        object.__setattr__(self, "_deployment", deployment)

    @property
    def view(self) -> Deployment:
        """The deployment that prepares the model."""
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
            flags.append(f"the interquartile range of its times is {timing.spread:.0%} of their median")
        if original is not None and self.statistic != "ratio":
            now, first = beside[0].median, _FIRST.setdefault(original, beside[0].median)
            if abs(now / first - 1) > _DRIFT:
                flags.append(f"the original took {now:.3g} ms beside it, and {first:.3g} ms the first time")
        return f"{self.name}: the machine was busy: {'; '.join(flags)}" if flags else None


@final
@dataclass(frozen=True, kw_only=True)
class Latency(_Timed):
    """The time of one forward pass in a runtime, taken in turns with the original model in the same runtime.

    Unit: ms, or of the original's for the statistic `ratio`. Range: [0, ∞). Direction: minimize.

    Eager PyTorch runs dense kernels, so masks and simulated grids do not change its latency. The standard error is the
    sample quantile's, from order statistics; it covers noise within the run, not between runs. A note flags the reading
    if the machine was too busy (a spread over 10 %), or if the original's time differs by more than 10 % from its first
    one. `ratio` divides each pass by the original's next to it, so that changes of the machine's speed cancel.

    Args:
        example_inputs: the batch to time, unless `batch` is given.
        original: the model to take turns with; None times the model alone.
        calibration: data on which the runtime may measure activation ranges.
        runtime: the runtime to run the model in.
        batch: samples in the batch, repeating those of the example.
        threads: CPU threads.
        warmup: untimed passes at the start.
        repeats: timed passes; `p95` needs 21 or more.
        statistic: the statistic to report: `median`, `p95` or `ratio`.
    """

    name: str = "latency_ms"
    unit: str = field(init=False, default="ms")

    def read(self, seen: Session) -> Reading:
        return self._time(seen)


@final
@dataclass(frozen=True, kw_only=True)
class SampleTime(_Timed):
    """The time per sample in a batch: throughput as a cost, where 1000 / reading is samples per second.

    Unit: ms/sample, or of the original's for the statistic `ratio`. Range: [0, ∞). Direction: minimize.

    Args:
        batch: samples in the batch, repeating those of the example.
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
    """Return the original's session, which lives as long as the deployment."""
    known = _ORIGINALS.get(deployment)
    if known is None or known[0] is not original:
        known = _ORIGINALS[deployment] = (original, deployment.prepare(original))
    return known[1]


def _check_threads(threads: int) -> None:
    if threads < 1:
        raise KMRError(f"timing needs threads and repeats >= 1 and warmup >= 0, not {threads} threads")
