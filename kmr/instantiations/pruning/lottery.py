"""Lottery tickets: masks found by training, over weights rewound to their start."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal, cast, final

from torch import nn

from kmr.core import Domain, KMRError, Knob, NotApplicable, Trait, Value
from kmr.core.step import FineTuning
from kmr.data import Split
from kmr.instantiations.layer_rule import LayerRule
from kmr.instantiations.pruning.saliency import Magnitude, Saliency
from kmr.instantiations.pruning.schedules import sparsity_steps
from kmr.instantiations.pruning.unstructured import UnstructuredPruning
from kmr.representation.weights import WeightState, read_weight, strip, write_weight


@final
@dataclass(frozen=True, kw_only=True)
class LotteryTicket(LayerRule):
    """A mask found by training, on the untrained model.

    Each round trains a copy, prunes it and puts its mask on the model; every round removes the same share of the
    remaining weights (Frankle & Carbin 2019). Only the masks change: all weights are rewound to those the model came
    with, its initialisation or step k of its training (Frankle et al. 2020). The run's own fine-tuning then trains the
    ticket.

    Args:
        finetune: the training that finds the mask.
        rounds: number of rounds of training and pruning, at least 1.
        start: keep the weights (`rewound`), or draw those of the governed layers again from their initial distribution
            (`random`), a control that separates the effect of the mask from that of the weights.
        scope: see `UnstructuredPruning`.
        criterion: the score of a trained weight.
        data: samples for criteria that need data.

    Raises:
        KMRError: a setting is out of range.
    """

    trains: ClassVar[bool] = True
    name: str = "ticket"
    finetune: FineTuning = field(repr=False, compare=False)
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
    """Reinitialise the parameters of layers, by path, under their grids and masks, in place.

    Raises:
        NotApplicable: a layer has no `reset_parameters`.
    """
    for path, layer in layers.items():
        reset = getattr(layer, "reset_parameters", None)
        if reset is None:
            raise NotApplicable(f"cannot reinitialise {path}: it has no reset_parameters")
        state = strip(layer)
        reset()
        write_weight(layer, WeightState(cast(nn.Parameter, layer.weight).detach(), state.grid, state.keep))
