"""Channels and bit widths learned in one training under a budget of bit operations (GETA-like), as a rule."""

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
    """Train once, while channels and widths of weights give way to a falling budget of bit operations.

    The value is the budget: the bit operations (`kmr.meters.BOPs`) the result may take, as a share of those of the
    original model, or where none is given of the model itself. What the rule returns takes no more; a model within the
    budget is left as it is.

    It is projected gradient descent, after GETA (Qu et al. 2025, "Automatic joint structured pruning and
    quantization for efficient neural network training and compression"). Weights and the steps and ranges of their
    quantizers follow the gradient, and widths with them (`widths`). `updates` times during the ramp, all are projected
    on the budget of the moment, at one price of a bit operation: channels of dependency groups go and widths fall where
    the gradients say that it loses least (`projection`, `squeeze`). Then widths are whole, and the rest of the training
    is at the target. Last the channels are cut out and weights put on grids.

    Widths of activations stay what they are: 32 bits, or those of grids put on before. With float activations widths of
    `bits` take at most `bits[1]/32` of the original, which is where the knob begins.

    Args:
        example_inputs: a batch as `kmr.data.forward` takes it.
        bits: the least and the most bits of a weight, within 2 to 16.
        stay: the least share of each group's channels that stays, in (0, 1].
        learned: the grids' scales are trained further whenever the model is.

    Raises:
        KMRError: a setting is out of range, layers have knobs of their own, there is no teacher for a weight above 0,
            or the recipe keeps the best.
        NotApplicable: the budget is less than the least widths and channels take, or there is no data.
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
            raise KMRError(f"the bits of {self.name} are the least and the most, within 2 to 16, not {self.bits}")
        if not 0 < self.stay <= 1:
            raise KMRError(f"the share that stays of {self.name} lies in (0, 1], not {self.stay}")
        if self.layers:
            raise KMRError(f"{self.name} has one budget for the whole model: leave layers out with exclude")

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """`name.bops`."""
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
            self.report(["the model"], f"left as it is: within {value:g} of the bit operations already")
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
        # Where nothing was trained, or a time limit ended it before the target.
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
                f"{knob.name}: {limit / before:.3g} of the bit operations cannot be met: with as few bits and channels "
                f"as may be it is {least / before:.3g}; allow fewer (bits, stay), quantize activations before, or take "
                "out what else computes"
            )

    def _without(self, model: nn.Module, groups: list[ChannelGroup], removed: dict[str, Tensor]) -> nn.Module:
        """Cut the channels out, of as many groups as can be cut together; those of others stay, with nothing to say."""
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
            self.report(stuck, f"left whole: their channels cannot go ({reason})")
        hold(smaller, states)
        return smaller.model

    def _narrow_to(self, model: nn.Module, limit: float, paths: Collection[str]) -> None:
        """Take bits off one by one, where channels that were to go have stayed, until the limit is met."""
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
