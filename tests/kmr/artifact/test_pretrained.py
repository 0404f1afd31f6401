"""`from_pretrained` of transformers as `model:`; a stand-in with the library's module names takes its place."""

import copy
import json
import sys
import types
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import kmr
from kmr.artifact.folder import Builder, read, save
from kmr.artifact.plain_checkpoint import plain
from kmr.artifact.pretrained import arguments_of, from_config
from kmr.core import KMRError, RuleWarning
from kmr.instantiations.lowrank import LowRank
from kmr.instantiations.quantization import WeightQuantization
from sweeps.errors import SweepError
from sweeps.experiment.instantiate import part

HOME = "transformers.models.tiny.modeling_tiny"
QUANTIZED, SMALLER = (WeightQuantization(), 4), (LowRank(), 0.5)


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

    def save_pretrained(self, path: Path) -> None:
        path.mkdir()
        (path / "c.json").write_text(str(self.config.width))
        torch.save(self.state_dict(), path / "w.pt")

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


@pytest.mark.parametrize(("rule", "value"), [QUANTIZED, SMALLER])
@pytest.mark.parametrize("loaded", [False, True])
def test_save_pretrained_of_a_compressed_model_is_refused(folder, rule, value, loaded) -> None:
    base = TinyModel.from_pretrained(str(folder)).eval()
    model = rule(base, rule.knobs[0].name, value)
    if loaded:
        save(folder / "a", model, base=base, builder=Builder("transformers.TinyModel"))
        model = kmr.load(folder / "a")
    for compressed in (model, copy.deepcopy(model)):
        with pytest.raises(KMRError, match=r"cannot write a compressed model: .* use kmr\.save and kmr\.load"):
            compressed.save_pretrained(folder / "b")
    with pytest.raises(KMRError, match="cannot write a compressed model"):
        nn.Sequential(model)[0].save_pretrained(folder / "b")
    base.save_pretrained(folder / "b")
    assert (folder / "b" / "w.pt").is_file()


def test_an_artifact_of_an_uncompressed_model_still_has_its_save_pretrained(folder) -> None:
    base = TinyModel.from_pretrained(str(folder)).eval()
    save(folder / "a", base, base=base, builder=Builder("transformers.TinyModel"))
    kmr.load(folder / "a").save_pretrained(folder / "b")
    assert (folder / "b" / "w.pt").is_file()


def test_a_plain_copy_has_the_values_that_the_model_computes_with(folder) -> None:
    base = TinyModel.from_pretrained(str(folder)).eval()
    rule, value = QUANTIZED
    model = rule(base, rule.knobs[0].name, value)
    plain(model).save_pretrained(folder / "b")
    x = torch.randn(3, 6)
    assert torch.equal(TinyModel.from_pretrained(str(folder / "b"))(x), model(x))
    assert not torch.equal(base(x), model(x))


def test_a_plain_copy_of_changed_layers_is_refused_by_name(folder) -> None:
    base = TinyModel.from_pretrained(str(folder)).eval()
    rule, value = SMALLER
    with pytest.raises(KMRError, match="its config builds another layer; use"):
        plain(rule(base, rule.knobs[0].name, value))
    base.angles += 1
    with pytest.raises(KMRError, match="its config builds another angles; use"):
        plain(base)
    with pytest.raises(KMRError, match="a Linear is no model of transformers"):
        plain(nn.Linear(2, 2))


@pytest.mark.parametrize("tied", [False, True])
def test_a_plain_checkpoint_of_transformers_is_exact(tmp_path, tied) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2, "num_key_value_heads": 1}
    config = transformers.LlamaConfig(vocab_size=50, num_hidden_layers=2, tie_word_embeddings=tied, **sizes)
    base = transformers.LlamaForCausalLM(config).eval()
    with warnings.catch_warnings(action="ignore", category=RuleWarning):  # tied weights stay
        model = WeightQuantization()(base, "quantize.bits", 4)
    with pytest.raises(KMRError, match="cannot write a compressed model"):
        model.model.save_pretrained(tmp_path)
    plain(model).save_pretrained(tmp_path)
    words = torch.arange(8).reshape(2, 4)
    back = transformers.LlamaForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(back(words).logits, model(words).logits)
