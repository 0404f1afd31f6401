"""Tensor decompositions: kernels as products along their modes (Algorithm 9).

A method chooses the tensor that a weight is read as, the chain of layers that computes it (`forms`, `trains`) and its
ranks (`ranks`); the decompositions themselves are TensorLy's (`decompositions`; `pip install kmr-sweeps[tensor]`).
"""

from kmr.instantiations.tensor.decomposition import TensorDecomposition
from kmr.instantiations.tensor.decompositions import canonical, tensor_train, tucker
from kmr.instantiations.tensor.ranks import energy_ranks, fitting_ranks, variational_ranks
from kmr.instantiations.tensor.trains import TensorTrainLinear

__all__ = [
    "TensorDecomposition",
    "TensorTrainLinear",
    "canonical",
    "energy_ranks",
    "fitting_ranks",
    "tensor_train",
    "tucker",
    "variational_ranks",
]
