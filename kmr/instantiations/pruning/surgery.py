"""Exact removal of channels from a model: the cut, the surviving elements of every parameter, and the proof.

The cut is made in a twin whose parameters hold the numbers of their own elements. After the cut, every parameter of the
twin lists the surviving elements of the original. Weights, masks and grids are then sliced alike and exactly.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from kmr.data import Inputs
from kmr.instantiations.pruning.graph import Graph
from kmr.instantiations.pruning.proof import CutFailed, check_cut
from kmr.instantiations.quantization.quantizers import fit_like
from kmr.representation.weights import Codebook, Grid, WeightState, weight_layers, write_weight

_EXACT_IN_FLOAT32 = 2**24


@dataclass(frozen=True, eq=False)
class Cut:
    """A smaller model, and the numbers of the surviving elements of each original parameter, by path and name."""

    model: nn.Module
    survivors: dict[tuple[str, str], Tensor]


def cut(model: nn.Module, inputs: Inputs, graph: Graph, removed: Mapping[str, Tensor]) -> Cut:
    """Return a model without the chosen channels, with its outputs checked; the given model is not changed.

    Args:
        model: a model without parametrizations.
        inputs: a batch that the model runs on.
        graph: the graph of this model, which cannot be used again.
        removed: the channels to remove from each group, by its root.

    Raises:
        CutFailed: the cut is impossible or fails the check; the message has the reason.
    """
    twin = graph.twin
    _number_elements(twin)
    graph.remove(removed)
    survivors = _fill(twin, model)
    for smaller, original in zip(twin.modules(), model.modules(), strict=True):
        smaller.training = original.training
    check_cut(model, twin, survivors, inputs, graph.shapes)
    return Cut(twin, survivors)


def hold(smaller: Cut, states: Mapping[str, WeightState]) -> None:
    """Apply the masks and grids of the full weights to the cut ones, cut alike."""
    for path, layer in weight_layers(smaller.model):
        state = states[path]
        if state.grid is None and state.keep is None:
            continue
        survivors = smaller.survivors.get((path, "weight"))
        if survivors is None:
            write_weight(layer, state)
            continue
        keep = None if state.keep is None else sliced(state.keep, survivors)
        grid = state.grid
        if grid is not None:
            grid = _cut_grid(state, grid, survivors)
        write_weight(layer, WeightState(layer.weight.detach(), grid, keep))


def _cut_grid(state: WeightState, grid: Grid | Codebook, survivors: Tensor) -> Grid | Codebook:
    """Return the grid of a cut weight; fit it again if groups of entries are no longer adjacent."""
    if isinstance(grid, Codebook):
        return grid
    if not grid.group:
        scale, zero_point = (sliced_like(t, state.weight.shape, survivors) for t in (grid.scale, grid.zero_point))
        return grid.like(scale, zero_point)
    columns = state.weight[:1].numel()
    if survivors[:1].numel() == columns:
        rows = survivors.flatten(1)[:, 0].to(grid.scale.device) // columns
        return grid.like(grid.scale[rows], grid.zero_point[rows])
    return fit_like(state, sliced(state.weight, survivors), 0)


def sliced(tensor: Tensor, survivors: Tensor) -> Tensor:
    """Return the surviving elements of a tensor, in the shape of their numbers."""
    return tensor.reshape(-1)[survivors.to(tensor.device)]


def sliced_like(scale: Tensor, shape: torch.Size, survivors: Tensor) -> Tensor:
    """Return the slice of a tensor that broadcasts against a weight of this shape, after the weight is cut."""
    if scale.numel() == 1:
        return scale
    aligned = scale.reshape((1,) * (len(shape) - scale.dim()) + scale.shape)
    cut_full = sliced(aligned.expand(shape), survivors)
    for dim, size in enumerate(aligned.shape):
        if size == 1:
            cut_full = cut_full.narrow(dim, 0, 1)
    return cut_full.contiguous()


def _number_elements(model: nn.Module) -> None:
    """Overwrite every parameter and buffer with 0, 1, 2, … in its own shape."""

    def numbers(tensor: Tensor) -> Tensor:
        kind = torch.float32 if tensor.numel() <= _EXACT_IN_FLOAT32 else torch.float64
        return torch.arange(tensor.numel(), dtype=kind, device=tensor.device).reshape(tensor.shape)

    for parameter in model.parameters():
        parameter.data = numbers(parameter)
    for module in model.modules():
        module._buffers.update({name: numbers(b) for name, b in module._buffers.items() if b is not None})


def _fill(twin: nn.Module, original: nn.Module) -> dict[tuple[str, str], Tensor]:
    """Replace the element numbers in the twin by the original's values; return the numbers."""
    survivors: dict[tuple[str, str], Tensor] = {}
    made: dict[int, tuple[Tensor, nn.Parameter]] = {}
    for (path, module), smaller in zip(original.named_modules(), twin.modules(), strict=True):
        for name, parameter in module._parameters.items():
            if parameter is None:
                continue
            numbers = smaller._parameters[name].detach().long()  # type: ignore[union-attr]
            survivors[path, name] = numbers
            if id(parameter) not in made:
                whole = numbers.shape == parameter.shape
                values = parameter.detach() if whole else sliced(parameter.detach(), numbers)
                kept = nn.Parameter(values, requires_grad=parameter.requires_grad)
                made[id(parameter)] = numbers, kept
            shared_numbers, shared = made[id(parameter)]
            if not torch.equal(shared_numbers, numbers):
                raise CutFailed(f"the shared weight {name} of {path} would be cut in two ways")
            smaller._parameters[name] = shared
        for name, buffer in module._buffers.items():
            if buffer is not None:
                smaller._buffers[name] = sliced(buffer, smaller._buffers[name].long())  # type: ignore[union-attr]
    return survivors
