import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kmr.core import KMRError, NotApplicable
from kmr.data import Split
from kmr.instantiations.lowrank import LowRank, kept_rank, truncated_factors
from kmr.instantiations.pruning import UnstructuredPruning
from kmr.instantiations.quantization import WeightQuantization
from kmr.instantiations.replace import replace_module
from kmr.representation.weights import read_weight


def factorise(model: nn.Module, keep: float, **settings: Any) -> tuple[nn.Module, list[str]]:
    rule = LowRank(**settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        moved = rule(model, rule.knobs[0].name, keep)
    return moved, [str(w.message) for w in caught]


def seeded(build: Any, *args: Any, **settings: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(*args, **settings)


def test_a_diagonal_matrix_by_hand() -> None:
    first, second = truncated_factors(torch.diag(torch.tensor([9.0, 4.0, 1.0])), 2)
    assert (first.shape, second.shape) == ((2, 3), (3, 2))
    torch.testing.assert_close(second @ first, torch.diag(torch.tensor([9.0, 4.0, 0.0])))
    torch.testing.assert_close(first.norm(dim=1), torch.tensor([3.0, 2.0]))
    torch.testing.assert_close(second.norm(dim=0), torch.tensor([3.0, 2.0]))


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_the_error_is_that_of_the_dropped_singular_values(rank: int) -> None:
    matrix = torch.randn(5, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    first, second = truncated_factors(matrix, rank)
    dropped = torch.linalg.eigvalsh(matrix @ matrix.T).flip(0)[rank:].clamp(min=0).sum()
    torch.testing.assert_close((matrix - second @ first).square().sum(), dropped)


def test_the_rank_kept() -> None:
    # Rank r of an 8 × 20 matrix holds 28·r of its 160 entries.
    assert [kept_rank((8, 20), keep) for keep in (0.05, 28 / 160, 0.5, 84 / 160, 1.0)] == [1, 1, 2, 3, 5]


def test_a_linear_layer_of_low_rank_is_reproduced() -> None:
    layer = seeded(nn.Linear, 12, 10)
    layer.weight.data = seeded(torch.randn, 10, 2) @ seeded(torch.randn, 2, 12)
    moved, notes = factorise(layer, 2 * 22 / 120)
    assert isinstance(moved, nn.Sequential)
    assert moved.first.weight.shape == (2, 12)
    assert moved.first.bias is None
    assert moved.second.weight.shape == (10, 2)
    assert torch.equal(moved.second.bias, layer.bias)
    x = torch.randn(3, 12)
    torch.testing.assert_close(moved(x), layer(x), rtol=1e-4, atol=1e-4)
    assert notes == []


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (seeded(nn.Conv1d, 4, 12, 3, stride=2, padding=1, dilation=2), torch.randn(2, 4, 15)),
        (seeded(nn.Conv2d, 4, 12, (3, 5), stride=(2, 1), padding="valid"), torch.randn(2, 4, 9, 9)),
        (seeded(nn.Conv2d, 4, 12, 3, padding=1, padding_mode="circular", bias=False), torch.randn(2, 4, 6, 6)),
        (seeded(nn.Conv3d, 2, 12, 3, padding=1), torch.randn(1, 2, 4, 4, 4)),
    ],
)
def test_a_convolution_of_low_rank_is_reproduced(layer: Any, x: Tensor) -> None:
    matrix = layer.weight.data.flatten(1)
    first, second = truncated_factors(matrix, 3)
    layer.weight.data = (second @ first).reshape(layer.weight.shape)
    moved, _ = factorise(layer, 3 * sum(matrix.shape) / matrix.numel())
    assert moved.first.out_channels == moved.second.in_channels == 3
    assert moved.second.kernel_size == (1,) * (x.dim() - 2)
    assert (moved.second.bias is None) == (layer.bias is None)
    torch.testing.assert_close(moved(x), layer(x), rtol=1e-4, atol=1e-4)


def test_layers_that_would_not_shrink_stay_dense() -> None:
    model = nn.Sequential(nn.Linear(20, 20), nn.Linear(20, 1))
    moved, notes = factorise(model, 0.99)  # rank 9 holds 9·40 < 20·20, but rank 1 of a row holds 21 > 20
    assert isinstance(moved[0], nn.Sequential)
    assert isinstance(moved[1], nn.Linear)
    assert notes == ["lowrank: 1: left dense: two factors of that rank would hold no fewer parameters"]
    with pytest.raises(NotApplicable, match="no layer would hold fewer"):
        factorise(nn.Linear(4, 1), 0.5)


def test_factors_inherit_the_grid_and_lose_the_mask() -> None:
    model = nn.Sequential(seeded(nn.Linear, 16, 16))
    quantized = WeightQuantization(scheme="symmetric", granularity="tensor")(model, "quantize.bits", 4)
    moved, notes = factorise(quantized, 0.5)
    for factor in moved[0]:
        state = read_weight(factor)
        assert state.grid is not None
        assert (state.grid.bits, state.grid.scale.numel(), float(state.grid.zero_point)) == (4, 1, 8.0)
        assert len(state.weight.unique()) <= 16
    assert notes == []
    pruned = UnstructuredPruning()(model, "prune.sparsity", 0.5)
    moved, notes = factorise(pruned, 0.5)
    assert all(read_weight(factor).keep is None for factor in moved[0])
    assert notes == ["lowrank: 0: the mask is gone: the factors of a masked weight are dense"]
    first, second = truncated_factors(read_weight(pruned[0]).weight, 4)
    torch.testing.assert_close(moved[0].second.weight @ moved[0].first.weight, second @ first)


def test_what_cannot_be_factorised_is_left_and_named() -> None:
    class Doubled(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return 2 * super().forward(x)

    model = nn.ModuleDict(
        {
            "grouped": nn.Conv2d(4, 4, 1, groups=2),
            "rows": nn.Embedding(9, 9),
            "own": Doubled(9, 9),
            "attention": nn.MultiheadAttention(8, 2),
            "plain": nn.Linear(9, 9),
        }
    )
    moved, notes = factorise(model, 0.2)
    assert isinstance(moved["plain"], nn.Sequential)
    assert [type(moved[k]) for k in ("grouped", "rows", "own")] == [nn.Conv2d, nn.Embedding, Doubled]
    assert "grouped, own, rows: left as they are: neither" in notes[1]
    assert "attention.out_proj: left as they are: the attention around" in notes[2]
    with pytest.raises(NotApplicable):
        factorise(nn.Sequential(nn.Embedding(9, 9)), 0.2)


@pytest.mark.parametrize("nested", [False, True])
def test_transformer_layers_run_without_their_fused_path(nested: bool) -> None:
    layer = seeded(nn.TransformerEncoderLayer, 16, 4, 24, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 2, enable_nested_tensor=nested).eval()
    moved, _ = factorise(model, 0.25)
    x, padding = torch.randn(2, 5, 16), torch.tensor([[False] * 5, [False] * 3 + [True] * 2])
    with torch.no_grad():
        fast = moved(x, src_key_padding_mask=padding)
    torch.testing.assert_close(fast[~padding], moved(x, src_key_padding_mask=padding)[~padding])
    for path in ("layers.0.linear1", "layers.1.linear2"):
        assert isinstance(moved.get_submodule(path), nn.Sequential)


def test_untouched_transformer_layers_keep_their_fused_path() -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 24, batch_first=True)
    model = nn.ModuleList([layer, nn.Linear(16, 16)])
    moved, _ = factorise(model, 0.2, layers=("1",))
    assert moved[0].activation_relu_or_gelu == 1


def test_flags_and_modes_are_kept() -> None:
    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8)).eval()
    model[0].weight.requires_grad_(False)
    moved, _ = factorise(model.double(), 0.25)
    assert [p.requires_grad for p in moved[0].parameters()] == [False, False, True]
    assert all(p.requires_grad and p.dtype == torch.float64 for p in moved[1].parameters())
    assert not any(m.training for m in moved.modules())


def test_a_module_used_twice_is_replaced_everywhere() -> None:
    shared = nn.Linear(8, 8)
    model = nn.Sequential(shared, nn.ReLU(), shared)
    moved, _ = factorise(model, 0.25)
    assert moved[0] is moved[2]
    assert isinstance(moved[0], nn.Sequential)
    new = nn.Identity()
    assert replace_module(shared, shared, new) is new


def test_the_rank_by_energy_and_by_share_of_the_full_rank() -> None:
    layer = nn.Linear(8, 8, bias=False)
    layer.weight.data = torch.diag(torch.tensor([3.0, 2.0, 1.0, 0, 0, 0, 0, 0]))
    assert factorise(layer, 0.65, by="energy")[0].first.out_features == 2
    assert factorise(layer, 0.4, by="rank")[0].first.out_features == 3
    with pytest.raises(NotApplicable):
        factorise(seeded(nn.Linear, 8, 8), 0.9, by="rank")


def test_factors_that_know_the_inputs_lose_less_on_them() -> None:
    model = nn.Sequential(seeded(nn.Conv2d, 3, 12, 3, padding=1), nn.ReLU(), seeded(nn.Conv2d, 12, 12, 3, padding=1))
    x = seeded(torch.randn, 24, 3, 8, 8) * torch.tensor([3.0, 0.3, 0.03])[:, None, None]
    data = Split((x, torch.zeros(24)), 8)
    errors = {
        error: float((factorise(model, 0.3, error=error, data=data)[0](x) - model(x)).square().mean().detach())
        for error in ("weights", "outputs")
    }
    assert errors["outputs"] < 0.7 * errors["weights"]


@pytest.mark.parametrize("bad", [{"by": "size"}, {"error": "loss"}, {"error": "outputs"}])
def test_bad_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(KMRError):
        LowRank(**bad)
