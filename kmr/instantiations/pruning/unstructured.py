"""Unstructured pruning (Algorithm 3): masks hold the weights with the lowest scores at 0."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, final

import torch
from torch import Tensor, nn

from kmr.core import Domain, FloatRange, KMRError, Knob, Trait, Value
from kmr.data import Split
from kmr.instantiations.layer_rule import LayerRule
from kmr.instantiations.pruning.budgets import erdos_renyi_kernel, lamp, magnitude_keep, output_keep
from kmr.instantiations.pruning.saliency import Magnitude, Saliency, saliency_of
from kmr.representation.weights import WeightState, read_weight, write_weight

_SCOPES = ("global", "layer", "output", "erk", "lamp")


@final
@dataclass(frozen=True, kw_only=True)
class UnstructuredPruning(LayerRule):
    """Masks over the weights with the lowest scores.

    The value is the fraction of the governed weights that are 0 after the move, including those that were 0 before.
    Weights removed earlier stay removed, and grids stay.

    Args:
        scope: the weights to rank together: all (`global`); those of a layer, with the same sparsity for each layer
            (`layer`) or its Erdős–Rényi-kernel share (`erk`); those of an output of a layer (`output`); all, by their
            LAMP scores (`lamp`).
        criterion: the score of a weight.
        data: samples for criteria that need data.
        samples: number of samples to use, at least 1.

    Raises:
        KMRError: a setting is invalid.
    """

    name: str = "prune"
    scope: Literal["global", "layer", "output", "erk", "lamp"] = "global"
    criterion: Saliency = field(default_factory=Magnitude)
    data: Split | None = field(default=None, repr=False, compare=False)
    samples: int = 512
    setting: ClassVar[str] = "sparsity"
    domain: ClassVar[Domain] = FloatRange(0.0, 0.98, neutral=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.scope not in _SCOPES:
            raise KMRError(f"the scope of {self.name} must be one of {', '.join(_SCOPES)}, not {self.scope!r}")
        if not isinstance(self.criterion, Saliency):
            raise KMRError(f"the criterion of {self.name} must be a kmr Saliency, not {self.criterion!r}")
        if self.samples < 1:
            raise KMRError(f"samples of {self.name} must be at least 1, not {self.samples}")

    @property
    def leaves(self) -> frozenset[Trait]:
        return frozenset({"masks"})

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        layers = self.weights_of(model, knob)
        scores = saliency_of(model, list(layers), self.criterion, self.data, self.samples, self.seed)
        self.report(layers.keys() - scores, f"left as they are: {type(self.criterion).__name__} does not score them")
        states = {path: read_weight(layer) for path, layer in layers.items() if path in scores}
        already: list[str] = []
        dense: list[str] = []
        for paths, sparsity in self._ranked_together(states, float(value)):
            if _is_reached([states[path] for path in paths], sparsity):
                (already if sparsity else dense).extend(paths)
                continue
            keeps = self._keeps([_removed_first(scores[path], states[path]) for path in paths], sparsity)
            for path, keep in zip(paths, keeps, strict=True):
                state = states[path]
                keep = keep if state.keep is None else keep & state.keep
                if not keep.all():
                    write_weight(layers[path], WeightState(state.weight, state.grid, keep))
        self.report(already, f"left as they are: at least {value:g} of the weights are zero already")
        self.report(dense, "left dense: their Erdős–Rényi-kernel share is all of their weights")
        return model

    def _ranked_together(self, states: Mapping[str, WeightState], sparsity: float) -> list[tuple[list[str], float]]:
        if self.scope in ("global", "lamp"):
            return [(list(states), sparsity)]
        shares = [sparsity] * len(states)
        if self.scope == "erk":
            shares = erdos_renyi_kernel([tuple(state.weight.shape) for state in states.values()], sparsity)
        return [([path], share) for path, share in zip(states, shares, strict=True)]

    def _keeps(self, scores: Sequence[Tensor], sparsity: float) -> list[Tensor]:
        if self.scope == "output":
            return [output_keep(score, sparsity) for score in scores]
        if self.scope == "lamp":
            scores = [torch.where(score < 0, -1, lamp(score.clamp_min(0))) for score in scores]
        return magnitude_keep(scores, sparsity)


def _is_reached(states: Sequence[WeightState], sparsity: float) -> bool:
    count = sum(state.weight.numel() for state in states)
    zeros = sum(int((state.weight == 0).sum()) for state in states)
    return zeros >= math.floor(sparsity * count + 0.5)


def _removed_first(score: Tensor, state: WeightState) -> Tensor:
    """Return scores that rank removed weights below all others."""
    score = score.double()
    return score if state.keep is None else torch.where(state.keep, score, -1)
