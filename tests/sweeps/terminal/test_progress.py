"""What a user sees while a sweep runs, on a terminal and without one."""

import io

from rich.console import Console

from sweeps.search.study.trial_state import TrialState
from sweeps.terminal.progress import SweepProgress, SweepView

COUNTS = {TrialState.COMPLETE: 4, TrialState.DUPLICATE: 1, TrialState.FAILED: 2}


def shown(terminal: bool, height: int = 40) -> tuple[SweepProgress, io.StringIO]:
    out = io.StringIO()
    console = Console(file=out, width=100, height=height, force_terminal=terminal, color_system=None)
    seen = SweepView(("bytes", "accuracy"), ((1.0, 0.8),), ((1.0, 0.8), (3.0, 0.9)), 3, 10, (("out of memory", 2),))
    return SweepProgress(console, 2, 10, lambda: seen, every=3600.0), out


def test_a_terminal_shows_the_front_the_pace_what_was_recalled_and_what_failed() -> None:
    progress, out = shown(True)
    with progress:
        progress.finished(0.75, 2, COUNTS)
        progress._live.refresh()
        progress.say("trial 3 failed: out of memory")
    text = out.getvalue()
    for part in ("3/10", "hypervolume 0.7500", "front 2", "1 duplicate ", "2 failed", "3 of 10 moves recalled", "●",
                 "bytes", "2 × out of memory", "trial 3 failed"):  # fmt: skip
        assert part in text


def test_a_low_terminal_leaves_the_plot_out() -> None:
    progress, out = shown(True, height=10)
    with progress:
        progress.finished(0.75, 2, {})
        progress._live.refresh()
    assert "hypervolume 0.7500" in out.getvalue()
    assert "●" not in out.getvalue()


def test_without_a_terminal_there_are_lines_and_nothing_that_moves() -> None:
    progress, out = shown(False)
    with progress:
        for _ in range(8):
            progress.finished(0.75, 2, {TrialState.FAILED: 1})
    lines = out.getvalue().splitlines()
    assert len(lines) == 1, "one line every so often, and one at the end"
    assert lines[0].startswith("10/10 trials · hypervolume 0.7500 · front 2 · 1 failed")
    assert "\x1b" not in out.getvalue()
