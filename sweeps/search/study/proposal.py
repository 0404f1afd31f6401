"""Proposal of a trial: the origin of its vector, and the reason if it ended before training."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import NamedTuple

import optuna
from optuna.study import Study
from optuna.trial import FrozenTrial

from sweeps.search.study.attributes import OUTCOME, PROPOSAL
from sweeps.search.study.trial_state import TrialState

_EXHAUSTED = "exhausted"
"""Word in place of a screened trial's state, if the search was exhausted."""
_OLDER: Mapping[str, TrialState] = {
    "static costs": TrialState.INFEASIBLE, "twin": TrialState.DUPLICATE, "bound": TrialState.EARLY_STOPPED,
}  # fmt: skip
"""Words that older studies keep in place of that state, up to a colon."""


@dataclass(frozen=True)
class HowProposed:
    """Origin of a trial's vector.

    Args:
        rejected: number of candidates dropped because a static cost breaks a limit.
        replaced: whether the vector replaced the sampler's own proposal.
    """

    rejected: int = 0
    replaced: bool = False


AS_DRAWN = HowProposed()
"""The sampler's own vector."""


class Untrained(NamedTuple):
    """State and reason of a trial that ended before training; the state is None if the search was exhausted."""

    state: TrialState | None
    why: str


def how_proposed(trial: FrozenTrial) -> HowProposed:
    """Read how a trial was proposed."""
    kept = trial.user_attrs.get(PROPOSAL, {})
    return HowProposed(int(kept.get("rejected", 0)), bool(kept.get("replaced")))


def keep_proposal(trial: optuna.Trial, how: HowProposed, untrained: Untrained | None = None) -> None:
    """Write how a trial was proposed and why it is not trained; write nothing for the sampler's own proposal."""
    if untrained is not None:
        entry = {**asdict(how), "screened": untrained.state or _EXHAUSTED, "why": untrained.why}
        trial.set_user_attr(PROPOSAL, entry)
    elif how != AS_DRAWN:
        trial.set_user_attr(PROPOSAL, asdict(how))


def untrained_of(trial: FrozenTrial) -> Untrained | None:
    """Read how a trial ended before training; return None for a trial that was trained or is running."""
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
    """Count the candidates that were dropped because a static cost breaks a limit."""
    return sum(how_proposed(trial).rejected for trial in study.get_trials(deepcopy=False))
