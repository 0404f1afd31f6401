"""Sensitivity of a model to each layer's bits, and the choice of bits for each layer (mixed precision).

A few samples measure the model's loss when one layer alone is rounded. These losses are assumed to add up, and
`kmr.knapsack` allocates the bytes. The result is a knob vector of a rule with one knob for each layer: a first trial to
enqueue in a study.
"""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kmr.artifact.packing import file_bytes, pack
from kmr.core import KMRError
from kmr.data import Inputs, Split, forward
from kmr.instantiations.attention import split_attention
from kmr.instantiations.quantization.calibration import calibration_batches, evaluating
from kmr.instantiations.quantization.weights import WeightQuantization
from kmr.knapsack import Allocation, allocate
from kmr.representation.weights import read_weight, tied_layers, weight_layers

Bits = dict[str, int]


@dataclass(frozen=True)
class Sensitivity:
    """The loss and cost of rounding one layer alone, for each layer and width.

    Args:
        layers: paths of the layers, in the model's order.
        widths: bits.
        losses: the loss of each layer at each width, ≥ 0.
        bytes: the stored bytes of each layer at each width.
        rest: stored bytes of everything else.
    """

    layers: tuple[str, ...]
    widths: tuple[int, ...]
    losses: tuple[tuple[float, ...], ...]
    bytes: tuple[tuple[float, ...], ...]
    rest: float

    def for_bytes(self, budget: float) -> tuple[Bits, Allocation]:
        """Return the bits for each layer with the least loss within this number of stored bytes, and the allocation.

        Raises:
            NotApplicable: even the fewest bits take more.
        """
        found = allocate(self.bytes, self.losses, budget - self.rest)
        return self._bits(found), found

    def _bits(self, found: Allocation) -> Bits:
        return {path: self.widths[place] for path, place in zip(self.layers, found.choice, strict=True)}


def measure_sensitivity(
    model: nn.Module,
    data: Split,
    *,
    rule: WeightQuantization | None = None,
    widths: Sequence[int] = (8, 7, 6, 5, 4, 3, 2),
    kind: Literal["kl", "taylor"] = "kl",
    samples: int = 128,
) -> Sensitivity:
    """Measure the loss from rounding each layer alone to each width; the model is not changed.

    Args:
        model: a model that returns logits of shape (n, classes, …).
        data: samples to measure on; `taylor` needs targets of cross-entropy.
        rule: the rule that rounds; its layer patterns are replaced by one for each layer.
        widths: bits.
        kind: the divergence KL(model ‖ rounded model) of the predictions (layers × widths passes), or its second-order
            estimate ½·Σ F·Δw² with the empirical Fisher F of the weights (one pass with gradients; Dong et al. 2019).
        samples: number of samples to use, from the start of the data.

    Raises:
        KMRError: `kind` is unknown, or the rule reaches no layer.
    """
    if kind not in ("kl", "taylor"):
        raise KMRError(f"kind of sensitivity must be kl or taylor, not {kind!r}")
    plain = rule if rule is not None else WeightQuantization()
    model, _ = split_attention(copy.deepcopy(model), lambda _: True)
    shared = tied_layers(model)
    found = {path: layer for path, layer in weight_layers(model) if path not in shared}
    found = {path: layer for path, layer in found.items() if any(plain.governs(k, path) for k in plain.knobs)}
    if not found:
        raise KMRError(f"{plain.name} reaches no layer of the model")
    fisher = _fisher(model, data.subset(samples), tuple(found)) if kind == "taylor" else {}
    batches = calibration_batches(data, samples, "a sensitivity")
    reference = [_log_probabilities(model, inputs) for inputs in batches] if kind == "kl" else []
    losses, sizes = [], []
    for path, layer in found.items():
        alone = _for_layers(plain, (path,))
        lost, taken = [], []
        for width in widths:
            moved = alone(model, alone.knobs[0].name, width)
            rounded = moved.get_submodule(path)
            taken.append(float(file_bytes(pack(rounded))))
            if kind == "kl":
                lost.append(_divergence(moved, batches, reference))
            else:
                change = read_weight(rounded).weight - read_weight(layer).weight
                lost.append(float((fisher[path] * change.double().square()).sum()) / 2)
        losses.append(tuple(lost))
        sizes.append(tuple(taken))
    rest = file_bytes(pack(model)) - sum(file_bytes(pack(layer)) for layer in found.values())
    return Sensitivity(
        layers=tuple(found),
        widths=tuple(widths),
        losses=tuple(losses),
        bytes=tuple(sizes),
        rest=float(rest),
    )


def per_layer(rule: WeightQuantization, layers: Sequence[str]) -> WeightQuantization:
    """Return the rule with one knob for each of these layers."""
    return _for_layers(rule, tuple(layers))


def as_vector(rule: WeightQuantization, bits: Mapping[str, int]) -> dict[str, int]:
    """Return the bits for each layer as a knob vector of `per_layer(rule, bits)`, to enqueue in a study."""
    return {knob.name: bits[knob.layers] for knob in per_layer(rule, tuple(bits)).knobs}


def _for_layers(rule: WeightQuantization, layers: tuple[str, ...]) -> WeightQuantization:
    return replace(rule, layers=layers)


def _log_probabilities(model: nn.Module, inputs: Inputs) -> Tensor:
    with evaluating(model):
        return F.log_softmax(forward(model, inputs).double(), 1)


def _divergence(model: nn.Module, batches: Sequence[Inputs], reference: Sequence[Tensor]) -> float:
    total, count = 0.0, 0
    for inputs, expected in zip(batches, reference, strict=True):
        terms = F.kl_div(_log_probabilities(model, inputs), expected, log_target=True, reduction="none").sum(1)
        total += float(terms.sum())
        count += terms.numel()
    return max(0.0, total / count)


def _fisher(model: nn.Module, data: Split, paths: Sequence[str]) -> dict[str, Tensor]:
    """Return the mean squared gradient of single samples' losses, for each weight of each layer."""
    twin = copy.deepcopy(model).eval().requires_grad_(True)
    layers = {path: twin.get_submodule(path) for path in paths}
    total = {path: torch.zeros(read_weight(layer).weight.shape, dtype=torch.float64) for path, layer in layers.items()}
    count = 0
    with torch.enable_grad():
        for inputs, targets in Split(data.source, 1).batches():
            twin.zero_grad(set_to_none=True)
            F.cross_entropy(forward(twin, inputs), targets).backward()  # type: ignore[no-untyped-call]
            for path, layer in layers.items():
                original = next(p for name, p in layer.named_parameters() if "bias" not in name and "scale" not in name)
                if original.grad is not None:
                    total[path] += original.grad.double().square()
            count += 1
    return {path: gradient / max(1, count) for path, gradient in total.items()}
