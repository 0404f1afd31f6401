"""Commands for the user to run next."""

import shlex
from collections.abc import Sequence

from sweeps.views.card import without_passwords


def commands(argv: Sequence[str], trials: int) -> tuple[str, str]:
    """Return the current command, and one that resumes or extends the study to twice the trials."""
    kept = [argument for argument in argv if not argument.lstrip("+").startswith("trials=")]
    start = "python -m sweeps.run"
    run, extend = shlex.join([*start.split(), *argv]), shlex.join([*start.split(), *kept, f"trials={2 * trials}"])
    return str(without_passwords(run)), str(without_passwords(extend))
