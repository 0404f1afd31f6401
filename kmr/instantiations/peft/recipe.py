"""Fine-tuning with a limited share of trainable parameters, without a change of the model's size."""

from dataclasses import dataclass
from typing import final

from torch import nn

from kmr.core import KMRError, NotApplicable
from kmr.finetune import FineTune
from kmr.instantiations.peft.adapters import adaptable, adapter_parameters, attach, detach, largest_rank
from kmr.representation.weights import settle


@final
@dataclass(frozen=True, kw_only=True)
class LowRankAdaptation(FineTune):
    """A recipe that trains low-rank adapters instead of the weights, then merges them; masks and grids hold.

    No cost changes. Every linear, convolution and embedding layer whose weight is not shared gets an adapter of the
    same rank, the largest that the limit allows. The optimizer keeps state (two values per parameter for Adam) for
    these alone.

    Args:
        trainable: the limit, a share of the model's parameters, in (0, 1].
        rank: the rank, at least 1; None chooses the largest within the limit.
        gain: factor of an adapter's product (α / r).
        directional: DoRA instead of LoRA: the norm of each row is trained separately.
        serial: linear bottleneck adapters instead of LoRA: two thin layers after each layer, without a nonlinearity,
            which would prevent merging (the rule `BottleneckAdapters` adds nonlinear ones, at a cost).
        vectors: also train biases and the scales of normalisations, within the limit.

    Raises:
        KMRError: a setting is out of range or contradicts another.
        NotApplicable: even adapters of rank 1, or of the given rank, exceed the limit.
    """

    trainable: float = 0.1
    rank: int | None = None
    gain: float = 2.0
    directional: bool = False
    serial: bool = False
    vectors: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.trainable <= 1:
            raise KMRError(f"trainable must be a share of the parameters in (0, 1], not {self.trainable}")
        if self.rank is not None and self.rank < 1:
            raise KMRError(f"the rank of adapters must be at least 1, not {self.rank}")
        if self.serial and self.directional:
            raise KMRError("adapters cannot be both serial and directional: choose one")

    def __call__(self, model: nn.Module) -> nn.Module:
        """Train the model in place and return it; every module keeps its train or eval mode."""
        flags = {parameter: parameter.requires_grad for parameter in model.parameters()}
        if self.total_steps == 0 or not any(flags.values()):
            return model
        layers = {path: layer for path, layer in adaptable(model).items() if _trains(layer)}
        shapes = [
            (len(layer.weight), len(layer.weight) if self.serial else layer.weight[0].numel())
            for layer in layers.values()
        ]
        lengths = sum(rows for rows, _ in shapes) if self.directional else 0
        vectors = [p for p in flags if p.dim() <= 1 and flags[p]] if self.vectors else []
        budget = int(self.trainable * sum(parameter.numel() for parameter in flags))
        left = budget - lengths - sum(vector.numel() for vector in vectors)
        rank = self.rank or largest_rank(shapes, left)
        needed = budget - left + adapter_parameters(shapes, max(1, rank))
        if not layers or rank < 1 or needed > budget:
            raise NotApplicable(
                f"adapters of rank {max(1, rank)} on {len(layers)} layers, and what is trained with them, have "
                f"{needed} parameters: more than trainable={self.trainable} of the model's, {budget}"
            )
        kept = {id(vector) for vector in vectors}
        for parameter in flags:
            parameter.requires_grad_(flags[parameter] and id(parameter) in kept)
        attach(layers, rank, self.gain, directional=self.directional, serial=self.serial, seed=self.seed)
        try:
            super().__call__(model)
        finally:
            detach(layers)
            for parameter, flag in flags.items():
                parameter.requires_grad_(flag)
        return settle(model)


def _trains(layer: nn.Module) -> bool:
    return next(p for name, p in layer.named_parameters() if name != "bias").requires_grad
