import torch

from kmr.recovery.matching import channels_by_outputs, rows_by_values


def test_rows_are_found_by_what_is_left_of_them() -> None:
    original = torch.randn(8, 5, 3, generator=torch.Generator().manual_seed(0))
    smaller = original[[1, 4, 5]][:, [0, 3]].clone()
    smaller[1, 0] = 0
    found = rows_by_values(smaller, original)
    assert found is not None
    assert found.tolist() == [1, 4, 5]
    assert rows_by_values(smaller + 1, original) is None


def test_as_many_rows_as_before_are_the_same_rows() -> None:
    found = rows_by_values(torch.ones(3, 2), torch.zeros(3, 4))
    assert found is not None
    assert found.tolist() == [0, 1, 2]


def test_channels_are_found_in_order_by_what_they_put_out() -> None:
    generator = torch.Generator().manual_seed(0)
    original = torch.randn(200, 9, generator=generator)
    kept = [0, 3, 4, 8]
    smaller = 3 * original[:, kept] + torch.randn(200, 4, generator=generator) - 7
    assert channels_by_outputs(smaller, original).tolist() == kept


def test_the_order_is_kept_where_likeness_alone_would_break_it() -> None:
    original = torch.eye(4)[:, :3] - 0.25
    smaller = original[:, [2, 1]]
    assert channels_by_outputs(smaller, original).tolist() in ([0, 1], [1, 2], [0, 2])
    assert channels_by_outputs(torch.zeros(4, 3), original).tolist() == [0, 1, 2]
