"""Rounding that preserves a layer's outputs, not only its weights: GPTQ, and bias correction.

Both process layers in the order in which the model runs them on calibration data, so that every layer gets its inputs
from the quantized layers before it.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kmr.data import Inputs, call
from kmr.instantiations.quantization.calibration import evaluating, one_batch
from kmr.representation.weights import Grid, WeightLayer, WeightState, read_weight, write_weight

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)

_PART = 32
"""Number of samples to unfold at once."""


def gptq_round(weight: Tensor, grid: Grid, gram: Tensor, damping: float = 0.01) -> Tensor:
    """Round weights to levels with a small ‖(W − Q)·X‖², one input after the other (GPTQ, Frantar et al. 2023).

    Inputs not yet rounded compensate for each rounding error, by the inverse of X·Xᵀ (optimal brain surgeon). Inputs
    with larger power are rounded first.

    Args:
        weight: W, shape (outputs, inputs).
        grid: the grid of this matrix.
        gram: X·Xᵀ of the layer's inputs, shape (inputs, inputs).
        damping: added to the diagonal, relative to its mean.

    Returns:
        The weights on the grid.
    """
    scale, zero_point = (t.expand_as(weight).double() for t in grid.spread(weight))
    left = weight.double().clone()
    gram = gram.double().clone()
    dead = gram.diagonal() == 0
    gram.diagonal()[dead] = 1.0
    order = torch.argsort(gram.diagonal(), descending=True, stable=True)
    gram = gram[order][:, order]
    gram.diagonal().add_(damping * gram.diagonal().mean())
    try:
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(gram))
        factor = torch.linalg.cholesky(inverse, upper=True)
    except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
        return grid.values(grid.codes(weight))
    left, scale, zero_point = left[:, order], scale[:, order], zero_point[:, order]
    rounded = torch.empty_like(left)
    highest = 2.0**grid.bits - 1
    for column in range(left.shape[1]):
        step, zero = scale[:, column], zero_point[:, column]
        whole = zero.floor()
        codes = torch.clamp(torch.round(left[:, column] / step + (zero - whole)) + whole, 0, highest)
        rounded[:, column] = step * (codes - zero)
        error = (left[:, column] - rounded[:, column]) / factor[column, column]
        left[:, column + 1 :] -= error[:, None] * factor[column, column + 1 :]
    back = torch.empty_like(rounded)
    back[:, order] = rounded
    # Rounding again in the grid's own precision makes the values exactly those of codes.
    matrix = back.to(weight.dtype)
    return grid.values(grid.codes(matrix))


def round_by_layer(
    model: nn.Module, layers: Mapping[str, WeightLayer], grid_of: Callable[[WeightLayer], Grid], batches: list[Inputs]
) -> list[str]:
    """Put layers on grids by `gptq_round` in one pass over all calibration data, in place.

    Masks stay: removed weights stay 0 and do not contribute to the rounding error.

    Returns:
        The paths of layers rounded to nearest instead, because they have no Gram matrix.
    """
    missed = set(layers)

    def rounding(path: str, layer: WeightLayer) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            grams = _gram(layer, args[0]) if path in missed and args and isinstance(args[0], Tensor) else None
            if grams is None:
                return
            missed.discard(path)
            state = read_weight(layer)
            grid = grid_of(layer)
            with torch.no_grad():
                rounded = _rounded(state, grid, grams)
            write_weight(layer, WeightState(rounded, grid, state.keep))

        return hook

    handles = [layer.register_forward_pre_hook(rounding(path, layer)) for path, layer in layers.items()]
    try:
        with evaluating(model):
            call(model, one_batch(batches))
    finally:
        for handle in handles:
            handle.remove()
    for path in missed:
        state = read_weight(layers[path])
        write_weight(layers[path], WeightState(state.weight, grid_of(layers[path]), state.keep))
    return sorted(missed)


def output_means(model: nn.Module, layers: Mapping[str, WeightLayer], batches: list[Inputs]) -> dict[str, list[Tensor]]:
    """Return the mean of each output channel of layers, for each batch."""
    means: dict[str, list[Tensor]] = {}

    def look(path: str, layer: WeightLayer, output: Tensor) -> None:
        means.setdefault(path, []).append(_channel_means(layer, output))

    with evaluating(model), _after(layers, look):
        for inputs in batches:
            call(model, inputs)
    return means


def correct_biases(
    model: nn.Module, layers: Mapping[str, WeightLayer], wanted: Mapping[str, list[Tensor]], batches: list[Inputs]
) -> list[str]:
    """Shift biases so that layers' output channels have their previous means, in place (Nagel et al. 2019).

    Each layer is corrected on the outputs of the corrected layers before it.

    Returns:
        The paths of the layers without a bias, which stay unchanged.
    """
    biased = {path: layer for path, layer in layers.items() if getattr(layer, "bias", None) is not None}
    moves: dict[str, list[Tensor]] = {}

    def look(path: str, layer: WeightLayer, output: Tensor) -> Tensor:
        calls = moves.setdefault(path, [])
        if len(calls) >= len(wanted.get(path, ())):
            return output
        calls.append(wanted[path][len(calls)] - _channel_means(layer, output))
        return output + calls[-1].to(output.dtype).view(*_along_channels(layer, output))

    with evaluating(model), _after(biased, look):
        for inputs in batches:
            call(model, inputs)
    with torch.no_grad():
        for path, calls in moves.items():
            if calls:
                bias = cast(nn.Parameter, layers[path].bias)
                bias.add_(torch.stack(calls).mean(0).to(bias.dtype))
    return sorted(layers.keys() - moves.keys())


@contextmanager
def _after(
    layers: Mapping[str, WeightLayer], look: Callable[[str, WeightLayer, Tensor], Tensor | None]
) -> Iterator[None]:
    def hook_of(path: str, layer: WeightLayer) -> Callable[[nn.Module, tuple[Any, ...], Any], Any]:
        return lambda _, __, output: look(path, layer, output) if isinstance(output, Tensor) else None

    handles = [layer.register_forward_hook(hook_of(path, layer)) for path, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _rounded(state: WeightState, grid: Grid, grams: Tensor) -> Tensor:
    """Round a weight by the Gram matrices of its groups' inputs, shape (groups, inputs, inputs)."""
    weight = state.weight
    rows = weight.reshape(len(grams), -1, grams.shape[1])
    spread = [t.expand_as(weight).reshape(rows.shape) for t in grid.spread(weight)]
    parts = []
    for group, gram in enumerate(grams):
        part = Grid(spread[0][group], spread[1][group], grid.bits)
        if state.keep is None:
            parts.append(gptq_round(rows[group], part, gram))
        else:
            keep = state.keep.expand_as(weight).reshape(rows.shape)[group]
            parts.append(_row_by_row(rows[group], part, gram, keep))
    return torch.stack(parts).reshape(weight.shape)


def _row_by_row(weight: Tensor, grid: Grid, gram: Tensor, keep: Tensor) -> Tensor:
    """Round the kept weights of each row separately."""
    rounded = torch.zeros_like(weight)
    scale, zero_point = grid.spread(weight)
    for row in range(len(weight)):
        here = keep[row]
        if bool(here.any()):
            part = Grid(scale[row : row + 1, here], zero_point[row : row + 1, here], grid.bits)
            rounded[row, here] = gptq_round(weight[row : row + 1, here], part, gram[here][:, here])[0]
    return rounded


def _gram(layer: WeightLayer, inputs: Tensor) -> Tensor | None:
    """Return X·Xᵀ of a layer's inputs, shape (groups, inputs, inputs), in double precision over parts of a batch."""
    total: Tensor | None = None
    for part in torch.split(inputs.detach(), _PART):
        columns = _columns(layer, part.float())
        if columns is None:
            return None
        gram = (columns @ columns.transpose(1, 2)).double()
        total = gram if total is None else total + gram
    return total


def _columns(layer: WeightLayer, inputs: Tensor) -> Tensor | None:
    """Return the inputs of a layer's rows of weights, shape (groups, inputs, samples); None for unknown layers."""
    if isinstance(layer, nn.Linear):
        return inputs.reshape(-1, inputs.shape[-1]).T[None]
    if not isinstance(layer, _CONVOLUTIONS) or inputs.dim() != layer.weight.dim():
        return None
    if layer.padding_mode == "zeros" and isinstance(layer, nn.Conv2d) and not isinstance(layer.padding, str):
        unfolded = F.unfold(inputs, layer.kernel_size, layer.dilation, layer.padding, layer.stride)
        return unfolded.reshape(len(inputs), layer.groups, -1, unfolded.shape[-1]).permute(1, 2, 0, 3).flatten(2)
    if not isinstance(layer, nn.Conv1d) or layer.padding_mode != "zeros" or isinstance(layer.padding, str):
        return None
    flat = F.unfold(
        inputs[:, :, None], (1, *layer.kernel_size), (1, *layer.dilation), (0, *layer.padding), (1, *layer.stride)
    )
    return flat.reshape(len(inputs), layer.groups, -1, flat.shape[-1]).permute(1, 2, 0, 3).flatten(2)


def _channel_means(layer: WeightLayer, output: Tensor) -> Tensor:
    channel = _channel(layer, output)
    return output.double().mean([d for d in range(output.dim()) if d != channel])


def _along_channels(layer: WeightLayer, output: Tensor) -> list[int]:
    return [-1 if d == _channel(layer, output) else 1 for d in range(output.dim())]


def _channel(layer: WeightLayer, output: Tensor) -> int:
    """Return the channel dimension of a layer's output."""
    if isinstance(layer, nn.Linear | nn.Embedding | nn.Bilinear):
        return output.dim() - 1
    return output.dim() + 1 - layer.weight.dim()
