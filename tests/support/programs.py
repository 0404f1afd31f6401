"""Programs that tests start, signal and wait for, forked off a server that has imported what a sweep needs.

To import it anew takes seconds of every start. What is claimed of a command as a user starts it needs a real start.
"""

import atexit
import multiprocessing
import os
import pkgutil
import runpy
import sys
from collections.abc import Mapping
from functools import cache
from multiprocessing import forkserver
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest

import sweeps

LAZY = ("mlflow", "sklearn.datasets", "torch._dynamo", "torch_pruning")
"""What a sweep imports on its way."""


@cache
def server() -> ForkServerContext:
    """Return what forks processes, its server started."""
    context = multiprocessing.get_context("forkserver")
    modules = [module.name for module in pkgutil.walk_packages(sweeps.__path__, "sweeps.")]
    context.set_forkserver_preload([__name__, *LAZY, *(name for name in modules if not name.endswith("__main__"))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
        patch.setenv("OPENBLAS_NUM_THREADS", "1")  # a process of several threads is not to be forked
        forkserver.ensure_running()
    return context


class Program:
    """A running program in a session of its own, its output in a file.

    Args:
        program: what follows `python` on the command line: `-m`, a module and its arguments, or `-c` and code.
        printed: the file.
        environment: all of it; by default that of this process.
    """

    def __init__(self, program: tuple[str, ...], printed: Path, environment: Mapping[str, str] | None = None) -> None:
        self.printed = printed
        told = dict(os.environ if environment is None else environment)
        self._process = server().Process(target=_run, args=(program, printed, told))
        self._process.start()
        atexit.register(self._process.kill)  # else one that a failed test leaves behind would be waited for
        assert self._process.pid is not None
        self.pid = self._process.pid

    @property
    def returncode(self) -> int | None:
        return self._process.exitcode

    def poll(self) -> int | None:
        return self._process.exitcode

    def said(self) -> str:
        """Return what it has printed so far."""
        return self.printed.read_text() if self.printed.exists() else ""

    def wait(self, seconds: float = 400.0) -> str:
        """Wait until it ends; return what it printed."""
        self._process.join(seconds)
        assert self._process.exitcode is not None, f"it does not end: {self.said()}"
        return self.said()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


def _run(program: tuple[str, ...], printed: Path, environment: dict[str, str]) -> None:
    os.setsid()
    with printed.open("w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    kind, what, *arguments = program
    if kind == "-m":
        sys.argv = [what, *arguments]
        sys.modules.pop(what, None)
        runpy.run_module(what, run_name="__main__", alter_sys=True)
    else:
        sys.argv = [kind, *arguments]
        exec(what, {"__name__": "__main__"})
