"""End of a run: front members saved, read again for their noise and tested once each; then all views."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna

from sweeps.experiment.assessment.degradation import keep_profiles
from sweeps.experiment.assessment.held_out import test_point
from sweeps.experiment.assessment.layers import keep_layers
from sweeps.experiment.assessment.noise import measure_noise
from sweeps.experiment.experiment import Experiment
from sweeps.experiment.saved_front import SavedFront
from sweeps.search.study.record import Record
from sweeps.views.card import StudyCard
from sweeps.views.publish import Published, ResultsTracker, publish
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
    records: Sequence[Record],
    saved: SavedFront,
    tracker: ResultsTracker | None,
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
        records: the finished trials.
        saved: its front.
        tracker: takes the results; None writes to the folder alone.
        folder: of the study.
        images: also draw the report's pictures.
        stopping: asked before each model of the noise stage, which is left out of a run that was stopped.
    """
    saved.save_missing()
    problems = [f"{name} is not on the front, it cannot be saved: {why}" for name, why in saved.unsaved.items()]
    keep_unsaved(study, saved.unsaved)
    keep_created(study)
    points = read_state(card, study, records).points
    usable = {name: point for name, point in points.items() if name not in saved.unsaved}
    if not stopping():
        front = saved.front.members
        problems += measure_noise(experiment, study, usable, front, folder, may_go_on=lambda: not stopping())
    for name in saved.front.members:
        try:
            test_point(experiment, study, folder, name)
        except Exception as error:  # one model that fails on test data must not cost the report of all others
            problems.append(f"{name} could not be read on test data: {type(error).__name__}: {error}")
    keep_layers(study, experiment.model, folder, saved.front.members)
    keep_profiles(study, experiment, folder, saved.front.members)
    card.keep(study)
    state = read_state(card, study, records)
    published = publish(state, folder, tracker, images=images, example=experiment.data.train.first_inputs(8))
    return Written(published, state, (*problems, *published.messages))
