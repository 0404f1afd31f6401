"""State dicts in every form that training scripts write."""

import argparse
import json
import pickle

import pytest
import torch
from torch import nn

from kmr.artifact.state_dict import load_weights
from kmr.core import KMRError
from kmr.instantiations.distillation import pretrained

safetensors = pytest.importorskip("safetensors.torch", reason="safetensors is not installed")


def made(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 2))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Embedding(6, 4), nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight


def same(one: nn.Module, other: nn.Module) -> bool:
    theirs = other.state_dict()
    return all(torch.equal(value, theirs[name]) for name, value in one.state_dict().items())


def prefixed(prefix: str) -> dict[str, torch.Tensor]:
    return {prefix + name: value for name, value in made(1).state_dict().items()}


@pytest.mark.parametrize(
    ("nest", "said"),
    [
        (lambda s: s, ""),
        (lambda s: {"epoch": 3, "state_dict": s}, "read state_dict"),
        (lambda s: {"model_state_dict": s, "optimizer": {"state": {}}}, "read model_state_dict"),
        (lambda s: {"model": s, "ema": s, "best": torch.tensor(0.9)}, "read model (not ema)"),
        (lambda s: {"ema": {"state_dict": s}}, "read ema.state_dict"),
    ],
)
@pytest.mark.parametrize("old_format", [False, True])
def test_a_checkpoint_is_read_where_the_state_dict_lies(tmp_path, nest, said, old_format) -> None:
    torch.save(nest(made(1).state_dict()), tmp_path / "m.pt", _use_new_zipfile_serialization=not old_format)
    model = made()
    assert said in " ".join(load_weights(model, tmp_path / "m.pt"))
    assert same(model, made(1))


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "module._orig_mod.", "model._orig_mod.module."])
@pytest.mark.parametrize("form", ["pt", "safetensors"])
def test_prefixes_of_wrappers_are_taken_off_and_said(tmp_path, prefix, form) -> None:
    path = tmp_path / f"m.{form}"
    extra = {"loss.weight": torch.ones(2)} if prefix == "model." else {}
    (torch.save if form == "pt" else safetensors.save_file)({**prefixed(prefix), **extra}, path)
    model = made()
    notes = " ".join(load_weights(model, path))
    assert f"took the prefix {prefix} off" in notes
    assert ("loss.weight" in notes) == bool(extra)
    assert same(model, made(1))


def test_a_module_whose_own_name_is_model_keeps_its_names(tmp_path) -> None:
    model, other = nn.ModuleDict({"model": made()}), nn.ModuleDict({"model": made(1)})
    torch.save(other.state_dict(), tmp_path / "m.pth")
    assert load_weights(model, tmp_path / "m.pth") == ()
    assert same(model, other)


@pytest.mark.parametrize("named", ["model.safetensors.index.json", "."])
def test_shards_are_read_by_their_index_or_folder(tmp_path, named) -> None:
    state = made(1).state_dict()
    places = {name: f"model-{1 + place % 2}.safetensors" for place, name in enumerate(state)}
    for file in set(places.values()):
        safetensors.save_file({name: state[name] for name in state if places[name] == file}, tmp_path / file)
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    model = made()
    assert "2 shards" in " ".join(load_weights(model, tmp_path / named))
    assert same(model, made(1))
    (tmp_path / "model-2.safetensors").unlink()
    with pytest.raises(KMRError, match=r"model-2\.safetensors is missing: model\.safetensors\.index\.json names it"):
        load_weights(model, tmp_path)


def test_a_shard_outside_the_folder_is_refused(tmp_path) -> None:
    (tmp_path / "m.safetensors.index.json").write_text('{"weight_map": {"a": "../b.safetensors"}}')
    with pytest.raises(KMRError, match="must lie beside its index"):
        load_weights(made(), tmp_path)


def test_tied_tensors_may_be_there_once_but_not_differ(tmp_path) -> None:
    other, model = Tied(), Tied()
    safetensors.save_model(other, str(tmp_path / "m.safetensors"))
    load_weights(model, tmp_path / "m.safetensors")
    assert same(model, other)
    torch.save({"embed.weight": torch.zeros(6, 4), "head.weight": torch.ones(6, 4)}, tmp_path / "m.pt")
    with pytest.raises(KMRError, match=r"embed\.weight, head\.weight are one tensor in it, but differ"):
        load_weights(model, tmp_path / "m.pt")


def test_old_names_that_torch_translates_still_load(tmp_path) -> None:
    with pytest.warns(FutureWarning):
        old = nn.utils.weight_norm(nn.Linear(4, 2))
    torch.save(old.state_dict(), tmp_path / "m.pt")
    new = nn.utils.parametrizations.weight_norm(nn.Linear(4, 2))
    load_weights(new, tmp_path / "m.pt")
    assert torch.equal(new(torch.ones(1, 4)), old(torch.ones(1, 4)))


def test_rounding_is_said(tmp_path) -> None:
    torch.save(made(1).state_dict(), tmp_path / "m.pt")
    (note,) = load_weights(made().bfloat16(), tmp_path / "m.pt")
    assert note.startswith("rounded 0.weight, 0.bias, 1.weight, 1.bias and 4 more from torch.float32 to the model's")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: s.pop("2.weight"), r"it lacks 2\.weight"),
        (lambda s: s.update({"3.weight": torch.ones(1)}), r"the model has no 3\.weight"),
        (lambda s: s.update({"2.weight": torch.ones(3, 8)}), r"2\.weight has shape \(3, 8\), the model's \(2, 8\)"),
        (lambda s: s.update({"2.bias": torch.ones(2).to_sparse()}), r"2\.bias is torch\.sparse_coo on cpu: save its"),
        (lambda s: s.update({"2.bias": torch.ones(2, device="meta")}), r"2\.bias is torch\.strided on meta: save its"),
        (
            lambda s: s.update({"2.bias": torch.ones(2).to(torch.float8_e4m3fn)}),
            r"2\.bias is torch\.float8_e4m3fn",
        ),
        (lambda s: s.update({"2.bias": torch.ones(2, dtype=torch.int8)}), r"2\.bias is torch\.int8, the model's"),
    ],
)
@pytest.mark.parametrize("prefix", ["", "module."])
def test_what_does_not_fit_is_refused_by_name(tmp_path, change, said, prefix) -> None:
    state = dict(made(1).state_dict())
    change(state)
    torch.save({prefix + name: value for name, value in state.items()}, tmp_path / "m.pt")
    with pytest.raises(KMRError, match=said):
        load_weights(made(), tmp_path / "m.pt")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "not a safetensors file nor one of torch.save"),
        (b"version https://git-lfs", "not a safetensors file nor one of torch.save"),
        (b"PK\x03\x04 cut short", "is damaged, or cannot be read without running code"),
        (b"\x10\0\0\0\0\0\0\0{ cut", "is not a safetensors file, or it is damaged"),
        (pickle.dumps(made, protocol=2), "without running code from it"),
    ],
)
def test_damaged_files_and_code_are_refused(tmp_path, content, said) -> None:
    (tmp_path / "m.pt").write_bytes(content)
    with pytest.raises(KMRError, match=said):
        load_weights(made(), tmp_path / "m.pt")


@pytest.mark.parametrize(
    ("held", "said"),
    [
        (made(), "without running code from it"),
        ({"state_dict": {}, "args": argparse.Namespace()}, r"from it \(it holds argparse\.Namespace\)"),
        ([torch.ones(2)], "holds a list, not a state dict"),
        ({"epoch": 3, "net": {"a": torch.ones(1)}}, "a dict of epoch, net, not a state dict"),
    ],
)
def test_other_objects_are_refused(tmp_path, held, said) -> None:
    torch.save(held, tmp_path / "m.pt")
    with pytest.raises(KMRError, match=said):
        load_weights(made(), tmp_path / "m.pt")


def test_missing_and_ambiguous_files_are_named(tmp_path) -> None:
    with pytest.raises(KMRError, match="no weights in the folder"):
        load_weights(made(), tmp_path)
    for name in ("a.pt", "b.pt"):
        torch.save(made().state_dict(), tmp_path / name)
    with pytest.raises(KMRError, match=r"holds 2 \.pt files \(a\.pt, b\.pt\): name one"):
        load_weights(made(), tmp_path)
    with pytest.raises(KMRError, match="no weights at"):
        load_weights(made(), tmp_path / "c.pt")


def test_an_averaged_model_is_read_without_its_counter(tmp_path) -> None:
    torch.save(torch.optim.swa_utils.AveragedModel(made(1)).state_dict(), tmp_path / "m.pt")
    model = made()
    notes = " ".join(load_weights(model, tmp_path / "m.pt"))
    assert "took the prefix module. off 9 names" in notes
    assert "left out n_averaged, outside module." in notes
    assert same(model, made(1))


def test_two_models_in_one_file_are_refused(tmp_path) -> None:
    torch.save({**prefixed("model."), **prefixed("module.")}, tmp_path / "m.pt")
    with pytest.raises(KMRError, match=r"holds the model under module\. and under model\.: save the one you mean"):
        load_weights(made(), tmp_path / "m.pt")


def test_parameters_on_one_memory_are_stored_once(tmp_path) -> None:
    model, other = Tied(), Tied()
    for each in (model, other):
        each.head.weight = nn.Parameter(each.embed.weight.data)
    safetensors.save_model(other, str(tmp_path / "m.safetensors"))
    assert load_weights(model, tmp_path / "m.safetensors") == ()
    assert torch.equal(model.head.weight, other.embed.weight)


def test_values_that_the_model_cannot_hold_are_refused(tmp_path) -> None:
    state = {**made(1).state_dict(), "2.bias": torch.tensor([1e6, 0.0])}
    torch.save(state, tmp_path / "m.pt")
    with pytest.raises(KMRError, match=r"2\.bias has values beyond the model's torch\.float16"):
        load_weights(made().half(), tmp_path / "m.pt")
    torch.save({**state, "2.bias": torch.tensor([float("nan"), 0.0])}, tmp_path / "m.pt")
    load_weights(model := made(), tmp_path / "m.pt")
    assert model[2].bias.isnan()[0]


@pytest.mark.parametrize("extra", [{"3.weight": torch.ones(1)}, {"2.weight_v": torch.ones(2, 8)}])
def test_a_refused_file_leaves_the_model_as_it_was(tmp_path, extra) -> None:
    state = dict(made(1).state_dict())
    del state["2.weight"]
    torch.save({**state, **extra}, tmp_path / "m.pt")
    with pytest.raises(KMRError, match=r"it lacks 2\.weight; the model has no"):
        load_weights(model := made(), tmp_path / "m.pt")
    assert same(model, made())


def test_files_of_old_versions_without_counters_of_batches_load(tmp_path) -> None:
    state = {name: value for name, value in made(1).state_dict().items() if "num_batches" not in name}
    safetensors.save_file(state, tmp_path / "m.safetensors")
    load_weights(model := made(), tmp_path / "m.safetensors")
    assert same(model, made(1))


def test_a_teacher_takes_any_of_these_files(tmp_path) -> None:
    torch.save({"state_dict": prefixed("module.")}, tmp_path / "m.ckpt")
    teacher = pretrained(made().train(), str(tmp_path / "m.ckpt"))
    assert same(teacher, made(1))
    assert not teacher.training
    with pytest.raises(KMRError, match="the teacher's weights: no weights at"):
        pretrained(made(), str(tmp_path / "none.pt"))
