"""Tensor decompositions as pure functions, computed by TensorLy in double precision on the CPU."""

import importlib.util
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy
import torch
from torch import Tensor

from kmr.core import NotHere


def tucker(tensor: Tensor, ranks: Sequence[int], modes: Sequence[int], iterations: int) -> tuple[Tensor, list[Tensor]]:
    """Approximate a tensor by a smaller core, multiplied by a matrix along each mode named.

    Args:
        tensor: any shape.
        ranks: size of the core along each of these modes.
        modes: the modes that get smaller, ascending.
        iterations: at most this many of higher-order orthogonal iteration (De Lathauwer et al. 2000b), which lowers the
            error; with 0 the factors are those of the higher-order singular value decomposition (2000a).

    Returns:
        The core, and for each mode a matrix of orthonormal columns, of shape (size, rank).

    Raises:
        NotHere: TensorLy is not installed.
    """
    with _tensorly() as decomposition:
        (core, factors), _ = decomposition.partial_tucker(
            _array(tensor), rank=list(ranks), modes=list(modes), n_iter_max=iterations, init="svd", random_state=0
        )
        return torch.from_numpy(core.copy()), [torch.from_numpy(factor.copy()) for factor in factors]


def canonical(tensor: Tensor, rank: int, iterations: int, seed: int) -> list[Tensor]:
    """Approximate a tensor by a sum of outer products (CP), by alternating least squares from singular vectors.

    Args:
        tensor: any shape.
        rank: number of products.
        iterations: at most this many.
        seed: of the initial vectors, where the rank is larger than a mode.

    Returns:
        For each mode a matrix of shape (size, rank); each product's norm is spread over its vectors evenly.

    Raises:
        NotHere: TensorLy is not installed.
    """
    with _tensorly() as decomposition:
        weights, factors = decomposition.parafac(
            _array(tensor), rank=rank, n_iter_max=iterations, init="svd", tol=1e-6, random_state=seed
        )
        found = [torch.from_numpy(factor.copy()) for factor in factors]
        found[0] = found[0] * torch.from_numpy(numpy.array(weights))
    norms = torch.stack([factor.norm(dim=0) for factor in found])
    even = norms.prod(0) ** (1 / len(found))
    return [factor * (even / norm.clamp(min=1e-30)) for factor, norm in zip(found, norms, strict=True)]


def tensor_train(tensor: Tensor, ranks: Sequence[int]) -> list[Tensor]:
    """Approximate a tensor by a train of cores, cut one singular value decomposition after the other (Oseledets 2011).

    Args:
        tensor: of d modes.
        ranks: between the modes, d − 1 of them; a rank that the shape does not allow becomes the largest it does.

    Returns:
        d cores of shape (rank before, size, rank after), the first and last rank being 1.

    Raises:
        NotHere: TensorLy is not installed.
    """
    with _tensorly() as decomposition:
        cores = decomposition.tensor_train(_array(tensor), rank=[1, *ranks, 1])
        return [torch.from_numpy(core.copy()) for core in cores]


def unfolded_spectra(tensor: Tensor) -> list[Tensor]:
    """Return the singular values of a tensor seen as a matrix, of its first k modes by the others, for each k."""
    precise = tensor.detach().cpu().double()
    return [torch.linalg.svdvals(precise.flatten(0, k - 1).flatten(1)) for k in range(1, tensor.dim())]


def mode_spectrum(tensor: Tensor, mode: int) -> Tensor:
    """Return the singular values of a tensor seen as a matrix, of one mode by the others."""
    found: Tensor = torch.linalg.svdvals(tensor.detach().cpu().double().movedim(mode, 0).flatten(1))
    return found


def _array(tensor: Tensor) -> Any:
    return tensor.detach().cpu().double().numpy()


def require() -> None:
    """Raise `NotHere`, with the way out, where TensorLy is not installed."""
    if not _installed():
        raise NotHere("tensor decompositions need the package tensorly: pip install 'kmr-sweeps[tensor]'")


def _installed() -> bool:
    try:
        return importlib.util.find_spec("tensorly") is not None
    except ValueError:
        return False


@contextmanager
def _tensorly() -> Iterator[Any]:
    """Yield TensorLy with its numpy backend, whatever backend the process uses elsewhere."""
    require()
    import tensorly
    import tensorly.decomposition

    with tensorly.backend_context("numpy", local_threadsafe=True), warnings.catch_warnings():
        # TensorLy warns that it starts from random vectors where a rank is larger than a mode.
        warnings.filterwarnings("ignore", message="Trying to compute SVD")
        yield tensorly.decomposition
