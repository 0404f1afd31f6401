import itertools

import torch
from torch import Tensor

from kmr.instantiations.tensor import energy_ranks, fitting_ranks


def cost(ranks: tuple[int, ...]) -> int:
    return 6 * ranks[0] + 4 * ranks[0] * ranks[1] + 8 * ranks[1]


def kept(spectra: list[Tensor], ranks: tuple[int, ...]) -> float:
    return float(sum(singular[:rank].square().sum() for singular, rank in zip(spectra, ranks, strict=True)))


def test_ranks_within_a_limit_keep_nearly_the_most_energy() -> None:
    spectra = [torch.tensor([9.0, 3, 2, 1, 0.5, 0.1]), torch.tensor([7.0, 5, 4, 3, 2, 1, 0.5, 0.25])]
    for limit in (20, 60, 110, 200):
        found = fitting_ranks(spectra, lambda ranks, limit=limit: cost(ranks) / limit)
        assert found is not None
        assert cost(found) <= limit
        every = [r for r in itertools.product(range(1, 7), range(1, 9)) if cost(r) <= limit]
        assert kept(spectra, found) >= 0.97 * max(kept(spectra, ranks) for ranks in every)
    assert fitting_ranks(spectra, lambda ranks: cost(ranks) / 17) is None
    assert fitting_ranks(spectra, lambda ranks: cost(ranks) / 1e9) == (6, 8)


def test_ranks_by_energy_share_what_may_be_lost() -> None:
    spectra = [torch.tensor([3.0, 1.0, 1.0, 1.0]), torch.tensor([10.0, 1.0, 0.5])]
    # 1/4 of the energy may go, 1/8 in each: of 12, that is one square of 1; of 101.25, all but the first.
    assert energy_ranks(spectra, 0.75) == (3, 1)
    assert energy_ranks(spectra, 1.0) == (4, 3)
