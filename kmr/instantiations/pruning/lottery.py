"""Lottery tickets: sparse networks found by training, whose weights start where the training began."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, cast, final

from torch import nn

from kmr.core import Domain, KMRError, Knob, NotApplicable, Trait, Value
from kmr.core.step import FineTune
from kmr.data import Split
from kmr.instantiations.layer_rule import LayerRule
from kmr.instantiations.pruning.saliency import Magnitude, Saliency
from kmr.instantiations.pruning.schedules import sparsity_steps
from kmr.instantiations.pruning.unstructured import UnstructuredPruning
from kmr.representation.weights import WeightState, read_weight, strip, write_weight


@final
@dataclass(frozen=True, kw_only=True)
class LotteryTicket(LayerRule):
    """Find by training which weights matter, and give back the model untrained, with the others masked.

    Train a copy, prune it, put its mask on the model, and so on for a number of rounds, each removing the same share of
    what is left (Frankle & Carbin 2019). Only masks come back: every other number of the model is the one it had, so
    that it is rewound to where it stood, its initialisation, or step k of its training where that is where it stands
    (Frankle et al. 2020). Training it, by the recipe that follows every move or any other, is up to whoever asked.

    Args:
        finetune: the training that finds the ticket.
        rounds: times to train and prune.
        start: leave the weights where they were (`rewound`), or draw those of the governed layers anew from their
            initial distribution (`random`), the control that tells the mask from the weights.
        scope: see `UnstructuredPruning`.
        criterion: what a trained weight is worth.
        data: samples for criteria that read some.
    """

    trains: ClassVar[bool] = True
    name: str = "ticket"
    finetune: FineTune = field(repr=False, compare=False)
    rounds: int = 1
    start: Literal["rewound", "random"] = "rewound"
    scope: Literal["global", "layer", "output", "erk", "lamp"] = "global"
    criterion: Saliency = field(default_factory=Magnitude)
    data: Split | None = field(default=None, repr=False, compare=False)
    setting: ClassVar[str] = "sparsity"
    domain: ClassVar[Domain] = UnstructuredPruning.domain

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 1:
            raise KMRError(f"{self.name} needs at least one round, not {self.rounds}")
        if self.start not in ("rewound", "random"):
            raise KMRError(f"the start of {self.name} must be rewound or random, not {self.start!r}")
        self._pruning(self.layers)

    @property
    def leaves(self) -> frozenset[Trait]:
        return frozenset({"masks"})

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        layers = self.weights_of(model, knob)
        pruning = self._pruning((knob.layers,) if self.layers else ())
        for sparsity in sparsity_steps(float(value), self.rounds, "constant"):
            trained = self.finetune(copy.deepcopy(model))
            pruned = pruning(trained, pruning.knobs[0].name, sparsity)
            for path, layer in layers.items():
                keep = read_weight(pruned.get_submodule(path)).keep
                if keep is not None:
                    state = read_weight(layer)
                    write_weight(layer, WeightState(state.weight, state.grid, keep))
        if self.start == "random":
            draw_again(layers)
        return model

    def _pruning(self, layers: tuple[str, ...]) -> UnstructuredPruning:
        return UnstructuredPruning(
            name=self.name, seed=self.seed, layers=layers, groups=self.groups, exclude=self.exclude, scope=self.scope,
            criterion=self.criterion, data=self.data,
        )  # fmt: skip


def draw_again(layers: Mapping[str, nn.Module]) -> None:
    """Give layers, by path, new initial parameters under the grids and masks they have, in place.

    Raises:
        NotApplicable: a layer has no `reset_parameters`.
    """
    for path, layer in layers.items():
        reset = getattr(layer, "reset_parameters", None)
        if reset is None:
            raise NotApplicable(f"{path} cannot be initialised anew: it has no reset_parameters")
        state = strip(layer)
        reset()
        write_weight(layer, WeightState(cast(nn.Parameter, layer.weight).detach(), state.grid, state.keep))
