"""Plain checkpoints of compressed models of transformers, where their config still builds the same architecture."""

import copy
from collections.abc import Mapping
from typing import Any

from torch import nn
from torch.nn.utils import parametrize

from kmr.artifact import structure
from kmr.artifact.pretrained import arguments_of, from_config
from kmr.artifact.slots import differing_buffers
from kmr.core import KMRError
from kmr.core.save_pretrained import SAVE_PRETRAINED, refuse_save_pretrained
from kmr.core.transposed_linear import transposed_again
from kmr.representation.weights import strip_all


def guarded(model: nn.Module, described: Mapping[str, Any]) -> nn.Module:
    """Refuse `save_pretrained` of a model that has other layers than its base, masks or grids; return the model."""
    if described["changes"] or any(map(parametrize.is_parametrized, model.modules())):
        refuse_save_pretrained(model)
    return model


def plain(model: nn.Module) -> nn.Module:
    """Return a copy with plain weights, masks and grids folded in, for `save_pretrained`.

    Its outputs are the same, in GPT-2 to rounding, since rules make its layers linear layers of torch.

    Raises:
        KMRError: the model's config builds another architecture, so that `from_pretrained` would read another model.
    """
    arguments = arguments_of(model)
    if arguments is None:
        raise KMRError(f"a {type(model).__name__} is no model of transformers in one dtype: use kmr.save and kmr.load")
    made = strip_all(copy.deepcopy(model))
    for module in made.modules():
        vars(module).pop(SAVE_PRETRAINED, None)
    fresh = from_config(**arguments).requires_grad_(False)
    made = transposed_again(made, copy.deepcopy(fresh))
    if differing := _differing(fresh, made):
        raise KMRError(
            f"a plain checkpoint cannot hold this model: its config builds another {differing}; use kmr.save, kmr.load"
        )
    return made


def _differing(fresh: nn.Module, made: nn.Module) -> str:
    """Name the first part that the config builds otherwise."""
    made = copy.deepcopy(made).requires_grad_(False)
    for name in set(vars(made)) - set(vars(fresh)):
        if name.startswith("_"):
            delattr(made, name)  # what from_pretrained notes at the root
    described, wanted = structure.describe(fresh, made), structure.describe(fresh, fresh)
    if changes := described["changes"]:
        return str(changes[0]["path"]) or type(made).__name__
    if described.get("ties") != wanted.get("ties"):
        return "set of tied weights"
    return next(iter(differing_buffers(made, fresh)), "")
