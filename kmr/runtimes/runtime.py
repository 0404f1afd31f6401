"""Interface of runtimes: a runtime prepares a model once, and the session it returns runs batches."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn

from kmr.core import NotHere
from kmr.data import Inputs, Split


class Session(ABC):
    """A model prepared by a runtime.

    Args:
        threads: CPU threads to run with.
        artifact: the bytes of the file that the runtime loads; None if it loads none.
    """

    def __init__(self, threads: int, artifact: bytes | None = None) -> None:
        self.threads = threads
        self.artifact = artifact
        self.device = torch.device("cpu")
        """The device that computes."""

    @abstractmethod
    def bind(self, inputs: Inputs) -> Callable[[], Any]:
        """Return a function that runs this batch, with its inputs already converted for the runtime."""

    @abstractmethod
    def __call__(self, inputs: Inputs) -> Tensor:
        """Run a batch and return the output tensor on the CPU (the first of several, or the `logits`)."""

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """Limit PyTorch to the session's threads; a runtime with its own pool is limited when it is created."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


@dataclass(frozen=True, kw_only=True)
class Runtime(ABC):
    """A way to execute models; equal settings mean equal runtimes."""

    name: str

    @abstractmethod
    def probe(self) -> str | None:
        """Return the reason why this runtime is not available here, or None if it is."""

    @abstractmethod
    def prepare(
        self, model: nn.Module, example_inputs: Inputs, *, threads: int = 1, calibration: Split | None = None
    ) -> Session:
        """Prepare a model, which is not changed; grids become plain values, masks plain zeros.

        Args:
            model: any module.
            example_inputs: a batch as the model takes it; the session accepts any number of samples.
            threads: CPU threads to run with.
            calibration: data for the activation ranges, if the runtime needs them.

        Raises:
            NotHere: the runtime is not available here.
            KMRError: the runtime does not support the model; the message says why.
        """

    def require(self) -> None:
        """Raise `NotHere` with the reason if the runtime is not available."""
        if (why := self.probe()) is not None:
            raise NotHere(f"{self.name} is not available: {why}")


def missing(*packages: str, extra: str) -> str | None:
    """Return which packages cannot be imported and how to install them, or None."""
    absent = [package for package in packages if not _importable(package)]
    if not absent:
        return None
    return f"no package {' or '.join(absent)}; pip install 'kmr-sweeps[{extra}]'"


def _importable(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False
