"""List of experiments, shown when the user names none: their descriptions and commands."""

import re
import shlex
from collections.abc import Sequence
from itertools import dropwhile, takewhile

from hydra.core.global_hydra import GlobalHydra
from rich.console import Console


def list_experiments(console: Console, argv: Sequence[str] = ()) -> None:
    """Print every experiment on Hydra's search path with the first sentence of its comment and its command.

    Args:
        console: where to print.
        argv: the arguments of this call (`--config-dir` …), repeated in the commands.
    """
    start = shlex.join(["python", "-m", "sweeps.run", *argv])
    loader = GlobalHydra.instance().config_loader()
    console.print("Name an experiment to run it:\n")
    for name in loader.get_group_options("exp"):
        console.print(f"  [bold]{name}[/bold]  {_description(name)}", highlight=False, soft_wrap=True)
        console.print(f"      {start} +exp={name}\n", highlight=False, soft_wrap=True)
    console.print("Your own: put exp/<name>.yaml in a folder and add --config-dir <folder>.")


def _description(name: str) -> str:
    loader = GlobalHydra.instance().config_loader()
    for source in loader.get_sources():
        if not source.available() or source.scheme() not in ("file", "pkg"):
            continue
        lines = _read(source.scheme(), source.path, f"exp/{name}.yaml").splitlines()
        body = dropwhile(lambda line: "@package" in line or not line.strip(), lines)
        comments = takewhile(lambda line: line.startswith("#"), body)
        words = [line.lstrip("# ").strip() for line in takewhile(_describes, comments)]
        if words:
            return re.split(r"(?<=\.) ", " ".join(words), maxsplit=1)[0]
    return ""


def _describes(line: str) -> bool:
    return bool(line.strip("# ")) and "python -m" not in line


def _read(scheme: str, root: str, path: str) -> str:
    from importlib.resources import files
    from pathlib import Path

    base = files(root.replace("/", ".")) if scheme == "pkg" else Path(root)
    found = base.joinpath(*path.split("/"))
    return found.read_bytes().decode("utf-8-sig", errors="replace") if found.is_file() else ""
