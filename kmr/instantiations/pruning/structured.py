"""Structured pruning by dependency groups (Algorithm 4; DepGraph, Fang et al. 2023): removal of channels."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, final

from torch import Tensor, nn

from kmr.core import Choice, Domain, FloatRange, KMRError, Knob, NotApplicable, Trait, Value
from kmr.data import Inputs, Split
from kmr.instantiations.layer_rule import LayerRule
from kmr.instantiations.pruning.channels import blocks_to_remove, channels_to_remove, channels_to_round
from kmr.instantiations.pruning.criteria import L2, Criterion
from kmr.instantiations.pruning.graph import ChannelGroup, Graph
from kmr.instantiations.pruning.proof import CutFailed
from kmr.instantiations.pruning.search import widest_cut
from kmr.instantiations.pruning.surgery import Cut, cut, hold
from kmr.representation.weights import strip, weight_layers

_SCOPES = ("layer", "isomorphic", "global")
_EXTRA = "extra"
_ROUND_TO = "round_to"


@final
@dataclass(frozen=True, kw_only=True)
class StructuredPruning(LayerRule):
    """Removal of the least important channels, neurons and attention heads, with everything that depends on them.

    The value is the fraction of channels to remove from every dependency group, or from all groups of a scope together.
    A group loses channels only if the knob governs every layer that makes them. Layers that make the model's output,
    and recurrent layers, keep their width. Groups whose width the network's code fixes stay whole and are reported.
    Attention heads whose number is an attribute of the code are removed whole. Masks and grids are cut too.

    Args:
        example_inputs: a batch as `kmr.data.forward` takes it.
        criterion: scores the channels; those with the lowest scores are removed.
        scope: rank the channels of each group alone (`layer`), of all groups of the same kinds of layers together
            (`isomorphic`, Fang et al. 2024), or of all groups together (`global`).
        round_to: groups keep the multiple of this number of channels nearest to what the ratio asks for. Several
            numbers make it a knob, `<name>.round_to`, whose move reduces every group to a multiple.
        groups: shell-style patterns over module paths by name. Each adds a knob `<name>.extra@<group>`: the fraction to
            remove of the channels that earlier knobs left in these layers. Sensitive layers get a lower ratio by a
            higher one for the others.
        data: samples for criteria that need data.
        samples: number of samples to use, at least 1.

    Raises:
        KMRError: a setting is out of range.
    """

    name: str = "structured"
    example_inputs: Inputs = field(repr=False, compare=False)
    criterion: Criterion = field(default_factory=L2)
    scope: Literal["layer", "isomorphic", "global"] = "layer"
    round_to: int | tuple[int, ...] = 1
    data: Split | None = field(default=None, repr=False, compare=False)
    samples: int = 512
    setting: ClassVar[str] = "ratio"
    domain: ClassVar[Domain] = FloatRange(0.0, 0.9, neutral=0.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if not isinstance(self.round_to, int):
            object.__setattr__(self, "round_to", tuple(self.round_to))
        if not isinstance(self.criterion, Criterion):
            raise KMRError(f"the criterion of {self.name} must be one of kmr's criteria, not {self.criterion!r}")
        if self.scope not in _SCOPES:
            raise KMRError(f"the scope of {self.name} must be one of {', '.join(_SCOPES)}, not {self.scope!r}")
        if min(self._units) < 1:
            raise KMRError(f"round_to of {self.name} must be at least 1, not {min(self._units)}")
        if self.samples < 1:
            raise KMRError(f"samples of {self.name} must be at least 1, not {self.samples}")

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """The ratio (one knob, or one for each pattern of `layers`), each group's extra ratio, and the rounding."""
        extra = tuple(Knob(f"{self.name}.{_EXTRA}@{group}", self.domain) for group in self.groups)
        rounding = (Knob(f"{self.name}.{_ROUND_TO}", Choice(self._units, neutral=1)),)
        return (*super().knobs, *extra, *(rounding if isinstance(self.round_to, tuple) else ()))

    @property
    def leaves(self) -> frozenset[Trait]:
        return frozenset({"structure"})

    @property
    def precedes(self) -> frozenset[Trait]:
        return frozenset({"activation grids"})

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        states = {path: strip(layer) for path, layer in weight_layers(model)}
        try:
            graph = Graph(model, self.example_inputs)
            groups = self._governed(model, knob, graph)
            scores = self._scores(model, groups)
            groups = [group for group in groups if group.root in scores]
            if not groups:
                raise NotApplicable(f"{knob.name}: the criterion ranks no layer whose channels can be removed")
            smaller = self._cut(model, knob, graph, groups, scores, value)
        except CutFailed as reason:
            raise NotApplicable(f"{knob.name}: {reason}") from reason
        hold(smaller, states)
        return smaller.model

    @property
    def _units(self) -> tuple[int, ...]:
        return (self.round_to,) if isinstance(self.round_to, int) else self.round_to

    def _is(self, knob: Knob, setting: str) -> bool:
        return knob.name.partition("@")[0] == f"{self.name}.{setting}"

    def _governed(self, model: nn.Module, knob: Knob, graph: Graph) -> list[ChannelGroup]:
        recurrent = [
            path for path, m in model.named_modules() if isinstance(m, nn.RNNBase) and self.governs(knob, path)
        ]
        self.report(recurrent, "left as they are: recurrent layers keep their width")
        inside = [group for group in graph.groups if all(self.governs(knob, maker) for maker in group.makers)]
        partly = _makers(group for group in graph.groups if group not in inside)
        self.report(
            (maker for maker in partly if self.governs(knob, maker)),
            "left whole: their channels depend on layers that the knob does not govern",
        )
        unknown = [group for group in inside if not group.removable]
        self.report(_makers(unknown), "left whole: their channels cannot be removed")
        inside = [group for group in inside if group.removable]
        if not inside:
            raise NotApplicable(
                f"{knob.name}: no layer whose channels can be removed without a change of the output's shape"
            )
        return inside

    def _scores(self, model: nn.Module, groups: Sequence[ChannelGroup]) -> dict[str, Tensor]:
        """Return the importance of the channels of each group that the criterion can rank, by root."""
        data = None if self.data is None else self.data.subset(self.samples)
        found = {group.root: score for group, score in zip(groups, self.criterion(model, groups, data), strict=True)}
        kind = type(self.criterion).__name__
        unknown = [group for group in groups if not len(found[group.root])]
        self.report(_makers(unknown), f"left whole: {kind} cannot rank their channels")
        return {root: score for root, score in found.items() if len(score)}

    def _choose(
        self, knob: Knob, groups: Sequence[ChannelGroup], scores: Mapping[str, Tensor], value: Value
    ) -> dict[str, Tensor]:
        ranked = [scores[group.root] for group in groups]
        blocks = [group.blocks for group in groups]
        if self._is(knob, _ROUND_TO):
            chosen = channels_to_round(ranked, int(value), blocks=blocks)
        else:
            unit = self.round_to if isinstance(self.round_to, int) else 1
            scopes: list[Hashable] | None = None
            if self.scope != "layer":
                scopes = [group.kind if self.scope == "isomorphic" else None for group in groups]
            chosen = channels_to_remove(ranked, float(value), blocks=blocks, round_to=unit, scopes=scopes)
        for place, group in enumerate(groups):
            if group.heads > 1:
                wanted = 0.0 if self._is(knob, _ROUND_TO) else len(chosen[place]) / group.size
                chosen[place] = blocks_to_remove(ranked[place], wanted, group.heads)
        return {group.root: channels for group, channels in zip(groups, chosen, strict=True)}

    def _cut(
        self,
        model: nn.Module,
        knob: Knob,
        graph: Graph,
        groups: list[ChannelGroup],
        scores: Mapping[str, Tensor],
        value: Value,
    ) -> Cut:
        """Cut as many groups as can be cut together; report the others."""
        chosen = self._choose(knob, groups, scores, value)
        untouched = [group for group in groups if not len(chosen[group.root])]
        if self._is(knob, _ROUND_TO):
            groups = [group for group in groups if group not in untouched]
        elif self.scope == "layer" or len(untouched) == len(groups):
            # In a common ranking, a group that loses nothing still counts in the share that the others lose.
            self.report(_makers(untouched), f"left whole: {value:g} of their channels is less than one")
            groups = [group for group in groups if group not in untouched]
        if not groups:
            return Cut(model, {})

        def attempt(allowed: Sequence[ChannelGroup], prepared: Graph | None) -> Cut:
            fresh = prepared or Graph(model, self.example_inputs)
            return cut(model, self.example_inputs, fresh, self._choose(knob, allowed, scores, value))

        smaller, reasons = widest_cut(groups, graph, attempt)
        for reason in dict.fromkeys(reasons.values()):
            left = [group for group in groups if reasons.get(group.root) == reason]
            self.report(_makers(left), f"left whole: their channels cannot be removed ({reason})")
        return smaller


def _makers(groups: Iterable[ChannelGroup]) -> list[str]:
    return [maker for group in groups for maker in group.makers]
