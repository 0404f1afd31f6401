"""Module classes by name: the names that descriptions hold, those older versions wrote included."""

import importlib
from typing import Any

from torch import nn

from kmr.core import KMRError

_OURS = ("torch.nn.", "kmr.")
"""Packages whose classes may be built from a description."""

MOVED = {
    "kmr.activations": "kmr.representation.activations",
    "kmr.exits": "kmr.representation.early_exits",
    "kmr.gating": "kmr.representation.gating",
    "kmr.weights": "kmr.representation.weights",
    "kmr.instantiations.architecture.exits": "kmr.instantiations.architecture.early_exit",
    "kmr.instantiations.peft.rule": "kmr.instantiations.peft.bottleneck_adapters",
}
"""Where the classes of modules that older versions had stand now."""


def name_of(kind: type[nn.Module]) -> str:
    """Return the name under which a description holds a class."""
    return f"{kind.__module__}:{kind.__qualname__}"


def class_of(name: str) -> type[nn.Module]:
    """Return the class of a name, wherever it has moved to since it was written.

    Raises:
        KMRError: there is no such module class, or it is outside `torch.nn` and `kmr`.
    """
    module_name, _, qualified = name.partition(":")
    if not module_name.startswith(_OURS):
        raise KMRError(f"the class {name} is outside torch.nn and kmr and is not built")
    try:
        found: Any = importlib.import_module(MOVED.get(module_name, module_name))
        for part in qualified.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError):
        raise KMRError(f"there is no class {name}") from None
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise KMRError(f"{name} is no module class")
    if not found.__module__.startswith(_OURS):
        raise KMRError(f"the class {name} is outside torch.nn and kmr and is not built")
    return found


def is_buildable(kind: type) -> bool:
    """Tell whether a description can name a class."""
    if not (kind.__module__.startswith(_OURS) and issubclass(kind, nn.Module)):
        return False
    try:
        return class_of(name_of(kind)) is kind
    except KMRError:
        return False
