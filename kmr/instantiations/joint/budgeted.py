"""Channels and bit widths learned in one training within a limit on bit operations (GETA-like), as a rule."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

from torch import Tensor, nn

from kmr.core import Domain, FloatRange, KMRError, Knob, NotApplicable, Trait, Value
from kmr.data import Inputs
from kmr.instantiations.attention import split_attention
from kmr.instantiations.joint.squeeze import Squeeze
from kmr.instantiations.joint.taught import TaughtTraining
from kmr.instantiations.joint.units import find_groups, find_units
from kmr.instantiations.pruning.graph import ChannelGroup, Graph
from kmr.instantiations.pruning.proof import CutFailed
from kmr.instantiations.pruning.search import widest_cut
from kmr.instantiations.pruning.surgery import Cut, cut, hold
from kmr.instantiations.quantization import channel_dim, fit_grid
from kmr.meters.bops import BOPs, layer_bits
from kmr.meters.macs import count_macs
from kmr.representation.weights import (
    Codebook,
    WeightLayer,
    WeightState,
    read_weight,
    strip,
    weight_layers,
    write_weight,
)


@final
@dataclass(frozen=True, kw_only=True)
class BudgetedTraining(TaughtTraining):
    """One training in which channels and widths of weights shrink to a falling limit on bit operations.

    The value is the limit: the bit operations (`kmr.meters.BOPs`) of the result, as a share of those of the original
    model, or of the model itself without one. The result never exceeds it; a model within the limit stays unchanged.

    The training is projected gradient descent, after GETA (Qu et al. 2025, "Automatic joint structured pruning and
    quantization for efficient neural network training and compression"). Weights, and the steps and ranges of their
    quantizers, follow the gradient, and with them the widths (`widths`). During the ramp, `updates` projections enforce
    the current limit at a single price per bit operation: channels of dependency groups are removed and widths reduced
    where the gradients predict the least loss (`projection`, `squeeze`). Widths are then rounded to whole numbers, and
    the rest of the training runs at the target. Finally the channels are cut and the weights put on grids.

    Widths of activations do not change: 32 bits, or those of existing grids. With float activations, weights of at most
    `bits[1]` bits take at most `bits[1]/32` of the original's bit operations, which is the upper end of the knob.

    Args:
        example_inputs: a batch as `kmr.data.forward` takes it.
        bits: the lower and upper limit on the bits of a weight, within 2 to 16.
        stay: the least share of each group's channels to keep, in (0, 1].
        learned: whether later trainings also train the grids' scales.

    Raises:
        KMRError: a setting is out of range, layers have their own knobs, the weight is above 0 without a teacher, or
            the recipe keeps the best weights.
        NotApplicable: even the least widths and channels exceed the limit, or the rule has no data.
    """

    name: str = "geta"
    ramp: float = 0.4
    example_inputs: Inputs = field(repr=False, compare=False)
    bits: tuple[int, int] = (2, 8)
    stay: float = 0.1
    learned: bool = False
    setting: ClassVar[str] = "bops"
    lowers: ClassVar[str] = "bops"
    raises: ClassVar[frozenset[str]] = frozenset({"trainable_parameters"})  # where scales are learned

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "bits", tuple(self.bits))
        if len(self.bits) != 2 or not 2 <= self.bits[0] < self.bits[1] <= 16:
            raise KMRError(f"bits of {self.name} must be a lower and a higher number within 2 to 16, not {self.bits}")
        if not 0 < self.stay <= 1:
            raise KMRError(f"stay of {self.name} must be a share in (0, 1], not {self.stay}")
        if self.layers:
            raise KMRError(f"{self.name} has one knob for the whole model: use exclude instead of layers")

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """The knob `name.bops`."""
        domain: Domain = FloatRange(0.005, self.bits[1] / 32, neutral=1.0, log=True)
        return (Knob(f"{self.name}.{self.setting}", domain),)

    @property
    def leaves(self) -> frozenset[Trait]:
        return frozenset({"structure", "weight grids"})

    @property
    def precedes(self) -> frozenset[Trait]:
        return frozenset({"activation grids"})

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        self.check_data(knob)
        takes = BOPs(example_inputs=self.example_inputs)
        try:
            here = takes(model).value
            before = here if self.original is None else takes(self.original).value
        except KMRError as reason:
            raise NotApplicable(f"{knob.name}: {reason}") from reason
        limit = float(value) * before
        if here <= limit:
            self.report(["the model"], f"left as it is: already within {value:g} of the bit operations")
            return model
        model, left = split_attention(model, lambda path: self.reaches(knob, path))
        self.report(left, "attention left as it is: it has keys of its own, shared weights or code of its own")
        layers = {path: layer for path, layer in self.weights_of(model, knob).items() if self._can_narrow(layer)}
        groups, whole = find_groups(model, self.example_inputs, lambda path: self.governs(knob, path))
        for why, makers in whole.items():
            self.report(makers, why)
        squeeze = Squeeze(model, layers, find_units(model, groups), self.example_inputs, self.bits, self.stay)
        self._check_reach(knob, squeeze.least, limit, before)
        model = self.train(model, lambda share: squeeze.to(share, limit), squeeze.see)
        # This enforces the target if nothing was trained or a time limit ended the training early.
        squeeze.to(1.0, limit)
        model = self._without(model, groups, squeeze.finish(self.learned))
        self._narrow_to(model, limit, layers.keys())
        self._check_reach(knob, takes(model).value, limit, before)
        return model

    def _can_narrow(self, layer: WeightLayer) -> bool:
        grid = read_weight(layer).grid
        return grid is None or (not isinstance(grid, Codebook) and not grid.group and grid.bits > self.bits[0])

    def _check_reach(self, knob: Knob, least: float, limit: float, before: float) -> None:
        if least > limit:
            raise NotApplicable(
                f"{knob.name}: {limit / before:.3g} of the bit operations cannot be met: the least possible is "
                f"{least / before:.3g}; lower bits or stay, quantize activations before, or compress the other layers"
            )

    def _without(self, model: nn.Module, groups: list[ChannelGroup], removed: dict[str, Tensor]) -> nn.Module:
        """Cut the removed channels in as many groups as can be cut together; report the others."""
        if not removed:
            return model
        states = {path: strip(layer) for path, layer in weight_layers(model)}

        def attempt(chosen: Sequence[ChannelGroup], prepared: Graph | None) -> Cut:
            fresh = prepared or Graph(model, self.example_inputs)
            return cut(model, self.example_inputs, fresh, {g.root: removed[g.root] for g in chosen})

        cutting = [group for group in groups if group.root in removed]
        try:
            smaller, reasons = widest_cut(cutting, Graph(model, self.example_inputs), attempt)
        except CutFailed as failed:
            smaller, reasons = Cut(model, {}), {group.root: str(failed) for group in cutting}
        for reason in dict.fromkeys(reasons.values()):
            stuck = [maker for group in cutting if reasons.get(group.root) == reason for maker in group.makers]
            self.report(stuck, f"left whole: their channels cannot be removed ({reason})")
        hold(smaller, states)
        return smaller.model

    def _narrow_to(self, model: nn.Module, limit: float, paths: Collection[str]) -> None:
        """Lower bits one by one until the limit is met, to make up for channels that could not be removed."""
        takes = BOPs(example_inputs=self.example_inputs)
        while takes(model).value > limit:
            _, counted = count_macs(model, self.example_inputs)
            bits = layer_bits(model)
            able = [path for path in paths if path in counted and bits[path][0] > self.bits[0]]
            if not able:
                return
            widest = max(able, key=lambda path: counted[path].macs * bits[path][0] * bits[path][1])
            layer = dict(weight_layers(model))[widest]
            state = read_weight(layer)
            grid = fit_grid(
                state.weight, bits[widest][0] - 1, dim=channel_dim(layer), clip="mse",
                learned=self.learned,
            )  # fmt: skip
            write_weight(layer, WeightState(state.weight, grid, state.keep))
