"""Digests of the samples behind a study, by which a resumed one says what differs."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kmr.core import isolated_rng
from kmr.data import Data, Split, map_tensors

_PARTS = 256
"""The number of parts of a split held in memory that have a digest each."""
_FIRST = 64
"""The number of samples of any other split that have a digest each."""


def parts_of(data: Data, seed: int) -> dict[str, dict[str, Any]]:
    """Return the number of samples of each split, the samples in a part, and a digest of each part."""
    found = {}
    for name in ("train", "validation", "test"):
        split: Split = getattr(data, name)
        size = -(-len(split) // _PARTS) if split.in_memory else 1
        with isolated_rng(seed):
            few = split if split.in_memory else split.subset(_FIRST)
            parts = [_digest(batch) for batch in replace(few, batch_size=size, task=None).batches()]
        found[name] = {"samples": len(split), "size": size, "parts": parts}
    return found


def named_changes(then: Mapping[str, Any], here: Mapping[str, Any]) -> str:
    """Say which samples of which splits differ."""
    return "; ".join(_changes(then, here)) or "samples differ that have no digest of their own"


def _changes(then: Mapping[str, Any], here: Mapping[str, Any]) -> Iterator[str]:
    for name, now in here.items():
        before = then[name]
        if before["samples"] != now["samples"]:
            yield f"{name} had {before['samples']} samples, has {now['samples']}"
            continue
        size = now["size"]
        differ = [
            place for place, pair in enumerate(zip(before["parts"], now["parts"], strict=False)) if len(set(pair)) > 1
        ]
        if not differ:
            continue
        first, last = differ[0] * size, min((differ[0] + 1) * size, now["samples"]) - 1
        share = "" if len(differ) == 1 else f", and {len(differ) - 1} of {len(now['parts']) - 1} other parts"
        yield f"{name}: {f'sample {first}' if first == last else f'samples {first} to {last}'}{share}"


def _digest(batch: Any) -> str:
    digest = hashlib.sha256()

    def add(tensor: Tensor) -> None:
        plain = tensor.detach().contiguous().cpu()
        digest.update(plain.reshape(-1).view(torch.uint8).numpy().tobytes())

    map_tensors(add, list(batch))
    return digest.hexdigest()[:8]
