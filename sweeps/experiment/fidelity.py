"""Low fidelities of an experiment: cheap evaluations of a vector, before it is trained in full."""

from collections.abc import Mapping
from dataclasses import fields

from kmr.core import Value
from sweeps.errors import SweepError
from sweeps.experiment.evaluation import evaluate
from sweeps.experiment.experiment import Experiment
from sweeps.search.execution.halving import Halving
from sweeps.search.study.point import Point


class Fidelities:
    """Evaluations of vectors at every fidelity below the full one.

    Args:
        halving: names the fidelities.
        experiment: the experiment at full fidelity.
    """

    def __init__(self, halving: Halving, experiment: Experiment) -> None:
        self.experiments = tuple(experiment.at_share(share) for share in halving.low)
        """The experiment at every fidelity below the full one, in order."""

    def look(self, rung: int, params: Mapping[str, Value]) -> Point:
        """Evaluate a vector at the fidelity with this number."""
        return evaluate(self.experiments[rung], params, lambda point, model: None).points[-1]


def halving_of(experiment: Experiment) -> Halving | None:
    """Return the halving that the config asks for, or None.

    Raises:
        SweepError: `halving` has unknown settings or values outside their ranges.
    """
    given = experiment.plain.get("halving")
    if not given:
        return None
    known = [entry.name for entry in fields(Halving)]
    if strange := [name for name in given if name not in known]:
        raise SweepError(f"halving has unknown settings: {', '.join(strange)}; it takes {', '.join(known)}")
    if experiment.searches_policy:
        raise SweepError("halving searches knob vectors, not policies: set halving=null")
    return Halving(**given)


def fidelities_of(experiment: Experiment) -> Fidelities | None:
    """Return the low fidelities that the config asks for, or None.

    Raises:
        SweepError: as `halving_of`.
    """
    halving = halving_of(experiment)
    return None if halving is None else Fidelities(halving, experiment)
