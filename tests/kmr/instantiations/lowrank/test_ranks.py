import torch

from kmr.instantiations.lowrank import energy_rank, share_rank


def test_energy_by_hand() -> None:
    singular = torch.tensor([3.0, 2.0, 1.0])  # squares 9, 4, 1 of 14
    assert [energy_rank(singular, share) for share in (0.0, 9 / 14, 0.65, 13 / 14, 0.95, 1.0)] == [1, 1, 2, 2, 3, 3]
    assert energy_rank(torch.zeros(3), 0.5) == 1


def test_share_of_the_full_rank() -> None:
    assert [share_rank((8, 20), share) for share in (0.01, 0.25, 0.31, 0.32, 1.0)] == [1, 2, 2, 3, 8]
