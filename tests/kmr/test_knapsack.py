import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kmr.core import KMRError, NotApplicable
from kmr.knapsack import allocate

tables = st.integers(0, 2**31).map(
    lambda seed: (
        np.random.default_rng(seed).integers(1, 40, (4, 3)).tolist(),
        np.random.default_rng(seed + 1).exponential(1.0, (4, 3)).tolist(),
        float(np.random.default_rng(seed + 2).integers(20, 140)),
    )
)


@settings(deadline=None, max_examples=60)
@given(table=tables)
def test_equals_trying_every_choice(table: tuple[list[list[float]], list[list[float]], float]) -> None:
    costs, losses, budget = table
    every = [
        (sum(losses[i][o] for i, o in enumerate(choice)), choice)
        for choice in itertools.product(range(3), repeat=4)
        if sum(costs[i][o] for i, o in enumerate(choice)) <= budget
    ]
    if not every:
        with pytest.raises(NotApplicable, match="more than the budget"):
            allocate(costs, losses, budget)
        return
    found = allocate(costs, losses, budget)
    assert found.loss == pytest.approx(min(every)[0], abs=1e-9)
    assert found.cost == sum(costs[i][o] for i, o in enumerate(found.choice)) <= budget
    assert found.loss == pytest.approx(sum(losses[i][o] for i, o in enumerate(found.choice)))
    assert found.bound <= found.loss + 1e-9
    # Thinned lists still give a choice within the budget, and the bound says how good it is.
    rough = allocate(costs, losses, budget, most_pairs=2)
    assert rough.cost <= budget
    assert found.loss - 1e-9 <= rough.loss


def test_many_items_come_close_to_the_bound() -> None:
    generator = np.random.default_rng(0)
    widths = np.array([8, 6, 4, 3, 2])
    sizes = generator.integers(100, 50_000, 60)
    costs = (sizes[:, None] * widths[None]).tolist()
    losses = (generator.exponential(1.0, (60, 1)) * 4.0 ** -widths[None]).tolist()
    found = allocate(costs, losses, float(sizes.sum() * 3.5), most_pairs=5_000)
    assert found.loss <= found.bound * 1.02


def test_ragged_or_missing_tables_are_refused() -> None:
    with pytest.raises(KMRError, match="as many costs as losses"):
        allocate([[1.0, 2.0]], [[1.0]], 3)
    with pytest.raises(KMRError, match="as many costs as losses"):
        allocate([], [], 3)
