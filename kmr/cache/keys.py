"""Cache keys: the sha256 of everything a result depends on, as canonical JSON."""

import hashlib
import json
import math
from typing import Any

from kmr.core import KMRError


def key_of(**parts: Any) -> str:
    """Return the sha256 of these named parts, 64 hex digits.

    Parts are JSON values: None, booleans, whole and finite real numbers, strings, lists (or tuples) and string-keyed
    mappings, in any order. As in JSON, 1, 1.0 and True are three different values.

    Raises:
        KMRError: JSON cannot represent a part exactly.
    """
    return hashlib.sha256(exact_json(parts, sort_keys=True).encode()).hexdigest()


def exact_json(value: Any, *, sort_keys: bool = False) -> str:
    """Write a value as JSON on one line, floats by their repr; raise `KMRError` if JSON cannot represent it exactly."""
    _check(value, "")
    return json.dumps(value, sort_keys=sort_keys, separators=(",", ":"), allow_nan=False)


def _check(value: Any, where: str) -> None:
    if value is None or isinstance(value, bool | int | str):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise KMRError(f"{where or 'the value'} is {value}, which JSON cannot represent")
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
            f"{where or 'the value'} is a {type(value).__name__}, which JSON cannot represent: give a digest of it "
            "(kmr.cache.describe, kmr.cache.fingerprint)"
        )
