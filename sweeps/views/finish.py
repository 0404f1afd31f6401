"""End of a run: front members saved, read again for their noise and tested once each; then all views."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import optuna

from sweeps.experiment.assessment.degradation import keep_profiles
from sweeps.experiment.assessment.held_out import test_point
from sweeps.experiment.assessment.layers import keep_layers
from sweeps.experiment.assessment.noise import measure_noise
from sweeps.experiment.experiment import Experiment
from sweeps.experiment.sweep import Sweep
from sweeps.views.card import StudyCard
from sweeps.views.mlflow.tracker import Tracker
from sweeps.views.publish import Published, publish
from sweeps.views.state import State, keep_created, keep_unsaved, read_state


@dataclass(frozen=True)
class Written:
    """What a finished run leaves for the user."""

    published: Published
    state: State
    messages: tuple[str, ...]


def write_results(
    card: StudyCard,
    experiment: Experiment,
    study: optuna.Study,
    sweep: Sweep,
    tracker: Tracker | None,
    folder: Path,
    *,
    images: bool,
    stopping: Callable[[], bool] = lambda: False,
) -> Written:
    """Bring everything that is derived from the study up to date: also after Ctrl-C, and safe to repeat.

    Args:
        card: of the study, as it is to be shown.
        experiment: what was searched.
        study: where it is kept.
        sweep: the run that ends.
        tracker: started; None writes nothing to MLflow.
        folder: of the study.
        images: also draw the report's pictures.
        stopping: asked before each model of the noise stage, which is left out of a run that was stopped.
    """
    sweep.save_missing_artifacts()
    problems = [f"{name} is not on the front, it cannot be saved: {why}" for name, why in sweep.unsaved.items()]
    keep_unsaved(study, sweep.unsaved)
    keep_created(study)
    points = read_state(card, study, sweep.records).points
    usable = {name: point for name, point in points.items() if name not in sweep.unsaved}
    if not stopping():
        front = sweep.front.members
        problems += measure_noise(experiment, study, usable, front, folder, may_go_on=lambda: not stopping())
    for name in sweep.front.members:
        try:
            test_point(experiment, study, folder, name)
        except Exception as error:  # one model that fails on test data must not cost the report of all others
            problems.append(f"{name} could not be read on test data: {type(error).__name__}: {error}")
    keep_layers(study, experiment.model, folder, sweep.front.members)
    keep_profiles(study, experiment, folder, sweep.front.members)
    card.keep(study)
    state = read_state(card, study, sweep.records)
    published = publish(state, folder, tracker, images=images, example=experiment.data.train.first_inputs(8))
    return Written(published, state, (*problems, *published.messages))
