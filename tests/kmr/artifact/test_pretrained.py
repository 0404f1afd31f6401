"""`from_pretrained` of transformers as `model:`; a stand-in with the library's module names takes its place."""

import json
import sys
import types
from pathlib import Path

import pytest
import torch
from torch import nn

import kmr
from kmr.artifact.folder import Builder, read, save
from kmr.artifact.pretrained import arguments_of, from_config
from kmr.core import KMRError
from sweeps.errors import SweepError
from sweeps.experiment.instantiate import part

HOME = "transformers.models.tiny.modeling_tiny"


class TinyConfig:
    def __init__(self, width: int = 4, **others: object) -> None:
        self.width, self.others = width, others

    def to_dict(self) -> dict[str, object]:
        return {"width": self.width}

    @classmethod
    def from_dict(cls, values: dict[str, int]) -> "TinyConfig":
        return cls(**values)


class TinyModel(nn.Module):
    config_class = TinyConfig

    def __init__(self, config: TinyConfig) -> None:
        super().__init__()
        self.config = config
        self.layer = nn.Linear(config.width, 2)
        self.register_buffer("angles", torch.arange(config.width) / 3, persistent=False)

    @classmethod
    def from_pretrained(cls, path: str, **kwargs: object) -> "TinyModel":
        model = cls(TinyConfig(json.loads(Path(path, "c.json").read_text())))
        model.load_state_dict(torch.load(Path(path, "w.pt"), weights_only=True))
        return model.to(torch.bfloat16) if kwargs.get("dtype") == "bfloat16" else model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layer(x * self.angles.to(x.dtype))


@pytest.fixture
def library(monkeypatch):
    for name in ("transformers", "transformers.models", "transformers.models.tiny", HOME):
        module = types.ModuleType(name)
        module.__path__ = []
        module.TinyModel = TinyModel
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(TinyModel, "__module__", HOME)


@pytest.fixture
def folder(tmp_path, library):
    torch.manual_seed(0)
    (tmp_path / "c.json").write_text("6")
    torch.save(TinyModel(TinyConfig(6)).state_dict(), tmp_path / "w.pt")
    return tmp_path


@pytest.mark.parametrize("target", ["transformers.TinyModel.from_pretrained", f"{HOME}.TinyModel.from_pretrained"])
def test_an_artifact_loads_without_the_original_weights(folder, target) -> None:
    config = {"_target_": target, "path": str(folder)}
    model = part("model", config).eval()
    save(folder / "a", model, base=model, builder=Builder(target, {"path": str(folder)}))
    (folder / "w.pt").unlink()
    assert "from_config" in read(folder / "a").builder.target
    x = torch.ones(1, 6)
    assert torch.equal(kmr.load(folder / "a")(x), model(x))


def test_the_type_of_the_weights_is_kept(folder) -> None:
    config = {"_target_": "transformers.TinyModel.from_pretrained", "path": str(folder), "dtype": "bfloat16"}
    model = part("model", config)
    assert arguments_of(model)["dtype"] == "bfloat16"
    assert from_config(**arguments_of(model)).layer.weight.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "argument",
    [
        {"trust_remote_code": True},
        {"use_safetensors": False},
        {"use_kernels": True},
        {"attn_implementation": "someone/kernels"},
        {"config": {"attn_implementation": {"text": "someone/kernels"}}},
    ],
)
@pytest.mark.parametrize("trusted", [(), ("transformers",)])
def test_code_of_others_is_refused_by_name(folder, argument, trusted) -> None:
    config = {"_target_": "transformers.TinyModel.from_pretrained", "path": str(folder), **argument}
    with pytest.raises(SweepError, match=r"is not called with .*leave it out, or call it in a function of yours"):
        part("model", config, trusted)


@pytest.mark.parametrize("trust", [False, True])
def test_the_class_method_of_an_older_artifact_runs_where_it_is_trusted(folder, trust) -> None:
    target = Builder("transformers.TinyModel.from_pretrained", {"path": str(folder), "trust_remote_code": trust})
    with pytest.raises(KMRError, match="if you trust it"):
        target.build(())
    if trust:
        with pytest.raises(KMRError, match="trust_remote_code=True"):
            target.build(("transformers",))
    else:
        assert isinstance(target.build(("transformers",)), TinyModel)


def test_only_models_of_the_library_are_rebuilt(library) -> None:
    assert arguments_of(nn.Linear(2, 2)) is None
    for name in ("os.system", "transformers.models.tiny.json", "transformers.models.none.Model"):
        with pytest.raises(KMRError, match=r"is not a model of|cannot be imported"):
            from_config(name, {})
    with pytest.raises(KMRError, match="someone/kernels"):
        from_config(f"{HOME}.TinyModel", {"_attn_implementation": "someone/kernels"})
    with pytest.raises(KMRError, match="does not take its saved config"):
        from_config(f"{HOME}.TinyModel", {"width": "wide"})
