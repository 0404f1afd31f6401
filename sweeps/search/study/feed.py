"""Feed of the trials that have changed since a study was last read."""

from collections.abc import Callable

from optuna.trial import FrozenTrial


class Feed:
    """Feed of trials that are new or were open at the last read; a trial that has ended never changes."""

    def __init__(self) -> None:
        self._count = 0
        self.open: list[int] = []
        """Numbers of the trials that had not ended at the last read."""

    def read(self, count: int, trial: Callable[[int], FrozenTrial]) -> list[FrozenTrial]:
        """Return the trials that may have changed: first those that were open, then the new ones.

        Args:
            count: number of trials in the study.
            trial: function from a number to the trial's present state.
        """
        changed = [trial(number) for number in (*self.open, *range(self._count, count))]
        self._count = count
        self.open = [each.number for each in changed if not each.state.is_finished()]
        return changed
