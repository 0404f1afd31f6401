"""Class numbers for labels that are texts."""

from collections.abc import Mapping
from typing import Any

import torch

from kmr.core import KMRError
from kmr.data.sources import Memory, Source, source_of


def numbered(sources: Mapping[str, Any]) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Number the texts among in-memory targets alike in all splits: by their order in the alphabet.

    Args:
        sources: the splits' data by name; the first one, for training, has every label.

    Returns:
        The data with numbers, and the texts by number; the data as they are and () where targets are no texts.

    Raises:
        KMRError: a split has a label that the first one lacks.
    """
    held = {name: source for name, source in sources.items() if isinstance(source, tuple | list | Mapping)}
    given = {name: _source_of(name, source) for name, source in held.items()}
    text = {name: one for name, one in given.items() if isinstance(one, Memory) and _is_text(one.targets)}
    if not text or len(text) < len(sources):
        return dict(sources), ()
    first = next(iter(text.values()))
    names = tuple(sorted(set(first.targets)))
    numbers = {name: number for number, name in enumerate(names)}
    found = {}
    for split, one in text.items():
        missing = sorted(set(one.targets) - set(names))
        if missing:
            raise KMRError(f"the {split} split has the label {missing[0]!r}, which no training sample has")
        found[split] = (one.inputs, torch.tensor([numbers[target] for target in one.targets]))
    return found, names


def _source_of(split: str, source: Any) -> Source:
    try:
        return source_of(source)
    except KMRError as error:
        raise KMRError(f"{split}: {error}") from error


def _is_text(targets: Any) -> bool:
    return isinstance(targets, list) and len(targets) > 0 and isinstance(targets[0], str)
