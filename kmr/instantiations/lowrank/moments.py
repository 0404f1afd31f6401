"""Second moments of the inputs of layers, which weigh the errors of an approximation.

An approximation Ŵ of a weight W has the error ‖(W − Ŵ)X‖² on the inputs X, which depends on X through X·Xᵀ alone.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from kmr.data import Split, call


@torch.no_grad()
def input_moments(model: nn.Module, layers: Mapping[str, nn.Module], data: Split, samples: int) -> dict[str, Tensor]:
    """Return the mean of x·xᵀ over the inputs x of each layer, in double precision.

    Args:
        model: run in evaluation mode; it is not changed.
        layers: its linear layers and convolutions without groups, by path.
        data: inputs come from its first `samples`.
        samples: number of samples.

    Returns:
        By path, a matrix of shape (n, n) for an unfolded weight of shape (m, n). A layer that no sample reaches is
        left out.
    """
    sums: dict[str, Tensor] = {}
    counts: dict[str, int] = {}

    def watch(path: str, layer: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(_module: nn.Module, inputs: tuple[Tensor, ...], _output: object) -> None:
            for x in torch.split(inputs[0].detach(), 16):
                columns = unfolded(layer, x)
                moment = (columns.T @ columns).double()
                sums[path] = moment if path not in sums else sums[path] + moment
                counts[path] = counts.get(path, 0) + len(columns)

        return layer.register_forward_hook(hook)

    modes = [(module, module.training) for module in model.modules()]
    handles = [watch(path, layer) for path, layer in layers.items()]
    try:
        model.eval()
        for inputs, _ in data.subset(samples).batches():
            call(model, inputs)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in modes:
            module.training = training
    return {path: total / counts[path] for path, total in sums.items()}


def unfolded(layer: nn.Module, x: Tensor) -> Tensor:
    """Return the input vectors of a layer's unfolded weight, as rows."""
    if not isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d):
        return x.reshape(-1, x.shape[-1])
    size = layer.weight[0].numel()
    # A convolution with the identity for its kernels copies what lies under them, whatever the padding and the strides.
    kernels = torch.eye(size, dtype=x.dtype, device=x.device).reshape(size, *layer.weight.shape[1:])
    batched = x if x.dim() == layer.weight.dim() else x.unsqueeze(0)
    patches: Tensor = layer._conv_forward(batched, kernels, None)
    return patches.movedim(1, -1).reshape(-1, size)
