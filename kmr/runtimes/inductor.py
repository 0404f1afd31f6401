"""PyTorch's compiler: `torch.export`, then Inductor's kernels, in float32 or static int8 (pt2e).

Compilation takes half a minute or more for each batch size, so this runtime suits final models, not every trial. It
needs a C++ compiler. There is no file: the compiled code lives in this process.
"""

import shutil
import warnings
from dataclasses import dataclass, replace
from typing import Any, Literal, final

import torch
from torch import Tensor, nn

from kmr.core import KMRError
from kmr.data import Inputs, Split
from kmr.runtimes.program import to_program
from kmr.runtimes.pt2 import ProgramSession
from kmr.runtimes.runtime import Runtime, missing

_CALIBRATION_BATCH = 64


@final
@dataclass(frozen=True, kw_only=True)
class Inductor(Runtime):
    """Inductor on the CPU, with the weights frozen into the kernels.

    Args:
        precision: `fp32`, or `int8` with activation ranges from calibration data (x86, by torchao's pt2e).
        calibration_samples: samples for the activation ranges.
    """

    name: str = "Inductor"
    precision: Literal["fp32", "int8"] = "fp32"
    calibration_samples: int = 512

    def __post_init__(self) -> None:
        if self.precision not in ("fp32", "int8"):
            raise KMRError(f"the precision of {self.name} must be fp32 or int8, not {self.precision!r}")

    def probe(self) -> str | None:
        if not any(shutil.which(compiler) for compiler in ("g++", "c++", "clang++")):
            return "no C++ compiler on the path; install g++ or clang++"
        return missing("torchao", extra="inductor") if self.precision == "int8" else None

    def prepare(
        self, model: nn.Module, example_inputs: Inputs, *, threads: int = 1, calibration: Split | None = None
    ) -> ProgramSession:
        self.require()
        if self.precision == "int8" and calibration is None:
            raise KMRError("static int8 needs calibration data for the activation ranges: give it")
        program, signature, samples = to_program(model, example_inputs)
        module: Any = program.module()
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            if calibration is not None and self.precision == "int8":
                batches = replace(calibration.subset(self.calibration_samples), batch_size=_CALIBRATION_BATCH).batches()
                module = _quantized(module, (signature.flatten(inputs) for inputs, _ in batches))
            frozen = _Frozen(module)
            before = torch.get_num_threads()
            torch.set_num_threads(threads)
            try:
                frozen(*samples)
            except Exception as error:  # whatever the compiler or its toolchain raises
                why = " ".join(str(error).split())[:300]
                raise KMRError(f"Inductor cannot compile this model: {why}") from error
            finally:
                torch.set_num_threads(before)
        return ProgramSession(frozen, signature, threads)


class _Frozen:
    """A program compiled for each new input shape, with its weights as constants of the kernels."""

    def __init__(self, module: Any) -> None:
        self._compiled: Any = torch.compile(module, dynamic=False)
        self._known: set[tuple[torch.Size, ...]] = set()

    def __call__(self, *tensors: Tensor) -> Any:
        shapes = tuple(tensor.shape for tensor in tensors)
        if shapes in self._known:
            return self._compiled(*tensors)
        from torch._inductor import config  # here, since it takes seconds

        # Both the tracer and the code generator read this setting, so an option of torch.compile is not enough.
        with warnings.catch_warnings(), torch.no_grad(), config.patch(freezing=True):
            warnings.simplefilter("ignore")
            output = self._compiled(*tensors)
        self._known.add(shapes)
        return output


def _quantized(module: Any, batches: Any) -> Any:
    """Insert int8 patterns that Inductor turns into integer kernels."""
    from torchao.quantization.pt2e import move_exported_model_to_eval
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_pt2e
    from torchao.quantization.pt2e.quantizer.x86_inductor_quantizer import (
        X86InductorQuantizer,
        get_default_x86_inductor_quantization_config,
    )

    quantizer = X86InductorQuantizer()
    quantizer.set_global(get_default_x86_inductor_quantization_config())
    prepared = prepare_pt2e(module, quantizer)
    for tensors in batches:
        prepared(*tensors)
    return move_exported_model_to_eval(convert_pt2e(prepared))
