"""Fine-tuning within a budget of trainable parameters, after which the model is as large as before."""

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
    """Train low-rank adapters in place of the weights, then merge them: no cost changes, masks and grids hold.

    Adapters of one rank, the largest that the budget allows, are put on every linear, convolution and embedding layer
    whose weight is its own. What the optimizer keeps for each parameter (two values for Adam) is kept for these alone.

    Args:
        trainable: the budget, a share of the parameters of the model.
        rank: in place of the largest rank; it must fit the budget.
        gain: what the product of an adapter is multiplied by (α / r).
        directional: DoRA in place of LoRA: the length of each row is trained by itself.
        serial: bottleneck adapters in place of LoRA: two thin layers behind each, without a nonlinearity between them,
            which could not be merged (`BottleneckAdapters` is the rule that puts those in a model, at a cost).
        vectors: biases and the scales of normalisations are trained as well, within the budget.

    Raises:
        NotApplicable: not even adapters of rank 1, or of the rank asked for, fit the budget.
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
            raise KMRError(f"the trainable share of parameters must lie in (0, 1], not {self.trainable}")
        if self.rank is not None and self.rank < 1:
            raise KMRError(f"the rank of adapters must be at least 1, not {self.rank}")
        if self.serial and self.directional:
            raise KMRError("adapters are serial or directional, not both")

    def __call__(self, model: nn.Module) -> nn.Module:
        """Train the model in place and return it, in the train or eval mode it was in."""
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
                f"adapters of rank {max(1, rank)} on {len(layers)} layers, and what is trained with them, hold "
                f"{needed} parameters, more than trainable={self.trainable} of the model's: {budget}"
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
