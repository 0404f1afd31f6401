"""Check for user folders that hide a package of this project, made before any other import.

`python -m` puts the working directory first on the search path, so that `./analysis` would be imported instead of ours.
"""

import sys
from importlib.util import find_spec
from pathlib import Path

_OURS = ("analysis", "conf", "kmr")
_HOME = Path(__file__).resolve().parent.parent


def check_packages() -> None:
    """Stop a command with one line, or raise `ImportError` elsewhere, if the working directory hides a package."""
    for name in _OURS:
        found = _path(name)
        if found is None or found.parent == _HOME or found.parent != Path.cwd().resolve():
            continue
        message = (
            f"{found} hides the package {name} of kmr-sweeps: rename it, or start from another directory, or with "
            "kmr-sweeps or python -P -m, which search the working directory last"
        )
        if sys.argv[:1] == ["-m"]:  # Python's placeholder while it locates the module of `python -m`
            print(f"error: {message}", file=sys.stderr)
            raise SystemExit(2)
        raise ImportError(message)


def _path(name: str) -> Path | None:
    """Return the folder or file from which a top-level name is imported."""
    try:
        spec = find_spec(name)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    place = next(iter(spec.submodule_search_locations or ()), spec.origin)
    return None if place is None else Path(place).resolve()
