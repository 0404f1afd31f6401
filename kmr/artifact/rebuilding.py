"""A model rebuilt from its base model and the description of how it differs (`kmr.artifact.structure`)."""

import copy
from typing import Any

import torch
from torch import Tensor, nn

from kmr.artifact.attributes import decode
from kmr.artifact.classes import class_of
from kmr.artifact.structure import FORMAT, OWN, Change
from kmr.core import KMRError
from kmr.representation.weights import strip_all


def rebuild(base: nn.Module, description: dict[str, Any]) -> nn.Module:
    """Return a model of the described architecture, without parametrizations; its values are those of the base or 0.

    The base is not changed.

    Raises:
        KMRError: the description does not fit the base, or names a class outside `torch.nn` and `kmr`.
    """
    if description.get("format") != FORMAT:
        raise KMRError(f"structure format {description.get('format')!r} is unknown; this version reads {FORMAT}")
    model = strip_all(copy.deepcopy(base))
    try:
        changes: list[Change] = description["changes"]
        sources = {c["like"]: copy.deepcopy(model.get_submodule(c["like"])) for c in changes if "like" in c}
        for change in changes:
            model = _apply(model, change, sources)
        if "ties" in description:
            _tie(model, description["ties"])
    except KMRError:
        raise
    except (AttributeError, KeyError, IndexError, TypeError, ValueError, RuntimeError) as error:
        raise KMRError(f"the described architecture does not fit the base model: {error}") from None
    for module in model.modules():
        if isinstance(module, nn.RNNBase):
            module._init_flat_weights()
    return model


def _apply(model: nn.Module, change: Change, sources: dict[str, nn.Module]) -> nn.Module:
    path = str(change["path"])
    if "same" in change:
        return _put(model, path, model.get_submodule(change["same"]))
    if "class" in change:
        kind = class_of(change["class"])
        module = kind.__new__(kind)
        nn.Module.__init__(module)
        model = _put(model, path, module)
    elif "like" in change:
        model = _put(model, path, copy.deepcopy(sources[change["like"]]))
    module = model.get_submodule(path)
    for kind_of in ("without_parameters", "without_buffers", "without"):
        for name in change.get(kind_of, ()):
            delattr(module, name)
    for name, described in change.get("parameters", {}).items():
        _set_parameter(module, name, described)
    for name, described in change.get("buffers", {}).items():
        _set_buffer(module, name, described)
    for name, value in change.get("attributes", {}).items():
        if name in OWN:
            raise KMRError(f"{name} is no attribute a description may set")
        vars(module)[name] = decode(value)
    if "children" in change:
        kept = dict(module._modules)
        module._modules.clear()
        for name, there in change["children"]:
            module._modules[name] = kept.get(name) if there else None
    return model


def _put(model: nn.Module, path: str, module: nn.Module) -> nn.Module:
    if not path:
        return module
    parent, _, name = path.rpartition(".")
    model.get_submodule(parent)._modules[name] = module
    return model


def _set_parameter(module: nn.Module, name: str, described: list[Any] | None) -> None:
    if described is None:
        module._parameters[name] = None
        return
    shape, dtype, requires_grad = described
    zeros = torch.zeros(shape, dtype=_dtype(dtype))
    setattr(module, name, nn.Parameter(zeros, requires_grad=requires_grad))


def _set_buffer(module: nn.Module, name: str, described: list[Any] | None) -> None:
    module._buffers.pop(name, None)
    if described is None:
        module._buffers[name] = None
        return
    shape, dtype, persistent = described
    module.register_buffer(name, torch.zeros(shape, dtype=_dtype(dtype)), persistent=persistent)


def _dtype(name: str) -> torch.dtype:
    found: torch.dtype = getattr(torch, name)
    return found


def _tie(model: nn.Module, groups: list[list[str]]) -> None:
    group_of = {name: tuple(group) for group in groups for name in group}
    owner: dict[int, tuple[str, ...]] = {}
    shared: dict[tuple[str, ...], Tensor] = {}
    for name, parameter in list(model.named_parameters(remove_duplicate=False)):
        group = group_of.get(name, (name,))
        if group in shared:
            chosen = shared[group]
        elif owner.setdefault(id(parameter), group) != group:
            chosen = nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
        else:
            chosen = parameter
        shared[group] = chosen
        path, _, attribute = name.rpartition(".")
        setattr(model.get_submodule(path), attribute, chosen)
