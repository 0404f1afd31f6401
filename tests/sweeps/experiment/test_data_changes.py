"""A study whose data differ at its next start says which samples do."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from small import sweep
from torch.utils.data import Dataset

from kmr.data import Data, Split
from sweeps.experiment.data_changes import named_changes, parts_of

MODULE = """
from pathlib import Path

from sweeps.examples.digits import digits


def data(**settings):
    made = digits(**settings)
    starts = Path("starts")
    starts.write_text((starts.read_text() if starts.exists() else "") + "x")
    made["train"][0][700] += len(starts.read_text())
    return made
"""


def made(samples: int = 1000) -> Data:
    split = Split((torch.arange(samples).float()[:, None], torch.arange(samples)))
    return Data(split, split.subset(300), split.subset(3))


class Listed(Dataset):
    def __init__(self, samples: int, changed: int | None = None) -> None:
        self.samples, self.changed = samples, changed

    def __len__(self) -> int:
        return self.samples

    def __getitem__(self, place: int) -> tuple[torch.Tensor, int]:
        return torch.full((2,), place + 0.5 * (place == self.changed)), place


def test_equal_data_have_equal_parts() -> None:
    assert parts_of(made(), 0) == parts_of(made(), 1)
    assert len(parts_of(made(), 0)["train"]["parts"]) == 250


def test_changed_samples_are_named() -> None:
    data = made()
    inputs, targets = data.train.source
    changed = inputs.clone()
    changed[[17, 900]] += 1
    other = replace(data, train=replace(data.train, source=(changed, targets), _fingerprint=[]))
    said = named_changes(parts_of(data, 0), parts_of(other, 0))
    assert said == "train: samples 16 to 19, and 1 of 249 other parts"
    other = replace(data, test=Split((inputs[:3] * torch.tensor([[1.0], [1], [5]]), targets[:3])))
    assert named_changes(parts_of(data, 0), parts_of(other, 0)) == "test: sample 2"


def test_another_number_of_samples_is_named() -> None:
    assert named_changes(parts_of(made(1000), 0), parts_of(made(900), 0)) == "train had 1000 samples, has 900"


def test_the_first_samples_of_a_dataset_are_named() -> None:
    data = made()
    one, other = (replace(data, train=Split(Listed(500, changed))) for changed in (None, 40))
    assert named_changes(parts_of(one, 0), parts_of(other, 0)) == "train: sample 40"
    other = replace(data, train=Split(Listed(500, 400)))
    assert "no digest of their own" in named_changes(parts_of(one, 0), parts_of(other, 0))


def test_a_resumed_sweep_names_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "a_users_data.py").write_text(MODULE)
    own = ["trusted_modules=[a_users_data]", "data._target_=a_users_data.data"]
    assert sweep(tmp_path, *own, "trials=1")[0] == 0
    assert sweep(tmp_path, *own, "trials=2")[0] == 2
    error = capsys.readouterr().err
    assert "was made from other data: data._target_ makes other samples than before (train: samples" in error
    assert "data_identity" in error
