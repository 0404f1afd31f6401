"""Keys: the sha256 of everything a result depends on, written as JSON in one way only."""

import hashlib
import json
import math
from typing import Any

from kmr.core import KMRError


def key_of(**parts: Any) -> str:
    """Return the 64 hex digits that stand for these named parts.

    Parts are JSON values: None, booleans, whole and finite real numbers, strings, lists (a tuple counts as one) and
    string-keyed mappings, in any order. 1, 1.0 and True are three different values, as they are in JSON.

    Raises:
        KMRError: a part is something that JSON cannot carry exactly.
    """
    return hashlib.sha256(exact_json(parts, sort_keys=True).encode()).hexdigest()


def exact_json(value: Any, *, sort_keys: bool = False) -> str:
    """Write a value as JSON on one line, floats by their repr; raise `KMRError` where it would not come back."""
    _check(value, "")
    return json.dumps(value, sort_keys=sort_keys, separators=(",", ":"), allow_nan=False)


def _check(value: Any, where: str) -> None:
    if value is None or isinstance(value, bool | int | str):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise KMRError(f"{where or 'the value'} is {value}, which JSON has no number for")
    elif isinstance(value, list | tuple):
        for place, part in enumerate(value):
            _check(part, f"{where}[{place}]")
    elif isinstance(value, dict):
        for name, part in value.items():
            if not isinstance(name, str):
                raise KMRError(f"{where or 'the value'} has the key {name!r}: JSON keys are strings")
            _check(part, f"{where}.{name}" if where else name)
    else:
        raise KMRError(
            f"{where or 'the value'} is a {type(value).__name__}, which JSON cannot carry exactly: give a digest of it "
            "(kmr.cache.describe, kmr.cache.fingerprint)"
        )
