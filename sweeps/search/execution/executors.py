"""Who does the trials: this process, or several local ones. A cluster is a third `Executor`.

An executor is made of a `Work`. One that does it elsewhere sends the work's recipe there once, and then job after job.
"""

import contextlib
import multiprocessing
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Protocol

from sweeps.errors import SweepError, describe
from sweeps.search.execution.work import Job, Tell, Told, Work
from sweeps.search.study.point import Ended
from sweeps.search.study.trial_state import TrialState

MOST_FALSE_STARTS = 3
"""Worker processes in a row that may die before they are ready."""


class Executor(Protocol):
    """Does jobs, one or several at a time, and tells of each model they measure and of how they end."""

    @property
    def free(self) -> int:
        """How many more jobs it would start at once."""

    def submit(self, job: Job) -> None:
        """Take a job; `free` is at least 1."""

    def work(self, tell: Tell) -> None:
        """Wait until something has happened to a submitted job, and tell it; may do the job meanwhile."""

    def close(self) -> None:
        """Give up what is under way and let go of everything."""


class InProcess:
    """Does one job at a time, in this process."""

    def __init__(self, work: Work) -> None:
        self._work = work
        self._job: Job | None = None

    @property
    def free(self) -> int:
        return int(self._job is None)

    def submit(self, job: Job) -> None:
        self._job = job

    def work(self, tell: Tell) -> None:
        assert self._job is not None
        ended = self._work(self._job, tell)
        self._job = None
        tell(ended)

    def close(self) -> None:
        self._job = None


class LocalProcesses:
    """Does a job in each of several processes, which make the work for themselves and live for many jobs.

    A process that dies loses its job, whose trial is told as `retried`, and another takes its place. Signals are the
    parent's business; workers end when it does.

    Args:
        work: its recipe goes to every process.
        count: of processes.

    Raises:
        SweepError: the recipe cannot be sent to another process.
    """

    def __init__(self, work: Work, count: int) -> None:
        self._recipe = work.recipe
        try:
            pickle.dumps(self._recipe)
        except Exception as error:  # pickle raises what it likes
            raise SweepError(
                "what is evaluated cannot be sent to other processes: define it at the top of a module, or use one "
                f"worker ({describe(error)})"
            ) from error
        self._threads = max(1, (os.cpu_count() or 1) // count)
        self._context = multiprocessing.get_context("spawn")
        self._false_starts = 0
        self._workers = [self._start() for _ in range(count)]

    @property
    def free(self) -> int:
        return sum(worker.job is None for worker in self._workers)

    def submit(self, job: Job) -> None:
        worker = next(worker for worker in self._workers if worker.job is None)
        worker.job, worker.started = job, time.perf_counter()
        with contextlib.suppress(OSError):  # it is dead, which `work` will see
            worker.pipe.send(job)

    def work(self, tell: Tell) -> None:
        ready = wait([*(w.pipe for w in self._workers), *(w.process.sentinel for w in self._workers)], timeout=1.0)
        for index, worker in enumerate(self._workers):
            if worker.pipe in ready or worker.process.sentinel in ready:
                dead = not worker.process.is_alive()  # asked first: what it sent before it died is still in the pipe
                for told in worker.messages():
                    if isinstance(told, Ended):
                        worker.job = None
                    tell(told)
                if dead:
                    self._replace(index, tell)

    def close(self) -> None:
        for worker in self._workers:
            worker.process.kill()
        for worker in self._workers:
            worker.process.join()
            worker.pipe.close()
        self._workers = []

    def _replace(self, index: int, tell: Tell) -> None:
        dead = self._workers[index]
        dead.process.join()
        dead.pipe.close()
        self._false_starts = 0 if dead.was_ready else self._false_starts + 1
        # One that was killed may be followed by one that lives; one that says what is wrong will say it again.
        if dead.trouble or self._false_starts > MOST_FALSE_STARTS:
            what = "go on" if dead.was_ready else "start"
            raise SweepError(f"a worker process could not {what}: {dead.trouble or _exit(dead.process)}")
        self._workers[index] = self._start()
        if dead.job is not None:
            why = f"its process {_exit(dead.process)}"
            tell(Ended(dead.job.number, TrialState.RETRIED, why, dead.seconds))

    def _start(self) -> "_Worker":
        here, there = self._context.Pipe()
        process = self._context.Process(target=_serve, args=(there, self._recipe, self._threads), daemon=True)
        process.start()
        there.close()
        return _Worker(process, here)


class _Worker:
    def __init__(self, process: BaseProcess, pipe: Connection) -> None:
        self.process, self.pipe = process, pipe
        self.job: Job | None = None
        self.started = 0.0
        self.was_ready = False
        self.trouble = ""

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started

    def messages(self) -> Iterator[Told]:
        """Yield what the process has sent."""
        try:
            while self.pipe.poll():
                sent = self.pipe.recv()
                if sent == "ready":
                    self.was_ready = True
                elif isinstance(sent, str):
                    self.trouble = sent
                else:
                    yield sent
        except (EOFError, OSError):
            return


def _serve(pipe: Connection, recipe: Callable[[], Work], threads: int) -> None:
    """Do jobs until the pipe ends: the body of a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    try:
        import torch

        torch.set_num_threads(threads)
        work = recipe()
        pipe.send("ready")
        while (job := _next(pipe)) is not None:
            pipe.send(work(job, pipe.send))
    except BaseException as error:
        with contextlib.suppress(OSError):  # nobody is there to be told
            pipe.send(describe(error))
        raise SystemExit(1) from error


def _next(pipe: Connection) -> Job | None:
    try:
        job: Job = pipe.recv()
    except (EOFError, OSError):
        return None
    return job


def _end_with(parent: int) -> None:
    """End this process when its parent has: nobody would hear of what it does."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _exit(process: BaseProcess) -> str:
    code = process.exitcode
    if code is not None and code < 0:
        return f"was killed by signal {-code}" + (" (out of memory?)" if code == -signal.SIGKILL else "")
    return f"ended with exit code {code}"
