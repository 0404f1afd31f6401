"""Proof that channels were removed correctly: a comparison of the smaller model's outputs with the full model's.

Where channels are computed independently, removing a channel equals setting its weights to 0. The smaller model must
therefore have the outputs of the full one with the removed elements at 0. A normalisation over channels, and torch's
attention, get only the surviving channels on both sides.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from kmr.data import Inputs, call, map_tensors

PER_CHANNEL = (
    nn.modules.conv._ConvNd, nn.Linear, nn.Bilinear, nn.Embedding, nn.PReLU, nn.RNNBase,
    nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm,
)  # fmt: skip
"""Layer classes that compute a channel independently of the other channels."""


class CutFailed(Exception):
    """A cut whose model does not run or computes something else."""


def check_cut(
    model: nn.Module,
    smaller: nn.Module,
    survivors: dict[tuple[str, str], Tensor],
    inputs: Inputs,
    shapes: Sequence[torch.Size],
) -> None:
    """Raise `CutFailed` unless the smaller model runs, has fewer parameters and the expected outputs.

    Args:
        model: the model before the cut; its removed elements are set to 0 during the check.
        smaller: the model after the cut.
        survivors: the element numbers that the smaller model has of each parameter, by path and name.
        inputs: a batch that both models run on.
        shapes: the shapes of the model's outputs.
    """
    try:
        outputs = _evaluated(smaller, inputs)
    except Exception as error:
        raise CutFailed(f"the smaller model does not run: {brief(error)}") from error
    if [o.shape for o in outputs] != list(shapes):
        raise CutFailed("the shape of the output changed")
    if not all(bool(torch.isfinite(o).all()) for o in outputs):
        raise CutFailed("the smaller model's output is not finite")
    if sum(p.numel() for p in smaller.parameters()) >= sum(p.numel() for p in model.parameters()):
        raise CutFailed("the smaller model has as many parameters")
    modules = dict(model.named_modules())
    changed = {path for (path, name), kept in survivors.items() if kept.shape != modules[path]._parameters[name].shape}
    with ExitStack() as put_back:
        for (path, name), kept in survivors.items():
            parameter, small = modules[path]._parameters[name], smaller.get_submodule(path)._parameters[name]
            assert parameter is not None
            assert small is not None
            if kept.numel() < parameter.numel():
                silent = torch.zeros_like(parameter.data, memory_format=torch.contiguous_format)
                silent.view(-1)[kept.reshape(-1)] = small.detach().reshape(-1)
                put_back.callback(setattr, parameter, "data", parameter.data)
                parameter.data = silent
        for path in changed:
            if not isinstance(modules[path], PER_CHANNEL):
                _look_past(put_back, modules[path], smaller.get_submodule(path), survivors, path)
        expected = _evaluated(model, inputs)
    for output, full in zip(outputs, expected, strict=True):
        if full.is_floating_point():
            tolerance = torch.finfo(full.dtype).eps ** 0.5 * max(float(full.abs().max()), 1e-6)
            if float((output - full).abs().max()) > tolerance:
                raise CutFailed("the smaller model's output differs from the full one's without those channels")


def _look_past(
    put_back: ExitStack, module: nn.Module, smaller: nn.Module, survivors: dict[tuple[str, str], Tensor], path: str
) -> None:
    """Make a layer that mixes channels compute with the surviving ones alone, as its smaller counterpart does.

    The layer itself is exempt from the comparison, but everything around it is checked: each surviving channel must
    come from the same channel and go to the same readers.
    """
    dim = 1 if isinstance(module, nn.GroupNorm) else -1
    if isinstance(module, nn.MultiheadAttention):
        kept = survivors[f"{path}.out_proj" if path else "out_proj", "bias"]
    elif (path, "weight") in survivors and survivors[path, "weight"].dim() == 1:
        kept = survivors[path, "weight"]
    else:
        return

    def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> Any:
        weight = getattr(module, "weight", None)
        width = len(weight) if isinstance(weight, Tensor) else module.embed_dim

        def narrow(value: Any) -> Any:
            if isinstance(value, Tensor) and value.dim() > 1 and value.shape[dim] == width:
                return value.index_select(dim, kept)
            return value

        small = smaller(*map(narrow, args), **{name: narrow(value) for name, value in kwargs.items()})
        first, *rest = small if isinstance(small, tuple) else (small,)
        full = output[0] if isinstance(output, tuple) else output
        whole = torch.zeros_like(full).index_copy(dim, kept, first)
        return (whole, *rest) if isinstance(small, tuple) else whole

    put_back.callback(module.register_forward_hook(hook, with_kwargs=True).remove)


def _evaluated(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """Return the outputs in eval mode, then restore every module's own mode."""
    modes = [(module, module.training) for module in model.modules()]
    try:
        with torch.no_grad():
            return outputs_of(model.eval(), inputs)
    finally:
        for module, training in modes:
            module.training = training


def outputs_of(model: nn.Module, inputs: Inputs) -> list[Tensor]:
    """Return every tensor of a model's output, on the model's device."""
    output = call(model, inputs)
    found: list[Tensor] = []
    map_tensors(found.append, output)
    if not found:  # an object of the user's own, such as a dataclass
        map_tensors(found.append, dict(getattr(output, "__dict__", {})))
    return found


def brief(error: Exception) -> str:
    """Return the kind and first line of an error."""
    return f"{type(error).__name__}: {error}".split("\n", maxsplit=1)[0][:120]
