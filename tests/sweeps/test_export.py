import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml

import kmr
from kmr.artifact.folder import Builder
from kmr.core import Move, Reading
from kmr.data.description import describe_inputs
from kmr.instantiations.quantization import WeightQuantization
from kmr.runtimes.pt2 import load_pt2
from sweeps.errors import SweepError
from sweeps.examples.digits import digits, small_cnn
from sweeps.export import locate, main

BUILDER = Builder("sweeps.examples.digits.small_cnn", {"width": 4})
DATA = {"_target_": "sweeps.examples.digits.digits", "validation": 60, "test": 60}


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study's folder with two points of one trial on its front."""
    folder = tmp_path_factory.mktemp("runs") / "mine"
    with kmr.isolated_rng(0):
        base = small_cnn(4).eval()
    model = WeightQuantization()(base, "quantize.bits", 8)
    inputs = describe_inputs(digits()["train"][0][:1])
    for point, saved, moves in (("4.1", base, ()), ("4.2", model, (Move("quantize.bits", 8),))):
        extra = {"study": "mine", "point": point, "inputs": inputs, "preprocessing": {"divided by": 8}}
        kmr.save(
            folder / "front" / point, saved, base=base, builder=BUILDER, sequence=moves,
            readings={"accuracy": Reading(0.5, 0.1)}, extra=extra,
        )  # fmt: skip
    (folder / "config.yaml").write_text(yaml.safe_dump({"data": DATA, "eval_batch_size": 50}))
    return folder


def output(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model(digits()["validation"][0])


def test_a_point_is_found_by_its_name_its_trial_or_its_folder(study: Path) -> None:
    assert locate(study, trial=4).point == "4.2"
    assert locate(study, point="4.1").folder == study / "front" / "4.1"
    alone = locate(study / "front" / "4.1")
    assert (alone.point, alone.study) == ("4.1", study)
    for asked, message in (
        ({"trial": 3}, "trial 3 has no saved model"), ({"point": "4.3"}, "only front members are saved: 4.1, 4.2"),
        ({}, "no point is named"),
    ):  # fmt: skip
        with pytest.raises(SweepError, match=message):
            locate(study, **asked)  # type: ignore[arg-type]
    with pytest.raises(SweepError, match="neither a study's folder"):
        locate(study.parent, trial=4)


def test_packed_is_the_artifact_and_loads_the_same(study: Path, tmp_path: Path) -> None:
    assert main([str(study), "--trial", "4", "--to", "packed", "--out", str(tmp_path / "out")]) == 0
    assert torch.equal(output(kmr.load(tmp_path / "out")), output(kmr.load(study / "front" / "4.2")))


def test_pt2_runs_without_the_models_code(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "model.pt2"
    assert main([str(study), "--point", "4.2", "--to", "pt2", "--out", str(path)]) == 0
    assert "same class for 100.00% of 60 samples" in capsys.readouterr().out
    program, notes = load_pt2(path)
    model = kmr.load(study / "front" / "4.2")
    torch.testing.assert_close(program(digits()["validation"][0]), output(model))
    assert notes["knobs"] == [{"knob": "quantize.bits", "value": 8}]
    assert notes["inputs"] == ["input"]


def test_onnx_carries_what_it_is_and_how_it_was_checked(study: Path, tmp_path: Path) -> None:
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    pytest.importorskip("onnxruntime")
    from kmr.runtimes.onnx_graph import annotations

    path = tmp_path / "model.onnx"
    command = [str(study), "--trial", "4", "--to", "onnx", "--out", str(path), "--tolerance", "0.2"]
    assert main(command) == 0
    notes = annotations(onnx.load(path))
    assert notes["study"] == "mine"
    assert notes["point"] == "4.2"
    assert notes["precision"] == "int8"
    assert notes["meters"]["accuracy"] == {"value": 0.5, "stderr": 0.1}
    assert notes["preprocessing"] == {"divided by": 8}
    assert notes["check"]["samples"] == 60
    assert abs(notes["check"]["difference"]) <= 0.2
    assert main(command) == 2, "it exists already"


def test_without_the_studys_folder_a_model_is_written_unchecked(
    study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    alone = shutil.copytree(study / "front" / "4.1", tmp_path / "downloaded")
    path = tmp_path / "model.pt2"
    assert main([str(alone), "--to", "pt2", "--out", str(path)]) == 0
    assert "not checked" in capsys.readouterr().out
    torch.testing.assert_close(load_pt2(path)[0](digits()["validation"][0]), output(kmr.load(alone)))
    card = json.loads((alone / "kmr.json").read_text())
    del card["extra"]["inputs"]
    (alone / "kmr.json").write_text(json.dumps(card))
    assert main([str(alone), "--to", "pt2", "--out", str(tmp_path / "other.pt2")]) == 2
    assert "does not say what its inputs are" in capsys.readouterr().err


def test_code_that_is_not_trusted_is_not_run(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = shutil.copytree(study / "front" / "4.1", tmp_path / "downloaded")
    card = json.loads((alone / "kmr.json").read_text())
    card["builder"]["target"] = "antigravity.fly"
    (alone / "kmr.json").write_text(json.dumps(card))
    assert main([str(alone), "--to", "pt2", "--out", str(tmp_path / "x.pt2")]) == 2
    assert "--trust MODULE" in capsys.readouterr().err


def test_a_damaged_model_is_not_passed_on(study: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    alone = shutil.copytree(study / "front" / "4.1", tmp_path / "downloaded")
    weights = alone / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"!")
    assert main([str(alone), "--to", "packed", "--out", str(tmp_path / "out")]) == 2
    assert "damaged" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_the_check_reads_the_data_by_the_task_of_the_study(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "border_data.py").write_text(
        "import torch\n"
        "def data():\n"
        "    pair = torch.randn(40, 4), torch.randint(0, 3, (40,)).index_fill(0, torch.arange(9), 255)\n"
        "    return dict.fromkeys(('train', 'validation', 'test'), pair)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    builder = Builder("torch.nn.Linear", {"in_features": 4, "out_features": 3})
    base = builder.build()
    kmr.save(tmp_path / "study" / "front" / "1.0", base, base=base, builder=builder, sequence=(), readings={}, extra={})
    task = {"_target_": "kmr.tasks.Classification", "ignore_index": 255}
    config = {"data": {"_target_": "border_data.data"}, "task": task}
    (tmp_path / "study" / "config.yaml").write_text(yaml.safe_dump(config))
    command = [str(tmp_path / "study"), "--point", "1.0", "--to", "pt2", "--out", str(tmp_path / "model.pt2")]
    assert main([*command, "--trust", "border_data"]) == 0
    assert "40 samples" in capsys.readouterr().out
