"""Ctrl-C, SIGTERM and SIGHUP, let in only where stopping loses nothing."""

import signal
import threading
from collections.abc import Iterator
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
    """

    def __init__(self) -> None:
        self._pending: int | None = None
        self._open = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
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

    @contextmanager
    def allowed(self) -> Iterator[None]:
        """Let a signal stop the body.

        Raises:
            Stopped: a signal came, now or since the last time.
        """
        if self._pending is not None:
            raise Stopped(self._pending)
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
            raise Stopped(self._pending)

    def _restore(self) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]
        self._before.clear()
