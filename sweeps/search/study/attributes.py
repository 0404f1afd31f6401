"""Names of all attributes that a study and its trials keep in Optuna's storage, and attributes by point."""

from typing import Any

import optuna

OUTCOME = "kmr:outcome"
"""Of a trial that was evaluated or is a duplicate: how it ended (`record`)."""
PROPOSAL = "kmr:proposal"
"""Of a trial: how it was proposed, and how it ended where it was screened (`record`)."""
INTERMEDIATE_OF = "kmr:intermediate_of"
"""Of a model on the way of another trial: the number of that one (`record`)."""
BEGUN_BY = "kmr:begun_by"
"""Of the base model's trial: which driver told it, of those that begin at once (`record`)."""
RUNGS = "kmr:rungs"
"""Of a trial: what it measured at low fidelities (`rungs`)."""
OWNER = "kmr:owner"
"""Of a trial: who runs it, and its number (`lease`)."""
ATTEMPTS = "kmr:attempts"
"""Of a trial: how many processes died with its vector before (`lease`)."""
RETRY_OF = "kmr:again_of"
"""Of a trial that was queued for a retried one: the number of that in Optuna's storage (`lease`)."""

ID = "kmr:id"
"""Of a study: what tells it from all others (`record`)."""
PROBLEM = "kmr:problem"
"""Of a study of `sweeps.search`: what it searches (`sweeps.search.ask_tell`)."""
IDENTITY = "kmr:identity"
"""Of a study of an experiment: what it searches (`sweeps.experiment.open_study`)."""
BASE = "kmr:base"
"""Of a study: what its base model measured (`sweeps.experiment.open_study`)."""
REUSED = "kmr:taken_over"
"""Of a study: the one whose trials it reuses (`sweeps.experiment.take_over`)."""
CARD = "kmr:card"
"""Of a study: what it is about (`sweeps.views.card`)."""
CREATED = "kmr:created"
"""Of a study: when it was made (`sweeps.views.state`)."""
UNSAVED = "kmr:unsaved"
"""Of a study: points that could not be saved, and why (`sweeps.views.state`)."""

NOISE = "kmr:noise:"
"""Of a study, by point: readings on bootstrap samples and with other seeds (`sweeps.experiment.assessment.noise`)."""
LAYERS = "kmr:layers:"
"""Of a study, by point: what became of each layer (`sweeps.experiment.assessment.layers`)."""
PROFILE = "kmr:profile:"
"""Of a study, by point: accuracy-degradation profiles (`sweeps.experiment.assessment.degradation`)."""
TEST = "kmr:test:"
"""Of a study, by point: readings on held-out data (`sweeps.experiment.assessment.held_out`)."""


def by_point(study: optuna.Study, kind: str) -> dict[str, Any]:
    """Read one kind of attribute of every point that has it."""
    return {name.removeprefix(kind): kept for name, kept in study.user_attrs.items() if name.startswith(kind)}


def keep_for_point(study: optuna.Study, kind: str, point: str, value: Any) -> None:
    """Write one kind of attribute of a point."""
    study.set_user_attr(kind + point, value)
