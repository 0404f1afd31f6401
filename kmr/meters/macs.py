"""Multiply-accumulates of one forward pass, counted at torch's dispatcher and checked against layer shapes.

An operator-level count includes functional and attention arithmetic that module hooks miss, but a fused kernel without
a formula counts as zero. So fused kernels are off during the count, and the count must reach the sum over convolution
and linear modules that hooks see. A gap raises an error and never reads as a saving.
"""

import copy
import math
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from kmr.core import Cost, KMRError, Reading
from kmr.data import Inputs, call, map_tensors
from kmr.representation.early_exits import EarlyExits
from kmr.representation.weights import strip_all

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(frozen=True)
class LayerMACs:
    """One layer's multiply-accumulates in a forward pass, and the share of its weights that are not zero."""

    macs: int
    density: float


def count_macs(model: nn.Module, example_inputs: Inputs) -> tuple[int, dict[str, LayerMACs]]:
    """Count the multiply-accumulates of one sample's forward pass through the dense model; the model is not changed.

    With early exits, the sample runs to the end, or to the forced exit.

    Args:
        model: any module; a copy without grids and masks is counted.
        example_inputs: a batch, whose first sample is used.

    Returns:
        The total, and the count of each convolution, linear and bilinear module by path. A layer whose weight the
        parent uses without calling the layer (such as attention's output projection) counts in the total only.

    Raises:
        KMRError: the count is zero, or below the sum that the layers' shapes imply.
    """
    model = strip_all(copy.deepcopy(model)).eval()
    for module in model.modules():
        if isinstance(module, EarlyExits) and module.forced is None:
            module.forced = len(module.heads)
    inputs = map_tensors(lambda tensor: tensor[:1] if tensor.dim() else tensor, example_inputs)
    # Fused kernels run only with gradients off, and so do early exits.
    leaves = any(isinstance(m, EarlyExits) for m in model.modules())
    counter = FlopCounterMode(display=False, custom_mapping=_MISSING_FORMULAS)
    with _layer_counts(model) as layers, torch.set_grad_enabled(not leaves), _unfused(), counter:
        call(model, inputs)
    total = counter.get_total_flops() // 2
    seen = sum(layer.macs for layer in layers.values())
    if total < seen:
        raise KMRError(
            f"counted {total} multiply-accumulates, but the layers' shapes imply {seen}: the model runs kernels that "
            "cannot be counted"
        )
    if total == 0:
        raise KMRError("counted no multiply-accumulate: the model has no layer or kernel that can be counted")
    return total, layers


@dataclass(frozen=True, kw_only=True)
class MACs(Cost):
    """Multiply-accumulates of one sample in dense kernels, which multiply zeros under a mask like any value.

    Unit: MAC. Range: [0, ∞). Direction: minimize.

    Args:
        example_inputs: a batch as the model takes it; the meter uses the first sample.
    """

    example_inputs: Inputs = field(repr=False, compare=False)
    static: ClassVar[bool] = True
    name: str = "macs"
    unit: str = field(init=False, default="MAC")

    def read(self, seen: nn.Module) -> Reading:
        return Reading(float(count_macs(seen, self.example_inputs)[0]))


@dataclass(frozen=True, kw_only=True)
class EffectiveMACs(Cost):
    """Multiply-accumulates of one sample without those by zero weights, a theoretical gain that dense kernels lack.

    Unit: MAC (theoretical). Range: [0, ∞). Direction: minimize.

    Each layer's operations are scaled by its share of nonzero weights; all other operations count in full.

    Args:
        example_inputs: a batch as the model takes it; the meter uses the first sample.
    """

    example_inputs: Inputs = field(repr=False, compare=False)
    static: ClassVar[bool] = True
    name: str = "effective_macs"
    unit: str = field(init=False, default="MAC (theoretical)")

    def read(self, seen: nn.Module) -> Reading:
        total, layers = count_macs(seen, self.example_inputs)
        return Reading(total - sum(layer.macs * (1 - layer.density) for layer in layers.values()))


@contextmanager
def _unfused() -> Iterator[None]:
    """Switch off the fused kernels that hide their operations: transformers, attention and recurrent layers."""
    fast_path = torch.backends.mha.get_fastpath_enabled()
    with warnings.catch_warnings():
        # Switching oneDNN off and on also sets a TF32 flag, which warns on machines without an Intel GPU.
        warnings.filterwarnings("ignore", message="TF32 acceleration")
        with (
            torch.backends.mkldnn.flags(enabled=False),
            torch.backends.cudnn.flags(enabled=False),
            sdpa_kernel(SDPBackend.MATH),
        ):
            torch.backends.mha.set_fastpath_enabled(False)
            try:
                yield
            finally:
                torch.backends.mha.set_fastpath_enabled(fast_path)


@contextmanager
def _layer_counts(model: nn.Module) -> Iterator[dict[str, LayerMACs]]:
    """Sum each layer's multiply-accumulates from its input and output shapes; a layer that runs twice counts twice."""
    counts: dict[str, LayerMACs] = {}

    def counting(path: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            macs = _macs(module, args, output)
            if macs is None:
                return
            weight = module.weight
            assert isinstance(weight, Tensor)
            density = int(torch.count_nonzero(weight.detach())) / max(1, weight.numel())
            before = counts[path].macs if path in counts else 0
            counts[path] = LayerMACs(before + macs, density)

        return hook

    handles = [module.register_forward_hook(counting(path)) for path, module in model.named_modules()]
    try:
        yield counts
    finally:
        for handle in handles:
            handle.remove()


def _macs(module: nn.Module, args: tuple[Any, ...], output: Any) -> int | None:
    if not isinstance(output, Tensor):
        return None
    if isinstance(module, _CONVOLUTIONS):
        return int(output.numel() * (module.in_channels // module.groups) * math.prod(module.kernel_size))
    if isinstance(module, _TRANSPOSED):
        # Every input value is multiplied with every weight of its group's filters.
        if not args:
            return None
        return int(args[0].numel() * (module.out_channels // module.groups) * math.prod(module.kernel_size))
    if isinstance(module, nn.Linear):
        return int(output.numel() * module.in_features)
    if isinstance(module, nn.Bilinear):
        return int(output.numel() * module.in1_features * module.in2_features)
    return None


def _dot(a: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * math.prod(a)


def _addmv(_bias: Sequence[int], matrix: Sequence[int], *_: Any, **__: Any) -> int:
    return 2 * math.prod(matrix)


def _trilinear(
    a: Sequence[int], b: Sequence[int], c: Sequence[int], a_new: Sequence[int], b_new: Sequence[int],
    c_new: Sequence[int], *_: Any, **__: Any,
) -> int:  # fmt: skip
    shapes = [_unsqueezed(shape, new) for shape, new in ((a, a_new), (b, b_new), (c, c_new))]
    return 2 * math.prod(int(max(sizes)) for sizes in zip(*shapes, strict=True))


def _unsqueezed(shape: Sequence[int], new: Sequence[int]) -> list[int]:
    sizes = list(shape)
    for dim in sorted(new):
        sizes.insert(dim, 1)
    return sizes


_MISSING_FORMULAS = {
    torch.ops.aten.dot: _dot,
    torch.ops.aten.mv: _dot,
    torch.ops.aten.addmv: _addmv,
    torch.ops.aten._trilinear: _trilinear,
}
"""FLOPs (two for each multiply-accumulate) of operations that torch's counter omits."""
