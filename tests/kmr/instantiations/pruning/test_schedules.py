import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmr.core import KMRError
from kmr.instantiations.pruning.schedules import SHAPES, of_the_rest, sparsity_steps


def test_each_shape_is_its_formula() -> None:
    assert sparsity_steps(0.9, 3, "linear") == pytest.approx([0.3, 0.6, 0.9])
    assert sparsity_steps(0.875, 3, "constant") == pytest.approx([0.5, 0.75, 0.875])
    assert sparsity_steps(0.8, 2, "polynomial") == pytest.approx([0.8 * (1 - 0.5**3), 0.8])
    assert sparsity_steps(0.8, 4, "polynomial", power=1) == pytest.approx(sparsity_steps(0.8, 4, "linear"))
    assert sparsity_steps(0.7, 1) == [0.7]


@given(st.floats(0, 1), st.integers(1, 12), st.sampled_from(SHAPES))
def test_steps_rise_to_the_final_sparsity_and_shares_of_the_rest_lead_there(
    final: float, steps: int, shape: str
) -> None:
    found = sparsity_steps(final, steps, shape)  # type: ignore[arg-type]
    assert len(found) == steps
    assert found[-1] == final
    assert all(0 <= a <= b + 1e-12 for a, b in itertools.pairwise(found))
    left = 1.0
    for share, sparsity in zip(of_the_rest(found), found, strict=True):
        left *= 1 - share
        assert left == pytest.approx(1 - sparsity, abs=1e-9)


@pytest.mark.parametrize(
    ("settings", "why"),
    [((1.5, 2), "not 1.5"), ((0.5, 0), "steps >= 1"), ((0.5, 2, "cubic"), "must be one of constant, linear")],
)
def test_bad_settings_are_named(settings: tuple[object, ...], why: str) -> None:
    with pytest.raises(KMRError, match=why):
        sparsity_steps(*settings)  # type: ignore[arg-type]
