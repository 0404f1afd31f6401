"""Contracts of what a sampler is shown of a study."""

from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import BaseDistribution, FloatDistribution
from optuna.samplers import GPSampler, NSGAIISampler, TPESampler
from optuna.trial import FrozenTrial, TrialState, create_trial

from sweeps.search.proposals.thinning import ENOUGH, ThinnedStudy
from sweeps.search.study.attributes import INTERMEDIATE_OF

SPACE: dict[str, BaseDistribution] = {"x": FloatDistribution(0, 1)}


def add(study: optuna.Study, values: tuple[float, float], of: int | None = None, over: float = 0.0) -> None:
    """Tell a trial, or a model on the way of one."""
    attributes = {} if of is None else {INTERMEDIATE_OF: of}
    study.add_trial(
        create_trial(
            values=values, params={"x": 0.5}, distributions=SPACE, user_attrs=attributes, constraints={"cost": over}
        )
    )


@pytest.fixture
def study() -> optuna.Study:
    """Return a study of as many dominated models on the way as are shown whatever they are."""
    study = optuna.create_study(directions=["minimize", "maximize"])
    for _ in range(ENOUGH):
        add(study, (1.0, 0.0), of=0)
    return study


def test_a_small_study_is_shown_as_it_is_and_a_large_one_to_samplers_that_read_all_of_it(study: optuna.Study) -> None:
    assert ThinnedStudy().of(study, TPESampler()) is study
    assert ThinnedStudy().of(study, NSGAIISampler()) is study
    add(study, (1.0, 0.0))
    assert ThinnedStudy().of(study, TPESampler()) is not study
    assert ThinnedStudy().of(study, NSGAIISampler()) is not study
    assert ThinnedStudy().of(study, GPSampler()) is study


class Breeds(NSGAIISampler):
    """NSGA-II that may be shown less of a study than there is."""

    shown: ThinnedStudy | None = None

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Draw from what is shown."""
        given = study if self.shown is None else self.shown.of(study, self)
        if self.shown is not None and given is not study:
            assert len(given.get_trials(deepcopy=False)) < len(study.get_trials(deepcopy=False)) / 2
        return super().sample_relative(given, trial, search_space)


def test_a_genetic_algorithm_is_shown_its_last_generations_and_draws_the_same() -> None:
    drawn: dict[bool, list[float]] = {}
    for shows in (False, True):
        sampler = Breeds(population_size=20, seed=1)
        sampler.shown = ThinnedStudy() if shows else None
        study = optuna.create_study(directions=["minimize", "minimize"], sampler=sampler)
        under_way: list[optuna.Trial] = []
        for _ in range(2 * ENOUGH):
            trial = study.ask(SPACE)
            drawn.setdefault(shows, []).append(trial.params["x"])
            under_way.append(trial)
            if len(under_way) > 3:  # finished in another order than asked for
                ended = under_way.pop(1)
                x = ended.params["x"]
                study.tell(ended, (x, 1 - x * x))
                add(study, (x, 0.0), of=ended.number)
    assert drawn[True] == drawn[False]


def test_beyond_it_models_on_the_way_are_shown_where_none_beats_them(study: optuna.Study) -> None:
    shown, tpe = ThinnedStudy(), TPESampler()
    add(study, (0.5, 0.5), of=1)
    add(study, (0.6, 0.4), of=1)  # beaten
    add(study, (0.6, 0.4))  # asked for
    add(study, (0.1, 0.9), of=2, over=1.0)  # over a limit
    add(study, (0.4, 0.4), of=3)
    assert [t.values for t in shown.of(study, tpe).trials[ENOUGH:]] == [[0.5, 0.5], [0.6, 0.4], [0.4, 0.4]]
    add(study, (0.45, 0.3), of=3)  # beaten by one shown before
    add(study, (0.0, 1.0), of=4)
    assert [t.values for t in shown.of(study, tpe).trials[ENOUGH:]][3:] == [[0.0, 1.0]]


def test_running_trials_are_shown_and_what_was_read_stays_fresh(study: optuna.Study) -> None:
    shown, tpe = ThinnedStudy(), TPESampler()
    trial = study.ask(SPACE)
    assert shown.of(study, tpe).trials[-1].state == TrialState.RUNNING
    assert len(shown.of(study, tpe)._get_trials(use_cache=True)) == ENOUGH + 1
    study.tell(trial, (0.0, 1.0))
    add(study, (0.1, 0.9), of=trial.number)  # beaten by its own trial
    assert shown.of(study, tpe)._get_trials(use_cache=True)[-1].values == [0.0, 1.0]


def test_tpe_draws_the_same_where_every_trial_was_asked_for() -> None:
    drawn = []
    for shown in (False, True):
        study = optuna.create_study(directions=["minimize", "minimize"])
        for x, y in np.random.default_rng(0).random((ENOUGH + 50, 2)):
            study.add_trial(create_trial(values=(x, y), params={"x": float(x)}, distributions=SPACE))
        tpe = TPESampler(seed=1, multivariate=True)
        given = ThinnedStudy().of(study, tpe) if shown else study
        number = study.ask().number
        asked = study.get_trials(deepcopy=False)[number]
        drawn.append(tpe.sample_relative(given, asked, SPACE))
        assert study.trials[-1].system_attrs  # what parallel draws are told of this one
    assert drawn[0] == drawn[1]
