"""Artifacts of front members, on disk."""

import shutil
from collections.abc import Sequence
from pathlib import Path

FRONT = "front"
"""The folder of artifacts in a run folder."""


def artifact_path(folder: Path, identifier: str) -> Path:
    """Return the folder of a front member's artifact."""
    return folder / FRONT / identifier


def drop_artifacts(folder: Path, identifiers: Sequence[str]) -> None:
    """Remove the artifacts of points that left the front."""
    for identifier in identifiers:
        shutil.rmtree(artifact_path(folder, identifier), ignore_errors=True)
