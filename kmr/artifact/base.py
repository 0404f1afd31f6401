"""The base model of an artifact, as a sweep sees the model that a user's function builds."""

from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from kmr.core import KMRError
from kmr.core.copying import copied
from kmr.core.wrappers import without_wrappers
from kmr.data import call
from kmr.data.description import described_inputs


def plain_base(base: nn.Module, inputs: Any) -> nn.Module:
    """Return a base out of its wrappers, with the shapes of lazy layers; the given one is not changed.

    Args:
        base: as the user's function builds it.
        inputs: the description of its inputs, which gives lazy layers their shapes; None if it is unknown.

    Raises:
        KMRError: there are lazy layers, and no description.
    """
    base, _ = without_wrappers(base)
    if not any(is_lazy(tensor) for tensor in (*base.parameters(), *base.buffers())):
        return base
    if inputs is None:
        raise KMRError(
            "the base has lazy layers without shapes, and the artifact does not say what its inputs are: give base=, a "
            "model that was called once"
        )
    twin = copied(base).eval()
    with torch.no_grad():
        call(twin, described_inputs(inputs))
    return twin
