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
from kmr.finetune import FineTune
from kmr.instantiations.pruning import UnstructuredPruning
from kmr.instantiations.quantization import StaticQuantization, WeightQuantization
from kmr.instantiations.sharing import ChannelAffine, WeightSharing
from kmr.meters import MACs, Parameters, WeightBytes
from kmr.representation.weights import read_weight


def share(model: nn.Module, ratio: float = 1.0, **settings: Any) -> tuple[Any, list[str]]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        moved = WeightSharing(**settings)(model, "share.ratio", ratio)
    return moved, [str(w.message) for w in caught]


def linears(count: int = 3, size: int = 6, bias: bool = True) -> Any:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Sequential(*(nn.Linear(size, size, bias=bias) for _ in range(count))).eval()


def test_layers_that_are_multiples_of_one_another_are_reproduced() -> None:
    model = linears()
    model[1].weight.data = -2 * model[0].weight.data
    model[2].weight.data = torch.arange(6.0)[:, None] * model[0].weight.data
    moved, notes = share(model)
    assert notes == []
    assert moved[0].shared is moved[1].shared is moved[2].shared
    assert [type(part.own) for part in moved] == [ChannelAffine] * 3
    x = torch.randn(4, 6)
    torch.testing.assert_close(moved(x), model(x), rtol=1e-4, atol=1e-4)


def test_costs_by_hand() -> None:
    model, example = linears(), torch.randn(1, 6)
    moved, _ = share(model)
    # One weight of 36, and in each layer 6 scales and 6 biases.
    assert Parameters()(moved).value == 36 + 3 * 12
    assert MACs(example_inputs=example)(moved).value == MACs(example_inputs=example)(model).value
    assert WeightBytes()(moved).value < WeightBytes()(model).value
    assert Parameters()(share(linears(bias=False), scale="none")[0]).value == 36


def test_convolutions_of_one_kind_share_and_others_do_not() -> None:
    model = nn.Sequential(
        nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, stride=2)
    )
    model[1].weight.data = model[0].weight.data.clone()
    moved, _ = share(model)
    assert type(moved[2]) is nn.Conv2d
    x = torch.randn(2, 4, 5, 5)
    torch.testing.assert_close(moved(x), model(x), rtol=1e-4, atol=1e-5)
    with pytest.raises(NotApplicable, match="no two layers"):
        share(nn.Sequential(model[0], model[2]))


def test_without_scales_and_biases_nothing_is_put_around_the_layer() -> None:
    model = linears(bias=False)
    mean = torch.stack([layer.weight.detach() for layer in model]).mean(0)
    moved, _ = share(model, scale="none")
    assert moved[0] is moved[1] is moved[2]
    assert type(moved[0]) is nn.Linear
    torch.testing.assert_close(moved[0].weight.detach(), mean)


def test_the_ratio_is_the_share_of_mergers() -> None:
    model = nn.Sequential(*linears(4), nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 5))
    model[3].weight.data = model[0].weight.data * 2
    for ratio, weights in ((0.01, 5), (0.5, 4), (0.75, 3), (1.0, 2)):
        moved, _ = share(model, ratio)
        found = {id(m.weight) for m in moved.modules() if isinstance(m, nn.Linear) and m.in_features == m.out_features}
        assert len(found) == weights
    moved, _ = share(model, 0.01)
    assert moved[0].shared is moved[3].shared


def test_sharing_twice_merges_what_was_shared() -> None:
    once, _ = share(linears(4), 0.4)
    twice, _ = share(once, 1.0)
    assert len({id(m.weight) for m in twice.modules() if isinstance(m, nn.Linear)}) == 1
    assert twice(torch.randn(2, 6)).shape == (2, 6)


def test_grids_and_masks_hold_over_a_shared_weight() -> None:
    quantized = WeightQuantization()(linears(), "quantize.bits", 4)
    moved, _ = share(quantized)
    assert read_weight(moved[0].shared).grid.bits == 4  # type: ignore[union-attr]
    pruned = UnstructuredPruning(scope="layer")(linears(2), "prune.sparsity", 0.5)
    moved, _ = share(pruned, scale="none")
    expected = read_weight(pruned[0]).keep | read_weight(pruned[1]).keep  # type: ignore[operator]
    assert torch.equal(read_weight(moved[0].shared).keep, expected)  # type: ignore[arg-type]
    mixed = WeightQuantization(layers=("0",))(linears(2), "quantize.bits@0", 4)
    with pytest.raises(NotApplicable):
        share(mixed)


def test_the_grid_of_shared_inputs_reaches_as_far_as_each() -> None:
    model = linears(2)
    model[0].weight.data *= 9
    data = Split((torch.randn(16, 6), torch.zeros(16)), 16)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        static = StaticQuantization(data=data)(model, "static.bits", 8)

    def ends(layer: Any) -> tuple[float, float]:
        scale, zero_point = float(layer.input_quantizer.scale), float(layer.input_quantizer.zero_point)
        return -scale * zero_point, scale * (255 - zero_point)

    lows, highs = zip(*(ends(layer) for layer in static if layer.output_quantizer is None), strict=True)
    moved, _ = share(static)
    low, high = ends(moved[0].shared)
    step = float(moved[0].shared.input_quantizer.scale)
    assert low == pytest.approx(min(lows), abs=step)
    assert high == pytest.approx(max(highs), abs=step)


@pytest.mark.parametrize("scale", ["none", "layer", "channel"])
def test_an_artifact_stores_the_weight_once_and_gives_it_back_everywhere(scale: str, tmp_path: Path) -> None:
    base = linears(size=40)
    moved, _ = share(base, scale=scale)
    saved = kmr.save(tmp_path / "model", moved, base=base, builder=Builder("torch.nn.Sequential"))
    assert (saved / "model.safetensors").stat().st_size < 4 * 40 * 40 + 3 * 2 * 4 * 40 + 3000
    loaded: Any = kmr.load(saved, base=base)
    x = torch.randn(2, 40)
    assert torch.equal(loaded(x), moved(x))
    assert loaded[0].shared is loaded[2].shared


def test_training_keeps_one_weight() -> None:
    moved, _ = share(linears())
    data = Split((torch.randn(16, 6), torch.arange(16) % 6), 8)
    before: Tensor = moved[0].shared.weight.detach().clone()
    FineTune(data=data, steps=3)(moved)
    assert moved[0].shared is moved[1].shared
    assert not torch.equal(before, moved[0].shared.weight.detach())


def test_a_transformer_runs_with_shared_layers() -> None:
    layer = nn.TransformerEncoderLayer(16, 4, 24, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, 3, enable_nested_tensor=False).eval()
    moved, _ = share(model, exclude=("*.self_attn",))
    with torch.no_grad():
        x = torch.randn(2, 5, 16)
        # The layers of an encoder begin as copies: sharing them changes nothing.
        torch.testing.assert_close(moved(x), model(x), rtol=1e-4, atol=1e-4)
    assert moved.layers[0].linear1.shared is moved.layers[2].linear1.shared


def test_flags_modes_and_precision_are_kept() -> None:
    model = linears().double()
    for layer in model[:2]:
        layer.weight.requires_grad_(False)
    model[2].weight.data = model[0].weight.data.clone()
    moved, _ = share(model, 0.01)
    # A frozen layer and a trained one do not share.
    assert moved[0].shared is moved[1].shared
    assert type(moved[2]) is nn.Linear
    assert [p.requires_grad for p in moved[0].parameters()] == [False, False, True]
    assert all(p.dtype == torch.float64 for p in moved.parameters())
    assert not any(m.training for m in moved.modules())


def test_bad_settings_are_refused() -> None:
    with pytest.raises(KMRError, match="row"):
        WeightSharing(scale="row")  # type: ignore[arg-type]
