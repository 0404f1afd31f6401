"""Modules by where they come from: the standard library and torch, installed libraries, this project, the user's code.

Files are found without importing anything, so that a digest does not depend on what a process has loaded.
"""

import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import sys
from enum import Enum
from pathlib import Path


class Home(Enum):
    """The origin of a module, which decides how its code enters a key.

    Standard code enters no key itself: keys name the version of torch once. A library enters by its version, this
    project by its modules, and the user's own code by its definitions. Code without a file, as in a notebook, enters by
    its bytecode.
    """

    STANDARD = "standard"
    LIBRARY = "library"
    PROJECT = "project"
    OWN = "own"
    NO_FILE = "no file"


_PROJECT = ("kmr", "sweeps", "analysis")


@functools.cache
def home_of(module: str) -> Home:
    """Return the origin of a module, by its name."""
    top = module.partition(".")[0]
    if top == "torch" or top in sys.stdlib_module_names - {"__main__"}:
        return Home.STANDARD
    if top in _PROJECT:
        return Home.PROJECT
    found = file_of(module) or file_of(top)
    if found is None:
        return Home.NO_FILE
    return Home.LIBRARY if {"site-packages", "dist-packages"} & set(found.parts) else Home.OWN


def file_of(module: str) -> Path | None:
    """Return the file of a module, loaded or not; None without one, as for a namespace package or a notebook."""
    if module in sys.modules:
        file = getattr(sys.modules[module], "__file__", None)
        return Path(file) if file is not None and Path(file).is_file() else None
    top, *rest = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    file = None if spec.origin is None else Path(spec.origin)
    places = [Path(place) for place in spec.submodule_search_locations or ()]
    for part in rest:
        file, places = _within(places, part)
    return file if file is not None and file.is_file() else None


def _within(places: list[Path], part: str) -> tuple[Path | None, list[Path]]:
    """Return the file of a submodule and the folders of its own submodules."""
    for place in places:
        if (place / part / "__init__.py").is_file():
            return place / part / "__init__.py", [place / part]
        if (place / f"{part}.py").is_file():
            return place / f"{part}.py", []
    return None, [place / part for place in places if (place / part).is_dir()]


@functools.cache
def version_of(library: str) -> str:
    """Return the version of an installed library, by the name of its top module, without a local part (`+cpu`).

    A library that was installed from a folder or a repository may change under one version, so a digest is added.
    """
    try:
        distribution = importlib.metadata.distribution(library)
    except importlib.metadata.PackageNotFoundError:
        if (own := getattr(sys.modules.get(library), "__version__", None)) is not None:
            return str(own).partition("+")[0]
        names = importlib.metadata.packages_distributions().get(library)
        if not names:
            return "unknown"
        distribution = importlib.metadata.distribution(names[0])
    version = distribution.version.partition("+")[0]
    origin = json.loads(distribution.read_text("direct_url.json") or "{}")
    if not {"dir_info", "vcs_info"} & set(origin):
        return version
    record = [
        line for line in (distribution.read_text("RECORD") or "").splitlines() if ".py," in line or ".so," in line
    ]
    return f"{version} ({hashlib.sha256(repr(sorted(record)).encode()).hexdigest()[:8]})"
