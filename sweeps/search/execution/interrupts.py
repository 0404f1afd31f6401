"""Ctrl-C, SIGTERM and SIGHUP, let in only where stopping loses nothing."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self


class Stopped(BaseException):
    """The user or the system asked the sweep to end."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"stopped, exit code {exit_code}")
        self.exit_code = exit_code


class Interrupts:
    """Turns the first SIGINT, SIGTERM or SIGHUP into `Stopped`, inside `allowed()` only; the second acts at once.

    A signal that comes outside `allowed()` waits until the next one is entered, so that a trial is never half told.

    Args:
        signals: that are taken.
        error: what one becomes, made of the exit code that belongs to it.
    """

    def __init__(
        self,
        signals: Sequence[signal.Signals] = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP),
        error: Callable[[int], BaseException] = Stopped,
    ) -> None:
        self._signals, self._error = signals, error
        self._pending: int | None = None
        self._open = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in self._signals:
                self._before[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._restore()

    @property
    def pending(self) -> bool:
        """Whether a signal has come."""
        return self._pending is not None

    def check(self) -> None:
        """Raise as `allowed` does if a signal has come."""
        if self._pending is not None:
            raise self._error(self._pending)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Let a signal stop the body.

        Raises:
            Stopped, or what `error` makes: a signal came, now or since the last time.
        """
        self.check()
        self._open = True
        try:
            yield
        finally:
            self._open = False

    def _arrived(self, number: int, frame: FrameType | None) -> None:
        self._restore()
        self._pending = 128 + number
        if self._open:
            self._open = False
            raise self._error(self._pending)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before.clear()


def ctrl_c() -> Interrupts:
    """Return what takes Ctrl-C alone, as `KeyboardInterrupt`; where the user handles it, it is left to that."""
    handler = signal.getsignal(signal.SIGINT)
    nested = isinstance(getattr(handler, "__self__", None), Interrupts)
    ours = nested or handler is signal.default_int_handler
    return Interrupts((signal.SIGINT,) if ours else (), lambda _: KeyboardInterrupt())


@contextmanager
def undisturbed() -> Iterator[None]:
    """Let the body come to its end before Ctrl-C acts.

    Raises:
        KeyboardInterrupt: it came meanwhile.
    """
    with ctrl_c() as interrupts:
        yield
    interrupts.check()
