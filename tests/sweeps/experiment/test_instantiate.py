import sys

import pytest
import torch

from kmr.data import Split, as_data
from sweeps.errors import SweepError
from sweeps.experiment.choose_task import with_task
from sweeps.experiment.instantiate import part

LABELS = torch.tensor([0, 1, 1, 0])


@pytest.mark.parametrize(
    "target",
    [
        "os.system",
        "torch.load",
        "torch.hub.load",
        "pandas.read_pickle",
        "urllib.request.urlretrieve",
        "pathlib.Path.unlink",
        "builtins.eval",
        "sweeps.run.main",
    ],
)
def test_code_that_nobody_trusts_is_refused_by_name(target: str) -> None:
    with pytest.raises(SweepError, match=f"names {target}, which is not trusted.*trusted_modules"):
        part("model", {"_target_": target})


@pytest.mark.parametrize(
    "target",
    [
        "torch.nn.functional.torch.load",
        "kmr.data.split.hashlib.sha256",
        "sweeps.examples.cifar.Path",
        "kmr.finetune.loop.torch.load",
    ],
)
def test_code_reached_through_a_trusted_module_is_still_not_trusted(target: str) -> None:
    with pytest.raises(SweepError, match="not trusted"):
        part("model", {"_target_": target})


def test_a_target_nested_in_arguments_is_checked_too() -> None:
    config = {"_target_": "torch.nn.Linear", "in_features": {"_target_": "os.getpid"}, "out_features": 2}
    with pytest.raises(SweepError, match=r"model\.in_features names os\.getpid"):
        part("model", config)
    with pytest.raises(SweepError, match=r"os\.getpid"):
        part("model", {"_target_": "torch.nn.Linear", "in_features": [{"_target_": "os.getpid"}], "out_features": 2})


def test_a_users_module_works_once_it_is_trusted(tmp_path, monkeypatch) -> None:
    (tmp_path / "users_own_model.py").write_text("def build(width, seed=None):\n    return width, seed\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    config = {"_target_": "users_own_model.build", "width": 3}
    with pytest.raises(SweepError, match=r"trusted_modules=\[users_own_model\]"):
        part("model", config)
    assert part("model", config, ["users_own_model"], seed=7, other=1) == (3, 7)
    assert part("model", {**config, "seed": 9}, ["users_own_model"], seed=7) == (3, 9), "the config has the last word"


@pytest.mark.parametrize(
    ("config", "named"),
    [
        (None, "_target_"),
        ({"width": 3}, "_target_"),
        ({"_target_": "torch.nn.Lineer", "in_features": 1}, "has no Lineer"),
        ({"_target_": "nowhere.at.all"}, "nowhere.*not trusted"),
        ({"_target_": "torch.nn.Linear", "in_features": 1}, "out_features"),
        ({"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 2, "width": 3}, "width"),
        ({"_target_": "kmr.finetune.FineTune", "data": None, "schedule": "steep"}, "steep"),
    ],
)
def test_a_part_that_cannot_be_made_names_what_is_wrong(config, named) -> None:
    with pytest.raises(SweepError, match=f"(?s)model.*{named}"):
        part("model", config)


def test_a_missing_module_is_told_from_a_module_that_fails(tmp_path, monkeypatch) -> None:
    (tmp_path / "broken_users_module.py").write_text("import surely_not_installed\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    with pytest.raises(SweepError, match="needs the module surely_not_installed"):
        part("model", {"_target_": "broken_users_module.build"}, ["broken_users_module"])
    with pytest.raises(SweepError, match="there is no module absent_users_module"):
        part("model", {"_target_": "absent_users_module.build"}, ["absent_users_module"])


def test_code_from_a_hub_never_runs() -> None:
    config = {"_target_": "torch.nn.Linear", "in_features": 1, "out_features": 1, "trust_remote_code": True}
    with pytest.raises(SweepError, match="model sets trust_remote_code, which runs code of others"):
        part("model", config)


def test_a_loss_is_imported_only_if_it_is_trusted(tmp_path, monkeypatch) -> None:
    (tmp_path / "untrusted_loss.py").write_text("raise RuntimeError('imported')")
    monkeypatch.syspath_prepend(str(tmp_path))
    loss = {"_target_": "untrusted_loss.loss", "_partial_": True}
    pair = (torch.zeros(4, 2), torch.zeros(4, dtype=torch.long))
    data = as_data({"train": pair, "validation": pair, "test": pair}, 2)
    with pytest.raises(SweepError, match=r"finetune\.loss names untrusted_loss\.loss, which is not trusted"):
        with_task(torch.nn.Linear(2, 2), data, {"finetune": {"loss": loss}}, ())
    assert "untrusted_loss" not in sys.modules


@pytest.mark.parametrize("partial", [False, True])
def test_weights_of_torchs_losses_may_be_lists(partial: bool) -> None:
    loss = {"_target_": "torch.nn.CrossEntropyLoss", "weight": [1.0, 3.0], **({"_partial_": True} if partial else {})}
    made = part("train", {"_target_": "kmr.finetune.FineTune", "loss": loss}, data=Split((torch.randn(4, 2), LABELS)))
    outputs = torch.randn(4, 2)
    expected = torch.nn.functional.cross_entropy(outputs, LABELS, weight=torch.tensor([1.0, 3.0]))
    torch.testing.assert_close(made.loss(outputs, LABELS), expected)


@pytest.mark.parametrize("wrong", ["inputs", "targets"])
def test_nan_in_a_later_sample_is_refused_before_anything_is_trained(wrong: str) -> None:
    inputs, targets = torch.randn(40, 3), torch.randn(40, 3)
    (inputs if wrong == "inputs" else targets)[17, 1] = torch.nan
    data = as_data(dict.fromkeys(("train", "validation", "test"), (inputs, targets)), 8)
    with pytest.raises(SweepError, match=rf"train data: {wrong}.* contain NaN.*leave"):
        with_task(torch.nn.Linear(3, 3), data, {}, ())


def test_nan_in_inputs_that_the_model_handles_is_fine() -> None:
    inputs = torch.tensor([[1.0, torch.nan]] * 8)
    data = as_data(dict.fromkeys(("train", "validation", "test"), (inputs, torch.randn(8, 2))), 8)

    class Fills(torch.nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x.nan_to_num())

    assert with_task(Fills(2, 2), data, {}, ()).test.task is not None
