import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from kmr.core import KMRError
from kmr.instantiations.pruning import channels_to_remove


def remove(scores: list[list[float]], ratio: float, **options: object) -> list[list[int]]:
    chosen = channels_to_remove([torch.tensor(s) for s in scores], ratio, **options)  # type: ignore[arg-type]
    return [indices.tolist() for indices in chosen]


def test_each_set_loses_its_lowest_share() -> None:
    assert remove([[4.0, 1.0, 3.0, 2.0], [9.0, 9.0]], 0.5) == [[1, 3], [0]]
    assert remove([[4.0, 1.0, 3.0]], 0.1) == [[]]


def test_one_channel_is_always_left() -> None:
    assert remove([[1.0], [2.0, 1.0]], 1.0) == [[], [1]]


def test_ranked_together_a_weak_set_pays_for_all_but_keeps_its_best() -> None:
    assert remove([[1.0, 2.0, 3.0], [10.0, 20.0, 30.0]], 0.5, scopes=[0, 0]) == [[0, 1], [0]]


def test_blocks_lose_channels_at_the_same_places() -> None:
    # Means over the two blocks: (0+5)/2, (3+3)/2, (9+1)/2 = 2.5, 3, 5.
    assert remove([[0.0, 3.0, 9.0, 5.0, 3.0, 1.0]], 1 / 3, blocks=[2]) == [[0, 3]]


def test_round_to_keeps_the_nearest_multiple() -> None:
    scores = [float(i) for i in range(16)]
    assert len(remove([scores], 0.3, round_to=4)[0]) == 4  # 11 kept -> 12
    assert len(remove([scores], 0.4, round_to=4)[0]) == 4  # 10 kept -> 12, half way rounds up
    assert len(remove([scores], 0.45, round_to=4)[0]) == 8  # 9 kept -> 8
    assert len(remove([scores], 0.9, round_to=4)[0]) == 12
    assert remove([[1.0, 2.0, 3.0]], 0.5, round_to=8) == [[]]
    assert len(remove([scores], 0.5, round_to=8, blocks=[4])[0]) == 8


@given(st.integers(1, 20), st.integers(1, 4), st.integers(1, 6), st.floats(0, 1), st.booleans())
def test_what_is_kept_fits_blocks_and_rounding(places: int, blocks: int, unit: int, ratio: float, alone: bool) -> None:
    torch.manual_seed(0)
    total = places * blocks
    scopes = None if alone else [0]
    (removed,) = channels_to_remove([torch.rand(total)], ratio, blocks=[blocks], round_to=unit, scopes=scopes)
    kept = total - len(removed)
    assert kept >= 1
    assert kept == total or kept % math.lcm(unit, blocks) == 0
    assert len(set((removed % places).tolist())) * blocks == len(removed)


def test_impossible_requests_are_refused() -> None:
    with pytest.raises(KMRError, match=r"not 1\.2"):
        remove([[1.0]], 1.2)
    with pytest.raises(KMRError, match="round_to"):
        remove([[1.0]], 0.5, round_to=0)
