"""Whole sweeps over the digits, small enough to run in seconds."""

import io
import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import optuna
import pandas as pd
import pytest
import torch
from hydra import compose, initialize_config_module
from programs import Program
from rich.console import Console
from small import SMALL, sweep, table

import kmr
from kmr.artifact import folder as artifact
from kmr.data import as_data
from kmr.meters import Accuracy
from sweeps.examples.digits import digits, small_cnn
from sweeps.run import run
from sweeps.search.study.attributes import OUTCOME, RUNGS
from sweeps.search.study.failures import cause
from sweeps.search.study.journal import journal_to_read


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    code, _ = sweep(folder)
    assert code == 0
    return folder


def test_a_sweep_leaves_its_table_its_report_and_its_front(finished) -> None:
    frame = table(finished)
    assert frame[frame["last"]]["trial"].nunique() == 5, "four trials and the base model"
    assert frame.loc[frame["state"] == "complete", "meter/weight_bytes"].notna().all()
    assert frame["meter/accuracy"].between(0, 1).all()
    assert (finished / "small" / "report.html").stat().st_size > 1_000_000, "the page carries its plotting library"
    on_front = frame[frame["artifact"].notna()]
    assert {path.name for path in (finished / "small" / "front").iterdir()} == set(on_front["point"])
    assert on_front["test/accuracy"].notna().all()
    assert frame[frame["artifact"].isna()]["test/accuracy"].isna().all(), "test data is read for front members alone"


def test_every_intermediate_model_of_a_trace_is_a_point(finished) -> None:
    frame = table(finished)
    frame = frame[frame["state"] == "complete"]
    longest = frame.groupby("trial")["step"].max().max()
    trial = frame[frame["trial"] == frame.loc[frame["step"] == longest, "trial"].iloc[0]].sort_values("step")
    assert trial["step"].tolist() == list(range(1, longest + 1))
    lengths = [len(json.loads(sequence)) for sequence in trial["sequence"]]
    assert lengths == list(range(1, longest + 1))


def test_a_front_member_loads_without_pickle_and_measures_what_the_table_says(finished) -> None:
    frame = table(finished)
    data = as_data(digits(), 64)
    meter = Accuracy(data=data.validation)
    for _, row in frame[frame["artifact"].notna()].iterrows():
        folder = finished / "small" / row["artifact"]
        model = kmr.load(folder)
        assert meter(model).value == pytest.approx(row["meter/accuracy"], abs=1e-9)
        assert (folder / "model.safetensors").stat().st_size == row["meter/weight_bytes"]
        usage = artifact.read(folder).extra
        assert usage["inputs"] == {"tensor": [1, 8, 8], "dtype": "float32"}
        assert usage["preprocessing"] is None


def test_running_again_resumes_and_repeats_no_finished_trial(finished) -> None:
    before = table(finished)
    code, printed = sweep(finished)
    assert code == 0
    pd.testing.assert_frame_equal(table(finished), before)
    code, printed = sweep(finished, "trials=6")
    assert code == 0
    assert "4 finished before" in printed
    after = table(finished)
    kept = after[after["trial"].isin(before["trial"])]
    assert kept["finished"].tolist() == before["finished"].tolist()
    assert json.loads((finished / "small" / "meta.json").read_text())["trials"]["asked"] == 6


def test_a_study_is_not_continued_with_another_space(finished) -> None:
    code, _ = sweep(finished, "space.structured.ratio.high=0.5")
    assert code == 2


def test_the_message_for_a_changed_space_shows_both_values(finished, capsys) -> None:
    sweep(finished, "space.structured.ratio.high=0.5")
    error = capsys.readouterr().err
    assert "space.structured.ratio.high was 0.8, is 0.5" in error
    assert "name=" in error
    assert len(error.strip().splitlines()) == 1


def test_halving_stops_trials_early_and_measures_the_front_in_full(tmp_path) -> None:
    rungs = "+halving={fidelities: [0.3, 1.0], reduction: 4, grace: 2, z: 0}"
    code, printed = sweep(tmp_path, "trials=10", rungs.replace("+", ""), "finetune.epochs=2")
    assert code == 0, printed
    frame = table(tmp_path)
    stopped = frame[frame["state"] == "early-stopped"]
    assert len(stopped) >= 1
    assert stopped["error"].str.contains("stopped at a fidelity of 0.3: place").all()
    assert "stopped at a low fidelity" in printed
    study = optuna.load_study(study_name="small", storage=journal_to_read(tmp_path / "small"))
    low = [rung for trial in study.trials for rung in trial.user_attrs.get(RUNGS, ())]
    assert len(low) == 10
    assert {rung["fidelity"] for rung in low} == {0.3}
    assert sum(rung["passed"] is None for rung in low) == len(stopped)
    assert not set(frame[frame["artifact"].notna()]["trial"]) & set(stopped["trial"])


def test_a_changed_space_is_a_new_study_that_takes_over_what_fits(finished, capsys) -> None:
    code, printed = sweep(finished, "name=wider", "reuse=small", "space.structured.ratio.high=0.9", "trials=7")
    assert code == 0, printed
    known, wider = table(finished), table(finished, "wider")
    sequences = set(known[known["last"] & (known["state"] == "complete")]["sequence"])
    assert f'reused {len(sequences) - 1} of {len(sequences) - 1} trials from "small"' in printed, "but the base"
    assert sequences <= set(wider["sequence"])
    assert wider[wider["last"]]["trial"].nunique() == 8
    code, printed = sweep(
        finished, "name=narrow", f"reuse={finished / 'small'}", "space.structured.ratio.high=0.1", "trials=1"
    )
    assert code == 0, printed
    assert f' from "{finished / "small"}"' in printed, "a folder will do as well as a name"
    code, _ = sweep(finished, "name=nothing", "reuse=smal")
    assert code == 2
    assert "did you mean small? There are " in capsys.readouterr().err
    code, _ = sweep(finished, "name=other", "reuse=small", "seed=7")
    assert code == 2
    assert "that study differs in more than its space: seed was 0, is 7" in capsys.readouterr().err


def test_the_same_seed_gives_the_same_points(tmp_path, finished) -> None:
    code, _ = sweep(tmp_path, "trials=2")
    assert code == 0
    one, other = table(tmp_path), table(finished)
    both = other[other["trial"].isin(one["trial"])].reset_index(drop=True)
    columns = [name for name in one if name.startswith(("meter/", "knob/"))]
    pd.testing.assert_frame_equal(one[columns], both[columns])


@pytest.mark.parametrize(
    ("overrides", "named"),
    [
        (["trials=0"], "trials must be at least 1, not 0"),
        (["+space.structured.rato=0.5"], r"unknown knob structured.rato"),
        (["space.structured.ratio.high=1.5"], "space.structured.ratio cannot be 1.5"),
        (["space.quantize.bits.values=[8,9]"], "space.quantize.bits cannot be 9"),
        (["objectives=[weight_bytes,top1]"], "no meter is named top1"),
        (["objectives=[weight_bytes,neg_cross_entropy]"], "neg_cross_entropy is now cross_entropy, lower is better"),
        (["+limits.neg_kl=-0.1"], "neg_kl is now kl, lower is better"),
        (["objectives=[weight_bytes]"], "two or more"),
        (["name=a/b"], "name must be"),
        (["weights=/nowhere/model.safetensors"], "no weights at /nowhere/model.safetensors"),
        (["storage=postgresql://user:secret@127.0.0.1:9/none"], "storage postgresql"),
        (["storage=sqlite:////nowhere/at/all.db"], "storage sqlite:////nowhere/at/all.db cannot be reached"),
        (["sampler._target_=optuna.samplers.TPESamplr"], "has no TPESamplr"),
        (["data._target_=os.getcwd"], "not trusted"),
        (["finetune.epochs=-1"], "epochs, steps and warmup must be at least 0"),
        (["policy={_target_: kmr.policies.Greedy}"], "policy_space"),
        (
            [
                "policy={_target_: kmr.policies.Greedy}",
                "+policy_space.levels={low: 2, high: 3}",
                "objectives=[accuracy,kl]",
            ],
            "a sweep over a policy needs a cost among the objectives",
        ),
        (["meters.accuracy._target_=torch.nn.ReLU"], "neither a kmr Cost nor a Quality"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys, overrides, named) -> None:
    code, _ = sweep(tmp_path, *overrides)
    error = capsys.readouterr().err.strip()
    assert code == 2
    assert named in error
    assert len(error.splitlines()) == 1
    assert "secret" not in error


def test_a_file_in_the_way_of_the_folder_is_named(tmp_path, capsys) -> None:
    (tmp_path / "small").write_text("not a folder")
    code, _ = sweep(tmp_path)
    assert code == 2
    assert str(tmp_path / "small") in capsys.readouterr().err


def test_a_second_sweep_in_the_same_folder_is_refused(tmp_path, capsys) -> None:
    from filelock import FileLock

    (tmp_path / "small").mkdir()
    with FileLock(tmp_path / "small" / ".lock"):
        code, _ = sweep(tmp_path)
    assert code == 2
    assert "another sweep is running" in capsys.readouterr().err


def test_trials_that_diverge_are_failed_with_their_reason_and_the_sweep_ends_early(tmp_path, capsys) -> None:
    code, printed = sweep(tmp_path, "trials=20", "finetune.optimizer.lr=1e30", "+finetune.max_norm=null")
    assert code == 2
    assert "trials failed the same way" in capsys.readouterr().err
    assert "training loss became" in printed
    frame = table(tmp_path)
    failed = frame[frame["state"] == "failed"]
    assert 5 <= len(failed) < 20
    assert failed["error"].tail(5).map(cause).nunique() == 1
    assert (tmp_path / "small" / "report.html").exists()


def test_a_policy_is_searched_through_its_parameters(tmp_path) -> None:
    code, _ = sweep(
        tmp_path, "policy={_target_: kmr.policies.Greedy}", "+policy_space.budget={low: 0.1, high: 0.5}",
        "+policy_space.levels={low: 2, high: 3}", "trials=2",
    )  # fmt: skip
    assert code == 0
    frame = table(tmp_path)
    steps = frame[frame["trial"] == 0].sort_values("step")
    assert len(steps) >= 1
    assert steps["meter/weight_bytes"].is_monotonic_decreasing
    model = kmr.load(tmp_path / "small" / frame["artifact"].dropna().iloc[-1])
    assert isinstance(model, torch.nn.Module)


@pytest.mark.parametrize("sampler", ["nsga2", "nsga3", "gp", "random", "grid", "qmc"])
def test_every_sampler_runs(tmp_path, sampler) -> None:
    with initialize_config_module("conf", version_base="1.3"):
        argv = [*SMALL, f"output_dir={tmp_path}", "trials=3", f"sampler={sampler}", "finetune.epochs=0"]
        config = compose("config", overrides=argv)
    assert run(config, argv, Console(file=io.StringIO())) == 0
    assert json.loads((tmp_path / "small" / "meta.json").read_text())["trials"]["asked"] == 3


def test_sqlite_by_url_holds_the_same_study(tmp_path) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    code, _ = sweep(tmp_path, f"storage={url}", "trials=2")
    assert code == 0
    code, printed = sweep(tmp_path, f"storage={url}", "trials=3")
    assert code == 0
    assert "2 finished before" in printed
    study = optuna.load_study(study_name="small", storage=url)
    assert len([trial for trial in study.trials if OUTCOME in trial.user_attrs]) == 3


def start(folder: Path, *overrides: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "sweeps.run", *SMALL, f"output_dir={folder}", "trials=500", *overrides]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def wait_for_trials(folder: Path, count: int) -> None:
    journal = folder / "small" / "journal.log"
    for _ in range(600):
        if journal.exists() and journal.read_text().count(OUTCOME) >= count:
            return
        time.sleep(0.1)
    raise AssertionError("the sweep did not get going")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_sweep_writes_its_report_and_can_be_resumed(tmp_path, number, code) -> None:
    process = start(tmp_path)
    wait_for_trials(tmp_path, 2)
    process.send_signal(number)
    printed, _ = process.communicate(timeout=60)
    assert process.returncode == code, printed
    assert "Traceback" not in printed
    assert "resume" in printed
    frame = table(tmp_path)
    done = frame[(frame["state"] == "complete") & frame["last"]]
    assert len(done) >= 2
    assert (tmp_path / "small" / "report.html").exists()
    finished = int(done["trial"].nunique()) - 1
    again, printed = sweep(tmp_path, f"trials={finished + 1}")
    assert again == 0
    resumed = table(tmp_path)
    assert set(done["point"]) <= set(resumed["point"])


def test_a_killed_sweep_loses_no_finished_trial(tmp_path) -> None:
    process = Program(("-m", "sweeps.run", *SMALL, f"output_dir={tmp_path}", "trials=500"), tmp_path / "printed")
    wait_for_trials(tmp_path, 3)
    process.kill()
    code, _ = sweep(tmp_path, "trials=4")
    assert code == 0
    study = optuna.load_study(
        study_name="small",
        storage=optuna.storages.JournalStorage(
            optuna.storages.journal.JournalFileBackend(str(tmp_path / "small" / "journal.log"))
        ),
    )
    assert [t for t in study.trials if t.state == optuna.trial.TrialState.RUNNING] == []
    frame = table(tmp_path)
    assert set(frame.loc[frame["artifact"].notna(), "point"]) == {p.name for p in (tmp_path / "small/front").iterdir()}


def test_small_cnn_takes_its_width() -> None:
    assert small_cnn(width=4)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_a_sweep_that_has_tried_everything_offers_no_more(tmp_path: Path) -> None:
    two = ["space.structured.ratio=null", "space.lowrank.keep=null", "space.quantize.bits.values=[32,8]"]
    code, said = sweep(tmp_path, *two, "trials=9")
    assert code == 0
    assert "found no new vector" in said
    assert "extend" not in said
    assert "extend" in sweep(tmp_path, *two, "trials=1", "name=other")[1]
