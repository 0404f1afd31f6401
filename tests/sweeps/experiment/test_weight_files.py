"""Weights as people have them: read, or refused with the file, the keys and the shapes."""

import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from sweeps.errors import SweepError
from sweeps.experiment.base_weights import _check, _keep, load_weights


def net():
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embedding, self.head = nn.Embedding(5, 3), nn.Linear(3, 5, bias=False)
        self.head.weight = self.embedding.weight


STATE = {name: torch.randn_like(value.float()).to(value.dtype) for name, value in net().state_dict().items()}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("model.pt", STATE),
        ("model.pth", {"epoch": 3, "state_dict": STATE}),
        ("model.pt", {"model": {f"module.{name}": value for name, value in STATE.items()}}),
        ("model.ckpt", {"state_dict": {f"model._orig_mod.{name}": value for name, value in STATE.items()}}),
        ("model.bin", {f"_orig_mod.{name}": value for name, value in STATE.items()}),
    ],
)
def test_a_checkpoint_is_read_and_what_was_done_is_said(name, content, tmp_path, capsys) -> None:
    torch.save(content, tmp_path / name)
    model = load_weights(net(), tmp_path / name)
    assert all(torch.equal(value, STATE[key]) for key, value in model.state_dict().items())
    said = capsys.readouterr().out
    assert ("took the prefix" in said) == any("." in key and key not in STATE for key in _names(content))
    assert ("read " in said) == (set(content) != set(STATE) and not any(key.endswith("bias") for key in content))


def _names(content):
    inner = content.get("state_dict") or content.get("model") or content
    return list(inner)


def test_safetensors_whole_or_in_shards(tmp_path) -> None:
    save_file(STATE, tmp_path / "model.safetensors")
    assert torch.equal(load_weights(net(), tmp_path / "model.safetensors")[0].weight, STATE["0.weight"])
    shards = tmp_path / "shards"
    shards.mkdir()
    parts = {"a.safetensors": dict(list(STATE.items())[:3]), "b.safetensors": dict(list(STATE.items())[3:])}
    for name, part in parts.items():
        save_file(part, shards / name)
    index = {"weight_map": {key: name for name, part in parts.items() for key in part}}
    (shards / "model.safetensors.index.json").write_text(json.dumps(index))
    for path in (shards, shards / "model.safetensors.index.json"):
        assert torch.equal(load_weights(net(), path)[2].bias, STATE["2.bias"])
    (shards / "b.safetensors").unlink()
    with pytest.raises(SweepError, match=r"b\.safetensors is missing"):
        load_weights(net(), shards)


def test_a_folder_of_several_whole_files_is_refused(tmp_path) -> None:
    for name in ("one", "other"):
        save_file(STATE, tmp_path / f"{name}.safetensors")
    with pytest.raises(SweepError, match=r"holds 2 \.safetensors files"):
        load_weights(net(), tmp_path)


def test_tied_weights_are_stored_once(tmp_path) -> None:
    weight = torch.randn(5, 3)
    save_file({"head.weight": weight}, tmp_path / "model.safetensors")
    model = load_weights(Tied(), tmp_path / "model.safetensors")
    assert torch.equal(model.embedding.weight, weight)
    assert model.head.weight is model.embedding.weight
    save_file({"head.weight": weight, "embedding.weight": weight + 1}, tmp_path / "other.safetensors")
    with pytest.raises(SweepError, match=r"embedding\.weight, head\.weight are one tensor in it, but differ"):
        load_weights(Tied(), tmp_path / "other.safetensors")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({"0.weight": torch.zeros(4, 3)}, r"it lacks 0\.bias, 1\.weight, 1\.bias, 1\.running_mean and 4 more"),
        ({**STATE, "extra": torch.zeros(1)}, "the model has no extra"),
        ({**STATE, "0.weight": torch.zeros(4, 9)}, r"0\.weight has shape \(4, 9\), the model's \(4, 3\)"),
        (
            {**STATE, "0.weight": torch.zeros(4, 3, dtype=torch.int8)},
            r"0\.weight is torch\.int8, the model's torch\.float32",
        ),
        ({"epoch": 3, "lr": 0.1}, "a dict of epoch, lr, not a state dict"),
    ],
)
def test_what_does_not_fit_is_named(content, named, tmp_path) -> None:
    torch.save(content, tmp_path / "model.pt")
    with pytest.raises(SweepError, match=named):
        load_weights(net(), tmp_path / "model.pt")


def test_no_code_of_a_file_runs(tmp_path) -> None:
    torch.save(net(), tmp_path / "model.pt")
    with pytest.raises(SweepError, match="without running code from it"):
        load_weights(net(), tmp_path / "model.pt")
    with pytest.raises(SweepError, match="no weights at"):
        load_weights(net(), tmp_path / "none.pt")


def test_a_kept_base_is_whole_or_trained_again(tmp_path) -> None:
    cached = tmp_path / ".cache" / "base-1.safetensors"
    model = net()
    _keep(model, cached)
    _keep(model, cached)
    _check(cached)
    assert torch.equal(load_weights(net(), cached)[0].weight, model[0].weight)
    assert sorted(path.name for path in cached.parent.iterdir()) == ["base-1.safetensors", "base-1.sha256"]
    damaged = bytearray(cached.read_bytes())
    damaged[-1] ^= 1
    cached.write_bytes(damaged)
    with pytest.raises(SweepError, match="is damaged"):
        _check(cached)
