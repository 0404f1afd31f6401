"""Inputs and targets in a batch: pairs, and dicts with the labels inside, as Hugging Face datasets have them."""

from collections.abc import Mapping
from typing import Any

from kmr.core import KMRError

LABEL_KEYS = ("labels", "label", "targets", "target")
"""Keys of the targets in a dict of samples, in order."""


def separated(batch: Any) -> tuple[Any, Any]:
    """Return inputs and targets of a batch; the targets of a dict without labels are None.

    Raises:
        KMRError: the batch has parts that nobody would use, or is neither a pair nor a dict.
    """
    if isinstance(batch, Mapping):
        present = [key for key in LABEL_KEYS if key in batch]
        if len(present) > 1:
            raise KMRError(f"samples have {' and '.join(present)}: leave one of them, the targets")
        inputs = {key: value for key, value in batch.items() if key not in present}
        return inputs, batch[present[0]] if present else None
    if isinstance(batch, tuple | list):
        if len(batch) == 2:
            return batch[0], batch[1]
        raise KMRError(
            f"samples have {len(batch)} parts: return (inputs, targets), with several inputs as a tuple ((a, b), "
            "targets) or a dict, and sample weights as targets {'labels': …, 'weights': …}"
        )
    raise KMRError(
        f"a batch is a {type(batch).__name__}: return (inputs, targets), or a dict with the targets in "
        f"{', '.join(LABEL_KEYS[:-1])} or {LABEL_KEYS[-1]}"
    )
