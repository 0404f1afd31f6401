"""Values and sequences as text: `41.2 kB`, `0.912 ± 0.004`, `structured.ratio=0.5 → quantize.bits=8`."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

NOTHING = "–"

_BYTES = ("b", "byte", "bytes")
_PLAIN = ("", "1", "fraction", "ratio", "dimensionless", "none", "count", "parameters", "macs", "mac", "flops", "bops")
_PREFIXES = ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))


def is_bytes(unit: str) -> bool:
    """Tell whether a unit counts bytes."""
    return unit.strip().lower() in _BYTES


def is_plain(unit: str) -> bool:
    """Tell whether a number is written without this unit: it has none, or the meter's name says it."""
    return unit.strip().lower() in _PLAIN


def quantity(value: float, unit: str = "", stderr: float = math.nan) -> str:
    """Write a value with its unit, rounded as its standard error allows; `–` for an unknown value.

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
    """Compare a cost with the baseline's: `10.3× less`; empty where one of them is unknown or not positive."""
    if not (math.isfinite(value) and math.isfinite(baseline) and value > 0 and baseline > 0):
        return ""
    if math.isclose(value, baseline, rel_tol=5e-3):
        return "as much"
    factor = baseline / value if value < baseline else value / baseline
    return f"{factor:.3g}× {'less' if value < baseline else 'more'}"


def axis_label(meter: str, unit: str, direction: str) -> str:
    """Label an axis: the meter's name, its unit where the name does not end with it, and the better direction."""
    is_said = is_plain(unit) or is_bytes(unit) or meter.lower().endswith(f"_{unit.lower()}")
    return f"{meter}{'' if is_said else f' ({unit})'}, {'lower' if direction == 'minimize' else 'higher'} is better"


def head(name: str, kind: str, direction: str, hint: str = " ↓") -> str:
    """Head a column with a meter's name, and with the hint that lower is better for a quality to minimise."""
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
    """Write a JSON list of [knob, value] as `knob=value → knob=value`; return other text as it is."""
    if not isinstance(text, str):
        return NOTHING
    try:
        moves = json.loads(text)
        words = [f"{knob}={_knob_value(value)}" for knob, value in moves]
    except (ValueError, TypeError):
        return text
    return " → ".join(words) or "base model"


def _knob_value(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def listing(words: Sequence[str]) -> str:
    """Join words: `a`, `a and b`, `a, b and c`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def plural(count: int, noun: str) -> str:
    """Count things: `1 trial`, `2 trials`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
