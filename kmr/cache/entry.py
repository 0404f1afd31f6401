"""One entry of a store as two files: tensors as safetensors, everything else as JSON, each byte under a digest.

The JSON holds the digest of the tensors' file and one of itself, so that no damaged byte is taken for a result.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import Tensor

from kmr.cache.keys import exact_json
from kmr.core import KMRError

FORMAT = 1
TENSORS = "tensors.safetensors"
CARD = "entry.json"

Content: TypeAlias = tuple[Mapping[str, Tensor], Mapping[str, Any]]
"""What is kept under a key: named tensors, and metadata in JSON values."""


@dataclass(frozen=True, eq=False)
class Entry:
    """What a store holds under a key.

    Args:
        key: the digest it is found by.
        tensors: on the CPU.
        metadata: JSON values, in the order they were given in.
        seconds: how long it took to compute.
        created: when it was put, in seconds since 1970.
    """

    key: str
    tensors: dict[str, Tensor]
    metadata: dict[str, Any]
    seconds: float
    created: float


class Damaged(Exception):
    """The bytes of an entry are not those that were written."""


def check_content(content: Content) -> Content:
    """Return content as it will be read back: contiguous tensors on the CPU that share nothing, lists for tuples.

    Raises:
        KMRError: a tensor or a metadata value cannot be kept exactly.
    """
    tensors, metadata = content
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise KMRError(f"the tensor {name} of layout {tensor.layout} on {tensor.device} cannot be cached")
    kept = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    return kept, json.loads(exact_json(metadata))


def write_entry(entry: Entry) -> dict[str, bytes]:
    """Return the files of an entry by name; the card comes last."""
    try:
        data: bytes = _safetensors().torch.save(entry.tensors)
    except (KeyError, ValueError, RuntimeError) as error:
        raise KMRError(f"the tensors of a cache entry cannot be written as safetensors: {error}") from error
    card = {
        "format": FORMAT,
        "key": entry.key,
        "created": entry.created,
        "seconds": entry.seconds,
        "tensors": {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)},
        "metadata": entry.metadata,
    }
    return {TENSORS: data, CARD: (exact_json({**card, "sha256": _digest(card)}) + "\n").encode()}


def read_entry(key: str, card_file: bytes, tensors_file: bytes) -> Entry:
    """Read an entry from the bytes of its files.

    Raises:
        Damaged: they are not what was written under this key, or were by another version.
    """
    try:
        card = json.loads(card_file)
        told = card.pop("sha256")
        if told != _digest(card):
            raise Damaged(f"{CARD} does not fit its own digest")
        if card["format"] != FORMAT or card["key"] != key:
            raise Damaged(f"{CARD} is of format {card['format']} and key {card['key'][:12]}")
        if hashlib.sha256(tensors_file).hexdigest() != card["tensors"]["sha256"]:
            raise Damaged(f"{TENSORS} does not fit its digest")
        tensors: dict[str, Tensor] = _safetensors().torch.load(tensors_file)
        return Entry(key, tensors, card["metadata"], float(card["seconds"]), float(card["created"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, _safetensors().SafetensorError) as error:
        raise Damaged(f"{CARD} cannot be read: {error}") from None


def check_installed() -> None:
    """Raise `KMRError` unless what a store needs beside torch is there."""
    _safetensors()


def _digest(card: Mapping[str, Any]) -> str:
    return hashlib.sha256(exact_json(card).encode()).hexdigest()


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise KMRError(f"cache entries are safetensors files: pip install safetensors numpy ({error})") from None
    return safetensors
