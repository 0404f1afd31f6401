"""What a user sees while a sweep runs: a live bar on a terminal, a line now and then anywhere else."""

import time
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from rich.console import Console
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

Item = TypeVar("Item")


class SweepProgress:
    """Shows finished trials, time left, the hypervolume reached, the size of the front, and what went wrong.

    Args:
        console: where to write.
        done: trials finished before this run.
        target: trials to finish in all.
        every: seconds between lines where there is no terminal.
    """

    def __init__(self, console: Console, done: int, target: int, every: float = 10.0) -> None:
        self._console, self._done, self._target, self._every = console, done, target, every
        self._started = self._said = time.monotonic()
        self._at_start = done
        self._text = ""
        self._shown = True
        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("trials"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[text]}"),
            console=console,
            disable=not console.is_terminal,
        )
        self._task = self._bar.add_task("trials", total=target, completed=done, text="")

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.stop()
        if not self._console.is_terminal and not self._shown:
            self._line()

    def finished(self, hypervolume: float, on_front: int, served: int, failed: int) -> None:
        """Count one more finished trial."""
        self._done += 1
        self._shown = False
        self._text = f"hypervolume {hypervolume:.4f} · front {on_front}"
        self._text += f" · {served} repeats" if served else ""
        self._text += f" · {failed} failed" if failed else ""
        self._bar.update(self._task, completed=self._done, text=self._text)
        if not self._console.is_terminal and time.monotonic() - self._said >= self._every:
            self._line()

    def say(self, message: str) -> None:
        """Print a line above the bar."""
        self._bar.console.print(message, markup=False, highlight=False, soft_wrap=True)

    def _line(self) -> None:
        self._shown = True
        self._said = time.monotonic()
        per_trial = (self._said - self._started) / max(1, self._done - self._at_start)
        left = per_trial * (self._target - self._done)
        self._console.print(
            f"{self._done}/{self._target} trials · {self._text} · {left:.0f} s left", highlight=False, soft_wrap=True
        )


def counted(console: Console, items: Iterable[Item], total: int, what: str, every: float = 10.0) -> Iterator[Item]:
    """Pass items on and show how many there were: a bar on a terminal, a line now and then anywhere else."""
    if console.is_terminal:
        yield from track(items, what, total=total, console=console)
        return
    said = time.monotonic()
    for count, item in enumerate(items, 1):
        yield item
        if time.monotonic() - said >= every or count == total:
            said = time.monotonic()
            console.print(f"{count} of {total} {what}", highlight=False)
