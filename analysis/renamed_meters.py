"""Renamed meters: the names that older studies and commands use, and those of today."""

from __future__ import annotations

RENAMED = {"neg_cross_entropy": "cross_entropy", "neg_kl": "kl", "neg_ece": "ece", "neg_mse": "mse"}
"""Before a quality had a direction, a loss was negated."""


def hint(meter: str) -> str:
    """Return the hint for an old name, `neg_mse is now mse, lower is better`; empty for any other name."""
    return f"{meter} is now {RENAMED[meter]}, lower is better" if meter in RENAMED else ""
