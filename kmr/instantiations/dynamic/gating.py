"""Dynamic channel gating: convolutions compute only the channels that matter for each input (Gao et al. 2019)."""

from collections import Counter
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar, TypeAlias, final

import torch
from torch import Tensor, nn

from kmr.core import Domain, FloatRange, KMRError, Knob, NotApplicable, Trait, Value
from kmr.data import Inputs, Split, call
from kmr.instantiations.layer_rule import LayerRule
from kmr.instantiations.replace import replace_module
from kmr.recovery.least_squares import refit
from kmr.recovery.patches import is_product
from kmr.representation.gating import ChannelGate, GatedLayer, channel_sizes

Convolution: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d


@final
@dataclass(frozen=True, kw_only=True)
class ChannelGating(LayerRule):
    """Gates that close output channels of convolutions for each input, without training.

    The value is the mean share of a layer's channels that are closed over the calibration samples; for a single input
    the share varies. A gate predicts, from the mean absolute value of each input channel, how far each output channel
    will deviate from its mean; the linear predictor is fitted to the samples. Channels with a small predicted deviation
    are closed and output their mean. Weights, masks and grids stay. The gates add their maps to the stored bytes, and
    dense kernels save no time: `ExpectedMACs` reads the savings of kernels that skip closed channels.

    Args:
        data: calibration samples, drawn in random order by the seed; labels are not read.
        samples: number of samples, run as one batch; at least 2.
        ridge: ridge of the fit, as a share of the inputs' variance; at least 0.
    """

    lowers: ClassVar[str] = "expected_macs"
    raises: ClassVar[frozenset[str]] = frozenset({"weight_bytes", "macs"})
    name: str = "gate"
    data: Split | None = field(default=None, repr=False, compare=False)
    samples: int = 512
    ridge: float = 1e-2
    setting: ClassVar[str] = "closed"
    domain: ClassVar[Domain] = FloatRange(0.0, 0.9, neutral=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.samples < 2 or self.ridge < 0:
            raise KMRError(f"{self.name} needs samples >= 2 and ridge >= 0, not {self.samples} and {self.ridge}")

    @property
    def leaves(self) -> frozenset[Trait]:
        return frozenset({"structure"})

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        if self.data is None:
            raise KMRError(f"{self.name} needs calibration data: set data")
        for path, module in list(model.named_modules()):
            if isinstance(module, GatedLayer) and self.governs(knob, path):
                model = replace_module(model, module, module.layer)
        convolutions = {
            path: module
            for path, module in model.named_modules()
            if isinstance(module, Convolution) and is_product(module) and self.governs(knob, path)
        }
        batch, _ = self.data.sample(self.samples, self.seed)
        calls = _calls(model, convolutions, batch)
        idle = [path for path in convolutions if calls[path] != 1]
        self.report(idle, "left as they are: they do not run exactly once in a forward pass")
        once = {path: layer for path, layer in convolutions.items() if path not in idle}
        if not once:
            raise NotApplicable(f"{knob.name}: the model has no convolution to gate")
        for path, gated in _fitted(model, once, batch, float(value), self.ridge).items():
            model = replace_module(model, once[path], gated.train(once[path].training))
        return model


def fitted_gate(inputs: Tensor, outputs: Tensor, closed: float, ridge: float) -> tuple[ChannelGate, Tensor]:
    """Fit a gate to a layer's inputs and outputs.

    Args:
        inputs: shape (n, channels, …).
        outputs: shape (n, channels, …).
        closed: share of (sample, channel) pairs to close, 0 to 1.
        ridge: ridge of the fit, as a share of the inputs' variance.

    Returns:
        The gate, and for each channel its mean output over the samples for which it is closed.
    """
    sizes = channel_sizes(inputs)
    means = outputs.flatten(2).mean(2)
    deviations = channel_sizes(outputs - means.mean(0).reshape(1, -1, *[1] * (outputs.dim() - 2)))
    start = torch.zeros(1, deviations.shape[1], sizes.shape[1], dtype=sizes.dtype, device=sizes.device)
    slope, offset = refit(start, sizes[None], deviations[None], ridge=ridge)
    predicted = sizes @ slope[0].mT + offset[0]
    count = min(max(round(closed * predicted.numel()), 1), predicted.numel())
    threshold = predicted.flatten().kthvalue(count).values
    gate = ChannelGate(slope[0], offset[0], threshold)
    shut = (~gate(inputs)).to(means.dtype)
    fill = torch.where(shut.sum(0) > 0, (means * shut).sum(0) / shut.sum(0).clamp_min(1), means.mean(0))
    return gate, fill


def _calls(model: nn.Module, layers: dict[str, Convolution], batch: Inputs) -> Counter[str]:
    """Count the calls of each layer in a forward pass."""
    calls: Counter[str] = Counter()
    _run(model, batch, {layer: lambda *_, path=path: calls.update([path]) for path, layer in layers.items()})
    return calls


def _fitted(
    model: nn.Module, layers: dict[str, Convolution], batch: Inputs, closed: float, ridge: float
) -> dict[str, GatedLayer]:
    """Gate layers in the order they run, each fitted to its inputs after the layers before it are gated.

    Gates fitted to inputs from ungated layers would close far more than their share in a deep model.
    """
    gated: dict[str, GatedLayer] = {}

    def gate(layer: Convolution, inputs: tuple[Tensor, ...], outputs: Tensor, path: str) -> Tensor:
        gated[path] = GatedLayer(layer, *fitted_gate(inputs[0], outputs, closed, ridge))
        return gated[path].close(inputs[0], outputs)

    _run(model, batch, {layer: partial(gate, path=path) for path, layer in layers.items()})
    return gated


def _run(model: nn.Module, batch: Inputs, hooks: Mapping[nn.Module, Callable[..., Any]]) -> None:
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad(), ExitStack() as stack:
            for layer, hook in hooks.items():
                stack.callback(layer.register_forward_hook(hook).remove)
            call(model.eval(), batch)
    finally:
        for module, mode in modes:
            module.training = mode
