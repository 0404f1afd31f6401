"""Successive halving of trials: a cheap look at a vector, at a share of the data, before it is trained in full."""

from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path

from kmr.core import Value
from sweeps.errors import SweepError
from sweeps.experiment.evaluation import evaluate
from sweeps.experiment.experiment import Experiment
from sweeps.search.execution.halving import Settings
from sweeps.search.execution.rungs import RungStore


class Halted(Exception):
    """A trial was stopped at a low fidelity; the message says which place it took there."""


class Fidelities:
    """Checks a vector at every fidelity but the full one; shared through a file by all processes of a study.

    Args:
        settings: how trials are halved.
        experiment: at full fidelity.
        folder: the study's.

    Raises:
        SweepError: a setting out of its range.
    """

    def __init__(self, settings: Settings, experiment: Experiment, folder: Path) -> None:
        self._halving = settings.halving(experiment.directions).restore(RungStore(folder))
        self._experiments = [experiment.at_share(share) for share in self._halving.fidelities[:-1]]

    @property
    def experiments(self) -> tuple[Experiment, ...]:
        """The experiment at every fidelity below the full one."""
        return tuple(self._experiments)

    def check(self, experiment: Experiment, number: int, params: Mapping[str, Value]) -> None:
        """Go through the rungs below the full fidelity.

        Raises:
            Halted: the trial is not worth going on.
        """
        for rung, cheap in enumerate(self._experiments):
            known = self._halving.recorded(number, rung)
            if known is None:
                final = evaluate(cheap, params, lambda point, model: None).points[-1]
                names = [meter.name for meter in experiment.objectives]
                errors = [final.readings[name][1] for name in names]
                decision = self._halving.report(number, rung, final.values(names), errors)
            else:
                decision = known.decision
            if decision.stops:
                share = self._halving.fidelities[rung]
                raise Halted(f"stopped at {share:.0%} of the fine-tuning: {decision.reason}")


def fidelities_of(experiment: Experiment, folder: Path) -> Fidelities | None:
    """Return the rungs the config asks for, or None.

    Raises:
        SweepError: `halving` has settings it does not know, or out of their ranges.
    """
    given = experiment.plain.get("halving")
    if not given:
        return None
    known = [entry.name for entry in fields(Settings)]
    if strange := [name for name in given if name not in known]:
        raise SweepError(f"halving has {', '.join(strange)}: it takes {', '.join(known)}")
    if experiment.searches_policy:
        raise SweepError("halving takes knob vectors, not a policy: set halving=null")
    return Fidelities(Settings(**given), experiment, folder)
