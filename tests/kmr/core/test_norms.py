"""Weight norms and parametrizations of others: folded exactly, and never taken for this project's own."""

import copy
import threading
import warnings

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from kmr.artifact import folder as artifact
from kmr.artifact.folder import Builder
from kmr.core import KMRError, RuleWarning
from kmr.core.copying import copied
from kmr.core.key_value_cache import without_key_value_cache
from kmr.core.norms import fold_norms
from kmr.data import Split
from kmr.finetune import FineTune
from kmr.instantiations.pruning import StructuredPruning, UnstructuredPruning
from kmr.instantiations.quantization import StaticQuantization, WeightQuantization
from kmr.representation.weights import Mask, WeightState, write_weight

X = torch.randn(32, 12, generator=torch.Generator().manual_seed(0))
SPLIT = Split((X, torch.arange(32) % 3), 16)


class Doubled(nn.Module):
    def forward(self, weight):
        return 2 * weight


def own(layer):
    parametrize.register_parametrization(layer, "weight", Doubled())
    return layer


def old(norm):
    def apply(layer):
        with pytest.warns(FutureWarning) if norm is nn.utils.weight_norm else _quiet():
            return norm(layer)

    return apply


class _quiet:
    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False


NORMS = {
    "weight_norm": parametrizations.weight_norm,
    "spectral_norm": parametrizations.spectral_norm,
    "orthogonal": parametrizations.orthogonal,
    "old weight_norm": old(nn.utils.weight_norm),
    "old spectral_norm": old(nn.utils.spectral_norm),
    "own": own,
}


def net(norm):
    torch.manual_seed(0)
    return nn.Sequential(norm(nn.Linear(12, 24)), nn.ReLU(), norm(nn.Linear(24, 3)))


@pytest.fixture(params=NORMS)
def normed(request):
    model = net(NORMS[request.param]).eval()
    model(X)  # with gradients, as after training
    return model


def test_folding_keeps_the_outputs_and_leaves_plain_parameters(normed) -> None:
    with torch.no_grad():
        before = normed(X)
        twin = copied(normed)
        assert sorted(fold_norms(twin)) == ["0.weight", "2.weight"]
        torch.testing.assert_close(twin(X), before, rtol=1e-6, atol=1e-6)
        torch.testing.assert_close(normed(X), before, rtol=1e-6, atol=1e-6)
    assert sorted(dict(twin.named_parameters())) == ["0.bias", "0.weight", "2.bias", "2.weight"]
    assert not any(module._forward_pre_hooks for module in twin.modules())
    assert fold_norms(twin) == []


@pytest.mark.parametrize(
    ("rule", "value"),
    [
        (UnstructuredPruning(name="prune"), 0.5),
        (WeightQuantization(name="quantize"), 4),
        (StaticQuantization(name="static", data=SPLIT), 5),
        (StructuredPruning(name="structured", example_inputs=X[:2]), 0.4),
    ],
    ids=lambda part: getattr(part, "name", None),
)
def test_a_rule_works_on_the_folded_weights_and_its_result_is_saved(normed, rule, value, tmp_path) -> None:
    base = copied(normed)
    fold_norms(base)
    made = rule(normed, rule.knobs[0].name, value)
    again = rule(base, rule.knobs[0].name, value)
    with torch.no_grad():
        torch.testing.assert_close(made(X), again(X), rtol=1e-5, atol=1e-5)
        artifact.save(tmp_path / "a", made, base=base, builder=Builder("torch.nn:Identity"))
        loaded = artifact.load(tmp_path / "a", base=copied(normed))  # the user's own, not folded
        torch.testing.assert_close(loaded(X), made(X), rtol=1e-5, atol=1e-5)


class Scaled(nn.Module):
    """A module with a parameter of its own."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(24) + 0.5)

    def forward(self, x):
        return x * self.scale


class Last(nn.Module):
    """The last output of an LSTM with a normalised recurrent weight."""

    def __init__(self):
        super().__init__()
        self.lstm = parametrizations.weight_norm(nn.LSTM(12, 24, batch_first=True), "weight_hh_l0")

    def forward(self, x):
        return self.lstm(x[:, None])[0][:, -1]


def parametrized(module, name):
    parametrize.register_parametrization(module, name, Doubled())
    return module


@pytest.mark.parametrize(
    "first",
    [
        lambda: parametrized(nn.Linear(12, 24), "bias"),
        Last,
        lambda: nn.Sequential(nn.Linear(12, 24), parametrized(Scaled(), "scale")),
    ],
    ids=["bias", "lstm", "own module"],
)
def test_norms_of_any_tensor_are_folded_where_an_artifact_is_loaded(first, tmp_path) -> None:
    torch.manual_seed(0)
    users = nn.Sequential(first(), nn.ReLU(), nn.Linear(24, 3)).eval()
    base = copied(users)
    assert len(fold_norms(base)) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuleWarning)  # the weights of an LSTM are left as they are
        made = UnstructuredPruning(name="prune")(users, "prune.sparsity", 0.5)
    artifact.save(tmp_path / "a", made, base=base, builder=Builder("torch.nn:Identity"))
    with torch.no_grad():
        torch.testing.assert_close(artifact.load(tmp_path / "a", base=users)(X), made(X))


def test_masks_of_ours_stay_and_training_leaves_norms_of_others_alone() -> None:
    model = net(parametrizations.weight_norm)
    FineTune(data=SPLIT, epochs=2)(model)
    assert parametrize.is_parametrized(model[0])
    plain = nn.Linear(4, 2)
    write_weight(plain, WeightState(plain.weight, None, torch.eye(2, 4).bool()))
    assert fold_norms(plain) == []
    assert isinstance(plain.parametrizations.weight[0], Mask)


def test_what_cannot_be_copied_is_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    model[1].lock = threading.Lock()
    with pytest.raises(KMRError, match=r"cannot be copied in 1: cannot pickle '_thread\.lock'"):
        copied(model)
    with pytest.raises(KMRError, match="cannot be copied"):
        UnstructuredPruning(name="prune")(model, "prune.sparsity", 0.5)


def test_the_cache_of_a_language_model_is_off_and_comes_back() -> None:
    model = nn.Linear(2, 2)
    model.config = type("Config", (), {"use_cache": True})()
    with without_key_value_cache(model):
        assert model.config.use_cache is False
    assert model.config.use_cache is True
    assert copy.deepcopy(model).config is not model.config
