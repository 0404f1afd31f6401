import pytest
import torch
from torch import nn

from kmr.core import KMRError
from kmr.data import Split
from kmr.recovery import recalibrate

X = torch.randn(30, 3, 4, 4, generator=torch.Generator().manual_seed(0)) * 2 + 1


def test_statistics_become_those_of_all_batches_together() -> None:
    norm = nn.BatchNorm2d(3)
    recalibrate(norm, [X[:7], X[7:20], X[20:]])
    torch.testing.assert_close(norm.running_mean, X.mean((0, 2, 3)))
    torch.testing.assert_close(norm.running_var, X.movedim(1, 0).flatten(1).var(1))


def test_a_later_layer_sees_what_the_earlier_ones_make_of_the_batch() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))
    nn.init.constant_(model[0].running_mean, 9.0)
    recalibrate(model, Split((X, torch.zeros(30)), 30))
    inside = model[1](nn.functional.batch_norm(X, None, None, model[0].weight, model[0].bias, training=True))
    torch.testing.assert_close(model[2].running_mean, inside.mean((0, 2, 3)))


def test_nothing_else_changes() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.Dropout(0.9), nn.BatchNorm2d(4, track_running_stats=False)
    )
    model.train()
    model[2].eval()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    state = torch.get_rng_state()
    assert recalibrate(model, [X]) is model
    changed = {name for name, tensor in model.state_dict().items() if not torch.equal(before[name], tensor)}
    assert changed == {"1.running_mean", "1.running_var"}
    assert [m.training for m in model] == [True, True, False, True]
    assert torch.equal(state, torch.get_rng_state())
    assert not model[1]._forward_pre_hooks


def test_bad_batches_are_named_and_leave_the_statistics() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    for batches, why in (([], "at least one batch"), (X, "in a list"), ([torch.ones(1, 3)], "larger batch")):
        with pytest.raises(KMRError, match=why):
            recalibrate(model, batches)
        assert model[1].running_mean.tolist() == [0, 0, 0]
    assert recalibrate(nn.Linear(3, 3), []) is not None
