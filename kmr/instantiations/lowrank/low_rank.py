"""Low-rank factors by truncated singular values (Algorithm 8): one layer becomes two thinner ones in a row.

A linear layer W ≈ B·A becomes two linear layers (Denton et al. 2014). A convolution, its kernels unfolded to a matrix
of out × (in · kernel), becomes one of r kernels followed by a 1 × 1 convolution (Zhang et al. 2016).
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar, Literal, final

import torch
from torch import Tensor, nn

from kmr.cache import derived
from kmr.core import Domain, FloatRange, KMRError, Knob, NotApplicable, Value
from kmr.data import Split
from kmr.instantiations.attention import leave_fast_path
from kmr.instantiations.factored import Factorable, matrix_pair
from kmr.instantiations.lowrank.factors import Spectrum, spectrum
from kmr.instantiations.lowrank.moments import input_moments
from kmr.instantiations.lowrank.pairs import find_pairs
from kmr.instantiations.lowrank.ranks import FROM_ZERO, RANKINGS, energy_rank, kept_rank, rank_between, share_rank
from kmr.instantiations.lowrank.variational import variational_rank
from kmr.instantiations.matrix_rule import MatrixRule
from kmr.instantiations.replace import replace_module
from kmr.representation.weights import read_weight

_WORTH_KEEPING = 2**18
"""Entries from which a matrix takes longer to decompose than its factors take to read."""


@final
@dataclass(frozen=True, kw_only=True)
class LowRank(MatrixRule):
    """Low-rank factors of layers: two layers in place of one, wherever the two hold fewer parameters.

    The value is the share of a layer's weights that its two factors may hold, of the energy they keep, or of its
    full rank; the rank follows from it. With `by` = vbmf the value interpolates between the rank that stands out
    from noise in the weight (`variational_rank`), at 0, and the full rank. Where a layer consists of two factors
    already, their product is truncated, to the rank that the value gives the whole layer. The factors of a weight
    on a grid get grids of the same bits and scheme; those of a masked weight are dense. Activations between two
    factors are not quantized.

    Args:
        by: the quantity that the value is a share of: `parameters`, `energy` (the squared singular values), `rank`, or
            the ranks above the one that `vbmf` finds.
        error: the error to keep small: of the `weights`, or of the layer's `outputs` on its inputs (activation-aware:
            singular values of the weight times the root of its inputs' second moment).
        data: samples, with `error` = outputs.
        samples: number of samples to use.
    """

    name: str = "lowrank"
    by: Literal["parameters", "energy", "rank", "vbmf"] = "parameters"
    error: Literal["weights", "outputs"] = "weights"
    data: Split | None = field(default=None, repr=False)
    samples: int = 256
    setting: ClassVar[str] = "keep"
    domain: ClassVar[Domain] = FloatRange(0.05, 1.0, neutral=1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.by not in RANKINGS:
            raise KMRError(f"by of {self.name} must be one of {', '.join(RANKINGS)}, not {self.by!r}")
        if self.error not in ("weights", "outputs"):
            raise KMRError(f"error of {self.name} must be weights or outputs, not {self.error!r}")
        if self.by == "vbmf" and self.error == "outputs":
            raise KMRError(f"{self.name}: by=vbmf needs error=weights, not outputs")
        if self.error == "outputs" and (self.data is None or self.samples < 1):
            raise KMRError(f"{self.name}: error=outputs needs data and samples >= 1")

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """`name.keep`, or `name.keep@pattern` for each pattern of `layers`."""
        return tuple(replace(knob, domain=FROM_ZERO) if self.by == "vbmf" else knob for knob in super().knobs)

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        own = self.matrices_of(model, knob)
        pairs, halves = {}, set()
        for path, pair in find_pairs(model).items():
            parts = {f"{path}.first".lstrip("."), f"{path}.second".lstrip(".")}
            there = parts & own.keys()
            if there == parts:
                pairs[path] = pair
            halves |= there if there != parts else set()
            own = {name: layer for name, layer in own.items() if name not in parts}
        self.report(halves, "left as it is: half of two factors, whose rank is lowered only together")
        moments = self._moments(model, {**own, **{path: pair.first for path, pair in pairs.items()}})
        dense, unmasked, kept, loose = [], [], [], []
        for path, pair in pairs.items():
            matrix = pair.matrix()
            found = _decomposed(matrix, moments.get(path))
            rank = self._rank(matrix, found, float(value))
            if rank >= pair.rank:
                kept.append(path)
                continue
            if pair.masked:
                unmasked.append(path)
            if pair.truncate(*found.factors(rank)):
                loose.append(path)
        for path, layer in own.items():
            matrix = _matrix(read_weight(layer).weight)
            found = _decomposed(matrix, moments.get(path))
            rank = self._rank(matrix, found, float(value))
            if rank * sum(matrix.shape) >= matrix.numel():
                dense.append(path)
                continue
            if read_weight(layer).keep is not None:
                unmasked.append(path)
            model = replace_module(model, layer, matrix_pair(layer, *found.factors(rank)))
        if len(dense) == len(own) and len(kept) == len(pairs):
            raise NotApplicable(f"{knob.name}={value}: no layer would hold fewer parameters as two factors")
        self.report(kept, "left as they are: they are two factors of no higher rank already")
        self.report(
            loose,
            "activations between the factors are no longer quantized: their grid was calibrated for other factors",
        )
        self.report(dense, "left dense: two factors of that rank would hold no fewer parameters")
        self.report(unmasked, "the mask is gone: the factors of a masked weight are dense")
        leave_fast_path(model)
        return model

    def _moments(self, model: nn.Module, layers: Mapping[str, Factorable]) -> dict[str, Tensor]:
        if self.error == "weights" or self.data is None:
            return {}
        data, samples = self.data, self.samples
        moments = derived(
            "input moments", lambda: input_moments(model, layers, data, samples),
            model=model, layers=sorted(layers), data=data, samples=samples,
        )  # fmt: skip
        self.report(layers.keys() - moments, "factors of the weight alone: no sample of the data reached it")
        return moments

    def _rank(self, matrix: Tensor, found: Spectrum, value: float) -> int:
        rows, columns = matrix.shape
        match self.by:
            case "parameters":
                return kept_rank((rows, columns), value)
            case "energy":
                return energy_rank(found.singular, value)
            case "rank":
                return share_rank((rows, columns), value)
            case "vbmf":
                return rank_between(variational_rank(found.singular, (rows, columns)), min(rows, columns), value)


def _matrix(weight: Tensor) -> Tensor:
    return weight.flatten(1)


def _decomposed(matrix: Tensor, moment: Tensor | None) -> Spectrum:
    def parts() -> dict[str, Tensor]:
        found = spectrum(matrix, moment)
        return {"left": found.left, "singular": found.singular, "right": found.right}

    try:
        if matrix.numel() < _WORTH_KEEPING:
            return spectrum(matrix, moment)
        found = derived("singular values", parts, matrix=matrix, moment=moment)
        return Spectrum(**{name: part.to(matrix.device) for name, part in found.items()}, dtype=matrix.dtype)
    except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
        raise NotApplicable(f"a weight has no singular values: {error}") from error
