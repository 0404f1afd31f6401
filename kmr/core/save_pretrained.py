"""`save_pretrained` of a compressed model: its file would be read back, without an error, as another model."""

from typing import Any, NoReturn

from torch import nn

from kmr.core.errors import KMRError

SAVE_PRETRAINED = "save_pretrained"


def refuse_save_pretrained(model: nn.Module) -> nn.Module:
    """Make `save_pretrained` of a model and its parts, where their classes have it, raise `KMRError`; return the model.

    `from_pretrained` builds the config's architecture, gives random values to what the file lacks, and goes on.
    """
    for module in model.modules():
        if hasattr(type(module), SAVE_PRETRAINED):
            vars(module)[SAVE_PRETRAINED] = _refuse  # a function, which copies of the model share
    return model


def _refuse(*_given: Any, **_settings: Any) -> NoReturn:
    raise KMRError(
        "save_pretrained cannot write a compressed model: from_pretrained would read its masks, grids and changed "
        "layers as another model; use kmr.save and kmr.load, or an exported file. Where only values of weights have "
        "changed, kmr.artifact.plain_checkpoint.plain(model).save_pretrained(folder) is exact"
    )
