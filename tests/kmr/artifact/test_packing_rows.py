import pytest
import torch
from torch import Tensor, nn

from kmr.artifact.bit_codecs import pack_rows, row_widths, unpack_bits, unpack_rows
from kmr.artifact.packing import file_bytes, pack, read, unpack, write
from kmr.artifact.weight_encoding import decode_weight, encode_weight
from kmr.representation.weights import WeightState, read_weight, write_weight


def state(keep: Tensor) -> WeightState:
    weight = torch.rand(keep.shape, generator=torch.Generator().manual_seed(1)) + 0.5
    return WeightState(torch.where(keep, weight, torch.zeros(())), None, keep)


def chance(shape: tuple[int, ...], density: float) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) < density


def in_few_rows() -> Tensor:
    """Seven entries in one row of six: gaps are short within rows and long between them."""
    generator = torch.Generator().manual_seed(0)
    keep = torch.zeros(4096, 256, dtype=torch.bool)
    for row in torch.nonzero(torch.rand(4096, generator=generator) < 1 / 6).flatten():
        keep[row, torch.randperm(256, generator=generator)[:7]] = True
    return keep


def form(keep: Tensor) -> str:
    found = state(keep)
    encoded = encode_weight(found, found.weight)
    assert encoded is not None
    data, entry = encoded
    decoded = decode_weight(data, entry)
    assert torch.equal(decoded.weight, found.weight)
    assert decoded.keep is not None
    assert torch.equal(decoded.keep, keep)
    return str(entry.get("index", "dense"))


def test_counts_and_columns_are_as_wide_as_they_must_be() -> None:
    kept = torch.zeros(3, 10, dtype=torch.bool)
    kept[0, [1, 9]] = kept[2, 4] = True
    widths = row_widths(kept)
    assert widths == (2, 4)
    data = pack_rows(kept, widths)
    assert unpack_bits(data[:1], 2, 3).tolist() == [2, 0, 1]
    assert unpack_bits(data[1:], 4, 3).tolist() == [1, 9, 4]
    assert torch.equal(unpack_rows(torch.tensor([2, 0, 1]), torch.tensor([1, 9, 4]), 10), kept)
    assert row_widths(torch.ones(1, 2**16 + 1, dtype=torch.bool)) is None


def test_each_form_is_chosen_where_it_is_the_smallest() -> None:
    assert form(torch.ones(64, 64, dtype=torch.bool)) == "dense"
    assert form(chance((64, 64), 0.5)) == "bitmask"
    assert form(chance((256, 256), 0.95)) == "removed"
    assert form(chance((256, 256), 0.02)) == "kept"
    assert form(in_few_rows()) == "rows"


@pytest.mark.parametrize("keep", [torch.zeros(4, 300).bool(), chance((3, 5, 3, 3), 0.1), torch.eye(40).bool()])
def test_every_form_comes_back_exactly(keep: Tensor) -> None:
    assert form(keep) in ("bitmask", "kept", "removed", "rows")


def test_the_bytes_are_those_of_a_file_that_is_read_back(tmp_path: object) -> None:
    keep = in_few_rows()
    layer = nn.Linear(256, 4096, bias=False)
    write_weight(layer, WeightState(layer.weight, None, keep))
    packed = pack(layer)
    assert packed.manifest["weights"]["weight"]["index"] == "rows"
    path = f"{tmp_path}/weights.safetensors"
    write(packed, path)
    with open(path, "rb") as file:
        assert len(file.read()) == file_bytes(packed)
    back = unpack(read(path), nn.Linear(256, 4096, bias=False))
    assert torch.equal(read_weight(back).weight, read_weight(layer).weight)
