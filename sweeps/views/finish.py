"""End of a run: save the front, measure its noise, test each member once, and write all views."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import optuna

from sweeps.experiment.assessment.degradation import keep_profiles
from sweeps.experiment.assessment.held_out import test_point
from sweeps.experiment.assessment.layers import keep_layers
from sweeps.experiment.assessment.noise import measure_noise
from sweeps.experiment.experiment import Experiment
from sweeps.experiment.remade import keep_remade
from sweeps.experiment.saved_front import SavedFront
from sweeps.search.study.record import Record
from sweeps.views.card import StudyCard
from sweeps.views.publish import Published, ResultsTracker, publish
from sweeps.views.state import State, keep_created, keep_unsaved, read_state


@dataclass(frozen=True)
class Written:
    """The results of a finished run."""

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
    """Update everything that is derived from the study, also after Ctrl-C; it is safe to repeat.

    Args:
        card: the study's card.
        experiment: the experiment that was searched.
        study: stores the trials.
        records: the finished trials.
        saved: the study's front.
        tracker: receives the results; None writes to the folder only.
        folder: the study's folder.
        images: also draw the report's figures.
        stopping: called before each model of the noise stage; True skips the model.
    """
    saved.save_missing()
    problems = [
        f"{name} is left off the front, because it cannot be saved: {why}" for name, why in saved.unsaved.items()
    ]
    keep_unsaved(study, saved.unsaved)
    keep_remade(study, saved.remade)
    keep_created(study)
    points = read_state(card, study, records).points
    usable = {name: point for name, point in points.items() if name not in saved.unsaved}
    if not stopping():
        front = saved.front.members
        problems += measure_noise(experiment, study, usable, front, folder, may_go_on=lambda: not stopping())
    for name in saved.front.members:
        try:
            test_point(experiment, study, folder, name)
        except Exception as error:  # one model that fails on test data must not prevent the report
            problems.append(f"{name} failed on test data: {type(error).__name__}: {error}")
    keep_layers(study, experiment.model, folder, saved.front.members)
    keep_profiles(study, experiment, folder, saved.front.members)
    card.keep(study)
    state = read_state(card, study, records)
    published = publish(state, folder, tracker, images=images, example=experiment.data.train.first_inputs(8))
    return Written(published, state, (*problems, *published.messages))
