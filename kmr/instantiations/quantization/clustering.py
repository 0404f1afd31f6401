"""Weight clustering (Han et al. 2016, section 3; Algorithm 9): a codebook of shared values for each layer."""

from dataclasses import dataclass
from typing import ClassVar, final

from torch import nn

from kmr.artifact.packing import file_bytes, pack
from kmr.core import Choice, Domain, Knob, NotApplicable, Trait, Value
from kmr.instantiations.attention import split_attention
from kmr.instantiations.layer_rule import LayerRule
from kmr.instantiations.quantization.quantizers import fit_codebook
from kmr.representation.weights import WeightState, read_weight, write_weight


@final
@dataclass(frozen=True, kw_only=True)
class WeightClustering(LayerRule):
    """A codebook of 2^bits values for each layer, found by k-means, whose nearest value replaces each weight.

    Later training moves weights between the values (straight-through) and moves the values too. Masks stay. The rule
    skips layers that already have at most as many bits, or whose codebook would take more bytes than it saves.

    Args:
        learned: train the values with the model; otherwise training only moves weights between fixed values.
    """

    name: str = "cluster"
    learned: bool = True
    raises: ClassVar[frozenset[str]] = frozenset({"trainable_parameters"})  # where levels are learned
    setting: ClassVar[str] = "bits"
    domain: ClassVar[Domain] = Choice((8, 7, 6, 5, 4, 3, 2, 1), neutral=32)

    @property
    def leaves(self) -> frozenset[Trait]:
        return frozenset({"weight grids"})

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        bits = int(value)
        model, left = split_attention(model, lambda path: self.reaches(knob, path))
        self.report(left, "attention left as it is: it has keys of its own, shared weights or code of its own")
        layers = self.weights_of(model, knob)
        already, larger = [], []
        for path, layer in layers.items():
            state = read_weight(layer)
            if state.bits <= bits:
                already.append(path)
                continue
            size = file_bytes(pack(layer))
            book = fit_codebook(state.weight, bits, keep=state.keep, learned=self.learned)
            write_weight(layer, WeightState(state.weight, book, state.keep))
            if file_bytes(pack(layer)) >= size:
                write_weight(layer, state)
                larger.append(path)
        if len(larger) == len(layers):
            raise NotApplicable(f"{knob.name}={bits}: every codebook would take more bytes than it saves")
        self.report(already, f"left as they are: already in {bits} bits or fewer")
        self.report(larger, "left as they are: their codebook would take more bytes than it saves")
        return model
