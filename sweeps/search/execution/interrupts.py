"""Handling of Ctrl-C, SIGTERM and SIGHUP, which act only where stopping loses nothing."""

import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self


class Stopped(BaseException):
    """Request of the user or the system to end the sweep."""

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"stopped, exit code {exit_code}")
        self.exit_code = exit_code


class Interrupts:
    """Handler that turns the first SIGINT, SIGTERM or SIGHUP into `Stopped`, inside `allowed()` only.

    A second signal acts at once. A signal outside `allowed()` waits for the next `allowed()`, so that no trial is half
    recorded.

    Args:
        signals: the signals to handle.
        error: function from a signal's exit code to the exception to raise.
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
        """Whether a signal has arrived."""
        return self._pending is not None

    def check(self) -> None:
        """Raise as `allowed` does if a signal has arrived."""
        if self._pending is not None:
            raise self._error(self._pending)

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Let a signal stop the body.

        Raises:
            Stopped, or the exception from `error`: a signal arrived in the body or before it.
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
    """Return a handler of Ctrl-C alone, as `KeyboardInterrupt`; a handler of the user's own stays in place."""
    handler = signal.getsignal(signal.SIGINT)
    nested = isinstance(getattr(handler, "__self__", None), Interrupts)
    ours = nested or handler is signal.default_int_handler
    return Interrupts((signal.SIGINT,) if ours else (), lambda _: KeyboardInterrupt())


@contextmanager
def undisturbed() -> Iterator[None]:
    """Delay Ctrl-C until the body has finished.

    Raises:
        KeyboardInterrupt: Ctrl-C arrived in the body.
    """
    with ctrl_c() as interrupts:
        yield
    interrupts.check()
