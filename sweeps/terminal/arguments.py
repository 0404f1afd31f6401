"""Command lines of the commands that read a run folder."""

import argparse


def command_line(command: str, about: str | None) -> argparse.ArgumentParser:
    """Return the parser of a command; its `--help` prints the command's docstring as it is written.

    Args:
        command: the module, such as `sweeps.show`.
        about: its docstring.
    """
    shape = argparse.RawDescriptionHelpFormatter
    return argparse.ArgumentParser(prog=f"python -m {command}", description=about, formatter_class=shape)
