"""Base class of rules over layers: their knobs, the layers a knob governs, and reports of skipped layers."""

import warnings
from abc import ABC
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import ClassVar

from torch import nn

from kmr.core import Domain, KMRError, Knob, NotApplicable, Rule, RuleWarning
from kmr.representation.weights import WeightLayer, other_weights, tied_layers, weight_layers


@dataclass(frozen=True, kw_only=True)
class LayerRule(Rule, ABC):
    """A rule over the layers of a model.

    Args:
        layers: shell-style patterns over module paths, one knob each; empty for one knob over the whole model. A
            pattern that names a module governs everything inside it; the name of a group stands for its patterns.
        groups: patterns by group name; the layers of a group share one knob.
        exclude: shell-style patterns over module paths to skip.

    Raises:
        KMRError: a group has no pattern.
    """

    layers: tuple[str, ...] = ()
    groups: Mapping[str, tuple[str, ...]] = field(default_factory=dict, hash=False)
    exclude: tuple[str, ...] = ()
    setting: ClassVar[str]
    domain: ClassVar[Domain]

    def __post_init__(self) -> None:
        object.__setattr__(self, "layers", tuple(self.layers))
        object.__setattr__(self, "exclude", tuple(self.exclude))
        object.__setattr__(self, "groups", {name: tuple(patterns) for name, patterns in self.groups.items()})
        if empty := [name for name, patterns in self.groups.items() if not patterns]:
            raise KMRError(f"the group {', '.join(empty)} of {self.name} has no pattern: list module paths")

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """The knob `name.setting`, or `name.setting@pattern` for each pattern of `layers`."""
        whole = f"{self.name}.{self.setting}"
        return tuple(Knob(f"{whole}@{pattern}", self.domain) for pattern in self.layers) or (Knob(whole, self.domain),)

    def governs(self, knob: Knob, path: str) -> bool:
        """Tell whether the knob reaches the module at this path."""
        inside = any(matches(path, pattern) for pattern in self._patterns(knob))
        return inside and not any(matches(path, pattern) for pattern in self.exclude)

    def reaches(self, knob: Knob, path: str) -> bool:
        """Tell whether the knob governs the module at this path or names one inside it."""
        return self.governs(knob, path) or any(pattern.startswith(f"{path}.") for pattern in self._patterns(knob))

    def _patterns(self, knob: Knob) -> tuple[str, ...]:
        return self.groups.get(knob.layers, (knob.layers,))

    def weights_of(self, model: nn.Module, knob: Knob) -> dict[str, WeightLayer]:
        """Return the governed layers whose weight is not shared, by path; report the weights that the rule skips.

        Raises:
            NotApplicable: there is no such layer.
        """
        found = {path: layer for path, layer in weight_layers(model) if self.governs(knob, path)}
        tied = tied_layers(model) & found.keys()
        self.report(tied, "left as they are: the weight is shared with another module")
        others = (name for name in other_weights(model) if self.governs(knob, name.rpartition(".")[0]))
        self.report(others, "left as they are: weights outside a linear, convolution or embedding layer")
        if not found.keys() - tied:
            raise NotApplicable(f"{knob.name}: no layer to change{' except ones with shared weights' if tied else ''}")
        return {path: layer for path, layer in found.items() if path not in tied}

    def report(self, paths: Iterable[str], why: str) -> None:
        """Warn, in one line, that the rule skipped these layers or treated them differently."""
        report(self.name, paths, why)


def report(rule: str, paths: Iterable[str], why: str) -> None:
    """Warn, in one line, that a rule skipped these layers or treated them differently."""
    named = list(dict.fromkeys(path or "the model itself" for path in sorted(paths)))
    if named:
        warnings.warn(RuleWarning(f"{rule}: {', '.join(named)}: {why}"), stacklevel=3)


def matches(path: str, pattern: str) -> bool:
    """Tell whether a module's path, or the path of a module that contains it, matches a shell-style pattern."""
    return any(fnmatchcase(part, pattern) for part in _with_parents(path))


def _with_parents(path: str) -> Iterator[str]:
    yield path
    while "." in path:
        path = path.rpartition(".")[0]
        yield path
