"""The layers of small models whose widths, ranks, bits and bytes are known by hand."""

import torch
from torch import nn

from kmr.artifact.anatomy import anatomy
from kmr.instantiations.lowrank import LowRank
from kmr.instantiations.pruning import UnstructuredPruning
from kmr.instantiations.quantization import WeightQuantization

torch.set_num_threads(1)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(16, 12), nn.ReLU(), nn.Linear(12, 4, bias=False))


def test_the_base_is_as_it_is() -> None:
    first, second = anatomy(net(), net())
    assert (first.layer, first.width, first.rank, first.rank_of, first.bits, first.kept) == ("0", 12, None, 12, 32, 1.0)
    assert (first.bytes, first.bytes_of) == (4 * (16 * 12 + 12),) * 2
    assert (second.layer, second.width_of, second.bytes) == ("2", 4, 4 * 48)


def test_factors_stand_for_the_layer_they_replace() -> None:
    base = net()
    made = LowRank(name="lowrank")(base, "lowrank.keep", 0.5)
    first = anatomy(base, made)[0]
    # Half of 192 entries in factors of 16 and 12: rank ⌊96 / 28⌋ = 3.
    assert (first.width, first.rank) == (12, 3)
    assert first.kept == 3 * 28 / 192


def test_bits_and_masks() -> None:
    base = net()
    made = WeightQuantization(name="quantize")(base, "quantize.bits", 4)
    assert [layer.bits for layer in anatomy(base, made)] == [4, 4]
    assert all(layer.bytes < layer.bytes_of / 2 for layer in anatomy(base, made)[1:])
    rule = UnstructuredPruning(name="prune")
    pruned = anatomy(base, rule(base, rule.knobs[0].name, 0.5))
    assert sum(layer.kept * size for layer, size in zip(pruned, (192, 48), strict=True)) == 120


def test_a_layer_that_is_gone_has_no_width() -> None:
    base, made = net(), net()
    made[2] = nn.Identity()
    last = anatomy(base, made)[1]
    assert (last.width, last.kept, last.bytes, last.bits) == (0, 0.0, 0, 0)
