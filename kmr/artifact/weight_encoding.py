"""Encoding of one weight as bytes: codes of its grid or raw values, for all its entries or for the kept ones.

The bytes hold in sequence: the index of the kept entries, the values, the grid's scale and the grid's zero point. The
index is empty for a dense weight, one bit for each entry, the gaps between kept or removed entries (whichever are
fewer), or the compressed sparse rows of the kept entries. The encoder chooses the smallest form that restores weight,
grid and mask exactly.

Only a mask makes a weight sparse. A zero outside a mask is stored like any other value: training can move it, and would
then change the size. A masked weight can be stored densely only where its zeros alone determine the mask: no kept entry
is 0, and its grid has a code for 0.
"""

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from kmr.artifact.bit_codecs import (
    narrowest_gaps,
    pack_bits,
    pack_gaps,
    pack_rows,
    packed_size,
    row_widths,
    unpack_bits,
    unpack_gaps,
    unpack_rows,
)
from kmr.core import KMRError
from kmr.representation.rounding import wide
from kmr.representation.weights import Codebook, Grid, WeightState

_INTEGERS = (torch.int8, torch.uint8, torch.int16, torch.int32)


@dataclass(frozen=True)
class _Index:
    """One form of the index of kept entries: its size in bytes, its manifest entry, its encoder."""

    size: int
    entry: dict[str, Any]
    encode: Callable[[], Tensor]


@torch.no_grad()
def encode_weight(state: WeightState, latent: Tensor) -> tuple[Tensor, dict[str, Any]] | None:
    """Encode a weight as bytes and the manifest entry that decodes them; return None if it has no grid and no mask.

    Args:
        state: the effective weight, its grid and its mask, on the CPU.
        latent: the values under the grid and mask; stored instead of codes where those do not restore the effective
            weight to the last bit (no code stands for NaN).
    """
    weight, grid, keep = state.weight.contiguous(), state.grid, state.keep
    keep = None if keep is None else keep.expand(weight.shape)
    entry: dict[str, Any] = {"shape": list(weight.shape)}
    if weight.dtype != torch.float32:
        entry["dtype"] = _dtype_name(weight)
    codes = None if grid is None else _exact_codes(weight, grid, keep)
    if grid is None:
        target = weight
    elif codes is None:
        target = latent.contiguous() if keep is None else torch.where(keep, latent, torch.zeros_like(latent))
    else:
        target = weight
        entry["bits"] = grid.bits
    values = target.reshape(-1) if codes is None else codes.reshape(-1)
    if keep is None and grid is None:
        return None
    present = torch.ones(len(values), dtype=torch.bool) if keep is None else keep.reshape(-1)
    if keep is not None:
        entry["masked"] = True
    width = 8 * weight.element_size() if codes is None or grid is None else grid.bits

    indices = [] if keep is None else _indices(present, math.prod(weight.shape[1:]))
    if _dense_is_exact(target, codes, grid, keep):
        indices.insert(0, _Index(0, {}, lambda: torch.empty(0, dtype=torch.uint8)))
    kept = int(present.sum())

    def cost(index: _Index) -> int:
        count = kept if index.entry else len(values)
        # The entry is JSON within JSON, so its quotes are escaped twice.
        return index.size + packed_size(count, width) + len(json.dumps(json.dumps(index.entry)))

    best = min(indices, key=cost)
    entry.update(best.entry)
    stored = values[present] if best.entry else values
    parts = [best.encode(), stored.view(torch.uint8) if codes is None else pack_bits(stored, width)]
    if grid is not None:
        entry["grid"], grid_parts = _encode_grid(grid, weight.dtype, codes is not None)
        parts += grid_parts
    return torch.cat([part.reshape(-1) for part in parts]), entry


@torch.no_grad()
def decode_weight(data: Tensor, entry: dict[str, Any]) -> WeightState:
    """Decode bytes and manifest entry to the weight (the latent one if that was stored), grid and mask."""
    reader = _Reader(data)
    shape, dtype = tuple(entry["shape"]), _dtype(entry.get("dtype", "float32"))
    total = math.prod(shape)
    present = _decode_index(reader, entry, total)
    count = total if present is None else int(present.sum())
    bits = entry.get("bits")
    if bits is None:
        values = reader.take(count * dtype.itemsize).view(dtype)
    else:
        values = unpack_bits(reader.take(packed_size(count, bits)), bits, count).to(_code_dtype(dtype))
    grid = _decode_grid(reader, entry, dtype) if "grid" in entry else None
    if present is not None:
        full = torch.zeros(total, dtype=values.dtype)
        full[present] = values
        values = full
    weight = values.reshape(shape)
    if bits is not None and grid is not None:
        weight = grid.values(weight).to(dtype)
        if present is not None:
            weight = torch.where(present.reshape(shape), weight, torch.zeros((), dtype=dtype))
    keep = None
    if entry.get("masked"):
        keep = (_raw(weight) != 0) if present is None else present.reshape(shape)
    return WeightState(weight, grid, keep)


class _Reader:
    """A sequential reader of bytes."""

    def __init__(self, data: Tensor) -> None:
        self.data = data
        self.start = 0

    def take(self, count: int) -> Tensor:
        part = self.data[self.start : self.start + count]
        if len(part) != count:
            raise KMRError(f"a packed weight ends after {len(self.data)} of at least {self.start + count} bytes")
        self.start += count
        return part.clone()


def _exact_codes(weight: Tensor, grid: Grid | Codebook, keep: Tensor | None) -> Tensor | None:
    codes = grid.codes(weight).nan_to_num(0).to(torch.int32).clamp_(0, 2**grid.bits - 1)
    same = _raw(grid.values(codes.to(_code_dtype(weight.dtype))).to(weight.dtype)) == _raw(weight)
    return codes if bool((same if keep is None else same | ~keep).all()) else None


def _dense_is_exact(target: Tensor, codes: Tensor | None, grid: Grid | Codebook | None, keep: Tensor | None) -> bool:
    if keep is None:
        return True
    if codes is None or grid is None:
        return torch.equal(_raw(target) != 0, keep)
    decoded = grid.values(codes.to(_code_dtype(target.dtype))).to(target.dtype)
    return torch.equal(_raw(decoded) != 0, keep)


def _indices(present: Tensor, columns: int) -> list[_Index]:
    total, kept = len(present), int(present.sum())
    side, fewer = ("kept", present) if 2 * kept <= total else ("removed", ~present)
    positions = torch.nonzero(fewer).reshape(-1)
    width, symbols = narrowest_gaps(positions)
    found = [
        _Index(packed_size(total, 1), {"index": "bitmask"}, lambda: pack_bits(present.to(torch.uint8), 1)),
        _Index(
            packed_size(symbols, width),
            {"index": side, "gap": width, "symbols": symbols},
            lambda: pack_gaps(positions, width),
        ),
    ]
    rows = present.reshape(-1, columns) if columns else present.reshape(0, 1)
    if widths := row_widths(rows):
        size = packed_size(len(rows), widths[0]) + packed_size(kept, widths[1])
        entry = {"index": "rows", "columns": columns, "widths": list(widths)}
        found.append(_Index(size, entry, lambda: pack_rows(rows, widths)))
    return found


def _decode_index(reader: _Reader, entry: dict[str, Any], total: int) -> Tensor | None:
    match entry.get("index"):
        case None:
            return None
        case "bitmask":
            return unpack_bits(reader.take(packed_size(total, 1)), 1, total).to(torch.bool)
        case "rows":
            columns, (count_bits, column_bits) = entry["columns"], entry["widths"]
            rows = total // columns
            counts = unpack_bits(reader.take(packed_size(rows, count_bits)), count_bits, rows)
            kept = int(counts.sum())
            found = unpack_bits(reader.take(packed_size(kept, column_bits)), column_bits, kept)
            return unpack_rows(counts, found, columns).reshape(-1)
        case side:
            width, symbols = entry["gap"], entry["symbols"]
            positions = unpack_gaps(reader.take(packed_size(symbols, width)), width, symbols)
            fewer = torch.zeros(total, dtype=torch.bool)
            fewer[positions] = True
            return fewer if side == "kept" else ~fewer


def _encode_grid(grid: Grid | Codebook, dtype: torch.dtype, coded: bool) -> tuple[dict[str, Any], list[Tensor]]:
    if isinstance(grid, Codebook):
        levels = grid.levels.detach().cpu().contiguous()
        book: dict[str, Any] = {"levels": len(levels)}
        if levels.dtype != dtype:
            book["dtype"] = _dtype_name(levels)
        if not coded:
            book["bits"] = grid.bits
        if grid.learned:
            book["learned"] = True
        return book, [levels.view(torch.uint8)]
    scale, zero = grid.scale.detach().cpu().contiguous(), grid.zero_point.detach().cpu().contiguous()
    described: dict[str, Any] = {"scale": list(scale.shape)}
    if scale.dtype != dtype:
        described["scale_dtype"] = _dtype_name(scale)
    if zero.shape != scale.shape:
        described["zero_shape"] = list(zero.shape)
    if zero.dtype != scale.dtype:
        described["zero_dtype"] = _dtype_name(zero)
    if not coded:
        described["bits"] = grid.bits
    if grid.group:
        described["group"] = grid.group
    if grid.learned:
        described["learned"] = True
    parts = [scale.reshape(-1).view(torch.uint8)]
    whole = bool((zero == zero.round()).all()) and bool((zero.abs() < 2**31).all())
    if zero.numel() and bool((zero == zero.flatten()[0]).all()) and bool((2 * zero == (2 * zero).round()).all()):
        first = float(zero.flatten()[0])
        described["zero"] = int(first) if whole else first
    else:
        narrow = next((d for d in _INTEGERS if whole and _fits(zero, d)), zero.dtype)
        described["zero"] = str(narrow).removeprefix("torch.")
        parts.append(zero.to(narrow).reshape(-1).view(torch.uint8))
    return described, parts


def _decode_grid(reader: _Reader, entry: dict[str, Any], dtype: torch.dtype) -> Grid | Codebook:
    described = entry["grid"]
    if "levels" in described:
        kind = _dtype(described["dtype"]) if "dtype" in described else dtype
        levels = reader.take(described["levels"] * kind.itemsize).view(kind)
        width = int(entry.get("bits", described.get("bits")))
        return Codebook(levels, width, learned=described.get("learned", False))
    shape = tuple(described["scale"])
    scale_dtype = _dtype(described["scale_dtype"]) if "scale_dtype" in described else dtype
    scale = reader.take(math.prod(shape) * scale_dtype.itemsize).view(scale_dtype).reshape(shape)
    zero_shape = tuple(described.get("zero_shape", shape))
    zero_dtype = _dtype(described["zero_dtype"]) if "zero_dtype" in described else scale_dtype
    if isinstance(described["zero"], int | float):
        zero = torch.full(zero_shape, described["zero"], dtype=zero_dtype)
    else:
        narrow = _dtype(described["zero"])
        zero = reader.take(math.prod(zero_shape) * narrow.itemsize).view(narrow).reshape(zero_shape).to(zero_dtype)
    bits = int(entry.get("bits", described.get("bits")))
    return Grid(scale, zero, bits, group=described.get("group", 0), learned=described.get("learned", False))


def _fits(values: Tensor, dtype: torch.dtype) -> bool:
    limits = torch.iinfo(dtype)
    return bool(((values >= limits.min) & (values <= limits.max)).all())


def _raw(values: Tensor) -> Tensor:
    """View values as whole numbers, so that −0 and NaN compare by their bits."""
    integers = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
    return values.contiguous().view(integers[values.element_size()])


def _code_dtype(dtype: torch.dtype) -> torch.dtype:
    """Return the type in which codes of a weight are whole numbers."""
    return wide(torch.empty(0, dtype=dtype)).dtype


def _dtype_name(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")


def _dtype(name: str) -> torch.dtype:
    dtype = getattr(torch, name, None)
    if not isinstance(dtype, torch.dtype):
        raise KMRError(f"a packed weight has an unknown dtype: {name!r}")
    return dtype
