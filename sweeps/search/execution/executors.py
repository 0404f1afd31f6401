"""Executors of trials: this process, or several local worker processes. A cluster would be a third `Executor`.

An executor is built from a `Work`. A remote executor sends the work's recipe once, then one job after another.
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
"""Worker processes in a row that may die before they are ready, before the search gives up."""


class Executor(Protocol):
    """Interface that runs jobs, one or several at a time, and reports each measured model and each end of a job."""

    @property
    def free(self) -> int:
        """Number of jobs it can start now."""

    def submit(self, job: Job) -> None:
        """Accept a job; `free` must be at least 1."""

    def work(self, tell: Tell) -> None:
        """Wait for progress on a submitted job and report it through `tell`; may run the job itself."""

    def close(self) -> None:
        """Abort the running jobs and release all resources."""


class InProcess:
    """Executor of one job at a time, in this process."""

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
    """Executor with several worker processes, each of which builds the work once and runs many jobs.

    If a worker dies, its trial is reported as `retried` and a new worker replaces it. Only the parent handles signals;
    workers exit with their parent.

    Args:
        work: the work, whose recipe is sent to every worker.
        count: number of workers.

    Raises:
        SweepError: the recipe cannot be pickled.
    """

    def __init__(self, work: Work, count: int) -> None:
        self._recipe = work.recipe
        try:
            pickle.dumps(self._recipe)
        except Exception as error:  # pickle may raise anything
            raise SweepError(
                f"the evaluation cannot be sent to worker processes ({describe(error)}): "
                "define it at the top of a module, or use workers=1"
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
        with contextlib.suppress(OSError):  # a dead worker, which `work` will notice
            worker.pipe.send(job)

    def work(self, tell: Tell) -> None:
        ready = wait([*(w.pipe for w in self._workers), *(w.process.sentinel for w in self._workers)], timeout=1.0)
        for index, worker in enumerate(self._workers):
            if worker.pipe in ready or worker.process.sentinel in ready:
                dead = not worker.process.is_alive()  # checked first: the pipe still holds its last messages
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
        # After a kill, the next worker may live; a worker that reported an error would fail again.
        if dead.trouble or self._false_starts > MOST_FALSE_STARTS:
            what = "continue" if dead.was_ready else "start"
            raise SweepError(f"a worker process could not {what}: {dead.trouble or _exit(dead.process)}")
        self._workers[index] = self._start()
        if dead.job is not None:
            why = f"its worker died ({_exit(dead.process)})"
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
        """Yield the messages that the process has sent."""
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
    """Run jobs until the pipe closes, as the body of a worker process."""
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
        with contextlib.suppress(OSError):  # the parent is gone
            pipe.send(describe(error))
        raise SystemExit(1) from error


def _next(pipe: Connection) -> Job | None:
    try:
        job: Job = pipe.recv()
    except (EOFError, OSError):
        return None
    return job


def _end_with(parent: int) -> None:
    """Exit when the parent has exited: nobody would receive the results."""
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(1)


def _exit(process: BaseProcess) -> str:
    code = process.exitcode
    if code is not None and code < 0:
        return f"killed by signal {-code}" + ("; out of memory?" if code == -signal.SIGKILL else "")
    return f"exit code {code}"
