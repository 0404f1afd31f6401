"""A changed architecture as JSON: how a model's modules differ from those of the base model it came from.

Compression changes widths, drops blocks and puts other layers in their place; the code of the user's own classes stays
the base model's. So only differences are described: plain attributes, shapes, types and ties of parameters and buffers,
children, and modules of another class. A new module is rebuilt without running its constructor, from its class (of
`torch.nn` or `kmr` alone, or that of a module of the base, which is then copied) and what it holds. Nothing is pickled.

Values are not part of it (`kmr.artifact.packing` keeps those), nor are parametrizations: both sides are seen stripped.
"""

import copy
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from torch import nn

from kmr.artifact.attributes import UNDESCRIBED, encode, same
from kmr.artifact.classes import is_buildable, name_of
from kmr.core import KMRError
from kmr.core.save_pretrained import SAVE_PRETRAINED
from kmr.representation.weights import strip_all

FORMAT = 1

OWN = frozenset({*nn.Module().__dict__, SAVE_PRETRAINED})
"""What every module carries: its containers and hooks, and the refusal of a plain checkpoint."""

_HOOKS = tuple(name for name in OWN if name.endswith("_hooks"))

_DERIVED = frozenset({"_flat_weights", "_flat_weight_refs"})
"""What recurrent layers make of their parameters."""

Change: TypeAlias = dict[str, Any]


def describe(base: nn.Module, model: nn.Module) -> dict[str, Any]:
    """Describe a model's architecture as a JSON-able difference from that of the base model; neither is changed.

    Raises:
        KMRError: a difference cannot be described: a class outside `torch.nn` and `kmr` that the base does not have, an
            attribute that is no plain value, a hook.
    """
    base, model = (strip_all(copy.deepcopy(module)) for module in (base, model))
    differ = _Differ(base)
    differ.visit("", model, base, 0)
    description: dict[str, Any] = {"format": FORMAT, "changes": differ.changes}
    if (ties := _ties(model)) or _ties(base):
        description["ties"] = ties
    return description


@dataclass
class _Differ:
    """Walks a model beside its base and writes down what differs."""

    base: nn.Module
    changes: list[Change] = field(default_factory=list)
    seen: dict[int, tuple[str, object]] = field(default_factory=dict)
    taken: set[object] = field(default_factory=set)
    scopes: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def visit(self, path: str, module: nn.Module, counterpart: nn.Module | None, scope: int) -> None:
        """Describe the module at a path, where the rebuilt tree will hold its counterpart; then its children.

        A scope tells apart the base's own modules and those of each copy made of a part of it.
        """
        token: object = (scope, id(counterpart)) if counterpart is not None else object()
        if id(module) in self.seen:
            first, first_token = self.seen[id(module)]
            if token != first_token:
                self.changes.append({"path": path, "same": first})
            return
        change: Change = {"path": path}
        if counterpart is None or not _same_class(counterpart, module) or _unexplained(module, counterpart):
            change.update(self._origin(path, module))
        elif token in self.taken:
            # The base uses one module in several places where this model has several.
            change["like"] = _path_of(self.base, counterpart)
        if "like" in change:
            counterpart, scope = self.base.get_submodule(change["like"]), next(self.scopes)
        elif "class" in change:
            counterpart = None
        token = object() if counterpart is None else (scope, id(counterpart))
        self.seen[id(module)] = (path, token)
        self.taken.add(token)
        change.update(_difference(module, counterpart))
        if len(change) > 1:
            self.changes.append(change)
        children = {} if counterpart is None else counterpart._modules
        for name, child in module._modules.items():
            if child is not None:
                self.visit(f"{path}.{name}" if path else name, child, children.get(name), scope)

    def _origin(self, path: str, module: nn.Module) -> Change:
        kind = type(module)
        unexplained = _unexplained(module, None)
        if is_buildable(kind) and unexplained is None:
            return {"class": name_of(kind)}
        for candidate_path, candidate in self.base.named_modules():
            if _same_class(candidate, module):
                unexplained = _unexplained(module, candidate)
                if unexplained is None:
                    return {"like": candidate_path}
        where = f"the module {path or 'at the root'} ({kind.__module__}.{kind.__qualname__})"
        if not is_buildable(kind) and not any(_same_class(other, module) for other in self.base.modules()):
            raise KMRError(
                f"{where} has a class that the base model has nowhere: only its own classes and those of torch.nn and "
                "kmr can be rebuilt"
            )
        raise KMRError(
            f"{where} has {unexplained}, which cannot be described: only plain values, registered parameters and "
            "buffers, and what the base model has as well can"
        )


def _difference(module: nn.Module, counterpart: nn.Module | None) -> Change:
    change: Change = {}
    theirs = {} if counterpart is None else _plain(counterpart)
    # By their text: 1, 1.0 and True are equal but not the same.
    if attributes := {k: v for k, v in _plain(module).items() if repr(theirs.get(k, UNDESCRIBED)) != repr(v)}:
        change["attributes"] = attributes
    others_keys = () if counterpart is None else _attributes(counterpart)
    if gone := [key for key in others_keys if key not in _attributes(module)]:
        change["without"] = gone
    for kind, describe_tensors in (("parameters", _parameters), ("buffers", _buffers)):
        mine = describe_tensors(module)
        others = {} if counterpart is None else describe_tensors(counterpart)
        if changed := {key: value for key, value in mine.items() if key not in others or others[key] != value}:
            change[kind] = changed
        if removed := [key for key in others if key not in mine]:
            change[f"without_{kind}"] = removed
    others_children = [] if counterpart is None else _children(counterpart)
    if (children := _children(module)) != others_children:
        change["children"] = children
    return change


def _children(module: nn.Module) -> list[list[Any]]:
    """List the names of a module's children in order, each with whether there is a module (or None) behind it."""
    return [[name, child is not None] for name, child in module._modules.items()]


def _attributes(module: nn.Module) -> dict[str, Any]:
    return {key: value for key, value in vars(module).items() if key not in OWN and key not in _DERIVED}


def _plain(module: nn.Module) -> dict[str, Any]:
    encoded = {key: encode(value) for key, value in _attributes(module).items()}
    return {key: value for key, value in encoded.items() if value is not UNDESCRIBED}


def _unexplained(module: nn.Module, counterpart: nn.Module | None) -> str | None:
    """Name what a module has that neither JSON nor its counterpart can give back; None where there is no such thing."""
    theirs: dict[str, Any] = {} if counterpart is None else vars(counterpart)
    for key, value in _attributes(module).items():
        if encode(value) is UNDESCRIBED and (key not in theirs or not same(theirs[key], value)):
            return f"the attribute {key} ({type(value).__name__})"
    for key in _HOOKS:
        if len(getattr(module, key)) > len(theirs.get(key, ())):
            return f"hooks ({key.strip('_')})"
    return None


def _parameters(module: nn.Module) -> dict[str, Any]:
    return {
        name: None if p is None else [list(p.shape), str(p.dtype).removeprefix("torch."), p.requires_grad]
        for name, p in module._parameters.items()
    }


def _buffers(module: nn.Module) -> dict[str, Any]:
    return {
        name: None
        if b is None
        else [list(b.shape), str(b.dtype).removeprefix("torch."), name not in module._non_persistent_buffers_set]
        for name, b in module._buffers.items()
    }


def _ties(model: nn.Module) -> list[list[str]]:
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return sorted(sorted(group) for group in names.values() if len(group) > 1)


def _same_class(one: nn.Module, other: nn.Module) -> bool:
    # Parametrized modules have a class each, of the same name.
    return type(one) is type(other) or (
        type(one).__qualname__ == type(other).__qualname__ and type(one).__module__ == type(other).__module__
    )


def _path_of(root: nn.Module, module: nn.Module) -> str:
    return next(str(path) for path, found in root.named_modules() if found is module)
