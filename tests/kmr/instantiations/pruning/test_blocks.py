from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kmr
from benchmarks.architectures import make
from kmr.artifact import Builder
from kmr.core import KMRError, Move, NotApplicable, RuleWarning
from kmr.data import Split, forward
from kmr.instantiations.pruning import BlockPruning
from kmr.instantiations.pruning.blocks import Skip, residual_blocks
from sweeps.examples.cifar import resnet20


class Add(nn.Module):
    def __init__(self, rows: list[list[float]]) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2, bias=False)
        self.inner.weight.data = torch.tensor(rows)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


def chain() -> nn.Module:
    """Blocks that turn (1, 0) by nothing, by 45 degrees and back by half."""
    return nn.Sequential(
        Add([[1.0, 0.0], [0.0, 0.0]]), Add([[0.0, 0.0], [1.0, 0.0]]), Add([[0.0, 0.0], [0.0, -0.5]]), nn.Linear(2, 1)
    ).eval()  # fmt: skip


def prune(model: nn.Module, inputs: Any, ratio: float, **settings: Any) -> nn.Module:
    return BlockPruning(example_inputs=inputs, **settings)(model, "blocks.ratio", ratio)


def test_influence_is_one_minus_the_cosine() -> None:
    blocks = residual_blocks(chain(), torch.tensor([[1.0, 0.0]]))
    # (1,0) → (2,0) → (2,2) → (2,1)
    cosines = [1.0, 0.5**0.5, (4 + 2) / (8**0.5 * 5**0.5)]
    assert [block.path for block in blocks] == ["0", "1", "2"]
    assert [block.influence for block in blocks] == pytest.approx([1 - cosine for cosine in cosines], abs=1e-6)


def test_the_blocks_that_change_least_go() -> None:
    x = torch.tensor([[1.0, 0.0]])
    model = chain()
    moved = prune(model, x, 0.5)  # two of three, half a block rounds up
    assert [isinstance(part, Skip) for part in moved] == [True, False, True, False]
    assert torch.equal(moved(x), model[3](model[1](x)))
    assert [isinstance(part, Skip) for part in prune(model, x, 0.34)] == [True, False, False, False]


def test_the_change_is_measured_on_data_where_there_is_some() -> None:
    x = torch.tensor([[1.0, 0.0]])
    data = Split((torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.zeros(2)), 1)  # (0,1) → (0,1) → (0,1) → (0,0.5)
    blocks = residual_blocks(chain(), x, data)
    assert [block.influence for block in blocks] == pytest.approx([0, 0, 0], abs=1e-6)


def test_a_residual_network_loses_blocks_that_keep_the_shape() -> None:
    model, x = resnet20().eval(), torch.randn(2, 3, 32, 32)
    paths = [block.path for block in residual_blocks(model, x)]
    assert paths == ["layer1.0", "layer1.1", "layer1.2", "layer2.1", "layer2.2", "layer3.1", "layer3.2"]
    moved = prune(model, x, 0.4)
    assert sum(isinstance(module, Skip) for module in moved.modules()) == 3
    assert forward(moved, x).shape == (2, 10)
    rule = BlockPruning(example_inputs=x, layers=("layer3",))
    moved = rule(model, "blocks.ratio@layer3", 0.9)
    assert [name for name, module in moved.named_modules() if isinstance(module, Skip)] == ["layer3.1", "layer3.2"]


@pytest.mark.parametrize("name", ["vit, fused qkv", "inverted residual, squeeze-excite", "torch transformer, pre-norm"])
def test_other_residual_networks(name: str, tmp_path: Any) -> None:
    model, inputs = make(name)
    moved = prune(model, inputs, 0.5)
    assert sum(p.numel() for p in moved.parameters()) < sum(p.numel() for p in model.parameters())
    assert sum(isinstance(module, Skip) for module in moved.modules()) == 1
    builder = Builder("torch.nn.Sequential")
    saved = kmr.save(tmp_path / "m", moved, base=model, builder=builder, sequence=(Move("blocks.ratio", 0.5),))
    with torch.no_grad():
        assert torch.equal(forward(kmr.load(saved, base=model), inputs), forward(moved, inputs))


def test_without_residual_blocks_it_is_not_applicable(case: Any) -> None:
    model, inputs = case("vgg")
    with pytest.raises(NotApplicable, match="no residual block"):
        prune(model, inputs, 0.5)
    with pytest.raises(KMRError, match="samples"):
        BlockPruning(example_inputs=inputs, samples=0)


def test_less_than_one_block_is_said() -> None:
    x = torch.tensor([[1.0, 0.0]])
    with pytest.warns(RuleWarning, match="less than one"):
        prune(chain(), x, 0.1)
