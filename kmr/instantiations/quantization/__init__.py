"""Quantization: weights on grids (Algorithm 5).

A method is a choice of grid, which is a pure function of the weight (`quantizers`), and of the layers it is put on (a
rule). Holding weights on a grid through training is `kmr.weights.Grid`, the same for every method.
"""

from kmr.instantiations.quantization.quantizers import (
    QUANTIZERS,
    Quantizer,
    affine_grid,
    channel_dim,
    fit_grid,
    fit_like,
    kmr_grid,
    midrise_grid,
    symmetric_grid,
)
from kmr.instantiations.quantization.static import DynamicQuantization, StaticQuantization
from kmr.instantiations.quantization.weights import WeightQuantization

__all__ = [
    "DynamicQuantization",
    "QUANTIZERS",
    "Quantizer",
    "StaticQuantization",
    "WeightQuantization",
    "affine_grid",
    "channel_dim",
    "fit_grid",
    "fit_like",
    "kmr_grid",
    "midrise_grid",
    "symmetric_grid",
]
