import torch
from torch import nn

from kmr.instantiations.peft import Adapter, SerialAdapter, adapter_parameters, attach, detach, largest_rank
from kmr.instantiations.pruning import UnstructuredPruning
from kmr.instantiations.quantization import WeightQuantization
from kmr.representation.weights import read_weight, settle


def test_parameters_and_the_largest_rank_by_hand() -> None:
    # 8 × 20 takes 28 a rank up to 8, 3 × 5 takes 8 up to 3.
    shapes = [(8, 20), (3, 5)]
    assert [adapter_parameters(shapes, rank) for rank in (1, 3, 4, 9)] == [36, 108, 136, 248]
    assert [largest_rank(shapes, budget) for budget in (35, 36, 107, 135, 136, 10_000)] == [0, 1, 2, 3, 4, 8]
    assert largest_rank([], 100) == 0


def test_an_adapter_by_hand() -> None:
    weight = torch.randn(4, 3, 2)
    generator = torch.Generator().manual_seed(0)
    plain = Adapter(weight, 2, 0.5, generator=generator)
    assert torch.equal(plain(weight), weight)
    plain.up.data.normal_(generator=generator)
    expected = weight + 0.5 * (plain.up @ plain.down).reshape(4, 3, 2)
    torch.testing.assert_close(plain(weight), expected)
    directed = Adapter(weight, 2, 0.5, directional=True, generator=generator)
    torch.testing.assert_close(directed(weight), weight)
    directed.up.data = torch.ones(4, 2)
    directed.length.data = torch.tensor([1.0, 2.0, 3.0, 4.0])
    rows = directed(weight).flatten(1)
    torch.testing.assert_close(rows.norm(dim=1), torch.tensor([1.0, 2.0, 3.0, 4.0]))


def test_a_serial_adapter_by_hand() -> None:
    weight = torch.randn(4, 3, 2)
    made = SerialAdapter(weight, 2, 0.5, generator=torch.Generator().manual_seed(0))
    assert torch.equal(made(weight), weight)
    made.up.data.normal_(generator=torch.Generator().manual_seed(1))
    behind = torch.eye(4) + 0.5 * made.up @ made.down
    torch.testing.assert_close(made(weight), (behind @ weight.flatten(1)).reshape(4, 3, 2))
    layer = nn.Conv1d(3, 4, 2)
    x = torch.randn(5, 3, 6)
    product = torch.einsum("ij,njl->nil", behind, layer(x) - layer.bias[:, None]) + layer.bias[:, None]
    attach({"": layer}, 2, 0.5, serial=True)
    layer.parametrizations.weight[0].load_state_dict(made.state_dict())
    settle(layer)
    detach({"": layer})
    assert type(layer.weight) is nn.Parameter
    torch.testing.assert_close(layer(x), product)


def test_adapters_lie_under_grid_and_mask_and_merge_into_the_latent_weight() -> None:
    model = nn.Sequential(nn.Linear(8, 8))
    pruned = UnstructuredPruning()(model, "prune.sparsity", 0.5)
    model = WeightQuantization()(pruned, "quantize.bits", 4)
    layers = {"0": model[0]}
    before = read_weight(model[0])
    attach(layers, 2, 1.0)
    torch.testing.assert_close(read_weight(model[0]).weight, before.weight)
    model[0].parametrizations.weight[0].up.data.fill_(0.5)
    moved = read_weight(model[0])
    assert not torch.equal(moved.weight, before.weight)
    assert not bool(moved.weight[~before.keep].any())
    codes = moved.grid.codes(moved.weight)
    torch.testing.assert_close(moved.grid.values(codes)[before.keep], moved.weight[before.keep])
    settle(model)
    detach(layers)
    assert torch.equal(read_weight(model[0]).weight, moved.weight)
    assert [type(part).__name__ for part in model[0].parametrizations.weight] == ["Grid", "Mask"]
