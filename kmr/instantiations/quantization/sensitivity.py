"""Sensitivity of a model to each layer's bits, and the choice of bits for each layer (mixed precision).

A few samples measure the model's loss when one layer alone is rounded. These losses are assumed to add up, and
`kmr.knapsack` allocates the bytes. The result is a knob vector of a rule with one knob for each layer: a first trial to
enqueue in a study.
"""

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kmr.artifact.packing import file_bytes, pack
from kmr.core import KMRError, Task
from kmr.data import Split
from kmr.instantiations.attention import split_attention
from kmr.instantiations.quantization.calibration import evaluating
from kmr.instantiations.quantization.weights import WeightQuantization
from kmr.knapsack import Allocation, allocate
from kmr.representation.weights import read_weight, tied_layers, weight_layers
from kmr.tasks import ClassScores, LabelScores, NumberScores, Scores, TaskLoss, VectorScores, bound_loss, task_for

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
        model: the model.
        data: samples to measure on; their task says what is compared.
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
    few = data.subset(samples)
    task = task_for(model, few) if kind == "kl" else None
    reference = list(_predictions(model, few, task)) if task is not None else []
    losses, sizes = [], []
    for path, layer in found.items():
        alone = _for_layers(plain, (path,))
        lost, taken = [], []
        for width in widths:
            moved = alone(model, alone.knobs[0].name, width)
            rounded = moved.get_submodule(path)
            taken.append(float(file_bytes(pack(rounded))))
            if kind == "kl":
                lost.append(_divergence(moved, few, task, reference))
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


def _predictions(model: nn.Module, data: Split, task: Task | None) -> Iterator[Scores]:
    """Yield a model's predictions on the batches of a split."""
    assert task is not None
    for inputs, targets in data.batches():
        if data.task is None:
            inputs, targets = task.prepare(inputs, targets)
        with evaluating(model), torch.no_grad():
            yield task.scores(task.outputs(task.call(model, inputs)), targets)


def _divergence(model: nn.Module, data: Split, task: Task | None, reference: Sequence[Scores]) -> float:
    """Return the mean KL divergence from the reference; of numbers, their mean squared change."""
    total, count = 0.0, 0
    for mine, expected in zip(_predictions(model, data, task), reference, strict=True):
        match mine, expected:
            case ClassScores(), ClassScores():
                terms = mine.each(_class_divergence, expected)
            case LabelScores(), LabelScores():
                ours, theirs = (torch.stack([s.logits, torch.zeros_like(s.logits)], -1) for s in (mine, expected))
                terms = _class_divergence(ours, ours, theirs)[mine.counted]
            case NumberScores(), NumberScores():
                terms = (mine.outputs - expected.outputs).square()
            case VectorScores(), VectorScores():
                terms = 1 - F.cosine_similarity(mine.vectors.double(), expected.vectors.double(), dim=1)
            case _:
                raise KMRError(f"a sensitivity reads no {type(mine).__name__}: set kind=taylor")
        total += float(terms.sum())
        count += terms.numel()
    return max(0.0, total / max(1, count))


def _class_divergence(mine: Tensor, _: Tensor, expected: Tensor) -> Tensor:
    """Return KL(expected ‖ mine) of rows of logits."""
    ours, theirs = (F.log_softmax(logits.double(), -1) for logits in (mine, expected))
    return (theirs.exp() * (theirs - ours)).sum(-1)


def _fisher(model: nn.Module, data: Split, paths: Sequence[str]) -> dict[str, Tensor]:
    """Return the mean squared gradient of single samples' losses, for each weight of each layer."""
    twin = copy.deepcopy(model).eval().requires_grad_(True)
    layers = {path: twin.get_submodule(path) for path in paths}
    total = {path: torch.zeros(read_weight(layer).weight.shape, dtype=torch.float64) for path, layer in layers.items()}
    count = 0
    objective = bound_loss(TaskLoss(), data, twin)
    with torch.enable_grad():
        for inputs, targets in replace(data, batch_size=1).batches():
            twin.zero_grad(set_to_none=True)
            objective(twin, inputs, targets).backward()  # type: ignore[no-untyped-call]
            for path, layer in layers.items():
                original = next(p for name, p in layer.named_parameters() if "bias" not in name and "scale" not in name)
                if original.grad is not None:
                    total[path] += original.grad.double().square()
            count += 1
    return {path: gradient / max(1, count) for path, gradient in total.items()}
