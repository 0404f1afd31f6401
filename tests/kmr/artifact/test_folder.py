import copy
import json
import pickle
import subprocess
import sys

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import kmr
from kmr.artifact import folder as artifact
from kmr.artifact.folder import Builder
from kmr.core import KMRError, Move, Reading
from kmr.data import Split
from kmr.finetune import FineTune
from kmr.meters import WeightBytes
from kmr.representation.weights import Grid, WeightState, read_weight, write_weight

torch.set_num_threads(1)


class Residual(nn.Module):
    """A custom class whose forward is functional in part."""

    def __init__(self, width=8, classes=5):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(width)
        self.inner = nn.Conv2d(width, width, 3, padding=1)
        self.outer = nn.Conv2d(width, width, 3, padding=1)
        self.head = nn.Linear(width, classes)
        self.register_buffer("offset", torch.linspace(0, 1, classes), persistent=False)
        self.register_buffer("seen", torch.tensor(0))

    def forward(self, x):
        x = F.relu(self.norm(self.stem(x)))
        x = F.relu(x + self.outer(F.relu(self.inner(x))))
        return self.head(x.mean((2, 3))) + self.offset


def broken(classes=5):
    return Residual(width=8 if classes == 5 else 4, classes=classes)


def not_a_model():
    return 3


HERE = f"{__name__}:Residual"
X = torch.randn(6, 3, 5, 5, generator=torch.Generator().manual_seed(0))


def grid(weight, bits):
    low, high = float(weight.detach().min()), float(weight.detach().max())
    scale = (high - low) / (2**bits - 1)
    return Grid(torch.tensor(scale), torch.tensor(float(round(-low / scale))), bits)


def compressed():
    """Inner channels pruned, one layer masked, two on grids, the head factorised, running statistics moved."""
    torch.manual_seed(1)
    model = Residual()
    model(X)
    model.inner = nn.Conv2d(8, 3, 3, padding=1)
    model.outer = nn.Conv2d(3, 8, 3, padding=1)
    model.head = nn.Sequential(nn.Linear(8, 2, bias=False), nn.Linear(2, 5))
    keep = torch.rand(8, 3, 3, 3) < 0.4
    write_weight(model.inner, WeightState(model.inner.weight.detach(), grid(model.inner.weight, 4)))
    write_weight(model.outer, WeightState(model.outer.weight.detach(), grid(model.outer.weight, 3), keep))
    write_weight(model.stem, WeightState(model.stem.weight.detach(), keep=torch.rand(8, 3, 3, 3) < 0.5))
    return model


@pytest.fixture
def saved(tmp_path):
    model = compressed()
    folder = artifact.save(
        tmp_path / "artifact",
        model,
        base=Residual(),
        builder=Builder(HERE, {"classes": 5}),
        sequence=[Move("structured.ratio", 0.5), Move("quantize.bits", 4)],
        readings={"accuracy": Reading(0.9, 0.01), "weight_bytes": Reading(1234.0)},
        extra={"study": "a"},
    )
    return model, folder


def same_state(one, other):
    theirs = other.state_dict()
    return one.state_dict().keys() == theirs.keys() and all(
        torch.equal(tensor, theirs[name]) for name, tensor in one.state_dict().items()
    )


def test_a_loaded_model_computes_and_trains_like_the_saved_one(saved):
    model, folder = saved
    loaded = artifact.load(folder, base=Residual)
    assert isinstance(loaded, Residual)
    assert not any(module.training for module in loaded.modules())
    assert same_state(model, loaded)
    assert torch.equal(model.eval()(X), loaded(X))
    keep = read_weight(loaded.outer).keep
    tune = FineTune(data=Split((X, torch.arange(6) % 5), batch_size=3), steps=4)
    trained, again = tune(model), tune(loaded)
    assert same_state(trained, again)
    assert not torch.equal(artifact.load(folder, base=Residual).head[0].weight, again.head[0].weight)
    assert (again.outer.weight[~keep] == 0).all()
    assert len(again.inner.weight.unique()) <= 16


def test_the_base_may_be_given_built_or_named(saved):
    model, folder = saved
    for given in ({"base": Residual}, {"base": Residual()}, {"trusted_modules": [__name__]}):
        assert same_state(model, artifact.load(folder, **given))
    base = Residual().train()
    before = copy.deepcopy(base.state_dict())
    artifact.load(folder, base=base)
    assert base.training
    assert all(torch.equal(before[name], tensor) for name, tensor in base.state_dict().items())


def test_saving_changes_neither_model_nor_base(tmp_path):
    model, base = compressed(), Residual()
    states = [copy.deepcopy(m.state_dict()) for m in (model, base)]
    rng = torch.get_rng_state()
    artifact.save(tmp_path / "a", model, base=base, builder=Builder(HERE))
    assert torch.equal(rng, torch.get_rng_state())
    for module, state in zip((model, base), states, strict=True):
        assert module.training
        assert all(torch.equal(state[name], tensor) for name, tensor in module.state_dict().items())


def test_the_folder_holds_one_file_of_weights_and_one_of_json(saved):
    model, folder = saved
    assert sorted(path.name for path in folder.iterdir()) == ["kmr.json", "model.safetensors"]
    size = (folder / "model.safetensors").stat().st_size
    assert WeightBytes()(model) == Reading(float(size))
    card = artifact.read(folder)
    assert card.builder == Builder(HERE, {"classes": 5})
    assert list(card.sequence) == [Move("structured.ratio", 0.5), Move("quantize.bits", 4)]
    assert card.readings == {"accuracy": Reading(0.9, 0.01), "weight_bytes": Reading(1234.0)}
    assert card.extra == {"study": "a"}
    assert card.versions["torch"] == torch.__version__
    assert card.weights_bytes == size
    assert [path.name for path in folder.parent.iterdir()] == ["artifact"]


def test_no_pickle_is_read_or_written(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise AssertionError("pickled")

    for name in ("dump", "dumps", "load", "loads"):
        monkeypatch.setattr(pickle, name, refuse)
    monkeypatch.setattr(torch, "save", refuse)
    monkeypatch.setattr(torch, "load", refuse)
    model = compressed()
    artifact.save(tmp_path / "a", model, base=Residual(), builder=Builder(HERE))
    assert same_state(model, artifact.load(tmp_path / "a", base=Residual))


def test_buffers_outside_the_state_are_kept_where_the_base_would_not_make_them(tmp_path):
    model = compressed()
    artifact.save(tmp_path / "a", model, base=Residual(), builder=Builder(HERE))
    assert (tmp_path / "a" / "model.safetensors").stat().st_size == WeightBytes()(model).value
    model.offset = torch.tensor([5.0, 1, 2, 3, 4])
    artifact.save(tmp_path / "b", model, base=Residual(), builder=Builder(HERE))
    assert torch.equal(artifact.load(tmp_path / "b", base=Residual)(X), model.eval()(X))


def test_the_builder_builds_the_base_when_none_is_given(tmp_path):
    model = compressed()
    artifact.save(tmp_path / "a", model, builder=Builder(HERE))
    assert same_state(model, artifact.load(tmp_path / "a", base=Residual))


def test_builders_of_torch_run_without_being_trusted(tmp_path):
    builder = Builder("torch.nn:Linear", {"in_features": 3, "out_features": 2})
    model = nn.Linear(3, 1)
    artifact.save(tmp_path / "a", model, builder=builder)
    assert same_state(model, kmr.load(tmp_path / "a"))
    assert same_state(
        model, kmr.load(kmr.save(tmp_path / "b", model, builder=Builder("torch.nn.Linear", builder.kwargs)))
    )


@pytest.mark.parametrize(
    ("target", "kwargs", "trusted", "message"),
    [
        ("os:system", {"command": "false"}, [], "would run code of os"),
        ("torch:load", {"f": "x"}, [], "would run code of torch"),
        ("kmr.artifact.folder:shutil.rmtree", {"path": "/nowhere"}, [], "would run code of shutil"),
        ("kmrx.models:build", {}, [], "would run code of kmrx.models"),
        (HERE, {}, [], "trusted_modules="),
        ("mine:build", {}, ["min"], "would run code of mine"),
        ("absent_package.models:build", {}, ["absent_package"], "cannot be imported"),
        ("kmr.artifact.folder:absent", {}, [], "cannot be imported"),
        ("kmr.artifact.folder:WEIGHTS", {}, [], "cannot be called"),
        (f"{__name__}:not_a_model", {}, [__name__], "built a int, not a module"),
        (f"{__name__}:Residual", {"depth": 3}, [__name__], "does not take"),
        ("build", {}, [], "package.module:function"),
        ("a:", {}, [], "package.module:function"),
    ],
)
def test_builders_that_are_not_trusted_or_do_not_build_are_refused(saved, target, kwargs, trusted, message):
    _, folder = saved
    edit(folder, builder={"target": target, "kwargs": kwargs})
    with pytest.raises(KMRError, match=message):
        artifact.load(folder, trusted_modules=trusted)


def edit(folder, **entries):
    card = json.loads((folder / "kmr.json").read_text())
    card.update(entries)
    (folder / "kmr.json").write_text(json.dumps(card))


def test_missing_and_damaged_parts_are_named_in_one_line(saved, tmp_path):
    _, folder = saved

    def fails(message, path=folder, function=artifact.load):
        with pytest.raises(KMRError, match=message) as error:
            function(path, base=Residual) if function is artifact.load else function(path)
        assert "\n" not in str(error.value)

    for function in (artifact.load, artifact.read):
        fails("no artifact at .*absent", tmp_path / "absent", function)
        fails("not an artifact \\(kmr.json is missing\\)", tmp_path, function)
    good = (folder / "kmr.json").read_text()
    for text, message in (
        (good[:-20], "damaged"),
        ("[]", "format None"),
        ('{"format": 1}', "damaged"),
        (good.replace('"classes"', '"glasses"'), "damaged: KeyError 'classes'"),
        (good.replace('"knob"', '"nob"'), "damaged: KeyError 'knob'"),
        (good.replace('"format": 1', '"format": 2', 1), "format 2; this version reads 1"),
    ):
        (folder / "kmr.json").write_text(text)
        for function in (artifact.load, artifact.read):
            fails(message, function=function)
    (folder / "kmr.json").write_text(good)
    weights = folder / "model.safetensors"
    data = weights.read_bytes()
    weights.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    fails("does not match kmr.json")
    weights.unlink()
    fails("has no model.safetensors")


def test_a_base_that_no_longer_fits_is_refused(saved):
    _, folder = saved
    with pytest.raises(KMRError, match=r"no longer fits the artifact .*its modules differ"):
        artifact.load(folder, base=lambda: nn.Linear(2, 2))
    with pytest.raises(KMRError, match=r"no longer fits the artifact .*\(4,\)"):
        artifact.load(folder, base=lambda: Residual(width=4))
    with pytest.raises(KMRError, match="not a module"):
        artifact.load(folder, base=not_a_model)


def test_a_half_written_artifact_never_appears(monkeypatch, saved):
    model, folder = saved
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(packed, path):
        path.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("kmr.artifact.packing.write", fail)
    for target in (folder, folder.parent / "new"):
        with pytest.raises(OSError, match="disk full"):
            artifact.save(target, model, base=Residual(), builder=Builder(HERE))
    assert [path.name for path in folder.parent.iterdir()] == ["artifact"]
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_an_artifact_is_replaced_and_anything_else_is_not(saved, tmp_path):
    _, folder = saved
    model = Residual()
    artifact.save(folder, model, base=Residual(), builder=Builder(HERE))
    assert same_state(model, artifact.load(folder, base=Residual))
    (tmp_path / "empty").mkdir()
    artifact.save(tmp_path / "empty", model, base=Residual(), builder=Builder(HERE))
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(KMRError, match="exists and is not an artifact"):
        artifact.save(tmp_path / "mine", model, base=Residual(), builder=Builder(HERE))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["artifact", "empty", "mine"]
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize("extra", [{"a": object()}, {"a": float("nan")}])
def test_what_is_no_json_is_refused_before_anything_is_written(tmp_path, extra):
    with pytest.raises(KMRError, match="JSON values only"):
        artifact.save(tmp_path / "a", Residual(), base=Residual(), builder=Builder(HERE), extra=extra)
    assert list(tmp_path.iterdir()) == []


def test_importing_needs_torch_only(tmp_path):
    code = (
        "import sys\n"
        "for name in ('numpy', 'safetensors'): sys.modules[name] = None\n"
        "import kmr, kmr.meters, kmr.artifact.packing, torch\n"
        "model = torch.nn.Linear(3, 2)\n"
        "print(kmr.meters.WeightBytes()(model).value > 0)\n"
        "try: kmr.save(sys.argv[1], model, base=model, builder=kmr.artifact.folder.Builder('a:b'))\n"
        "except kmr.KMRError as error: print(error)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path / "x")], capture_output=True, text=True, check=True, cwd="."
    )
    first, second = done.stdout.splitlines()
    assert first == "True"
    assert "pip install safetensors numpy" in second
    assert list(tmp_path.iterdir()) == []


def test_a_transposed_or_channels_last_weight_comes_back_as_it_lies(tmp_path):
    torch.manual_seed(0)
    base = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 36, 5))
    model = copy.deepcopy(base).to(memory_format=torch.channels_last)
    model[3].weight.data = torch.randn(8 * 36, 5).T
    builder = Builder("torch.nn.Sequential")
    loaded = artifact.load(artifact.save(tmp_path / "model", model, base=base, builder=builder), base=base)
    x = torch.randn(4, 3, 8, 8)
    assert [p.stride() for p in loaded.parameters()] == [p.stride() for p in model.parameters()]
    assert torch.equal(loaded(x), model.eval()(x))
