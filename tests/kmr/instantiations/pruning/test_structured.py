import sys
import warnings
from typing import Any

import pytest
import torch
import torch_pruning
from torch import Tensor, nn

from benchmarks.architectures import make
from kmr.core import KMRError, NotApplicable, RuleWarning
from kmr.data import Split, forward
from kmr.instantiations.pruning import StructuredPruning, UnstructuredPruning
from kmr.instantiations.pruning.criteria import L1, L2, Taylor
from kmr.instantiations.pruning.surgery import sliced_like
from kmr.instantiations.quantization import WeightQuantization
from kmr.representation.weights import read_weight


def prune(model: nn.Module, inputs: Any, ratio: float = 0.5, **settings: Any) -> tuple[nn.Module, list[str]]:
    rule = StructuredPruning(example_inputs=inputs, **settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        moved = rule(model, rule.knobs[0].name, ratio)
    return moved, [str(w.message) for w in caught]


def linear(rows: list[list[float]], bias: list[float]) -> nn.Linear:
    layer = nn.Linear(len(rows[0]), len(rows))
    layer.weight.data, layer.bias.data = torch.tensor(rows), torch.tensor(bias)
    return layer


def test_the_neurons_of_least_group_magnitude_go_with_all_that_reads_them() -> None:
    # Sums of squares in and out: 1+1, 4+100, 9+0, 16+0.25.
    model = nn.Sequential(
        linear([[1.0], [2.0], [3.0], [4.0]], [0.1, 0.2, 0.3, 0.4]),
        nn.ReLU(),
        linear([[1.0, 10.0, 0.0, 0.5]], [7.0]),
    )
    moved, notes = prune(model, torch.ones(1, 1))
    assert moved[0].weight.tolist() == [[2.0], [4.0]]
    assert moved[0].bias.tolist() == pytest.approx([0.2, 0.4])
    assert moved[2].weight.tolist() == [[10.0, 0.5]]
    assert moved[2].bias.tolist() == [7.0]
    assert (moved[0].out_features, moved[2].in_features) == (2, 2)
    assert notes == []


def test_l1_and_l2_rank_differently() -> None:
    # Sums of magnitudes 4 and 3, of squares 4 and 9.
    rows = [[1.0, 1.0, 1.0, 1.0], [3.0, 0.0, 0.0, 0.0]]
    model = nn.Sequential(linear(rows, [0.0, 0.0]), linear([[0.0, 0.0]], [0.0]))
    assert prune(model, torch.ones(1, 4), criterion=L1())[0][0].weight.tolist() == [rows[0]]
    assert prune(model, torch.ones(1, 4), criterion=L2())[0][0].weight.tolist() == [rows[1]]


@pytest.mark.parametrize(
    "name", ["vgg", "option_a", "residual", "view_mlp", "concat", "attention", "lstm", "dict_inputs"]
)
def test_the_smaller_model_computes_what_the_full_one_does_without_those_channels(case: Any, name: str) -> None:
    """Silence by hand, through the surviving elements of every parameter, and compare the outputs."""
    model, inputs = case(name)
    numbered = {}
    for key, parameter in model.named_parameters():
        parameter.data += torch.arange(parameter.numel()).reshape(parameter.shape) * 1e-5  # every value once
        numbered[key] = parameter
    moved, _ = prune(model, inputs)
    for key, parameter in moved.named_parameters():
        full = numbered[key].data
        gone = ~torch.isin(full, parameter.data)
        assert int((~gone).sum()) == parameter.numel()
        assert torch.equal(full[~gone].reshape(parameter.shape), parameter.data)  # in the same order
        full[gone] = 0
    with torch.no_grad():
        torch.testing.assert_close(forward(moved, inputs), forward(model, inputs), rtol=1e-4, atol=1e-5)


def test_option_a_keeps_the_padded_stream_and_says_so(case: Any) -> None:
    model, inputs = case("option_a")
    moved, notes = prune(model, inputs)
    assert [m.out_channels for m in moved.modules() if isinstance(m, nn.Conv2d)] == [8, 4, 8, 8, 16]
    assert len(notes) == 1
    assert notes[0].startswith(
        "structured: conv1, layer1.conv2, layer2.conv2: left whole: their channels cannot be removed ("
    )


def test_a_width_in_the_code_stays_and_the_rest_shrinks(case: Any) -> None:
    model, inputs = case("view_mlp")
    moved, notes = prune(model, inputs)
    assert (moved.first.out_features, moved.fixed.out_features) == (12, 32)
    assert len(notes) == 1
    assert notes[0].startswith("structured: fixed: left whole")


def test_heads_that_would_mix_stay_whole(case: Any) -> None:
    """Every shape fits after removing one head's channels, so only the computed values tell that it is wrong."""
    model, inputs = case("attention")
    moved, notes = prune(model, inputs)
    assert [part.out_features for part in moved.qkv] == [12, 12, 12]
    assert moved.hidden.out_features == 8
    assert any("output differs from the full one's" in note for note in notes)


def test_a_residual_stream_shrinks_as_one(case: Any) -> None:
    model, inputs = case("residual")
    moved, notes = prune(model, inputs)
    assert (moved.stem.out_channels, moved.inner.out_channels, moved.back.out_channels) == (4, 6, 4)
    assert (moved.head.in_features, notes) == (4, [])


def test_grouped_and_depthwise_convolutions_keep_equal_groups(case: Any) -> None:
    model, inputs = case("groups")
    model[4].weight.data[[0, 1, 2, 3, 8, 9, 10, 11]] *= 0.1  # whole groups of the normalisation, weak at that
    moved, _ = prune(model, inputs)
    depthwise, grouped, norm = moved[2], moved[4], moved[5]
    assert depthwise.groups == depthwise.in_channels == depthwise.out_channels == 4
    assert (grouped.groups, grouped.in_channels, grouped.out_channels) == (2, 4, 8)
    assert (norm.num_groups, norm.num_channels) == (4, 8)
    kept = [model[5].weight.tolist().index(value) for value in norm.weight.tolist()]
    assert [sum(channel // 4 == group for channel in kept) for group in range(4)] == [2, 2, 2, 2]


def test_grouped_transposed_convolutions_stay_whole(case: Any) -> None:
    model, inputs = case("transposed")
    moved, notes = prune(model, inputs)
    assert (moved[0].out_channels, moved[2].out_channels, moved[4].out_channels) == (4, 12, 12)
    assert notes == ["structured: 2, 4: left whole: their channels cannot be removed"]


def test_every_output_keeps_its_shape() -> None:
    class TwoOutputs(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.features, self.head = nn.Linear(4, 8), nn.Linear(8, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
            features = self.features(torch.relu(self.first(x)))
            return self.head(features), features

    moved, notes = prune(TwoOutputs(), torch.randn(2, 4))
    assert (moved.first.out_features, moved.features.out_features) == (4, 6)
    assert notes == [
        "structured: features: left whole: their channels cannot be removed (the shape of the output changed)"
    ]


def test_global_ranking_takes_from_the_weaker_group() -> None:
    first = linear([[1.0], [1.0], [1.0], [1.0]], [0.0] * 4)  # all alike: each is its group's mean
    second = linear([[8.0] * 4, [1.0] * 4, [1.0] * 4, [1.0] * 4], [0.0] * 4)  # three far below theirs
    model = nn.Sequential(first, nn.ReLU(), second, nn.ReLU(), linear([[0.0] * 4], [0.0]))
    moved, _ = prune(model, torch.ones(1, 1), 3 / 8, scope="global")
    assert (moved[0].out_features, moved[2].out_features) == (4, 1)
    moved, _ = prune(model, torch.ones(1, 1), 0.5)
    assert (moved[0].out_features, moved[2].out_features) == (2, 2)


def test_attention_loses_the_same_dimensions_in_every_head(case: Any) -> None:
    model, inputs = case("transformer")
    moved, _ = prune(model, inputs)
    attention = moved.encoder.layers[0].self_attn
    assert (attention.embed_dim, attention.num_heads, attention.head_dim) == (8, 4, 2)
    kept = [int((model.embed.weight == column[:, None]).all(0).nonzero()) for column in moved.embed.weight.T]
    assert [sum(k // 4 == head for k in kept) for head in range(4)] == [2, 2, 2, 2]
    assert moved.position.shape == (1, 6, 8)


def test_layer_knobs_and_excluded_layers(case: Any) -> None:
    model, inputs = case("vgg")
    moved, _ = prune(model, inputs, layers=("4",))
    assert (moved[0].out_channels, moved[4].out_channels, moved[8].out_features) == (8, 6, 16)
    moved, _ = prune(model, inputs, exclude=("4",))
    assert (moved[0].out_channels, moved[4].out_channels, moved[8].out_features) == (4, 12, 8)
    model, inputs = case("residual")
    moved, notes = prune(model, inputs, exclude=("back",))
    assert (moved.stem.out_channels, moved.inner.out_channels) == (8, 6)
    assert notes == ["structured: stem: left whole: their channels depend on layers that the knob does not govern"]


def test_round_to_and_a_ratio_below_one_channel(case: Any) -> None:
    model, inputs = case("vgg")
    moved, _ = prune(model, inputs, 0.4, round_to=4)
    assert (moved[0].out_channels, moved[4].out_channels, moved[8].out_features) == (
        4,
        8,
        12,
    )  # of 5, 7 and 10 channels
    moved, notes = prune(model, inputs, 0.01)
    assert torch.equal(forward(moved, inputs), forward(model, inputs))
    assert len(notes) == 1
    assert notes[0].startswith("structured: 0, 4, 8: left whole: 0.01 of their channels is less than one")
    moved, notes = prune(model, inputs, 0.01, scope="global")
    assert torch.equal(forward(moved, inputs), forward(model, inputs))
    assert len(notes) == 1


def test_masks_and_grids_are_cut_with_the_weights() -> None:
    torch.manual_seed(1)
    model = nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.ConvTranspose2d(4, 6, 3), nn.ReLU(), nn.Conv2d(6, 2, 1), nn.Flatten()
    )
    held = UnstructuredPruning()(WeightQuantization()(model, "quantize.bits", 4), "prune.sparsity", 0.3)
    moved, _ = prune(held, torch.randn(1, 2, 4, 4))
    for i in (0, 2, 4):
        full, small = read_weight(held[i]), read_weight(moved[i])
        assert full.grid is not None
        assert small.grid is not None
        assert small.keep is not None
        assert small.keep.shape == small.weight.shape == moved[i].weight.shape
        assert small.grid.scale.shape == tuple(
            1 if size == 1 else small.weight.shape[dim] for dim, size in enumerate(full.grid.scale.shape)
        )
        assert torch.equal(small.weight == 0, small.weight.masked_fill(~small.keep, 0) == 0)
        codes = torch.round(small.weight / small.grid.scale) + small.grid.zero_point
        assert torch.equal(small.grid.values(codes).masked_fill(~small.keep, 0), small.weight)
    # Each surviving filter of the first layer keeps its own scale.
    first, cut = read_weight(held[0]), read_weight(moved[0])
    for row in range(2):
        origin = next(i for i in range(4) if torch.equal(first.weight[i], cut.weight[row]))
        assert torch.equal(first.grid.scale[origin], cut.grid.scale[row])  # type: ignore[union-attr]
        assert torch.equal(first.keep[origin], cut.keep[row])  # type: ignore[index]


@pytest.mark.parametrize("shape", [(3, 1), (1, 4), (3, 4), (4,), (), (1, 1)])
def test_a_broadcast_tensor_is_cut_like_its_weight(shape: tuple[int, ...]) -> None:
    scale = torch.arange(1.0, 13)[: torch.Size(shape).numel()].reshape(shape)
    weight = scale.expand(3, 4) * torch.ones(3, 4)
    survivors = torch.arange(12).reshape(3, 4)[[0, 2]][:, [1, 3]]
    cut = sliced_like(scale, torch.Size((3, 4)), survivors)
    expected: Tensor = weight[[0, 2]][:, [1, 3]]
    assert torch.equal(cut.expand(2, 2), expected)
    assert cut.numel() <= scale.numel()


def test_shared_weights_stay_shared_or_whole(case: Any) -> None:
    model, inputs = case("tied")
    moved, notes = prune(model, inputs)
    assert moved.head.weight is moved.embed.weight
    assert moved.hidden.out_features == 6
    assert [note.startswith("structured: back: left whole") for note in notes] == [True]
    assert "the shared weight" in notes[0]


def test_nothing_removable_is_not_applicable_and_leaves_the_model_alone() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.b(self.a(x).view(-1, 6))

    model = Fixed()
    with pytest.raises(NotApplicable, match="does not run"):
        StructuredPruning(example_inputs=torch.randn(2, 4))(model, "structured.ratio", 0.5)
    assert model.a.weight.shape == (6, 4)
    with pytest.raises(NotApplicable, match="cannot be traced"):
        StructuredPruning(example_inputs=torch.randn(2, 3))(model, "structured.ratio", 0.5)


def test_nothing_of_the_library_is_heard(
    case: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    build = torch_pruning.DependencyGraph.build_dependency

    def loud(*args: Any, **settings: Any) -> Any:
        print("tracing")
        warnings.warn("unwrapped parameters", stacklevel=1)
        return build(*args, **settings)

    monkeypatch.setattr(torch_pruning.DependencyGraph, "build_dependency", loud)
    model, inputs = case("transformer")
    _, notes = prune(model, inputs)
    assert notes == []
    assert capsys.readouterr() == ("", "")


def test_without_the_library_the_way_out_is_named(case: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = case("vgg")
    monkeypatch.setitem(sys.modules, "torch_pruning", None)
    with pytest.raises(KMRError, match="pip install torch-pruning"):
        StructuredPruning(example_inputs=inputs)(model, "structured.ratio", 0.5)


def test_settings_outside_their_choices_are_refused() -> None:
    with pytest.raises(KMRError, match="one of kmr's criteria"):
        StructuredPruning(example_inputs=None, criterion="taylor")  # type: ignore[arg-type]
    with pytest.raises(KMRError, match="round_to"):
        StructuredPruning(example_inputs=None, round_to=0)


def test_a_warning_is_a_rule_warning(case: Any) -> None:
    model, inputs = case("option_a")
    with pytest.warns(RuleWarning):
        StructuredPruning(example_inputs=inputs)(model, "structured.ratio", 0.5)


def widths(model: nn.Module) -> list[int]:
    return [model[0].out_channels, model[4].out_channels, model[8].out_features]  # type: ignore[index, union-attr, list-item]


def test_a_group_of_layers_loses_more_than_the_rest(case: Any) -> None:
    model, inputs = case("vgg")
    rule = StructuredPruning(example_inputs=inputs, groups={"late": ("4", "8")})
    assert [knob.name for knob in rule.knobs] == ["structured.ratio", "structured.extra@late"]
    first = rule(model, "structured.ratio", 0.25)
    assert widths(first) == [6, 9, 12]
    assert widths(rule(first, "structured.extra@late", 0.5)) == [6, 4, 6]


def test_rounding_can_be_a_knob_of_its_own(case: Any) -> None:
    model, inputs = case("vgg")
    rule = StructuredPruning(example_inputs=inputs, round_to=(1, 4, 8))
    ratio, rounding = rule.knobs
    assert (ratio.name, rounding.name, rounding.domain.neutral) == ("structured.ratio", "structured.round_to", 1)
    first = rule(model, ratio.name, 0.3)
    assert widths(first) == [6, 8, 11]
    assert widths(rule(first, rounding.name, 4)) == [4, 8, 8]
    assert widths(rule(first, rounding.name, 8)) == [6, 8, 8]  # fewer than 8 stay


def test_isomorphic_groups_are_ranked_among_themselves() -> None:
    def layers(scale: float) -> list[nn.Module]:
        strong, weak = [[8.0 * scale] * 4], [[scale] * 4] * 3
        return [linear(strong + weak, [0.0] * 4), nn.ReLU()]

    # Two linear groups of the same layers and a normalised one, whose strong channel stands out most.
    model = nn.Sequential(
        linear([[1.0]] * 4, [0.0] * 4), nn.ReLU(), *layers(1.0), linear([[1.0] * 4] * 4, [0.0] * 4), nn.LayerNorm(4),
        linear([[1.0] * 4], [0.0]),
    )  # fmt: skip
    moved, _ = prune(model, torch.ones(2, 1), 0.5, scope="isomorphic")
    plain, normalised = moved[0].out_features + moved[2].out_features, moved[4].out_features
    assert (plain, normalised) == (4, 2)  # each kind pays its own half
    moved, _ = prune(model, torch.ones(2, 1), 0.5, scope="global")
    assert moved[0].out_features + moved[2].out_features + moved[4].out_features == 6


def test_criteria_that_read_data_go_through_the_rule(case: Any) -> None:
    model, inputs = case("vgg")
    data = Split((inputs, torch.tensor([0, 1])), 2)
    moved, notes = prune(model, inputs, criterion=Taylor(), data=data, scope="global")
    assert sum(p.numel() for p in moved.parameters()) < sum(p.numel() for p in model.parameters())
    assert notes == []
    with pytest.raises(KMRError, match="give the rule `data`"):
        prune(model, inputs, criterion=Taylor())


def test_heads_go_as_wholes_and_the_code_is_told() -> None:
    case = make("vit, fused qkv")
    for layer in case.model.layers:  # type: ignore[union-attr]
        layer.attention.qkv.weight.data *= 5  # so that attention is not even
        layer.attention.proj.weight.data[:, 4:8] = 0  # the second head is the weakest
        layer.attention.qkv.weight.data.view(3, 4, 4, 16)[:, 1] *= 0.1
    moved, notes = prune(case.model, case.inputs, 0.25, layers=("layers.*.attention.qkv",))
    assert notes == []
    for before, after in zip(case.model.layers, moved.layers, strict=True):  # type: ignore[arg-type]
        assert (after.attention.num_heads, after.attention.head_dim) == (3, 4)
        kept = torch.tensor([0, 2, 3])
        expected = before.attention.qkv.weight.view(3, 4, 4, 16)[:, kept].reshape(36, 16)
        assert torch.equal(after.attention.qkv.weight, expected)


def test_heads_of_uneven_attention_stay_whole_or_go_whole() -> None:
    case = make("vit, separate q k v")
    for layer in case.model.layers:  # type: ignore[union-attr]
        layer.attention.query.weight.data *= 10
        layer.attention.key.weight.data *= 10
    moved, _ = prune(case.model, case.inputs, 0.5, layers=("layers.*.attention.*",), exclude=("*.out",))
    assert [layer.attention.query.out_features for layer in moved.layers] == [8, 8]
    assert [layer.attention.num_heads for layer in moved.layers] == [2, 2]


def test_inputs_of_double_precision_are_converted_as_in_every_other_call() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    moved, notes = prune(model, torch.randn(2, 3, dtype=torch.float64))
    assert (moved[0].out_features, notes) == (4, [])
