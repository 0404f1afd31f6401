"""Models as `.pt2` files: programs traced by `torch.export`, which PyTorch runs without the model's code."""

import json
import os
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from kmr.core import KMRError
from kmr.data import Inputs
from kmr.runtimes.program import Signature, to_program
from kmr.runtimes.runtime import Session

_NOTES = "kmr.json"


class ProgramSession(Session):
    """A traced program, or any other callable of the input tensors in order."""

    def __init__(
        self, call: Callable[..., Any], signature: Signature, threads: int, artifact: bytes | None = None
    ) -> None:
        super().__init__(threads, artifact)
        self._call = call
        self._signature = signature

    def bind(self, inputs: Inputs) -> Callable[[], Any]:
        tensors = self._tensors(inputs)

        @torch.no_grad()
        def run() -> Any:
            return self._call(*tensors)

        return run

    def __call__(self, inputs: Inputs) -> Tensor:
        output: Any = self.bind(inputs)()
        first: Tensor = output[0] if isinstance(output, tuple | list) else output
        return first

    def _tensors(self, inputs: Inputs) -> list[Tensor]:
        return [tensor.detach().cpu().contiguous() for tensor in self._signature.flatten(inputs)]


def save_pt2(
    path: str | os.PathLike[str], model: nn.Module, example_inputs: Inputs, notes: Mapping[str, Any]
) -> Signature:
    """Trace a model for batches of any size and write the program with JSON notes; return its signature.

    Raises:
        KMRError: the model cannot be traced.
    """
    program, signature, _ = to_program(model, example_inputs)
    content = {**notes, "inputs": list(signature.names)}
    torch.export.save(program, path, extra_files={_NOTES: json.dumps(content)})
    return signature


def load_pt2(path: str | os.PathLike[str]) -> tuple[Callable[..., Tensor], dict[str, Any]]:
    """Load the file that `save_pt2` wrote; return a function of the input tensors in order, and the notes.

    Raises:
        KMRError: the file is missing or not a `.pt2` file.
    """
    if not os.path.isfile(path):
        raise KMRError(f"no file {os.fspath(path)}")
    extra = {_NOTES: ""}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            program = torch.export.load(path, extra_files=extra)
    except Exception as error:  # what it raises depends on where the file is damaged
        raise KMRError(f"not a .pt2 file: {os.fspath(path)} ({' '.join(str(error).split())[:200]})") from error
    return program.module(), json.loads(extra[_NOTES] or "{}")
