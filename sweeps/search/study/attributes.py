"""Names of all attributes that a study and its trials keep in Optuna's storage, and attributes by point."""

from collections.abc import Sequence
from typing import Any

import optuna

OUTCOME = "kmr:outcome"
"""Trial: how it ended, if it was evaluated or is a duplicate (`record`)."""
PROPOSAL = "kmr:proposal"
"""Trial: how it was proposed, and how it ended if it was closed before training (`proposal`)."""
INTERMEDIATE_OF = "kmr:intermediate_of"
"""Intermediate model: the number of the trial that measured it (`record`)."""
BEGUN_BY = "kmr:begun_by"
"""Trial of the base model: the driver that added it, as several may start at once (`record`)."""
RUNGS = "kmr:rungs"
"""Trial: its values at low fidelities (`rungs`)."""
OWNER = "kmr:owner"
"""Trial: the process that runs it, and its number (`lease`)."""
ATTEMPTS = "kmr:attempts"
"""Trial: how many processes have died with its vector (`lease`)."""
RETRY_OF = "kmr:again_of"
"""Trial queued as a retry: the retried trial's number in Optuna's storage (`lease`)."""

ID = "kmr:id"
"""Study: its unique identifier (`record`)."""
PROBLEM = "kmr:problem"
"""Study of `sweeps.search`: its problem (`sweeps.search.ask_tell`)."""
IDENTITY = "kmr:identity"
"""Study of an experiment: its identity (`sweeps.experiment.open_study`)."""
DATA = "kmr:data"
"""Study of an experiment: digests of parts of its data (`sweeps.experiment.data_changes`)."""
CODE = "kmr:code"
"""Study of an experiment: digests of the code behind it, by name (`sweeps.experiment.study_code`)."""
CODE_CHANGES = "kmr:code_changes"
"""Study of an experiment: the accepted changes of its code (`sweeps.experiment.study_code`)."""
BASE = "kmr:base"
"""Study: the readings of its base model (`sweeps.experiment.open_study`)."""
REUSED = "kmr:taken_over"
"""Study: the study whose trials it reuses (`sweeps.experiment.take_over`)."""
CARD = "kmr:card"
"""Study: its card (`sweeps.views.card`)."""
CREATED = "kmr:created"
"""Study: its creation time (`sweeps.views.state`)."""
UNSAVED = "kmr:unsaved"
"""Study: points that could not be saved, with the reasons (`sweeps.views.state`)."""
REMADE = "kmr:remade"
"""Study: readings of front members that were made again as other models (`sweeps.experiment.remade`)."""

NOISE = "kmr:noise:"
"""Study, by point: readings on bootstrap samples and with other seeds (`sweeps.experiment.assessment.noise`)."""
LAYERS = "kmr:layers:"
"""Study, by point: the changes of each layer (`sweeps.experiment.assessment.layers`)."""
PROFILE = "kmr:profile:"
"""Study, by point: accuracy-degradation profiles (`sweeps.experiment.assessment.degradation`)."""
TEST = "kmr:test:"
"""Study, by point: readings on held-out data (`sweeps.experiment.assessment.held_out`)."""


def by_point(study: optuna.Study, kind: str) -> dict[str, Any]:
    """Read one kind of attribute of every point that has it."""
    attributes = study.user_attrs.items()
    return {name.removeprefix(kind): kept for name, kept in attributes if name.startswith(kind) and kept is not None}


def keep_for_point(study: optuna.Study, kind: str, point: str, value: Any) -> None:
    """Write one kind of attribute of a point."""
    study.set_user_attr(kind + point, value)


def forget_point(study: optuna.Study, point: str, kinds: Sequence[str]) -> None:
    """Empty some kinds of attributes of a point, which Optuna cannot remove."""
    for kind in kinds:
        if study.user_attrs.get(kind + point) is not None:
            study.set_user_attr(kind + point, None)
