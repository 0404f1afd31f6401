import copy
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kmr
from benchmarks.architectures import make
from kmr.artifact.folder import Builder
from kmr.core import KMRError, Move, NotApplicable
from kmr.data import Split, forward
from kmr.finetune import FineTune
from kmr.instantiations.architecture import find_blocks
from kmr.instantiations.sharing import BlockSharing, Corrected, WeightSharing
from kmr.instantiations.sharing.block_sharing import average
from kmr.meters import MACs, Parameters, WeightBytes


class Block(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.first, self.norm, self.second = nn.Linear(size, 2 * size), nn.LayerNorm(size), nn.Linear(2 * size, size)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.norm(self.second(torch.relu(self.first(x))))


def chain(count: int = 3, size: int = 6) -> Any:
    with kmr.isolated_rng(0):
        model = nn.Sequential(*(Block(size) for _ in range(count)))
        for parameter in model.parameters():
            if parameter.dim() == 1:
                nn.init.normal_(parameter, 0.5)
    return model.eval()


X = torch.randn(4, 6, generator=torch.Generator().manual_seed(0))


def share(model: nn.Module, ratio: float = 1.0, inputs: Any = X, **settings: Any) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return BlockSharing(example_inputs=inputs, **settings)(model, "share_blocks.ratio", ratio)


def output(model: nn.Module, inputs: Any = X) -> Tensor:
    with torch.no_grad():
        return forward(model, inputs)


def test_blocks_that_are_multiples_of_one_another_are_reproduced() -> None:
    model = chain()
    for place, layer in ((1, "first"), (2, "first"), (1, "second"), (2, "second")):
        weight = getattr(model[0], layer).weight.data
        getattr(model[place], layer).weight.data = weight * torch.linspace(-1, 2, len(weight))[:, None] * place
    moved = share(model)
    assert moved[0].first.shared is moved[1].first.shared is moved[2].first.shared
    torch.testing.assert_close(output(moved), output(model), rtol=1e-4, atol=1e-4)


def test_a_difference_of_low_rank_is_kept() -> None:
    model = chain(2)
    generator = torch.Generator().manual_seed(1)
    for layer in ("first", "second"):
        weight = getattr(model[0], layer).weight.data
        thin = torch.randn(len(weight), 1, generator=generator) @ torch.randn(1, weight.shape[1], generator=generator)
        # Of the mean, the two differ by half of this each.
        getattr(model[1], layer).weight.data = weight + thin
    exact = share(model, scale="none", rank=1)
    assert isinstance(exact[0].first, Corrected)
    torch.testing.assert_close(output(exact), output(model), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(output(share(model, scale="none")), output(model), atol=1e-2)


def test_costs_by_hand() -> None:
    model = chain()
    weights, vectors = 2 * 6 * 12, 12 + 6 + 2 * 6
    assert Parameters()(model).value == 3 * (weights + vectors)
    assert Parameters()(share(model, scale="none")).value == weights + 3 * vectors
    assert Parameters()(share(model)).value == weights + 3 * (vectors + 12 + 6)
    assert Parameters()(share(model, scale="none", rank=1)).value == weights + 3 * (vectors + 2 * (6 + 12))
    assert Parameters()(share(model, scale="none", whole=True)).value == weights + vectors
    assert MACs(example_inputs=X[:1])(share(model)).value == MACs(example_inputs=X[:1])(model).value
    whole = share(chain(size=40), scale="none", whole=True, inputs=torch.randn(2, 40))
    assert WeightBytes()(whole).value < 4 * (2 * 40 * 80 + 80 + 3 * 40) + 2000


def test_the_most_alike_share_first() -> None:
    model = chain(4)
    model[3].load_state_dict(model[1].state_dict())
    moved = share(model, 0.1)
    assert moved[1].first.shared is moved[3].first.shared
    assert isinstance(moved[0].first, nn.Linear)
    assert isinstance(moved[2].first, nn.Linear)
    torch.testing.assert_close(output(moved), output(model), rtol=1e-4, atol=1e-4)
    assert len({id(block.first.shared) for block in share(model)}) == 1
    # Shared in two steps it is still one layer for all that were.
    assert share(share(model, 0.1), 1.0)[0].first.shared is not None


def test_a_whole_block_is_the_mean_in_all_places() -> None:
    model = chain(2)
    moved = share(model, scale="none", whole=True)
    assert moved[0] is moved[1]
    for name, parameter in moved[0].named_parameters():
        mean = (model[0].get_parameter(name) + model[1].get_parameter(name)) / 2
        torch.testing.assert_close(parameter, mean)
    assert find_blocks(moved, X) == []
    with pytest.raises(NotApplicable, match="no residual blocks"):
        share(moved)


def test_variances_count_how_far_means_lie_apart() -> None:
    norms = [nn.Sequential(nn.BatchNorm1d(1)) for _ in range(2)]
    samples = torch.tensor([[0.0], [2.0]]), torch.tensor([[10.0], [14.0]])
    for norm, x in zip(norms, samples, strict=True):
        norm[0].running_mean.copy_(x.mean(0))  # type: ignore[union-attr,operator]
        norm[0].running_var.copy_(x.var(0, correction=0))  # type: ignore[union-attr,operator]
    average(norms)
    both = torch.cat(samples)
    torch.testing.assert_close(norms[0][0].running_mean, both.mean(0))
    torch.testing.assert_close(norms[0][0].running_var, both.var(0, correction=0))


@pytest.mark.parametrize("settings", [{}, {"scale": "none", "rank": 2}, {"scale": "none", "whole": True}])
@pytest.mark.parametrize("name", ["vit, fused qkv", "torch transformer encoder", "resnet (shortcut B)"])
def test_an_artifact_gives_it_back_exactly(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    model, inputs = make(name)
    moved = share(model, 1.0, inputs, **settings)
    builder = Builder("torch.nn.Sequential")
    saved = kmr.save(tmp_path / "m", moved, base=model, builder=builder, sequence=(Move("share_blocks.ratio", 1.0),))
    loaded = kmr.load(saved, base=model)
    assert torch.equal(output(loaded, inputs), output(moved.eval(), inputs))
    assert Parameters()(loaded).value == Parameters()(moved).value < Parameters()(model).value
    assert (saved / "model.safetensors").stat().st_size == WeightBytes()(moved).value


def test_training_moves_what_is_shared_everywhere_at_once() -> None:
    moved = share(chain(), scale="none", rank=1)
    data = Split((torch.randn(16, 6), torch.arange(16) % 6), 8)
    shared = moved[0].first.shared.shared
    before = shared.weight.detach().clone()
    FineTune(data=data, steps=3)(moved)
    assert moved[2].first.shared.shared is shared
    assert not torch.equal(before, shared.weight.detach())


def test_what_is_one_layer_already_stays_that() -> None:
    model = chain(2)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        once = WeightSharing(layers=("*.first",))(model, "share.ratio@*.first", 1.0)
    shared = once[0].first.shared
    twice = share(copy.deepcopy(once))
    assert twice[0].first.shared is twice[1].first.shared
    assert torch.equal(twice[0].first.shared.weight, shared.weight)
    assert twice[0].second.shared is twice[1].second.shared


def test_bad_settings_and_models_without_equal_blocks_are_refused() -> None:
    for bad in ({"scale": "row"}, {"rank": -1}, {"whole": True}, {"scale": "none", "rank": 1, "whole": True}):
        with pytest.raises(KMRError):
            BlockSharing(example_inputs=X, **bad)  # type: ignore[arg-type]
    with pytest.raises(NotApplicable, match="no two blocks"):
        share(chain(1))
    with pytest.raises(NotApplicable, match="no two blocks"):
        share(chain(2), rank=4)
