import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kmr
from benchmarks.architectures import make
from kmr.artifact.folder import Builder
from kmr.core import KMRError, Move, NotApplicable, RuleWarning
from kmr.data import Split, forward
from kmr.instantiations.architecture import Block, DropBlocks, Skip, change, find_blocks, influence
from kmr.instantiations.quantization import WeightClustering
from sweeps.examples.cifar import resnet


class Add(nn.Module):
    def __init__(self, rows: list[list[float]]) -> None:
        super().__init__()
        self.inner = nn.Linear(2, 2, bias=False)
        self.inner.weight.data = torch.tensor(rows)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.inner(x)


class Named(Add):
    """Takes its input by name and gives more than its output."""

    def forward(self, *, scale: float, x: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return x + scale * self.inner(x), None


class Calls(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Named([[1.0, 0.0], [0.0, 1.0]]), Named([[0.0, 1.0], [-1.0, 0.0]])])

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x, _ = block(scale=0.5, x=x)
        return x


X = torch.tensor([[1.0, 0.0]])


def chain() -> nn.Module:
    """Blocks that turn (1, 0) by nothing, by 45 degrees and back by half."""
    return nn.Sequential(
        Add([[1.0, 0.0], [0.0, 0.0]]), Add([[0.0, 0.0], [1.0, 0.0]]), Add([[0.0, 0.0], [0.0, -0.5]]), nn.Linear(2, 1)
    ).eval()  # fmt: skip


def shortened(model: nn.Module, inputs: Any, ratio: float, **settings: Any) -> nn.Module:
    return DropBlocks(example_inputs=inputs, **settings)(model, "depth.ratio", ratio)


def gone(model: nn.Module) -> list[str]:
    return [path for path, module in model.named_modules() if isinstance(module, Skip)]


def test_influence_is_one_minus_the_cosine() -> None:
    model = chain()
    blocks = find_blocks(model, X)
    # (1,0) → (2,0) → (2,2) → (2,1)
    cosines = [1.0, 0.5**0.5, (4 + 2) / (8**0.5 * 5**0.5)]
    assert [block.path for block in blocks] == ["0", "1", "2"]
    assert influence(model, blocks, [X]) == pytest.approx([1 - cosine for cosine in cosines], abs=1e-6)
    up = torch.tensor([[0.0, 1.0]])  # (0,1) → (0,1) → (0,1) → (0,0.5)
    halves = [(1 - cosine) / 2 for cosine in cosines]
    assert influence(model, blocks, [X, up]) == pytest.approx(halves, abs=1e-6)


def test_change_is_what_the_output_loses() -> None:
    model, x = chain(), torch.randn(5, 2, generator=torch.Generator().manual_seed(0))
    without = nn.Sequential(model[0], model[2], model[3])
    expected = (without(x) - model(x)).square().mean().item()
    assert change(model, [Block("1")], [x[:2], x[2:]]) == pytest.approx([expected], rel=1e-4)
    assert gone(model) == [], "it is left as it was"


def test_the_least_important_blocks_go() -> None:
    model = chain()
    moved = shortened(model, X, 0.5)  # two of three, half a block rounds up
    assert gone(moved) == ["0", "2"]
    assert torch.equal(moved(X), model[3](model[1](X)))
    assert gone(shortened(model, X, 0.34)) == ["0"]
    assert gone(shortened(model, X, 1.0)) == ["0", "1", "2"]
    with pytest.warns(RuleWarning, match="less than one"):
        assert gone(shortened(model, X, 0.1)) == []


def test_importance_is_read_on_data_where_there_is_some() -> None:
    model = chain()
    model[3].weight.data = torch.tensor([[1.0, 0.0]])  # what the last two change is not read
    assert gone(shortened(model, X, 0.34, importance="change")) == ["2"], "of equal blocks the later goes first"
    data = Split((torch.tensor([[0.0, 1.0], [0.0, 1.0]]), torch.zeros(2)), 1)
    model[3].weight.data = torch.tensor([[0.0, 1.0]])
    # (0,1) → (0,1) → (0,1) → (0,0.5): there the last block alone changes what is read.
    assert gone(shortened(model, X, 0.67, importance="change", data=data)) == ["0", "1"]


def test_a_block_called_by_names_gives_what_it_gave() -> None:
    model, x = Calls().eval(), torch.randn(3, 2)
    assert find_blocks(model, x) == [Block("blocks.0", "x", 1), Block("blocks.1", "x", 1)]
    moved = shortened(model, x, 0.5)
    assert gone(moved) == ["blocks.0"], "it only scales"
    assert torch.equal(moved(x), model.blocks[1](scale=0.5, x=x)[0])


def test_what_does_not_carry_its_input_past_its_weights_is_no_block() -> None:
    plain = nn.Sequential(*(nn.Sequential(nn.Linear(32, 32), nn.ReLU()) for _ in range(2))).eval()
    x = torch.randn(2, 32)
    assert find_blocks(plain, x) == []
    clustered = WeightClustering()(plain, "cluster.bits", 1)
    assert find_blocks(clustered, x) == [], "nor where few values hold the weights"
    with pytest.raises(NotApplicable, match="no residual block"):
        shortened(plain, x, 0.5)


def test_one_module_in_several_places_stays() -> None:
    block = Add([[0.0, 1.0], [0.0, 0.0]])
    model = nn.Sequential(block, Add([[1.0, 0.0], [0.0, 1.0]]), block).eval()
    assert [found.path for found in find_blocks(model, X)] == ["1"]
    again = Add([[1.0, 0.0], [0.0, 1.0]])
    again.inner.weight = block.inner.weight
    assert [found.path for found in find_blocks(nn.Sequential(again, block).eval(), X)] == ["0", "1"]


def test_wrong_settings_are_refused() -> None:
    with pytest.raises(KMRError, match="importance"):
        DropBlocks(example_inputs=X, importance="size")  # type: ignore[arg-type]
    with pytest.raises(KMRError, match="at least 1"):
        DropBlocks(example_inputs=X, samples=0)


def test_a_residual_network_keeps_the_blocks_that_widen() -> None:
    model, x = resnet(depth=20, width=4).eval(), torch.randn(2, 3, 32, 32)
    paths = ["layer1.0", "layer1.1", "layer1.2", "layer2.1", "layer2.2", "layer3.1", "layer3.2"]
    assert [block.path for block in find_blocks(model, x)] == paths
    assert len(gone(shortened(model, x, 0.4))) == 3
    rule = DropBlocks(example_inputs=x, layers=("layer3",))
    moved = rule(model, "depth.ratio@layer3", 0.9)
    assert gone(moved) == ["layer3.1", "layer3.2"]
    assert moved(x).shape == (2, 10)


@pytest.mark.parametrize("name", ["vit, fused qkv", "inverted residual, squeeze-excite", "torch transformer, pre-norm"])
def test_other_residual_networks_lose_blocks_and_ship(name: str, tmp_path: Any) -> None:
    model, inputs = make(name)
    moved = shortened(model, inputs, 0.5)
    assert sum(p.numel() for p in moved.parameters()) < sum(p.numel() for p in model.parameters())
    assert len(gone(moved)) == 1
    builder = Builder("torch.nn.Sequential")
    saved = kmr.save(tmp_path / "m", moved, base=model, builder=builder, sequence=(Move("depth.ratio", 0.5),))
    with torch.no_grad():
        assert torch.equal(forward(kmr.load(saved, base=model), inputs), forward(moved, inputs))


def test_a_language_model_with_layers_of_its_own() -> None:
    pytest.importorskip("transformers")
    model, tokens = make("gpt-2 (transformers)")
    assert [block.path for block in find_blocks(model, tokens)] == ["transformer.h.0", "transformer.h.1"]
    model.transformer.h[0].attn.c_proj.weight.data *= 1e-3
    model.transformer.h[0].mlp.c_proj.weight.data *= 1e-3
    assert gone(shortened(model, tokens, 0.5)) == ["transformer.h.0"]


def test_transformer_layers_go_from_the_list(case: Any, tmp_path: Any) -> None:
    model, tokens = case("transformer")
    model.encoder.layers[0].linear2.weight.data *= 1e-3
    model.encoder.layers[0].self_attn.out_proj.weight.data *= 1e-3
    for importance in ("influence", "change"):
        shorter = shortened(model, tokens, 0.5, importance=importance)
        assert len(shorter.encoder.layers) == 1, "torch's encoder reads what its first layer is"
    shorter = shortened(model, tokens, 0.5)
    assert torch.equal(shorter.encoder.layers[0].linear1.weight, model.encoder.layers[1].linear1.weight)
    builder = Builder("torch.nn.Sequential")
    saved = kmr.save(tmp_path / "m", shorter, base=model, builder=builder, sequence=(Move("depth.ratio", 0.5),))
    assert torch.equal(kmr.load(saved, base=model)(tokens), shorter(tokens))
    three = copy.deepcopy(model)
    three.encoder.layers.insert(0, copy.deepcopy(three.encoder.layers[0]))
    shorter = shortened(three, tokens, 0.67)
    assert [path for path, _ in shorter.encoder.layers.named_children()] == ["0"]
    assert torch.equal(shorter.encoder.layers[0].linear1.weight, model.encoder.layers[1].linear1.weight)
