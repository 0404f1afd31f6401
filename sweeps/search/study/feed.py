"""Feed of a study: the trials that have changed since it was last read."""

from collections.abc import Callable

from optuna.trial import FrozenTrial


class Feed:
    """Trials that are new, or were open when the study was last read; one that has ended never changes."""

    def __init__(self) -> None:
        self._count = 0
        self.open: list[int] = []
        """Numbers of the trials that had not ended when the study was last read."""

    def read(self, count: int, trial: Callable[[int], FrozenTrial]) -> list[FrozenTrial]:
        """Return the trials that may have changed: those that were open before, then the new ones.

        Args:
            count: of the study's trials.
            trial: returns one by its number, as it is now.
        """
        changed = [trial(number) for number in (*self.open, *range(self._count, count))]
        self._count = count
        self.open = [each.number for each in changed if not each.state.is_finished()]
        return changed
