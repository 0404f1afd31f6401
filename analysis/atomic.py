"""Atomic writing of files: a reader sees the old content or the new one, never a part."""

from __future__ import annotations

import os
import uuid
from pathlib import Path


def write_bytes(path: Path, data: bytes) -> Path:
    """Write `data` beside `path`, flush it to disk and rename it into place.

    Returns `path`. Raises OSError as the file system reports it, and then removes the temporary file.
    """
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.tmp")
    try:
        with aside.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)
    return path
