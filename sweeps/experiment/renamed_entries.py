"""Renamed and removed config entries of earlier versions."""

RENAMED = {"budget": "limits"}
"""Config entries renamed after version 0.1: old name to new name."""
REMOVED = {"bound_margin": "remove it; `screening` already skips unpromising vectors"}
"""Config entries removed after version 0.1, and what to do instead."""
