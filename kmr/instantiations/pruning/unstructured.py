"""Unstructured magnitude pruning (Algorithm 3; Han et al. 2015): the smallest weights become zero and stay zero."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal, final

import torch
from torch import Tensor, nn

from kmr.core import Domain, FloatRange, KMRError, Knob, Value
from kmr.instantiations.layers import LayerRule
from kmr.weights import WeightState, read_weight, write_weight


def magnitude_keep(scores: Sequence[Tensor], sparsity: float) -> list[Tensor]:
    """Tell which entries to keep so that exactly `round(sparsity · n)` of all n are removed, the lowest scores first.

    Args:
        scores: one tensor for each layer, ranked together; of equal scores the earlier entry is removed first.
        sparsity: fraction of entries to remove, 0 to 1; a half count rounds up.

    Returns:
        One boolean tensor for each layer, in the shape of its scores.
    """
    if not 0 <= sparsity <= 1:
        raise KMRError(f"sparsity must lie in [0, 1], not {sparsity}")
    flat = torch.cat([score.detach().reshape(-1).cpu() for score in scores])
    removed = math.floor(sparsity * flat.numel() + 0.5)
    keep = torch.ones(flat.numel(), dtype=torch.bool)
    if removed:
        threshold = torch.kthvalue(flat, removed).values
        keep = flat >= threshold
        ties = torch.nonzero(flat == threshold).reshape(-1)
        keep[ties[: removed - int((~keep).sum())]] = False
    parts = torch.split(keep, [score.numel() for score in scores])
    return [part.reshape(score.shape).to(score.device) for part, score in zip(parts, scores, strict=True)]


@final
@dataclass(frozen=True, kw_only=True)
class UnstructuredPruning(LayerRule):
    """Set the weights of least magnitude to zero until a fraction of them is zero.

    The value is the fraction of the governed weights that are zero after the move, whatever was zero before it. Weights
    removed earlier stay removed, and a grid stays the grid.

    Args:
        scope: rank the weights of all governed layers together (`global`), or give each layer the sparsity (`layer`).
    """

    name: str = "prune"
    scope: Literal["global", "layer"] = "global"
    setting: ClassVar[str] = "sparsity"
    domain: ClassVar[Domain] = FloatRange(0.0, 0.98, neutral=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scope not in ("global", "layer"):
            raise KMRError(f"the scope of {self.name} must be global or layer, not {self.scope!r}")

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        layers = self.weights_of(model, knob)
        states = {path: read_weight(layer) for path, layer in layers.items()}
        ranked_together = [list(states)] if self.scope == "global" else [[path] for path in states]
        already: list[str] = []
        for paths in ranked_together:
            if not _prune({path: states[path] for path in paths}, layers, float(value)):
                already += paths
        self.report(already, f"left as they are: at least {value:g} of the weights are zero already")
        return model


def _prune(states: Mapping[str, WeightState], layers: Mapping[str, nn.Module], sparsity: float) -> bool:
    """Bring layers that are ranked together to a sparsity; tell whether that took anything away."""
    count = sum(state.weight.numel() for state in states.values())
    zeros = sum(int((state.weight == 0).sum()) for state in states.values())
    if zeros >= math.floor(sparsity * count + 0.5):
        return False
    for (path, state), keep in zip(
        states.items(), magnitude_keep([_score(s) for s in states.values()], sparsity), strict=True
    ):
        if not keep.all():
            write_weight(layers[path], WeightState(state.weight, state.grid, keep))
    return True


def _score(state: WeightState) -> Tensor:
    """Rank removed weights below all others, then by magnitude."""
    magnitude = state.weight.abs().float()
    return magnitude if state.keep is None else torch.where(state.keep, magnitude, -1.0)
