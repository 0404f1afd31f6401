"""Rules that put other modules in the place of plain linear layers and convolutions."""

from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from torch import nn

from kmr.core import Knob, Trait
from kmr.instantiations.factored import Factorable, attention_outputs, is_factorable
from kmr.instantiations.layer_rule import LayerRule


@dataclass(frozen=True, kw_only=True)
class MatrixRule(LayerRule, ABC):
    """A rule over the layers whose weight can be read as one matrix, and which other modules can replace."""

    @property
    def leaves(self) -> frozenset[Trait]:
        return frozenset({"structure"})

    @property
    def precedes(self) -> frozenset[Trait]:
        return frozenset({"masks", "activation grids"})

    def matrices_of(
        self, model: nn.Module, knob: Knob, inside: Callable[[str], bool] = lambda path: True
    ) -> dict[str, Factorable]:
        """Return the plain linear layers and convolutions the knob governs, by path; report the layers left out.

        Args:
            model: to change.
            knob: of this rule.
            inside: whether the rule looks at a path; nothing is reported elsewhere.

        Raises:
            NotApplicable: the knob governs no layer with a weight of its own.
        """
        layers = {path: layer for path, layer in self.weights_of(model, knob).items() if inside(path)}
        plain = {path: cast(Factorable, layer) for path, layer in layers.items() if is_factorable(layer)}
        self.report(
            layers.keys() - plain, "left as they are: neither a plain linear layer nor a convolution without groups"
        )
        read = attention_outputs(model) & plain.keys()
        self.report(read, "left as they are: the attention around them reads their weight")
        return {path: layer for path, layer in plain.items() if path not in read}
