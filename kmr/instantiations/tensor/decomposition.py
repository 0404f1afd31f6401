"""Tensor decompositions of weights (Algorithm 9): a layer becomes several thinner ones in a row."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Literal, final

import torch
from torch import nn

from kmr.core import Domain, FloatRange, KMRError, Knob, NotApplicable, Value
from kmr.instantiations.attention import leave_fast_path
from kmr.instantiations.factored import Factorable
from kmr.instantiations.lowrank.ranks import FROM_ZERO
from kmr.instantiations.matrix_rule import MatrixRule
from kmr.instantiations.replace import replace_module
from kmr.instantiations.tensor.decompositions import require
from kmr.instantiations.tensor.forms import CanonicalForm, Form, MatrixForm, TrainForm, TuckerForm
from kmr.instantiations.tensor.ranks import energy_ranks, fitting_ranks, variational_ranks
from kmr.instantiations.tensor.trains import TrainMatrixForm
from kmr.representation.activations import QuantizedLayer
from kmr.representation.weights import read_weight

METHODS = ("tucker", "cp", "tensor_train")


@final
@dataclass(frozen=True, kw_only=True)
class TensorDecomposition(MatrixRule):
    """Tensor decompositions of layers, wherever these hold fewer parameters.

    The value is the share of a layer's weights that its parts may hold, or of the energy (squared weights) that
    they must keep. With `by` = vbmf it interpolates between the ranks that stand out from noise in the weight, at 0,
    and the full ones (variational Bayesian matrix factorization of its unfoldings, Kim et al. 2016). A decomposition
    takes no more multiply-accumulates than the layer, where padding keeps the positions. Linear layers and
    convolutions of single points are matrices, of which Tucker and CP are the truncated singular value decomposition;
    a tensor train reads a linear layer as a tensor of more modes.

    Parts of a weight on a grid get grids of the same bits and scheme; those of a masked weight are dense.

    Args:
        method: `tucker` (over the channels of a convolution), `cp` (a sum of outer products) or `tensor_train`.
        by: the quantity that the value is a share of: `parameters`, `energy`, or the ranks above those that `vbmf`
            finds; CP takes parameters only.
        iterations: at most this many, for Tucker (orthogonal iteration; 0: higher-order singular value decomposition)
            and CP (alternating least squares, at least 1).
        modes: of a linear layer as a tensor train, at least 2.

    Raises:
        NotHere: TensorLy is not installed.
    """

    name: str = "tensor"
    method: Literal["tucker", "cp", "tensor_train"] = "tucker"
    by: Literal["parameters", "energy", "vbmf"] = "parameters"
    iterations: int = 20
    modes: int = 2
    setting: ClassVar[str] = "keep"
    domain: ClassVar[Domain] = FloatRange(0.05, 1.0, neutral=1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        require()
        if self.method not in METHODS:
            raise KMRError(f"method of {self.name} must be one of {', '.join(METHODS)}, not {self.method!r}")
        if self.by not in ("parameters", "energy", "vbmf"):
            raise KMRError(f"by of {self.name} must be parameters, energy or vbmf, not {self.by!r}")
        if self.method == "cp" and self.by != "parameters":
            raise KMRError(f"{self.name}: method=cp needs by=parameters, not {self.by}")
        if self.iterations < (1 if self.method == "cp" else 0) or self.modes < 2:
            raise KMRError(
                f"{self.name} needs iterations >= 0 (cp: >= 1) and modes >= 2, not {self.iterations} and {self.modes}"
            )

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """`name.keep`, or `name.keep@pattern` for each pattern of `layers`."""
        return tuple(replace(knob, domain=FROM_ZERO) if self.by == "vbmf" else knob for knob in super().knobs)

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        layers = self.matrices_of(model, knob)
        dense, rounded, unmasked = [], [], []
        for path, layer in layers.items():
            form = self._form(layer)
            if isinstance(form, TrainMatrixForm) and isinstance(layer, QuantizedLayer):
                rounded.append(path)
                continue
            ranks = self._ranks(form, float(value))
            if ranks is None:
                dense.append(path)
                continue
            if read_weight(layer).keep is not None:
                unmasked.append(path)
            model = replace_module(model, layer, _built(form, ranks))
        self.report(rounded, "left as they are: a tensor train has no place for the grids of their activations")
        if len(dense) + len(rounded) == len(layers):
            raise NotApplicable(f"{knob.name}={value}: no layer would hold fewer parameters decomposed")
        self.report(dense, "left dense: decomposed, they would hold no fewer parameters or compute more")
        self.report(unmasked, "the mask is gone: the parts of a masked weight are dense")
        leave_fast_path(model)
        return model

    def _form(self, layer: Factorable) -> Form:
        settings = {"iterations": self.iterations, "seed": self.seed}
        if self.method == "tensor_train" and isinstance(layer, nn.Linear):
            return TrainMatrixForm(layer, modes=self.modes)
        if layer.weight[0, 0].numel() == 1:
            return MatrixForm(layer)
        match self.method:
            case "tucker":
                return TuckerForm(layer, **settings)
            case "cp":
                return CanonicalForm(layer, **settings)
            case "tensor_train":
                return TrainForm(layer)

    def _ranks(self, form: Form, value: float) -> tuple[int, ...] | None:
        """Return the ranks of a value, or None where the layer is better left dense."""
        dense = form.weight.numel()

        def share(ranks: Sequence[int]) -> float:
            return max(form.parameters(ranks) / (value * dense), form.macs(ranks) / dense)

        try:
            if self.by == "parameters":
                return fitting_ranks(form.spectra, share)
            if self.by == "vbmf":
                ranks = variational_ranks(form.spectra, form.shapes, value)
            else:
                ranks = energy_ranks(form.spectra, value)
        except torch.linalg.LinAlgError as error:  # type: ignore[attr-defined]
            raise NotApplicable(f"a weight has no singular values: {error}") from error
        return ranks if form.parameters(ranks) < dense and form.macs(ranks) <= dense else None


def _built(form: Form, ranks: tuple[int, ...]) -> nn.Module:
    try:
        return form.build(ranks)
    except (torch.linalg.LinAlgError, ArithmeticError) as error:  # type: ignore[attr-defined]
        raise NotApplicable(f"a weight cannot be decomposed: {error}") from error
