"""A user's files and functions: marks of editors, and random numbers drawn at the start."""

import io
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir
from rich.console import Console

import conf
from sweeps.run import run
from sweeps.terminal.config_files import read_files_as_written

MODEL = """
import random
import numpy as np
import torch
from torch import nn
from torch.utils.data import Dataset

class Signals(Dataset):
    def __init__(self, n, seed, train):
        g = torch.Generator().manual_seed(seed)
        self.x = torch.randn(n, 8, generator=g)
        self.y, self.train = (self.x.sum(1) > 0).long(), train

    def __len__(self):
        return len(self.x)

    def __getitem__(self, i):
        x = self.x[i]
        if self.train:
            x = x * random.uniform(0.8, 1.2) + torch.from_numpy(np.random.normal(0, 0.05, 8).astype("float32"))
        return x, self.y[i]

def build():
    return nn.Linear(8, 2)

def data():
    return {"train": Signals(60, 0, True), "validation": Signals(40, 1, False), "test": Signals(40, 2, False)}
"""
EXPERIMENT = """# @package _global_
defaults:
  - /rule: [quantize]
  - /meter: [weight_bytes, accuracy]
  - override /finetune: none
name: augmented
objectives: [weight_bytes, accuracy]
trusted_modules: [augmented_signals]
model: {_target_: augmented_signals.build}
data: {_target_: augmented_signals.data}
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "exp").mkdir()
    (tmp_path / "augmented_signals.py").write_text(MODEL)
    (tmp_path / "exp" / "augmented.yaml").write_text(EXPERIMENT)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def sweep(folder: Path, *overrides: str) -> tuple[int, str]:
    argv = [
        "+exp=augmented", f"output_dir={folder}/runs", "trials=2", "threads=1", "noise.seconds=0",
        "report.images=false", "tracking.enabled=false", *overrides,
    ]  # fmt: skip
    read_files_as_written()
    with initialize_config_dir(str(Path(conf.__file__).parent), version_base="1.3"):
        config = compose("config", overrides=[f"hydra.searchpath=[file://{folder}]", *argv])
    console = Console(file=io.StringIO(), width=200, record=True)
    return run(config, argv, console), console.export_text()


def test_a_study_of_augmented_data_goes_on(folder) -> None:
    assert sweep(folder)[0] == 0
    code, said = sweep(folder, "trials=4")
    assert code == 0, said
    assert "4/4 trials" in said


def test_a_config_with_a_byte_order_mark_and_windows_lines_is_read(folder, capsys) -> None:
    path = folder / "exp" / "augmented.yaml"
    path.write_bytes(("\ufeff" + EXPERIMENT.replace("\n", "\r\n")).encode())
    code, said = sweep(folder)
    assert code == 0, said
    assert f"{path} begins with a byte order mark" in capsys.readouterr().out
