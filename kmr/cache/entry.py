"""The file format of a cache entry: tensors as safetensors, everything else as JSON, both under digests.

The JSON holds the digest of the tensors' file and one of itself, so that no damaged byte passes for a result.
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
"""The content under a key: named tensors, and metadata in JSON values."""


@dataclass(frozen=True, eq=False)
class Entry:
    """An entry of a store.

    Args:
        key: its digest, 64 hex digits.
        tensors: named tensors on the CPU.
        metadata: JSON values, in their original order.
        seconds: the time its computation took.
        created: the time it was stored, in seconds since 1970.
    """

    key: str
    tensors: dict[str, Tensor]
    metadata: dict[str, Any]
    seconds: float
    created: float


class Damaged(Exception):
    """An entry whose bytes are not those that were written."""


def check_content(content: Content) -> Content:
    """Return content as it will be read back: contiguous CPU tensors without shared storage, lists for tuples.

    Raises:
        KMRError: a tensor or a metadata value cannot be stored exactly.
    """
    tensors, metadata = content
    for name, tensor in tensors.items():
        if tensor.layout != torch.strided or tensor.is_quantized or tensor.is_meta:
            raise KMRError(f"cannot cache the tensor {name} of layout {tensor.layout} on {tensor.device}")
    kept = {name: t.detach().cpu().clone(memory_format=torch.contiguous_format) for name, t in tensors.items()}
    return kept, json.loads(exact_json(metadata))


def write_entry(entry: Entry) -> dict[str, bytes]:
    """Return the files of an entry by name; the card comes last."""
    try:
        data: bytes = _safetensors().torch.save(entry.tensors)
    except (KeyError, ValueError, RuntimeError) as error:
        raise KMRError(f"cannot write the tensors of a cache entry as safetensors: {error}") from error
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
        Damaged: the bytes differ from those written under this key, or have another format.
    """
    try:
        card = json.loads(card_file)
        expected = card.pop("sha256")
        if expected != _digest(card):
            raise Damaged(f"{CARD} does not match its own digest")
        if card["format"] != FORMAT or card["key"] != key:
            raise Damaged(f"{CARD} has format {card['format']} and key {card['key'][:12]}")
        if hashlib.sha256(tensors_file).hexdigest() != card["tensors"]["sha256"]:
            raise Damaged(f"{TENSORS} does not match its digest")
        tensors: dict[str, Tensor] = _safetensors().torch.load(tensors_file)
        return Entry(key, tensors, card["metadata"], float(card["seconds"]), float(card["created"]))
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, _safetensors().SafetensorError) as error:
        raise Damaged(f"{CARD} cannot be read: {error}") from None


def check_installed() -> None:
    """Raise `KMRError` unless safetensors is installed."""
    _safetensors()


def _digest(card: Mapping[str, Any]) -> str:
    return hashlib.sha256(exact_json(card).encode()).hexdigest()


def _safetensors() -> Any:
    try:
        import safetensors
        import safetensors.torch
    except ImportError as error:
        raise KMRError(f"the cache needs safetensors ({error}): pip install safetensors numpy") from None
    return safetensors
