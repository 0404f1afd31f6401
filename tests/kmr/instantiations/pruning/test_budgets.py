import math

import pytest
import torch

from kmr.core import KMRError
from kmr.instantiations.pruning.budgets import erdos_renyi_kernel, lamp, output_keep, pattern_keep


def test_each_output_loses_its_lowest_and_ties_go_in_order() -> None:
    keep = output_keep(torch.tensor([[3.0, 1.0, 2.0, 2.0], [0.1, 0.2, 0.3, 0.4]]), 0.5)
    assert keep.tolist() == [[True, False, False, True], [False, False, True, True]]
    assert output_keep(torch.rand(3, 2, 5), 0.3).sum(dim=(1, 2)).tolist() == [7, 7, 7]


def test_a_pattern_keeps_the_best_of_every_block_of_inputs() -> None:
    linear = torch.tensor([[1.0, 4.0, 3.0, 2.0, 0.0, 0.0, 9.0, 0.0]])
    keep = pattern_keep(linear, 2, 4)
    assert keep is not None
    assert keep.tolist() == [[False, True, True, False, True, False, True, False]]
    convolution = torch.rand(3, 8, 2, 2)
    for kept, of in ((2, 4), (4, 8), (1, 4)):
        found = pattern_keep(convolution, kept, of)
        assert found is not None
        blocks = found.movedim(1, -1).reshape(3, 2, 2, -1, of)
        assert bool((blocks.sum(-1) == kept).all())
        scores = convolution.movedim(1, -1).reshape(3, 2, 2, -1, of)
        lowest_kept = scores.where(blocks, torch.inf).min(-1).values
        assert bool((lowest_kept >= scores.where(~blocks, -1).max(-1).values).all())
    assert pattern_keep(torch.rand(2, 6), 2, 4) is None
    with pytest.raises(KMRError, match="4:4"):
        pattern_keep(linear, 4, 4)


def test_erdos_renyi_gives_the_whole_sparsity_by_sums_over_products() -> None:
    shapes = [(32, 16, 3, 3), (64, 32, 3, 3), (100, 640)]
    sparsities = erdos_renyi_kernel(shapes, 0.9)
    sizes = [math.prod(shape) for shape in shapes]
    assert sum(s * n for s, n in zip(sparsities, sizes, strict=True)) == pytest.approx(0.9 * sum(sizes))
    factors = [(1 - s) * n / sum(shape) for s, n, shape in zip(sparsities, sizes, shapes, strict=True)]
    assert factors == pytest.approx([factors[0]] * 3)


def test_a_layer_too_small_for_its_share_is_dense_and_the_others_make_up_for_it() -> None:
    shapes = [(4, 2), (100, 100)]
    sparsities = erdos_renyi_kernel(shapes, 0.5)
    assert sparsities[0] == 0.0
    assert sparsities[1] == pytest.approx((0.5 * 10008) / 10000)
    assert erdos_renyi_kernel(shapes, 0.0) == pytest.approx([0.0, 0.0])
    assert erdos_renyi_kernel(shapes, 1.0) == pytest.approx([1.0, 1.0])


def test_lamp_is_the_share_of_what_would_be_left() -> None:
    score = torch.tensor([[2.0, 1.0], [3.0, 0.0]])
    expected = torch.tensor([[4 / 13, 1 / 14], [1.0, 0.0]], dtype=torch.float64)
    torch.testing.assert_close(lamp(score), expected)
    assert lamp(torch.zeros(3)).tolist() == [0, 0, 0]
    assert lamp(torch.ones(4)).tolist() == pytest.approx([1 / 4, 1 / 3, 1 / 2, 1])
