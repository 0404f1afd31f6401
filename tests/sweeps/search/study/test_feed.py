"""A feed gives each trial for as long as it may change, and no longer."""

import optuna
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.trial import TrialState

from sweeps.search.study.feed import Feed

optuna.logging.set_verbosity(optuna.logging.ERROR)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from(["ask", "end first", "end last", "enqueue", "read"]), max_size=25))
def test_what_a_feed_has_given_is_the_study_as_it_is(steps: list[str]) -> None:
    study = optuna.create_study()
    feed, seen, ended = Feed(), dict[int, TrialState](), set[int]()

    def read() -> None:
        trials = study.get_trials(deepcopy=False)
        for trial in feed.read(len(trials), trials.__getitem__):
            assert trial.number not in ended, "one that has ended is given once"
            seen[trial.number] = trial.state
            ended.update([trial.number] if trial.state.is_finished() else [])
        assert seen == {trial.number: trial.state for trial in trials}
        assert feed.open == [trial.number for trial in trials if not trial.state.is_finished()]

    for step in [*steps, "read"]:
        running = study.get_trials(states=(TrialState.RUNNING,))
        if step == "ask":
            study.ask()
        elif step == "enqueue":
            study.enqueue_trial({})
        elif step == "read":
            read()
        elif running:
            study.tell(running[0 if step == "end first" else -1].number, state=TrialState.FAIL)
