"""Small networks of many architectures, to test pruning rules; each with a batch for `kmr.data.forward`."""

import copy
import warnings
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from benchmarks.architectures import convolutional, language, sequences, shaped


class Case(NamedTuple):
    """A network in eval mode and a batch for it."""

    model: nn.Module
    inputs: Any


_BUILDERS = {**convolutional.BUILDERS, **shaped.BUILDERS, **sequences.BUILDERS}
NAMES = (*_BUILDERS, *language.BUILDERS)
LANGUAGE = tuple(language.BUILDERS)
"""The networks that need the package `transformers`."""


def make(name: str, seed: int = 7) -> Case:
    """Build a network with random weights and random normalisation statistics."""
    build, inputs = {**_BUILDERS, **language.BUILDERS}[name]
    with torch.random.fork_rng(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.manual_seed(seed)
        model = build().eval()
        for module in model.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm | nn.GroupNorm | nn.LayerNorm):
                nn.init.uniform_(cast(Tensor, module.weight), 0.5, 1.5)
                nn.init.normal_(cast(Tensor, module.bias), std=0.2)
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                nn.init.normal_(cast(Tensor, module.running_mean), std=0.2)
                nn.init.uniform_(cast(Tensor, module.running_var), 0.5, 2.0)
        return Case(model, copy.deepcopy(inputs()))
