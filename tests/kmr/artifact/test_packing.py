import itertools
import json
import os

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils import parametrizations, parametrize

from kmr.artifact.bit_codecs import gaps, narrowest_gaps, pack_bits, pack_gaps, packed_size, unpack_bits, unpack_gaps
from kmr.artifact.packing import Packed, file_bytes, pack, read, unpack, write
from kmr.core import KMRError
from kmr.instantiations.quantization import fit_grid
from kmr.representation.weights import Grid, Mask, WeightState, read_weight, settle, write_weight

torch.set_num_threads(1)


def affine_grid(weight, bits, per_channel=True, symmetric=False, dim=0):
    axes = tuple(d for d in range(weight.dim()) if d != dim) if per_channel else tuple(range(weight.dim()))
    low, high = weight.amin(axes, keepdim=True).clamp(max=0), weight.amax(axes, keepdim=True).clamp(min=0)
    if symmetric:
        high = torch.maximum(-low, high)
        low = -high
    scale = ((high - low) / (2**bits - 1)).clamp(min=1e-4).to(weight.dtype)
    zero = torch.round(-low / scale).clamp(0, 2**bits - 1).to(weight.dtype)
    return Grid(scale, zero, bits)


def bits_of(tensor):
    return tensor.contiguous().view({2: torch.int16, 4: torch.int32, 8: torch.int64}[tensor.element_size()])


def assert_same(one, other):
    for name, tensor in one.state_dict().items():
        if "parametrizations" not in name:
            assert torch.equal(tensor, other.state_dict()[name]), name
    for (path, a), (_, b) in zip(one.named_modules(), other.named_modules(), strict=True):
        if hasattr(a, "weight") and isinstance(a, nn.Linear | nn.Conv2d | nn.ConvTranspose2d | nn.Embedding):
            mine, theirs = read_weight(a), read_weight(b)
            assert torch.equal(bits_of(mine.weight), bits_of(theirs.weight)), path
            assert (mine.keep is None) == (theirs.keep is None)
            assert mine.keep is None or torch.equal(mine.keep, theirs.keep)
            assert (mine.grid is None) == (theirs.grid is None)
            if mine.grid is not None:
                assert mine.grid.bits == theirs.grid.bits
                for name in ("scale", "zero_point"):
                    left, right = getattr(mine.grid, name), getattr(theirs.grid, name)
                    assert left.dtype == right.dtype
                    assert torch.equal(left, right)


def round_trip(model, empty, path):
    packed = pack(model)
    write(packed, path)
    assert os.path.getsize(path) == file_bytes(packed)
    restored = unpack(read(path), empty)
    assert_same(model, restored)
    return packed


# --- codecs -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(1, 17))
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 1000])
def test_codes_take_exactly_their_bits_and_come_back(bits, count):
    codes = torch.randint(0, 2**bits, (count,), generator=torch.Generator().manual_seed(0), dtype=torch.int32)
    data = pack_bits(codes, bits)
    assert data.dtype == torch.uint8
    assert len(data) == packed_size(count, bits) == -(-count * bits // 8)
    assert torch.equal(unpack_bits(data, bits, count), codes)


def test_bits_fill_bytes_from_the_lowest_up():
    assert pack_bits(torch.tensor([1, 2, 3]), 3).tolist() == [0b11_010_001, 0b0]
    assert pack_bits(torch.tensor([1, 0, 0, 0, 0, 0, 0, 1, 1]), 1).tolist() == [0b1000_0001, 1]
    assert pack_bits(torch.tensor([0x1FF, 0x002]), 9).tolist() == [0xFF, 0x02, 0b01]


def test_a_gap_longer_than_its_symbols_is_reached_by_skips():
    # 2 bits: 3 skips three places. Gaps 0, 4 and 3 are the symbols 0 | 3 1 | 3 0.
    positions = torch.tensor([0, 5, 9])
    assert gaps(positions).tolist() == [0, 4, 3]
    data = pack_gaps(positions, 2)
    assert unpack_bits(data, 2, 5).tolist() == [0, 3, 1, 3, 0]
    assert unpack_gaps(data, 2, 5).tolist() == [0, 5, 9]


@settings(max_examples=60, deadline=None)
@given(st.sets(st.integers(0, 200_000), max_size=60), st.integers(2, 16))
def test_any_positions_come_back_from_gaps_of_any_width(positions, bits):
    ascending = torch.tensor(sorted(positions), dtype=torch.int64)
    symbols = sum(int(gap) // (2**bits - 1) + 1 for gap in gaps(ascending))
    assert torch.equal(unpack_gaps(pack_gaps(ascending, bits), bits, symbols), ascending)
    width, fewest = narrowest_gaps(ascending)
    assert packed_size(fewest, width) <= packed_size(symbols, bits)
    assert torch.equal(unpack_gaps(pack_gaps(ascending, width), width, fewest), ascending)


# --- one weight -------------------------------------------------------------------------------------------------------

LAYERS = {
    "linear": lambda: nn.Linear(7, 5),
    "conv": lambda: nn.Conv2d(4, 6, 3, groups=2),
    "transposed": lambda: nn.ConvTranspose2d(4, 6, 3),
    "embedding": lambda: nn.Embedding(11, 3),
}


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("bits", [None, 1, 2, 3, 4, 7, 8, 9, 12, 16])
def test_round_trip_is_exact(kind, bits, tmp_path):
    torch.manual_seed(0)
    for density, scheme in itertools.product((None, 0.0, 0.05, 0.5, 0.97, 1.0), ("channel", "symmetric")):
        layer = LAYERS[kind]()
        weight = layer.weight.detach()
        keep = None if density is None else torch.rand_like(weight) < density
        dim = 1 if kind == "transposed" else 0
        grid = None if bits is None else affine_grid(weight, bits, scheme == "channel", scheme == "symmetric", dim)
        write_weight(layer, WeightState(weight, grid, keep))
        round_trip(layer, LAYERS[kind](), tmp_path / "m.safetensors")


@settings(max_examples=60, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 9), st.integers(1, 40)),
    bits=st.one_of(st.none(), st.integers(1, 16)),
    density=st.one_of(st.none(), st.floats(0, 1)),
    zeros=st.floats(0, 1),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64]),
    seed=st.integers(0, 1000),
)
def test_round_trip_is_exact_for_any_weight(shape, bits, density, zeros, dtype, seed, tmp_path_factory):
    generator = torch.Generator().manual_seed(seed)
    layer, empty = (nn.Linear(shape[1], shape[0], bias=False).to(dtype) for _ in range(2))
    weight = torch.randn(shape, generator=generator).to(dtype)
    weight[torch.rand(shape, generator=generator) < zeros] = 0
    weight[torch.rand(shape, generator=generator) < zeros / 9] = -0.0
    keep = None if density is None else torch.rand(shape, generator=generator) < density
    # The codes of 16 bits exceed what a float16 holds.
    grid = None if bits is None else affine_grid(weight, min(bits, 12) if dtype == torch.float16 else bits)
    write_weight(layer, WeightState(weight, grid, keep))
    round_trip(layer, empty, tmp_path_factory.mktemp("packed") / "m.safetensors")


def held(weight, grid=None, keep=None):
    layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False)
    write_weight(layer, WeightState(weight, grid, keep))
    return layer


def entry_of(layer):
    packed = pack(layer)
    return packed.manifest["weights"].get("weight", {}), packed.tensors["weight"].numel()


def test_sizes_of_the_encodings_by_hand():
    n, keep = 64 * 64, torch.zeros(64, 64, dtype=torch.bool)
    weight = torch.ones(64, 64)
    entry, size = entry_of(held(weight, Grid(torch.tensor(1.0), torch.tensor(0.0), 4)))
    assert "index" not in entry
    assert size == n // 2 + 4

    keep[:, ::2] = True
    entry, size = entry_of(held(weight, keep=keep))
    assert entry["index"] == "bitmask"
    assert size == n // 8 + n // 2 * 4

    # One weight in 64 kept, one gap of 63 each: 6 bits would need a skip for each, 7 bits do not; the first gap is 0.
    keep[:] = False
    keep[:, 0] = True
    entry, size = entry_of(held(weight, keep=keep))
    assert (entry["index"], entry["gap"], entry["symbols"]) == ("kept", 7, 64)
    assert size == 64 * 7 // 8 + 64 * 4

    # The other way round, 3-bit codes of all entries take less than those of most and the gaps between the rest.
    entry, size = entry_of(held(weight, Grid(torch.tensor(1.0), torch.tensor(0.0), 3), ~keep))
    assert "index" not in entry
    assert size == n * 3 // 8 + 4


def test_a_zero_under_a_mask_joins_it_and_a_removed_weight_stays_removed():
    weight = torch.tensor([[0.0, 1.0, 2.0, 3.0], [0.0, 0.0, 1.0, 2.0]])
    keep = torch.tensor([[True, True, True, True], [False, True, True, False]])
    for grid in (None, Grid(torch.tensor(1.0), torch.tensor(0.0), 2)):
        layer = held(weight, grid, keep)
        restored = unpack(pack(layer), nn.Linear(4, 2, bias=False))
        assert torch.equal(read_weight(restored).keep, keep & (weight != 0))
        assert torch.equal(restored.weight, weight * keep)


def test_a_masked_weight_is_dense_only_where_its_grid_has_a_code_for_zero():
    keep = torch.ones(8, 8, dtype=torch.bool)
    keep[0, 0] = False
    weight = 5 + torch.arange(64.0).reshape(8, 8) % 3
    outside = Grid(torch.tensor(1.0), torch.tensor(-5.0), 2)  # codes 0 to 3 are 5 to 8
    layer = held(weight, outside, keep)
    assert "index" in pack(layer).manifest["weights"]["weight"]
    restored = unpack(pack(layer), nn.Linear(8, 8, bias=False))
    assert torch.equal(restored.weight, weight * keep)
    inside = held(weight - 4, Grid(torch.tensor(1.0), torch.tensor(0.0), 2), keep)
    assert "index" not in pack(inside).manifest["weights"]["weight"]


def test_a_zero_that_no_mask_holds_is_stored_as_any_other_value():
    layer = nn.Linear(100, 100, bias=False)
    dense = file_bytes(pack(layer))
    with torch.no_grad():
        layer.weight[torch.rand(100, 100) < 0.9] = 0
        layer.weight[0, 0] = -0.0
    packed = pack(layer)
    assert file_bytes(packed) == dense
    restored = unpack(packed, nn.Linear(100, 100, bias=False))
    assert torch.equal(bits_of(restored.weight), bits_of(layer.weight))


def test_more_codes_than_bfloat16_can_count_come_back():
    torch.manual_seed(0)
    grid = Grid(torch.tensor(0.1).bfloat16(), torch.tensor(1000.0).bfloat16(), 12)
    layer = nn.Linear(32, 32, bias=False).bfloat16()
    write_weight(layer, WeightState(torch.rand(32, 32).bfloat16() * 300, grid, None))
    assert pack(layer).manifest["weights"]["weight"]["bits"] == 12
    restored = unpack(pack(layer), nn.Linear(32, 32, bias=False).bfloat16())
    assert torch.equal(restored.weight, layer.weight)
    assert restored.weight.dtype == torch.bfloat16
    assert (read_weight(restored).grid.bits, float(read_weight(restored).grid.zero_point)) == (12, 1000.0)


def test_values_that_codes_do_not_give_back_are_stored_as_the_latent_ones():
    layer = nn.Linear(4, 4, bias=False)
    write_weight(layer, WeightState(layer.weight.detach(), Grid(torch.tensor(0.1), torch.tensor(8.0), 4), None))
    layer.parametrizations.weight.original.data[0, 0] = float("nan")  # no code stands for it
    assert "bits" not in pack(layer).manifest["weights"]["weight"]
    restored = unpack(pack(layer), nn.Linear(4, 4, bias=False))
    torch.testing.assert_close(restored.weight, layer.weight, rtol=0, atol=0, equal_nan=True)
    assert (read_weight(restored).grid.bits, float(read_weight(restored).grid.zero_point)) == (4, 8.0)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("bits", [1, 2, 3])
def test_grids_without_0_groups_and_learned_scales_come_back(bits: int, masked: bool) -> None:
    torch.manual_seed(0)
    weight = torch.randn(6, 2, 3, 3)
    for how in ({"scheme": "midrise", "dim": 0}, {"group": 5}, {"dim": 0, "learned": True}):
        layer = nn.Conv2d(2, 6, 3, bias=False)
        write_weight(layer, WeightState(weight, fit_grid(weight, bits, **how), weight > 0.3 if masked else None))
        packed = pack(layer)
        assert packed.manifest["weights"]["weight"]["bits"] == bits
        restored = unpack(packed, nn.Conv2d(2, 6, 3, bias=False))
        grid, other = read_weight(layer).grid, read_weight(restored).grid
        assert torch.equal(restored.weight, layer.weight)
        assert torch.equal(grid.scale, other.scale)
        assert torch.equal(grid.zero_point, other.zero_point)
        assert (grid.group, grid.learned, grid.bits) == (other.group, other.learned, other.bits)
        # Every further forward pass rounds alike.
        assert torch.equal(grid(weight), other(weight))


def test_zero_points_are_small_whole_numbers_and_equal_ones_take_no_bytes():
    weight = torch.arange(16.0).reshape(4, 4)
    scale = torch.ones(4, 1)
    equal = pack(held(weight, Grid(scale, torch.zeros(4, 1), 4))).tensors["weight"]
    different = pack(held(weight, Grid(scale, torch.tensor([[0.0], [1], [-3], [200]]), 8))).tensors["weight"]
    assert len(equal) == 8 + 4 * 4
    assert len(different) == 16 + 4 * 4 + 4 * 2


def test_an_unsettled_weight_is_stored_as_the_model_computes_with_it():
    torch.manual_seed(0)
    layer = nn.Linear(32, 32, bias=False)
    write_weight(layer, WeightState(layer.weight.detach(), affine_grid(layer.weight.detach(), 5)))
    layer.parametrizations.weight.original.data.add_(0.05 * torch.randn(32, 32))
    restored = unpack(pack(layer), nn.Linear(32, 32, bias=False))
    assert torch.equal(restored.weight, layer.weight)
    assert torch.equal(settle(layer).weight, restored.weight)


# --- models -----------------------------------------------------------------------------------------------------------


class Odd(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(6, 4)
        self.head = nn.Linear(4, 6, bias=False)
        self.head.weight = self.embed.weight
        self.shared = nn.Linear(4, 4)
        self.again = self.shared
        self.norm = nn.BatchNorm1d(4)
        self.brain = nn.Parameter(torch.randn(3).bfloat16())
        self.register_buffer("count", torch.tensor(7))
        self.register_buffer("flag", torch.tensor([True, False]))
        self.register_buffer("nothing", None)
        self.register_buffer("cache", torch.randn(5), persistent=False)


def test_everything_else_is_stored_as_it_is_and_tied_tensors_once(tmp_path):
    torch.manual_seed(0)
    model = Odd()
    keep = torch.rand(4, 4) < 0.5
    write_weight(model.shared, WeightState(model.shared.weight.detach(), affine_grid(model.shared.weight, 4), keep))
    torch.manual_seed(1)
    packed = round_trip(model, Odd(), tmp_path / "m.safetensors")
    assert packed.manifest["tied"] == {
        "head.weight": "embed.weight",
        "again.weight": "shared.weight",
        "again.bias": "shared.bias",
    }
    assert "cache" not in packed.tensors
    assert "cache" in pack(model, also=["cache"]).tensors
    assert packed.tensors["count"].shape == ()
    assert packed.tensors["brain"].dtype == torch.bfloat16
    restored = unpack(packed, Odd())
    assert restored.head.weight is restored.embed.weight
    assert restored.again is restored.shared


def test_packing_changes_nothing():
    torch.manual_seed(0)
    layer = nn.Linear(8, 8)
    write_weight(layer, WeightState(layer.weight.detach(), affine_grid(layer.weight.detach(), 3), torch.eye(8) > 0))
    before = {name: tensor.clone() for name, tensor in layer.state_dict().items()}
    state = torch.get_rng_state()
    packed = pack(layer)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(before[name], tensor) for name, tensor in layer.state_dict().items())
    layer.bias.data.zero_()
    assert packed.tensors["bias"].any()


def test_training_goes_on_under_the_restored_grid_and_mask():
    torch.manual_seed(0)
    layer = nn.Linear(8, 8)
    keep = torch.rand(8, 8) < 0.5
    write_weight(layer, WeightState(layer.weight.detach(), affine_grid(layer.weight.detach(), 3), keep))
    restored = unpack(pack(layer), nn.Linear(8, 8))
    for model in (layer, restored):
        optimizer = torch.optim.SGD(model.parameters(), 0.3)
        for seed in range(3):
            x = torch.randn(16, 8, generator=torch.Generator().manual_seed(seed))
            optimizer.zero_grad()
            model(x).square().mean().backward()
            optimizer.step()
    assert torch.equal(layer.weight, restored.weight)
    assert (restored.weight[~keep] == 0).all()


def test_other_parametrizations_of_a_weight_become_its_values():
    layer = parametrizations.weight_norm(nn.Linear(4, 3))
    restored = unpack(pack(layer), nn.Linear(4, 3))
    assert torch.equal(restored.weight, layer.weight)


class MyGrid(Grid):
    pass


def test_a_parametrization_that_cannot_be_stored_is_refused():
    layer = nn.Linear(4, 3)
    parametrize.register_parametrization(layer, "weight", MyGrid(torch.tensor(1.0), torch.tensor(0.0), 2))
    with pytest.raises(KMRError, match="weight has the parametrizations MyGrid"):
        pack(layer)
    layer = nn.Linear(4, 3)
    parametrize.register_parametrization(layer, "weight", Mask(torch.ones(3, 4) > 0))
    parametrize.register_parametrization(layer, "weight", Grid(torch.tensor(1.0), torch.tensor(0.0), 2))
    with pytest.raises(KMRError, match="Mask, Grid"):
        pack(layer)


class Secret(nn.Module):
    def get_extra_state(self):
        return {"weights": "elsewhere"}


def test_state_that_is_no_tensor_is_refused_not_missed():
    with pytest.raises(KMRError, match="_extra_state"):
        pack(nn.Sequential(Secret()))


def test_types_a_file_cannot_hold_are_refused():
    model = nn.Module()
    model.register_buffer("b", torch.zeros(2, dtype=torch.complex128))
    with pytest.raises(KMRError, match=r"b has type torch\.complex128"):
        pack(model)
    model = nn.Module()
    model.register_buffer("b", torch.zeros(2, 2).to_sparse())
    with pytest.raises(KMRError, match="only plain tensors"):
        pack(model)


@pytest.mark.parametrize(
    ("empty", "message"),
    [
        (lambda: nn.Linear(4, 3, bias=False), "no bias"),
        (lambda: nn.Sequential(nn.Linear(4, 3)), "no 0.bias"),
        (lambda: nn.Linear(5, 3), r"\(3, 5\)"),
        (lambda: nn.Linear(4, 3).double(), "float64"),
    ],
)
def test_a_model_that_does_not_fit_is_refused(empty, message):
    layer = nn.Linear(4, 3)
    write_weight(layer, WeightState(layer.weight.detach(), keep=torch.eye(3, 4) > 0))
    with pytest.raises(KMRError, match=message):
        unpack(pack(layer), empty())


def test_tied_tensors_are_not_filled_from_different_ones():
    model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    tied = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
    tied[1].weight = tied[0].weight
    with pytest.raises(KMRError, match="tied in the model but not in the file"):
        unpack(pack(model), tied)


# --- files ------------------------------------------------------------------------------------------------------------


def test_the_size_is_that_of_the_file_for_all_types_and_names(tmp_path):
    dtypes = [
        torch.uint64, torch.int64, torch.float64, torch.complex64, torch.float32, torch.uint32, torch.int32,
        torch.bfloat16, torch.float16, torch.uint16, torch.int16, torch.float8_e4m3fn, torch.float8_e5m2, torch.int8,
        torch.uint8, torch.bool,
    ]  # fmt: skip
    for count, names in itertools.product(
        (0, 1, 3, 1000), (list("abcdefghijklmnop"), [f'été{i}\n"\\' for i in range(16)])
    ):
        tensors = {name: torch.zeros(count).to(dtype) for name, dtype in zip(names, dtypes, strict=True)}
        packed = Packed(tensors, {"format": 1, "weights": {}, "tied": {"é": 'a"\\'}})
        write(packed, tmp_path / "m")
        assert os.path.getsize(tmp_path / "m") == file_bytes(packed)
        assert read(tmp_path / "m").manifest == packed.manifest


def test_the_same_model_makes_the_same_file(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    for name in ("a", "b"):
        write(pack(model), tmp_path / name)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_any_reader_of_safetensors_reads_the_plain_tensors(tmp_path):
    import safetensors.torch

    model = nn.Sequential(nn.Linear(8, 8), nn.BatchNorm1d(8))
    write(pack(model), tmp_path / "m")
    loaded = safetensors.torch.load_file(tmp_path / "m")
    assert loaded.keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, loaded[name]) for name, tensor in model.state_dict().items())


def test_damaged_files_are_refused_in_one_line(tmp_path):
    import safetensors.torch

    write(pack(nn.Linear(4, 4)), tmp_path / "m")
    data = (tmp_path / "m").read_bytes()
    for damaged in (b"", data[:-1], data[:20], b"\xff" * 8 + data[8:], b"x" * 100):
        (tmp_path / "d").write_bytes(damaged)
        with pytest.raises(KMRError, match="damaged") as error:
            read(tmp_path / "d")
        assert "\n" not in str(error.value)
    with pytest.raises(KMRError, match="no file"):
        read(tmp_path / "absent")
    safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "other")
    with pytest.raises(KMRError, match="without packed weights"):
        read(tmp_path / "other")
    for text, message in (("{", "damaged manifest"), (json.dumps({"format": 99}), "format 99")):
        safetensors.torch.save_file({"a": torch.zeros(1)}, tmp_path / "other", {"kmr": text})
        with pytest.raises(KMRError, match=message):
            read(tmp_path / "other")


def test_a_packed_weight_that_ends_early_is_refused():
    layer = held(torch.ones(8, 8), keep=torch.eye(8) > 0)
    packed = pack(layer)
    short = Packed({"weight": packed.tensors["weight"][:-1]}, packed.manifest)
    with pytest.raises(KMRError, match="ends after"):
        unpack(short, nn.Linear(8, 8, bias=False))
