"""N:M sparsity: at most n of m consecutive weights are not zero, for hardware that supports it (Mishra et al. 2021)."""

from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import nn

from kmr.core import Choice, Domain, KMRError, Knob, NotApplicable, Trait, Value
from kmr.data import Split
from kmr.instantiations.layer_rule import LayerRule
from kmr.instantiations.pruning.budgets import pattern_keep
from kmr.instantiations.pruning.saliency import Magnitude, Saliency, saliency_of
from kmr.representation.weights import WeightState, read_weight, write_weight

_PATTERNS = {"4:8": (4, 8), "2:4": (2, 4), "1:4": (1, 4)}


@final
@dataclass(frozen=True, kw_only=True)
class PatternPruning(LayerRule):
    """Masks that keep the n weights with the highest scores in every m consecutive ones along a layer's inputs.

    The inputs of a convolution are its channels, at each kernel position separately. Layers whose number of inputs is
    not a multiple of m stay dense and are reported. Weights removed earlier stay removed, and grids stay. CPU kernels
    do not use the pattern; there it saves only stored bytes.

    Args:
        criterion: the score of a weight.
        data: samples for criteria that need data.
        samples: number of samples to use, at least 1.

    Raises:
        KMRError: a setting is invalid.
    """

    name: str = "pattern"
    criterion: Saliency = field(default_factory=Magnitude)
    data: Split | None = field(default=None, repr=False, compare=False)
    samples: int = 512
    setting: ClassVar[str] = "nonzero"
    domain: ClassVar[Domain] = Choice(tuple(_PATTERNS), neutral="dense")

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.criterion, Saliency):
            raise KMRError(f"the criterion of {self.name} must be a kmr Saliency, not {self.criterion!r}")
        if self.samples < 1:
            raise KMRError(f"samples of {self.name} must be at least 1, not {self.samples}")

    @property
    def leaves(self) -> frozenset[Trait]:
        return frozenset({"masks"})

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        kept, of = _PATTERNS[str(value)]
        layers = self.weights_of(model, knob)
        scores = saliency_of(model, list(layers), self.criterion, self.data, self.samples, self.seed)
        self.report(layers.keys() - scores, f"left as they are: {type(self.criterion).__name__} does not score them")
        uneven, already = [], []
        for path in scores:
            state = read_weight(layers[path])
            score = scores[path] if state.keep is None else torch.where(state.keep, scores[path], -1)
            keep = pattern_keep(score, kept, of) if isinstance(layers[path], _FROM_INPUTS) else None
            if keep is None:
                uneven.append(path)
                continue
            if bool((state.weight[~keep] == 0).all()) and state.keep is not None:
                already.append(path)
                continue
            keep = keep if state.keep is None else keep & state.keep
            write_weight(layers[path], WeightState(state.weight, state.grid, keep))
        if len(uneven) == len(scores):
            raise NotApplicable(f"{knob.name}={value}: no layer reads a multiple of {of} inputs")
        self.report(uneven, f"left dense: they do not read a multiple of {of} inputs")
        self.report(already, f"left as they are: they fit {value} already")
        return model


_FROM_INPUTS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
"""The layer classes whose weight has its inputs along dimension 1."""
