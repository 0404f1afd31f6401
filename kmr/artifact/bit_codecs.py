"""Bit codecs for whole numbers: fixed-width codes, positions as gaps, and compressed sparse rows.

A code of b bits takes exactly b bits. Eight codes of up to 7 bits fill b whole bytes, lowest bits first. Wider codes
are a plane of their low bytes followed by their packed high bits. A position is stored as the number of entries skipped
since the previous one. The largest symbol only skips, so a long gap takes several symbols but no stored value (the
relative indexing of Han et al. 2016, without its filler zeros). Compressed sparse rows are counts and columns, each in
the width that the largest one needs.
"""

import torch
from torch import Tensor

GAP_BITS = range(2, 17)
"""Possible widths of a gap; gaps of 1 bit would be the bit mask itself."""


def packed_size(count: int, bits: int) -> int:
    """Return the size in bytes of `count` codes of `bits` bits."""
    return (count * bits + 7) // 8


def pack_bits(codes: Tensor, bits: int) -> Tensor:
    """Pack whole numbers in [0, 2^bits − 1], 1 to 16 bits, from a tensor of any shape into bytes."""
    codes = codes.reshape(-1)
    if bits > 8:
        return torch.cat([(codes & 255).to(torch.uint8), pack_bits(codes >> 8, bits - 8)])
    if bits == 8:
        return codes.to(torch.uint8)
    count = len(codes)
    octets = torch.nn.functional.pad(codes, (0, -count % 8)).view(-1, 8)
    words = torch.zeros(len(octets), dtype=torch.int64)
    for place in range(8):
        words |= octets[:, place].to(torch.int64) << (place * bits)
    return words.view(torch.uint8).view(-1, 8)[:, :bits].reshape(-1)[: packed_size(count, bits)]


def unpack_bits(data: Tensor, bits: int, count: int) -> Tensor:
    """Return the first `count` codes of packed bytes, as int32."""
    if bits > 8:
        return data[:count].to(torch.int32) | (unpack_bits(data[count:], bits - 8, count) << 8)
    if bits == 8:
        return data[:count].to(torch.int32)
    data = data[: packed_size(count, bits)]
    groups = torch.nn.functional.pad(data, (0, -len(data) % bits)).view(-1, bits)
    words = torch.nn.functional.pad(groups, (0, 8 - bits)).contiguous().view(torch.int64).view(-1)
    codes = torch.empty(len(words), 8, dtype=torch.int32)
    for place in range(8):
        codes[:, place] = (words >> (place * bits)) & (2**bits - 1)
    return codes.view(-1)[:count]


def gaps(positions: Tensor) -> Tensor:
    """Return the number of entries skipped before each of these ascending positions."""
    return torch.diff(positions, prepend=positions.new_tensor([-1])) - 1


def narrowest_gaps(positions: Tensor) -> tuple[int, int]:
    """Return the gap width that takes the fewest bytes, and the number of symbols at that width."""
    skipped = gaps(positions)
    common = skipped < 2**16
    counts = torch.bincount(skipped[common], minlength=1)
    rare = skipped[~common]
    lengths = torch.arange(len(counts))
    best = (0, 0, 0)
    for bits in GAP_BITS:
        escape = 2**bits - 1
        symbols = len(positions) + int((counts * (lengths // escape)).sum() + (rare // escape).sum())
        size = packed_size(symbols, bits)
        if bits == GAP_BITS[0] or size < best[0]:
            best = (size, bits, symbols)
    return best[1], best[2]


def pack_gaps(positions: Tensor, bits: int) -> Tensor:
    """Pack ascending positions as gaps of this width."""
    escape = 2**bits - 1
    skipped = gaps(positions)
    ends = torch.cumsum(skipped // escape + 1, 0)
    symbols = torch.full((int(ends[-1]) if len(ends) else 0,), escape, dtype=torch.int32)
    symbols[ends - 1] = (skipped % escape).to(torch.int32)
    return pack_bits(symbols, bits)


def unpack_gaps(data: Tensor, bits: int, symbols: int) -> Tensor:
    """Return the ascending positions that this many packed symbols represent."""
    escape = 2**bits - 1
    codes = unpack_bits(data, bits, symbols).to(torch.int64)
    places = codes < escape
    return (torch.cumsum(codes + places, 0) - 1)[places]


def row_widths(kept: Tensor) -> tuple[int, int] | None:
    """Return the bits of a row's count and of a column for compressed sparse rows; None if either exceeds 16.

    Args:
        kept: boolean mask of the kept entries, shape (rows, columns).
    """
    most = int(kept.sum(1).max()) if kept.numel() else 0
    widths = max(1, most.bit_length()), max(1, (kept.shape[1] - 1).bit_length())
    return widths if max(widths) <= 16 else None


def pack_rows(kept: Tensor, widths: tuple[int, int]) -> Tensor:
    """Pack a mask of kept entries, shape (rows, columns), as the count of each row and the columns in order."""
    counts, columns = kept.sum(1).to(torch.int32), torch.nonzero(kept)[:, 1].to(torch.int32)
    return torch.cat([pack_bits(counts, widths[0]), pack_bits(columns, widths[1])])


def unpack_rows(counts: Tensor, columns: Tensor, width: int) -> Tensor:
    """Return the mask of kept entries, shape (rows, width), from the count of each row and the columns in order."""
    kept = torch.zeros(len(counts), width, dtype=torch.bool)
    rows = torch.repeat_interleave(torch.arange(len(counts)), counts.to(torch.int64))
    kept[rows, columns.to(torch.int64)] = True
    return kept
