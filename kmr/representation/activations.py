"""Layers with quantized activations: they round their inputs and, where needed, their outputs.

A layer whose activations are quantized is one of the classes below, a subclass of the torch layer it replaces with the
same parameters and the same name in the model. It holds `input_quantizer` and `output_quantizer` (or None).

**Attributes for an exporter** (ONNX QuantizeLinear / DequantizeLinear, QUInt8 activations, per-channel weights):

    for path, layer in quantized_layers(model):
        q = layer.input_quantizer                 # ActivationQuantizer: fixed, DynamicQuantizer: found at run time
        q.bits                                    # codes are the unsigned integers 0 … 2^bits − 1 (8: QUInt8)
        float(q.scale), int(q.zero_point)         # per tensor; x ≈ scale · (code − zero_point)
        layer.output_quantizer                    # the same, or None; set where the output goes into a sum
        grid = kmr.representation.weights.read_weight(layer).grid     # None: a float weight
        codes = grid.codes(layer.weight)          # 0 … 2^bits − 1
        grid.scale, grid.zero_point               # broadcast against the weight, (out, 1, 1, 1) where per channel
        # int8: codes − 128, zero point grid.zero_point − 128, which is 0 for the scheme `symmetric`

Weights in a `kmr.representation.weights.Codebook` have levels in place of scale and zero point: an exporter writes
their values. After folding, the convolution has a bias and the normalisation is `nn.Identity`. To run the model without
rounding activations, for a float export for example, use `without_quantizers`.
"""

from collections.abc import Iterator
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn

from kmr.core import KMRError
from kmr.representation.rounding import fake_quantize, wide
from kmr.representation.weights import read_weight, strip, write_weight


class ActivationQuantizer(nn.Module):
    """A rounding of a tensor to one grid of unsigned codes that contains 0; gradients pass straight through.

    Args:
        scale: the step, positive.
        zero_point: the code of 0, a whole number in [0, 2^bits − 1].
        bits: bits of a code.
        learned: train scale and zero point with the weights (LSQ+); the zero point is rounded when it is used.

    Raises:
        KMRError: scale or zero point is out of range.
    """

    affine: Tensor

    def __init__(self, scale: float, zero_point: float, bits: int, *, learned: bool = False) -> None:
        super().__init__()
        if not scale > 0 or not 0 <= zero_point <= 2**bits - 1:
            raise KMRError(
                f"invalid grid of {bits}-bit activations: scale {scale} must be positive, zero point {zero_point} in "
                f"[0, {2**bits - 1}]"
            )
        affine = torch.tensor([float(scale), float(zero_point)])
        if learned:
            self.affine = nn.Parameter(affine)
        else:
            self.register_buffer("affine", affine)
        self.bits = bits

    @property
    def scale(self) -> Tensor:
        """The step between values."""
        return self.affine[0].clamp(min=torch.finfo(self.affine.dtype).tiny)

    @property
    def zero_point(self) -> Tensor:
        """The code of 0."""
        learned = self.affine[1]
        whole = learned.detach().round().clamp(0, 2**self.bits - 1)
        return whole + (learned - learned.detach()) if learned.requires_grad else whole

    def forward(self, x: Tensor) -> Tensor:
        """Round."""
        return fake_quantize(x, self.scale.to(x.dtype), self.zero_point.to(x.dtype), self.bits)

    def extra_repr(self) -> str:
        return f"scale={float(self.scale):.6g}, zero_point={int(self.zero_point)}, bits={self.bits}"


class DynamicQuantizer(nn.Module):
    """A rounding to a grid over the tensor's current range, widened to contain 0 (ONNX DynamicQuantizeLinear).

    Args:
        bits: bits of a code.
        rows: use one grid for each vector along the last dimension, instead of one for the tensor.
    """

    def __init__(self, bits: int, *, rows: bool = False) -> None:
        super().__init__()
        self.bits = bits
        self.rows = rows

    def forward(self, x: Tensor) -> Tensor:
        """Round."""
        seen = wide(x.detach())
        low, high = (seen.amin(-1, keepdim=True), seen.amax(-1, keepdim=True)) if self.rows else seen.aminmax()
        low, high = low.clamp(max=0), high.clamp(min=0)
        scale = (high - low) / (2**self.bits - 1)
        scale = torch.where(scale > 0, scale, torch.ones_like(scale))
        zero_point = torch.round(-low / scale).clamp(0, 2**self.bits - 1)
        return fake_quantize(x, scale, zero_point, self.bits)

    def extra_repr(self) -> str:
        return f"bits={self.bits}, rows={self.rows}"


class _Quantized:
    """A layer that rounds its input and its output where it has quantizers for them."""

    input_quantizer: nn.Module | None
    output_quantizer: nn.Module | None

    def forward(self, input: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Apply the layer between the quantizers."""
        if self.input_quantizer is not None:
            input = self.input_quantizer(input)
        output: Tensor = super().forward(input, *args, **kwargs)  # type: ignore[misc]
        return output if self.output_quantizer is None else self.output_quantizer(output)


class QuantizedLinear(_Quantized, nn.Linear):
    """A linear layer with quantized activations."""


class QuantizedConv1d(_Quantized, nn.Conv1d):
    """A convolution with quantized activations."""


class QuantizedConv2d(_Quantized, nn.Conv2d):
    """A convolution with quantized activations."""


class QuantizedConv3d(_Quantized, nn.Conv3d):
    """A convolution with quantized activations."""


class QuantizedConvTranspose1d(_Quantized, nn.ConvTranspose1d):
    """A transposed convolution with quantized activations."""


class QuantizedConvTranspose2d(_Quantized, nn.ConvTranspose2d):
    """A transposed convolution with quantized activations."""


class QuantizedConvTranspose3d(_Quantized, nn.ConvTranspose3d):
    """A transposed convolution with quantized activations."""


QuantizedLayer: TypeAlias = (
    QuantizedLinear | QuantizedConv1d | QuantizedConv2d | QuantizedConv3d
    | QuantizedConvTranspose1d | QuantizedConvTranspose2d | QuantizedConvTranspose3d
)  # fmt: skip
"""The layer classes with quantized activations."""

_CLASSES: dict[type[nn.Module], type[nn.Module]] = {kind.__mro__[2]: kind for kind in QuantizedLayer.__args__}


def quantized_layers(model: nn.Module) -> Iterator[tuple[str, QuantizedLayer]]:
    """Yield the path and module of every layer with quantized activations, each once."""
    for path, module in model.named_modules():
        if isinstance(module, QuantizedLayer):
            yield path, module


def can_quantize(layer: nn.Module) -> bool:
    """Tell whether a layer's activations can be quantized: it is a linear layer or convolution of `torch.nn`."""
    return isinstance(layer, QuantizedLayer) or _plain_class(layer) in _CLASSES


def quantize_activations(layer: nn.Module, *, inputs: nn.Module | None, outputs: nn.Module | None = None) -> None:
    """Replace a layer's quantizers by these, in place; its weight, grid and mask stay.

    Raises:
        KMRError: the layer's class is not one of `torch.nn`'s convolutions or linear layers.
    """
    if not isinstance(layer, QuantizedLayer):
        if not can_quantize(layer):
            raise KMRError(
                f"cannot quantize the activations of a {type(layer).__name__}: only of torch.nn's linear layers and "
                "convolutions"
            )
        _change_class(layer, _CLASSES)
    weight = read_weight(layer).weight
    trainable = next(p.requires_grad for name, p in layer.named_parameters() if name != "bias")
    for name, quantizer in (("input_quantizer", inputs), ("output_quantizer", outputs)):
        if quantizer is not None:
            quantizer.to(weight.device, weight.dtype).train(layer.training).requires_grad_(trainable)
        layer.register_module(name, quantizer)


def without_quantizers(model: nn.Module) -> nn.Module:
    """Turn every layer with quantized activations back into a plain one, in place; weights, grids and masks stay."""
    back = {kind: plain for plain, kind in _CLASSES.items()}
    for _, layer in list(quantized_layers(model)):
        del layer.input_quantizer, layer.output_quantizer
        _change_class(layer, back)
    return model


def _plain_class(layer: nn.Module) -> type[nn.Module]:
    # Parametrization gives a module its own class, whose base is the layer's.
    kind = type(layer)
    return cast(type[nn.Module], kind.__bases__[0]) if hasattr(layer, "parametrizations") else kind


def _change_class(layer: nn.Module, classes: dict[type[nn.Module], type[nn.Module]]) -> None:
    held = hasattr(layer, "parametrizations")
    latent = _latent(layer).detach() if held else None
    state = strip(layer) if held else None
    layer.__class__ = classes[type(layer)]
    if state is not None and latent is not None:
        write_weight(layer, state)
        _latent(layer).data.copy_(latent)


def _latent(layer: Any) -> Tensor:
    original: Tensor = layer.parametrizations.weight.original
    return original
