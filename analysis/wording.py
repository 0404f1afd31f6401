"""Values, meters and sequences in words a person reads: `41.2 kB`, `0.912 ± 0.004`, `prune 0.5, then bits 8`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

NOTHING = "–"

_BYTES = ("b", "byte", "bytes")
_PLAIN = ("", "1", "fraction", "ratio", "dimensionless", "none", "count", "parameters", "macs", "mac", "flops", "bops")
_UNITS_IN_NAMES = ("s", "ms", "us", "j", "mj", "joules")
_WRITTEN = {
    "neg": "negative", "kl": "KL", "ece": "ECE", "mse": "MSE", "mae": "MAE", "macs": "MACs", "flops": "FLOPs",
    "bops": "BOPs", "ort": "ORT", "auc": "AUC", "f1": "F1", "r2": "R²",
}  # fmt: skip
"""Parts of meters' names that are written otherwise than in small letters."""
_NEGATED = ("cross_entropy", "kl", "ece", "mse")
"""Meters that were negated, as `neg_<name>`, before a quality had a direction."""
_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def is_bytes(unit: str) -> bool:
    """Tell whether a unit counts bytes."""
    return unit.strip().lower() in _BYTES


def is_plain(unit: str) -> bool:
    """Tell whether a unit is left out beside a number, because the meter's name already says it."""
    return unit.strip().lower() in _PLAIN


def quantity(value: float, unit: str = "", stderr: float = math.nan) -> str:
    """Write a value with its unit, rounded to what its standard error supports; `–` for an unknown value.

    Bytes and large counts take a decimal prefix (1 kB = 1000 B, IEC 80000-13).
    """
    if not math.isfinite(value):
        return NOTHING
    prefix, scale = "", 1.0
    if is_bytes(unit) or (is_plain(unit) and abs(value) >= 1e4):
        scale, prefix = next(((size, name) for size, name in _PREFIXES if abs(value) >= size), (1.0, ""))
    suffix = f"{prefix}B" if is_bytes(unit) else prefix if is_plain(unit) else unit
    return f"{_digits(value / scale, stderr / scale)}{' ' if suffix else ''}{suffix}"


def _digits(value: float, stderr: float) -> str:
    if math.isfinite(stderr) and stderr > 0:
        decimals = min(max(1 - math.floor(math.log10(stderr)), 0), 9)
        return f"{value:.{decimals}f} ± {stderr:.{decimals}f}"
    if value == 0 or 1e-4 <= abs(value) < 1e6:
        magnitude = math.floor(math.log10(abs(value))) if value else 0
        text = f"{value:.{max(3 - magnitude, 0)}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    return f"{value:.3g}"


def ratio(value: float, baseline: float) -> str:
    """Say how a cost compares with the baseline's: `10.3× less`; empty when it cannot be said."""
    if not (math.isfinite(value) and math.isfinite(baseline) and value > 0 and baseline > 0):
        return ""
    if math.isclose(value, baseline, rel_tol=5e-3):
        return "as much"
    factor = baseline / value if value < baseline else value / baseline
    return f"{factor:.3g}× {'less' if value < baseline else 'more'}"


def meter_name(meter: str) -> str:
    """Write a meter's name as words, without the unit of time or energy its values carry anyway: `negative KL`."""
    name, _, last = meter.rpartition("_")
    words = (name if name and last in _UNITS_IN_NAMES else meter).split("_")
    return " ".join(_WRITTEN.get(word, word) for word in words)


def renamed(meter: str) -> str:
    """Say what a meter of old is called now: `neg_mse is now mse, lower is better`; empty for any other name."""
    name = meter.removeprefix("neg_")
    return f"{meter} is now {name}, lower is better" if name != meter and name in _NEGATED else ""


def axis_label(meter: str, unit: str, direction: str) -> str:
    """Label an axis: name, unit, and which way is better."""
    shown = "" if is_plain(unit) or is_bytes(unit) else f" ({unit})"
    return f"{meter_name(meter)}{shown}, {'lower' if direction == 'minimize' else 'higher'} is better"


def head(name: str, kind: str, direction: str, hint: str = " ↓") -> str:
    """Write a meter's name as a head, with the hint that less is better for a quality to minimise."""
    return name + (hint if kind == "quality" and direction == "minimize" else "")


def duration(seconds: float) -> str:
    """Write a time: `0.4 s`, `3 min 20 s`, `2 h 05 min`."""
    if not math.isfinite(seconds):
        return NOTHING
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def sequence(text: object) -> str:
    """Write a JSON list of [knob, value] in words; text that is none is returned as it is."""
    if not isinstance(text, str):
        return NOTHING
    try:
        moves = json.loads(text)
        words = [f"{knob} {_knob_value(value)}" for knob, value in moves]
    except (ValueError, TypeError):
        return text
    return ", then ".join(words) if words else "unchanged"


def _knob_value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def listing(words: Sequence[str]) -> str:
    """Join words: `a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def plural(count: int, noun: str) -> str:
    """Count things: `1 trial`, `2 trials`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
