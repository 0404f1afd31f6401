"""What executes a model: a runtime makes it ready once, the session it gives runs batches."""

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
    """A model made ready in a runtime.

    Args:
        threads: CPU threads it runs with.
        artifact: the bytes of the file the runtime loads; None where it loads none.
    """

    def __init__(self, threads: int, artifact: bytes | None = None) -> None:
        self.threads = threads
        self.artifact = artifact

    @abstractmethod
    def bind(self, inputs: Inputs) -> Callable[[], Any]:
        """Return a call that runs this batch, with the inputs already in the form the runtime takes."""

    @abstractmethod
    def __call__(self, inputs: Inputs) -> Tensor:
        """Run a batch and return the output tensor, on the CPU (of several outputs the first, or the `logits`)."""

    @contextmanager
    def pinned(self) -> Iterator[None]:
        """Hold PyTorch to the session's threads; a runtime with a pool of its own was given them when it was made."""
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        try:
            yield
        finally:
            torch.set_num_threads(before)


@dataclass(frozen=True, kw_only=True)
class Runtime(ABC):
    """Makes models ready to run; the same settings are the same runtime."""

    name: str

    @abstractmethod
    def probe(self) -> str | None:
        """Say why this runtime cannot be used here; None where it can."""

    @abstractmethod
    def prepare(
        self, model: nn.Module, example_inputs: Inputs, *, threads: int = 1, calibration: Split | None = None
    ) -> Session:
        """Make a model ready; it is not changed. Grids become plain values, masks plain zeros.

        Args:
            model: any module.
            example_inputs: a batch as the model takes it; the session takes any number of samples.
            threads: CPU threads to run with.
            calibration: data from which the ranges of activations are read, where the runtime needs them.

        Raises:
            NotHere: the runtime cannot be used here.
            KMRError: the model cannot be made ready in it; the message says why.
        """

    def require(self) -> None:
        """Raise `NotHere` with the reason where the runtime cannot be used."""
        if (why := self.probe()) is not None:
            raise NotHere(f"{self.name} is not here: {why}")


def missing(*packages: str, extra: str) -> str | None:
    """Name the packages that cannot be imported and how to get them; None where all can."""
    absent = [package for package in packages if not _importable(package)]
    if not absent:
        return None
    return f"no package {' or '.join(absent)}; pip install 'kmr-sweeps[{extra}]'"


def _importable(package: str) -> bool:
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False
