"""Progress of a sweep: a live view on a terminal, and otherwise a line from time to time."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import TYPE_CHECKING, Self, TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
    track,
)
from rich.text import Text

from analysis.wording import head
from sweeps.search.execution.observer import Observer
from sweeps.search.study.record import Record, recalled
from sweeps.search.study.trial_state import TrialState
from sweeps.terminal.braille_plot import sketch

if TYPE_CHECKING:
    from sweeps.experiment.experiment import Experiment
    from sweeps.experiment.sweep import Sweep
    from sweeps.search.study.point import Point

_SHOWN = 500
"""Number of recent trials in the plot."""
_LOOK_EVERY = 1.0
"""Seconds between updates of the plot."""
_LEAST_LINES = 22
"""Height of a terminal, in lines, from which the plot is drawn."""


@dataclass(frozen=True)
class SweepView:
    """The live view's contents besides the counts: all points, the front, recalled moves, failures by cause."""

    labels: tuple[str, str] = ("", "")
    cloud: tuple[tuple[float, float], ...] = ()
    front: tuple[tuple[float, float], ...] = ()
    recalled: int = 0
    moves: int = 0
    failures: tuple[tuple[str, int], ...] = field(default_factory=tuple)


def watch(sweep: "Sweep", experiment: "Experiment") -> Callable[[], SweepView]:
    """Return a function that reads a sweep for the live view; of three or more objectives it shows two."""
    first, *rest = experiment.objectives
    second = next((meter for meter in rest if meter.kind != first.kind), rest[0])
    place = 1 + rest.index(second)
    labels = [head(meter.name, meter.kind, meter.direction, ", lower is better") for meter in (first, second)]

    def values(point: "Point") -> tuple[float, float]:
        x, y = point.values([first.name, second.name])
        return x, y

    def look() -> SweepView:
        records = [record for record in sweep.records[-_SHOWN:] if record.state != TrialState.DUPLICATE]
        points = [point for record in records for point in record.points]
        kept = recalled(sweep.records)
        causes = Counter(
            (record.error or record.state).splitlines()[0] for record in sweep.records if record.state.is_failure
        )  # fmt: skip
        return SweepView(
            (labels[0], labels[1]),
            tuple(map(values, points)),
            tuple((each[0], each[place]) for each in sweep.front.values),
            kept.hits,
            kept.hits + kept.misses,
            tuple(causes.most_common(3)),
        )

    return look


Item = TypeVar("Item")


class TrialProgress(Observer):
    """Observer that shows the trials of a sweep as they end.

    Args:
        progress: the view.
        sweep: the sweep to show.
    """

    def __init__(self, progress: "SweepProgress", sweep: "Sweep") -> None:
        self._progress, self._sweep = progress, sweep

    def closed(self, record: Record) -> None:
        """Show one more finished trial."""
        front = self._sweep.front
        self._progress.finished(front.hypervolume, len(front.members), self._sweep.counts)


class SweepProgress:
    """The view of finished trials, time left, pace, the front and its hypervolume, recalled moves, and failures.

    Args:
        console: where to print.
        done: trials finished before this run.
        target: the total number of trials.
        look: reads the sweep after each trial, for the live view.
        every: seconds between lines without a terminal.
    """

    def __init__(
        self,
        console: Console,
        done: int,
        target: int,
        look: Callable[[], SweepView] | None = None,
        every: float = 10.0,
    ) -> None:
        self._console, self._done, self._target, self._look, self._every = console, done, target, look, every
        self._started = self._said = time.monotonic()
        self._look_again = 0.0
        self._at_start = done
        self._text = ""
        self._shown = True
        self._seen = SweepView()
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("trials"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=False),
            console=console,
        )
        self._task = self._bar.add_task("trials", total=target, completed=done)
        self._live = Live(
            console=console, get_renderable=self._view, refresh_per_second=4, transient=True,
        ) if console.is_terminal else None  # fmt: skip

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()
        if not self._shown:
            self._line()

    def finished(self, hypervolume: float, on_front: int, counts: Mapping[TrialState, int]) -> None:
        """Count one more finished trial; `counts` has all trials by state, and complete ones are not shown."""
        self._done += 1
        self._shown = False
        self._text = f"hypervolume {hypervolume:.4f} · front {on_front}"
        shown = [f" · {counts[state]} {state}" for state in TrialState if counts.get(state)]
        self._text += "".join(text for text in shown if not text.endswith(TrialState.COMPLETE))
        if self._live is None:
            if time.monotonic() - self._said >= self._every:
                self._line()
            return
        if self._look is not None and (self._done == self._target or time.monotonic() >= self._look_again):
            self._seen = self._look()
            self._look_again = time.monotonic() + _LOOK_EVERY
        self._bar.update(self._task, completed=self._done)

    def say(self, message: str) -> None:
        """Print a line above the live view."""
        self._console.print(message, markup=False, highlight=False, soft_wrap=True)

    def _view(self) -> RenderableType:
        seen, facts = self._seen, [self._text, self._pace]
        if seen.recalled:
            facts.append(f"{seen.recalled} of {seen.moves} moves recalled")
        parts: list[RenderableType] = [self._bar, Text(" · ".join(filter(None, facts)), overflow="ellipsis")]
        if seen.front and self._console.height >= _LEAST_LINES and self._console.width >= 60:
            width = min(60, self._console.width - 20)
            drawn = "\n".join(sketch(seen.cloud, seen.front, labels=seen.labels, width=width))
            parts.append(Padding(Text(drawn, no_wrap=True), (0, 2)))
        for cause, count in seen.failures:
            parts.append(Text(f"{count} × {cause}", style="yellow", no_wrap=True, overflow="ellipsis"))
        return Group(*parts)

    @property
    def _pace(self) -> str:
        done, seconds = self._done - self._at_start, time.monotonic() - self._started
        if not done:
            return ""
        return f"{done / seconds:.1f} trials/s" if done >= seconds else f"{seconds / done:.1f} s a trial"

    def _line(self) -> None:
        self._shown = True
        self._said = time.monotonic()
        done = max(1, self._done - self._at_start)
        left = (self._said - self._started) / done * max(0, self._target - self._done)
        facts = (f"{self._done}/{self._target} trials", self._text, self._pace, f"{left:.0f} s left")
        self._console.print(" · ".join(filter(None, facts)), highlight=False, soft_wrap=True)


def counted(console: Console, items: Iterable[Item], total: int, what: str, every: float = 10.0) -> Iterator[Item]:
    """Yield items and show their count: as a bar on a terminal, and otherwise as a line from time to time."""
    if console.is_terminal:
        yield from track(items, what, total=total, console=console)
        return
    said = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        if time.monotonic() - said >= every or count == total:
            said = time.monotonic()
            console.print(f"{count} of {total} {what}", highlight=False)
