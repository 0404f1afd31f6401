import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kmr
from kmr.artifact import Builder
from kmr.core import KMRError, Move, NotApplicable
from kmr.data import Split
from kmr.instantiations.architecture import Block, DropBlocks, change, drop, find_blocks, influence


class Add(nn.Module):
    """x + scale·(Wx) with W the identity."""

    def __init__(self, scale: float) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2, bias=False)
        self.inner.weight.data = scale * torch.tensor([[0.0, -1.0], [1.0, 0.0]])

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def chain(*scales: float) -> nn.Module:
    return nn.Sequential(nn.Linear(2, 2), nn.Sequential(*(Add(scale) for scale in scales)), nn.Linear(2, 3)).eval()


def shortened(model: nn.Module, keep: float, inputs: Any, **settings: Any) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return DropBlocks(example_inputs=inputs, **settings)(model, "depth.keep", keep)


def test_influence_by_hand() -> None:
    # (x, y) turns by a quarter and is added, scaled: the angle between before and after is atan(scale).
    model, x = chain(0.1, 1.0), torch.randn(5, 2)
    blocks = find_blocks(model, x)
    assert [block.path for block in blocks] == ["1.0", "1.1"]
    cosines = [1 / (1 + scale**2) ** 0.5 for scale in (0.1, 1.0)]
    assert influence(model, blocks, [x[:2], x[2:]]) == pytest.approx([1 - cosine for cosine in cosines], abs=1e-6)


def test_change_is_what_the_output_loses() -> None:
    model, x = chain(0.1, 1.0), torch.randn(5, 2)
    without = nn.Sequential(model[0], model[1][1], model[2])
    expected = (without(x) - model(x)).square().mean().item()
    assert change(model, [Block("1", "0")], [x[:2], x[2:]]) == pytest.approx([expected], rel=1e-4)


@pytest.mark.parametrize("importance", ["influence", "change"])
def test_the_least_important_blocks_go(importance: Any) -> None:
    model, x = chain(0.5, 0.01, 1.0, 0.02), torch.randn(16, 2)
    data = Split((x, torch.zeros(16)), 4)
    shorter = shortened(model, 0.5, x[:2], importance=importance, data=data)
    expected = nn.Sequential(model[0], model[1][0], model[1][2], model[2])
    assert torch.equal(shorter(x), expected(x))
    assert len(model[1]) == 4
    assert len(shortened(model, 0.0, x)[1]) == 0


def test_of_equal_blocks_the_later_goes_first() -> None:
    model, x = chain(0.0, 0.0, 0.5), torch.randn(4, 2)
    assert list(shortened(model, 0.67, x, importance="change")[1]._modules) == ["0", "2"]


def test_a_share_that_removes_nothing_is_not_applicable() -> None:
    with pytest.raises(NotApplicable, match="all of them"):
        shortened(chain(0.5, 0.5), 0.8, torch.randn(2, 2))
    with pytest.raises(NotApplicable, match="no block"):
        shortened(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), 0.5, torch.randn(2, 2))
    with pytest.raises(KMRError, match="importance"):
        DropBlocks(example_inputs=torch.zeros(1), importance="size")  # type: ignore[arg-type]


def test_residual_blocks_that_widen_stay() -> None:
    from sweeps.examples.cifar import resnet

    model, x = resnet(depth=20, width=4).eval(), torch.randn(2, 3, 32, 32)
    assert [block.path for block in find_blocks(model, x)] == [
        "layer1.0", "layer1.1", "layer1.2", "layer2.1", "layer2.2", "layer3.1", "layer3.2",
    ]  # fmt: skip
    shorter = shortened(model, 0.0, x)
    assert [len(shorter.get_submodule(f"layer{i}")) for i in (1, 2, 3)] == [0, 1, 1]
    assert shorter(x).shape == (2, 10)


def test_transformer_layers_go_and_the_model_ships(case: Any, tmp_path: Any) -> None:
    model, tokens = case("transformer")
    assert [block.path for block in find_blocks(model, tokens)] == ["encoder.layers.0", "encoder.layers.1"]
    model.encoder.layers[0].linear2.weight.data *= 1e-3
    model.encoder.layers[0].self_attn.out_proj.weight.data *= 1e-3
    shorter = shortened(model, 0.5, tokens, layers=())
    assert [name for name, _ in shorter.encoder.layers.named_children()] == ["0"]
    assert torch.equal(shorter.encoder.layers[0].linear1.weight, model.encoder.layers[1].linear1.weight)
    saved = kmr.save(
        tmp_path / "short", shorter, base=model, builder=Builder("torch.nn:Module"), sequence=[Move("depth.keep", 0.5)]
    )
    assert torch.equal(kmr.load(saved, base=model)(tokens), shorter(tokens))


def test_drop_keeps_the_names_of_a_sequence_and_counts_a_list_anew() -> None:
    model = nn.ModuleDict({"names": chain(1, 2, 3)[1], "list": nn.ModuleList(nn.Linear(1, 1) for _ in range(12))})
    last = model["list"][11]
    drop(model, [Block("names", "1"), Block("list", "2"), Block("list", "10")])
    assert list(model["names"]._modules) == ["0", "2"]
    assert list(model["list"]._modules) == [str(i) for i in range(10)]
    assert model["list"][9] is last
