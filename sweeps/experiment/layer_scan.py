"""Measurements of a sensitivity scan: one rule, layer by layer, at a few knob values, without training."""

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from kmr.core import Cost, KMRError, Knob, NotApplicable, Quality, Rule, RuleWarning, Value, measure
from kmr.core.domain import rungs
from kmr.core.transposed_linear import plain_linears
from kmr.instantiations.layer_rule import LayerRule
from kmr.instantiations.pruning import StructuredPruning
from kmr.instantiations.pruning.graph import Graph
from kmr.representation.weights import strip_all, weight_layers
from sweeps.errors import SweepError


@dataclass(frozen=True)
class LayerProbe:
    """A rule narrowed to one layer, or to one group of layers that can only change together.

    Args:
        layer: path of the layer that names the probe.
        together: paths of all layers it changes.
        rule: the rule, narrowed to them.
        knob: name of the rule's knob.
    """

    layer: str
    together: tuple[str, ...]
    rule: Rule
    knob: str

    @property
    def turned(self) -> Knob:
        """The knob itself."""
        return next(knob for knob in self.rule.knobs if knob.name == self.knob)


def probes(rule: Rule, model: nn.Module) -> list[LayerProbe]:
    """Return a probe for each layer a rule over layers can change alone, in the order of the model.

    Raises:
        SweepError: the rule does not work layer by layer.
    """
    model = plain_linears(copy.deepcopy(model))
    if isinstance(rule, StructuredPruning):
        order = {path: place for place, (path, _) in enumerate(model.named_modules())}
        groups = Graph(strip_all(model), rule.example_inputs).groups
        kept = [g for g in groups if g.removable and any(rule.governs(k, m) for k in rule.knobs for m in g.makers)]
        found = []
        for group in sorted(kept, key=lambda g: min(order[maker] for maker in g.makers)):
            patterns = tuple(_literal(maker) for maker in group.makers)
            alone = replace(rule, groups={"layer": patterns}, round_to=1, scope="layer")
            first = min(group.makers, key=lambda maker: order[maker])
            found.append(LayerProbe(first, group.makers, alone, f"{rule.name}.extra@layer"))
        return found
    if isinstance(rule, LayerRule):
        return [
            LayerProbe(path, (path,), narrowed, narrowed.knobs[0].name)
            for path, _ in weight_layers(model)
            if rule.governs(rule.knobs[0], path)
            for narrowed in (replace(rule, layers=(_literal(path),), groups={}),)
        ]
    raise SweepError(f"the rule {rule.name} does not work layer by layer and cannot be scanned: choose another rule")


def values_of(probe: LayerProbe, wanted: Sequence[float], levels: int) -> list[Value]:
    """Return the values to try: the wanted ones that the knob takes, or else evenly spread ones."""
    domain = probe.turned.domain
    inside: list[Value] = [value for value in wanted if value in domain and value != domain.neutral]
    return inside or list(rungs(domain, levels))


def scan(
    model: nn.Module,
    found: Sequence[tuple[LayerProbe, Value]],
    quality: Quality,
    costs: Sequence[Cost],
    base: Mapping[str, float],
) -> Iterator[dict[str, Any]]:
    """Yield a row for each probe and value: the loss in quality and the remaining costs, or why there are none.

    Args:
        model: the base model; it is not changed.
        found: the probes and values to try.
        quality: the meter to read without any training.
        costs: the meters to read on the same model.
        base: the base model's readings, by meter.
    """
    for probe, value in found:
        row: dict[str, Any] = {
            "rule": probe.rule.name, "layer": probe.layer, "together": " ".join(probe.together), "value": value,
            "lost": None, "stderr": None, "why": "",
        }  # fmt: skip
        try:
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always", RuleWarning)
                changed = probe.rule(model, probe.knob, value)
            row["why"] = "; ".join(str(w.message) for w in caught if issubclass(w.category, RuleWarning))
            reading = measure(changed, [quality])[quality.name]
            row |= {"lost": quality.lost(base[quality.name], reading.value), "stderr": reading.stderr}
            row |= {f"cost/{name}": r.value for name, r in measure(changed, costs).items()}
            if row["why"] and all(row[f"cost/{cost.name}"] >= base[cost.name] for cost in costs):
                row["lost"] = None  # the rule changed nothing, so there is no loss to report
        except (NotApplicable, KMRError) as reason:
            row["why"] = str(reason)
        yield row


def _literal(path: str) -> str:
    """Return a shell-style pattern that matches this path only."""
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in path)
