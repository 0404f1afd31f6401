import warnings
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import kmr
from kmr.artifact.folder import Builder
from kmr.core import Budget, Outcome, Policy, RuleWarning, budgeted_kmr, isolated_rng
from kmr.data import Split
from kmr.finetune import FineTune
from kmr.instantiations.sharing import hybrid
from kmr.meters import Accuracy, Predictions, WeightBytes
from kmr.policies import Greedy, RandomPolicy, Scheduled


def stack() -> nn.Module:
    with isolated_rng(0):
        return nn.Sequential(
            nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(),
            nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 12, 3, padding=1), nn.ReLU(),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 3),
        ).eval()  # fmt: skip


@pytest.mark.parametrize("select", [Scheduled, Greedy, RandomPolicy])
def test_the_loop_alternates_between_the_transformations(select: Callable[..., Policy], tmp_path: Path) -> None:
    inputs = torch.randn(24, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    data = Split((inputs, torch.arange(24) % 3), 8)
    base = stack()
    instantiation = hybrid([WeightBytes()], [Accuracy(data=Predictions(data))])
    assert [knob.name for knob in instantiation.knobs] == ["tensor.keep", "share.ratio", "cluster.bits"]
    limit = 0.25 * float(WeightBytes()(base).value)
    budget = Budget("weight_bytes", limit, 9)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuleWarning)
        run = budgeted_kmr(
            base, instantiation, select(instantiation, budget), budget,
            finetune=FineTune(data=data, steps=2), on_no_progress="next",
        )  # fmt: skip
    costs = [step.costs["weight_bytes"].value for step in run.trace.accepted]
    assert costs == sorted(set(costs), reverse=True)
    assert len(costs) > 1
    assert (run.outcome is Outcome.SUCCESS) == (costs[-1] <= limit)
    saved = kmr.save(tmp_path / "model", run.model, base=base, builder=Builder("torch.nn.Sequential"))
    assert torch.equal(kmr.load(saved, base=base)(inputs), run.model.eval()(inputs))
    if select is Scheduled:
        assert len({step.move.knob for step in run.trace.accepted if step.move is not None}) > 1
