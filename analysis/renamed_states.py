"""Renamed states of a trial: the words of older studies and results tables, and those of today."""

from __future__ import annotations

RENAMED = {"pruned": "early-stopped", "interrupted": "retried", "served": "duplicate"}
