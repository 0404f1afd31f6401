"""Every state of a trial is one word: in storage, table, meta file, MLflow, on the terminal and in the library."""

import io
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from rich.console import Console
from tiny import Halve, Mean, run, study_of, tiny_experiment

from analysis.table import load, save
from kmr.core import NotApplicable, Reading
from sweeps.experiment.experiment import Experiment
from sweeps.experiment.fidelity import fidelities_of
from sweeps.experiment.model_work import ModelWork
from sweeps.search.execution.executors import InProcess
from sweeps.search.execution.work import Job, Tell
from sweeps.search.result import ProposalCounts, result_of
from sweeps.search.space import distributions
from sweeps.search.study.lease import claim
from sweeps.search.study.point import Ended
from sweeps.search.study.record import count_states, records, state_of
from sweeps.search.study.storage import open_storage
from sweeps.search.study.trial_state import TrialState
from sweeps.show import show
from sweeps.views import results_table
from sweeps.views.card import StudyCard
from sweeps.views.mlflow.runs import StudyRuns
from sweeps.views.run_folder import Opened
from sweeps.views.state import read_state

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
ENDS = {
    0.9: "complete", 0.12: "early-stopped", 0.3: "infeasible", 0.91: "duplicate", 0.2: "failed", 0.5: "retried",
    0.0: "infeasible",
}  # fmt: skip
"""How a trial of each value of the knob ends; the last one breaks a limit, which is known before it is trained."""


@dataclass(frozen=True, kw_only=True)
class Tenths(Halve):
    """Scales in tenths; one of them cannot be applied, another raises an error."""

    def apply(self, model, knob, value):
        match round(float(value), 1):
            case 0.3:
                raise NotApplicable("no layer is left")
            case 0.2:
                raise RuntimeError("it diverged")
            case tenth:
                return super().apply(model, knob, tenth)


@dataclass(frozen=True, kw_only=True)
class Small(Mean):
    """Falls with the cost, so that one model is the best of all."""

    def read(self, seen):
        return Reading(-super().read(seen).value)


class LosesOne(InProcess):
    """Does jobs in this process, but the process of one dies once."""

    lost = False

    def submit(self, job: Job) -> None:
        self.job = job
        super().submit(job)

    def work(self, tell: Tell) -> None:
        if self.job.params == {"first.by": 0.5} and not self.lost:
            self.lost = True
            self.close()
            tell(Ended(self.job.number, TrialState.RETRIED, "its worker died (killed by signal 9)", 0.1))
        else:
            super().work(tell)


def card_of(experiment: Experiment) -> StudyCard:
    """Make the card of an experiment that was made without a config file."""
    return StudyCard.of(replace(experiment, plain={**asdict(experiment.config), **experiment.plain}))


@pytest.fixture(scope="module")
def ended(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, optuna.Study, Any, Path, str]:
    """Run a study in which a trial ends in every way, and another waits and one more runs at its end."""
    folder = tmp_path_factory.mktemp("states")
    parts = {"rules": (Tenths(name="first"),), "qualities": (Small(name="small"),), "anchors": 0}
    plain = {"halving": {"fidelities": [0.5, 1.0], "grace": 1, "z": 0.0}}
    limit = 0.99 * tiny_experiment(**parts).base.costs["total"].value
    experiment = tiny_experiment(**parts, plain=plain, limits={"total": limit})
    study = study_of(experiment, open_storage(None, folder))
    for by in ENDS:
        study.enqueue_trial({"first.by": by})
    executor = LosesOne(ModelWork(experiment, folder, fidelities_of(experiment)))
    sweep, why, printed = run(experiment, study, folder, len(ENDS) - 1, executor)
    assert why is None
    claim(study, study.ask(distributions(experiment.space)))
    study.enqueue_trial({"first.by": 0.7})
    return experiment, study, sweep, folder, printed


EXPECTED = {
    "complete": 1, "early-stopped": 2, "infeasible": 1, "duplicate": 1, "failed": 1, "retried": 1,
}  # fmt: skip
"""Trials by state; the retry of the retried one is dominated as well."""


def test_the_storage_has_every_state(ended) -> None:
    _, study, _, folder, _ = ended
    anew = optuna.load_study(study_name="tiny", storage=open_storage(None, folder))
    assert count_states(anew) == {**EXPECTED, "running": 1, "waiting": 1}
    assert set(count_states(anew)) == set(TrialState), "none is left out"
    for record in records(anew):
        trial = anew.trials[record.optuna_number]
        wanted = "early-stopped" if record.number > 5 else ENDS[record.params["first.by"]]
        assert record.state == state_of(trial) == wanted
        assert isinstance(record.state, TrialState)
    assert records(anew) == records(study)


def test_the_table_and_the_meta_file_have_every_state_in_which_a_trial_ends(ended, tmp_path) -> None:
    experiment, study, _, folder, _ = ended
    state = read_state(card_of(experiment), study, records(study))
    frame = results_table.frame(state.card, state.records, {}, {}, folder, {})
    base = state.tested.get("base", {})
    meta = results_table.meta(state.card, state.records, base, state.untrained, state.rejected, created="", place=None)
    save(tmp_path, frame, meta)
    table = load(tmp_path)
    last = table.frame[table.frame["trial"] >= 0].groupby("trial")["state"].last()
    assert last.to_dict() == {record.number: record.state for record in records(study)}
    assert table.meta["trials"] == {
        "asked": 7, **EXPECTED, "infeasible before training": 1, "rejected candidates": 0, "target": 8,
    }  # fmt: skip
    assert table.frame.set_index("point").loc["3.end", "error"] == "the model of trial 0"


def test_mlflow_has_every_state_in_which_a_trial_ends(ended, tracked) -> None:
    found = records(ended[1])
    runs = StudyRuns(f"sqlite:///{tracked / 'mlflow.db'}", "states", "study-1", None)
    for record in found:
        runs.trial(record, f"trial {record.number}")
    kept = [runs.client.get_run(runs.run_ids[record.number]) for record in found]
    assert [run.data.tags["kmr.state"] for run in kept] == [record.state for record in found]
    status = {"failed": "FAILED", "infeasible": "FAILED", "retried": "KILLED"}
    assert [run.info.status for run in kept] == [status.get(record.state, "FINISHED") for record in found]
    assert [run.data.tags.get("kmr.duplicate_of") for run in kept] == [None, None, None, "0", None, None, None]


def test_the_terminal_says_every_state(ended) -> None:
    experiment, study, _, folder, printed = ended
    line = next(line for line in printed.splitlines() if "trials · hypervolume" in line)
    for state, count in EXPECTED.items():
        assert (f" · {count} {state}" in line) == (state != "complete"), "that goes without saying"
    for number, state in ((2, "infeasible"), (4, "failed")):
        assert f"trial {number} {state}: " in printed
    assert "trial 5: its worker died (" in printed
    console = Console(file=io.StringIO(), width=200, record=True)
    card = card_of(experiment)
    show(Opened(folder, study, read_state(card, study, records(study))), console)
    assert console.export_text().splitlines()[0] == (
        "tiny: 6 of 8 trials, 1 waiting, 1 running, 1 complete, 2 early-stopped, 1 infeasible, 1 duplicate, 1 failed, "
        "1 retried"
    )


def test_the_library_has_every_state_in_which_a_trial_ends(ended) -> None:
    _, study, sweep, _, _ = ended
    found = result_of(study, sweep.asker.problem)
    by_number = {record.optuna_number: record.state for record in records(study)}
    states = {trial.number: trial.state for trial in found.records}
    assert {number: state for number, state in states.items() if number in by_number} == by_number
    (untrained,) = (trial for trial in found.records if trial.number not in by_number)
    assert (untrained.state, untrained.error) == ("infeasible", "it breaks the limit on total")
    assert found.counts == ProposalCounts(
        complete=1, failed=1, early_stopped=2, infeasible=2, duplicate=1, retried=1, evaluated=5
    )
    assert [trial.state for trial in found.front] == ["complete"]
