import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kmr
from kmr.artifact.folder import Builder
from kmr.core import KMRError, NotApplicable
from kmr.data import Split
from kmr.instantiations.lowrank import LowRank
from kmr.instantiations.pruning import UnstructuredPruning
from kmr.instantiations.quantization import StaticQuantization, WeightQuantization
from kmr.instantiations.tensor import TensorDecomposition, TensorTrainLinear
from kmr.instantiations.tensor.trains import balanced
from kmr.meters import MACs, Parameters
from kmr.representation.weights import read_weight

METHODS = ("tucker", "cp", "tensor_train")


def decompose(model: nn.Module, keep: float, **settings: Any) -> tuple[Any, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        moved = TensorDecomposition(**settings)(model, "tensor.keep", keep)
    return moved, [str(w.message) for w in caught]


def seeded(build: Any, *args: Any, **settings: Any) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build(*args, **settings)


def simple(layer: Any) -> Any:
    """Give a convolution a weight of rank one, which every method reproduces."""
    parts = [seeded(torch.randn, n) for n in layer.weight.shape]
    letters = "abcde"[: len(parts)]
    layer.weight.data = torch.einsum(f"{','.join(letters)}->{letters}", *parts)
    return layer


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (seeded(nn.Conv1d, 6, 8, 5, stride=2, padding=1, dilation=2), torch.randn(2, 6, 15)),
        (seeded(nn.Conv2d, 6, 8, (3, 5), stride=(2, 1), padding=(1, 0), dilation=(1, 2)), torch.randn(2, 6, 9, 11)),
        (seeded(nn.Conv2d, 6, 8, (1, 3), stride=(2, 1), padding=(1, 1)), torch.randn(2, 6, 9, 11)),
        (seeded(nn.Conv2d, 6, 8, 3, padding="same", padding_mode="circular", bias=False), torch.randn(2, 6, 6, 6)),
        (seeded(nn.Conv2d, 6, 8, 3, padding=(2, 1), padding_mode="reflect"), torch.randn(2, 6, 7, 7)),
        (seeded(nn.Conv3d, 6, 8, (3, 2, 1), padding=1), torch.randn(1, 6, 4, 4, 4)),
    ],
)
def test_a_simple_convolution_is_reproduced(method: str, layer: Any, x: Tensor) -> None:
    layer = simple(layer)
    moved, notes = decompose(layer, 0.35, method=method)
    assert type(moved) is nn.Sequential
    assert notes == []
    assert sum(part.weight.numel() for part in moved) <= 0.35 * layer.weight.numel()
    assert (moved[-1].bias is None) == (layer.bias is None)
    torch.testing.assert_close(moved(x), layer(x), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_the_layers_in_a_row_compute_the_approximated_weight(method: str) -> None:
    layer = seeded(nn.Conv2d, 6, 8, 3, bias=False)
    moved, _ = decompose(layer, 0.6, method=method)
    # What a convolution answers to unit impulses is its kernel.
    impulses = torch.zeros(6, 6, 5, 5)
    impulses[range(6), range(6), 2, 2] = 1
    kernel = moved(impulses).detach().flip(-1, -2).transpose(0, 1)
    matrices = {name: part.weight.detach() for name, part in moved.named_children()}
    first, last = matrices["first"].flatten(1), matrices["last"].flatten(1)
    expected = {
        "tucker": lambda: torch.einsum("oa,abkl,bi->oikl", last, matrices["core"], first),
        "cp": lambda: torch.einsum(
            "or,rk,rl,ri->oikl", last, matrices["along0"][:, 0, :, 0], matrices["along1"][:, 0, 0], first
        ),
        "tensor_train": lambda: torch.einsum(
            "oc,cbl,bak,ai->oikl", last, matrices["along1"][:, :, 0], matrices["along0"][..., 0], first
        ),
    }[method]()
    torch.testing.assert_close(kernel, expected, rtol=1e-4, atol=1e-5)
    assert float((expected - layer.weight.detach()).norm()) < 0.8 * float(layer.weight.detach().norm())


@pytest.mark.parametrize("method", ["tucker", "tensor_train"])
def test_as_much_energy_stays_as_is_asked(method: str) -> None:
    layer = seeded(nn.Conv2d, 16, 16, 3, bias=False)
    layer.weight.data *= torch.linspace(1, 0.02, 16)[:, None, None, None] ** 2
    layer.weight.data *= torch.linspace(1, 0.02, 16)[None, :, None, None] ** 2
    moved, _ = decompose(layer, 0.9, method=method, by="energy")
    impulses = torch.zeros(16, 16, 5, 5)
    impulses[range(16), range(16), 2, 2] = 1
    kernel = moved(impulses).detach().flip(-1, -2).transpose(0, 1)
    weight = layer.weight.detach()
    lost = float((kernel - weight).square().sum() / weight.square().sum())
    assert 0.001 < lost <= 0.1


def test_parameters_and_multiply_accumulates_by_hand() -> None:
    layer = nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=False)
    moved, _ = decompose(seeded(lambda: layer), 0.5)
    (before, _, _, _), (after, _, _, _) = moved.first.weight.shape, moved.core.weight.shape
    assert float(Parameters()(moved).value) == 8 * before + 9 * before * after + 8 * after <= 288
    macs = float(MACs(example_inputs=torch.randn(1, 8, 8, 8))(moved).value)
    assert macs == 64 * 8 * before + 16 * (9 * before * after + 8 * after) <= 16 * 576


def test_a_linear_layer_as_a_train() -> None:
    layer = seeded(nn.Linear, 24, 30)
    moved, _ = decompose(layer, 0.6, method="tensor_train")
    assert isinstance(moved, TensorTrainLinear)
    assert (moved.outputs, moved.inputs) == ((6, 5), (6, 4))
    first, second = (core.weight.detach() for core in moved.cores)
    rank = moved.ranks[1]
    assert rank > 1
    one = first.reshape(6, 6, rank)
    two = second.reshape(rank, 5, 4)
    dense = torch.einsum("air,rbj->abij", one, two).reshape(30, 24)
    x = torch.randn(3, 7, 24)
    torch.testing.assert_close(moved(x), nn.functional.linear(x, dense, layer.bias), rtol=1e-4, atol=1e-5)
    macs = float(MACs(example_inputs=torch.randn(1, 24))(moved).value)
    assert macs == rank * (5 * 4 * 6 + 6 * 6 * 5) <= 24 * 30


def test_a_train_of_three_cores_gives_a_kronecker_product_back() -> None:
    parts = [seeded(torch.randn, 4, 3), seeded(torch.randn, 3, 2), seeded(torch.randn, 2, 2)]
    layer = nn.Linear(12, 24)
    layer.weight.data = torch.kron(torch.kron(parts[0], parts[1]), parts[2])
    moved, _ = decompose(layer, 0.5, method="tensor_train", modes=3)
    assert (moved.outputs, moved.inputs) == ((4, 3, 2), (3, 2, 2))
    x = torch.randn(2, 12)
    torch.testing.assert_close(moved(x), layer(x), rtol=1e-4, atol=1e-4)


def test_matrices_are_cut_by_singular_values() -> None:
    model = nn.Sequential(seeded(nn.Linear, 12, 10), nn.Unflatten(1, (10, 1, 1)), seeded(nn.Conv2d, 10, 12, 1))
    moved, _ = decompose(model, 0.5)
    left, singular, right = torch.linalg.svd(model[0].weight.detach())
    best = left[:, :2] @ torch.diag(singular[:2]) @ right[:2]
    torch.testing.assert_close(moved[0].second.weight @ moved[0].first.weight, best)
    assert moved[2].first.out_channels == 2


@pytest.mark.parametrize("method", METHODS)
def test_an_artifact_gives_back_the_decomposed_model(method: str, tmp_path: Path) -> None:
    base = seeded(lambda: nn.Sequential(nn.Conv2d(6, 8, 3), nn.Flatten(), nn.Linear(32, 12))).eval()
    moved, _ = decompose(base, 0.5, method=method)
    saved = kmr.save(tmp_path / "model", moved, base=base, builder=Builder("torch.nn.Sequential"))
    x = torch.randn(2, 6, 4, 4)
    loaded = kmr.load(saved, base=base)
    assert torch.equal(loaded(x), moved(x))
    assert [type(m) for m in loaded.modules()] == [type(m) for m in moved.modules()]


def test_grids_go_on_and_masks_are_gone() -> None:
    model = nn.Sequential(seeded(nn.Conv2d, 8, 8, 3))
    quantized = WeightQuantization(scheme="symmetric", granularity="tensor")(model, "quantize.bits", 4)
    moved, notes = decompose(quantized, 0.5)
    assert [read_weight(part).grid.bits for part in moved[0]] == [4, 4, 4]  # type: ignore[union-attr]
    assert notes == []
    moved, notes = decompose(UnstructuredPruning()(model, "prune.sparsity", 0.5), 0.5)
    assert all(read_weight(part).keep is None for part in moved[0])
    assert notes == ["tensor: 0: the mask is gone: the parts of a masked weight are dense"]


def test_what_cannot_shrink_is_left_and_named() -> None:
    model = nn.ModuleDict(
        {"grouped": nn.Conv2d(4, 4, 3, groups=2), "thin": nn.Linear(9, 1), "plain": nn.Conv2d(9, 9, 3)}
    )
    moved, notes = decompose(model, 0.5)
    assert isinstance(moved["plain"], nn.Sequential)
    assert "tensor: grouped: left as they are: neither" in notes[0]
    assert "tensor: thin: left dense" in notes[1]
    with pytest.raises(NotApplicable, match="no layer would hold fewer"):
        decompose(nn.Linear(4, 1), 0.5)


def test_a_train_leaves_linear_layers_whose_activations_are_rounded() -> None:
    model = nn.Sequential(seeded(nn.Linear, 16, 16), seeded(nn.Linear, 16, 16))
    data = Split((torch.randn(8, 16), torch.zeros(8)), 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        static = StaticQuantization(data=data)(model, "static.bits", 8)
    with pytest.raises(NotApplicable):
        decompose(static, 0.5, method="tensor_train")


def test_sizes_are_split_evenly() -> None:
    assert [balanced(n, 2) for n in (64, 300, 7, 1)] == [(8, 8), (20, 15), (7, 1), (1, 1)]
    assert balanced(64, 3) == (4, 4, 4)


@pytest.mark.parametrize(
    "bad",
    [
        {"method": "svd"},
        {"by": "rank"},
        {"method": "cp", "by": "energy"},
        {"method": "cp", "iterations": 0},
        {"modes": 1},
    ],
)
def test_bad_settings_are_refused(bad: dict[str, Any]) -> None:
    with pytest.raises(KMRError):
        TensorDecomposition(**bad)


def noisy_kernel(noise: float) -> Any:
    """Give a convolution a weight of Tucker ranks 3 (in) and 2 (out), in noise of a deviation."""
    layer = seeded(nn.Conv2d, 24, 32, 3, bias=False)
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 3, 3, 3), (32, 2), (24, 3), (32, 24, 3, 3))
    core, out, into, rest = (torch.randn(*shape, generator=generator) for shape in shapes)
    layer.weight.data = torch.einsum("abkl,oa,ib->oikl", core, out, into) + noise * rest
    return layer


@pytest.mark.parametrize("noise", [1e-5, 0.05, 0.3])
def test_vbmf_finds_the_ranks_of_a_kernel_in_noise(noise: float) -> None:
    layer = noisy_kernel(noise)
    moved, _ = decompose(layer, 0.0, by="vbmf")
    assert (moved.first.out_channels, moved.last.in_channels) == (3, 2)
    moved, _ = decompose(layer, 0.1, by="vbmf")
    # A tenth of the way to 24 and 32.
    assert (moved.first.out_channels, moved.last.in_channels) == (3 + 2, 2 + 3)
    with pytest.raises(NotApplicable, match="no layer would hold fewer"):
        decompose(layer, 0.97, by="vbmf")
    rule = TensorDecomposition(by="vbmf", layers=("0",))
    assert [(knob.name, knob.domain.low, knob.domain.neutral) for knob in rule.knobs] == [("tensor.keep@0", 0.0, 1.0)]  # type: ignore[union-attr]


def test_vbmf_finds_the_rank_of_a_linear_layer_in_noise() -> None:
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(60, 40)
    shapes = ((40, 4), (4, 60), (40, 60))
    left, right, rest = (torch.randn(*shape, generator=generator) for shape in shapes)
    layer.weight.data = left @ right + 0.2 * rest
    moved, _ = decompose(layer, 0.0, by="vbmf")
    assert moved.first.out_features == 4
    as_low_rank = LowRank(by="vbmf")(layer, "lowrank.keep", 0.0)
    assert as_low_rank.first.out_features == 4  # type: ignore[union-attr]
    for bad in ({"method": "cp", "by": "vbmf"}, {"by": "noise"}):
        with pytest.raises(KMRError):
            TensorDecomposition(**bad)  # type: ignore[arg-type]
    with pytest.raises(KMRError, match="by=vbmf needs error=weights"):
        LowRank(by="vbmf", error="outputs")
