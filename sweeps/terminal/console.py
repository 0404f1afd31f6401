"""The console: its width, and errors in one line."""

import sys

from rich.console import Console


def complain(error: object) -> int:
    """Print an error in one line; return its exit code."""
    message = " ".join(str(error).split())
    Console(stderr=True).print(f"error: {message}", style="red", markup=False, highlight=False, soft_wrap=True)
    return 2


def wide_console() -> Console:
    """Return a console as wide as the terminal, or wide enough for tables without a terminal."""
    # Rules redirect sys.stdout to silence a library; what another thread prints meanwhile must still be seen.
    console = Console(file=sys.stdout)
    return console if console.is_terminal else Console(file=sys.stdout, width=140)
