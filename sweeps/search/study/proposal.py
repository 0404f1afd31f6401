"""Proposal of a trial: how its vector was found, and why it ended before training, written and read back here."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial

from sweeps.search.study.attributes import OUTCOME, PROPOSAL
from sweeps.search.study.trial_state import TrialState

_EXHAUSTED = "exhausted"
"""In place of a screened trial's state, where nothing was left to ask for."""
_OLDER: Mapping[str, TrialState] = {
    "static costs": TrialState.INFEASIBLE, "twin": TrialState.DUPLICATE, "bound": TrialState.EARLY_STOPPED,
}  # fmt: skip
"""What older studies keep in place of that state, up to a colon."""


@dataclass(frozen=True)
class HowProposed:
    """How a vector was found.

    Args:
        rejected: candidates that were dropped because a cost known beforehand breaks a limit.
        replaced: whether it took the place of the sampler's own.
    """

    rejected: int = 0
    replaced: bool = False


AS_DRAWN = HowProposed()
"""The sampler's own vector."""


class Untrained(NamedTuple):
    """State of a trial that ended before training, and why; no state where nothing was left to ask for."""

    state: TrialState | None
    why: str


def how_proposed(trial: FrozenTrial) -> HowProposed:
    """Read how a trial was proposed."""
    kept = trial.user_attrs.get(PROPOSAL, {})
    return HowProposed(int(kept.get("rejected", 0)), bool(kept.get("replaced")))


def keep_proposal(trial: optuna.Trial, how: HowProposed, untrained: Untrained | None = None) -> None:
    """Write how a trial was proposed, and why it is not trained; nothing for one as drawn, which saves a write."""
    if untrained is not None:
        entry = {**asdict(how), "screened": untrained.state or _EXHAUSTED, "why": untrained.why}
        trial.set_user_attr(PROPOSAL, entry)
    elif how != AS_DRAWN:
        trial.set_user_attr(PROPOSAL, asdict(how))


def untrained_of(trial: FrozenTrial) -> Untrained | None:
    """Read how a trial ended before training; None for one that was trained or is under way."""
    kept = trial.user_attrs.get(PROPOSAL, {})
    word = kept.get("screened")
    if word is None or OUTCOME in trial.user_attrs:
        return None
    kind, _, reason = str(word).partition(": ")
    why = str(kept.get("why") or reason or word)
    return Untrained(None if kind == _EXHAUSTED else _OLDER.get(kind) or TrialState(kind), why)


def count_untrained(study: Study) -> dict[TrialState, int]:
    """Count the trials that ended before training, by state."""
    counts: dict[TrialState, int] = {}
    for trial in study.get_trials(deepcopy=False):
        untrained = untrained_of(trial)
        if untrained is not None and untrained.state is not None:
            counts[untrained.state] = counts.get(untrained.state, 0) + 1
    return counts


def count_rejected(study: Study) -> int:
    """Count the candidates that were dropped because a cost known beforehand breaks a limit."""
    return sum(how_proposed(trial).rejected for trial in study.get_trials(deepcopy=False))
