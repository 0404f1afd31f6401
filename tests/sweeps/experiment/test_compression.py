"""A model is compressed by knob vectors without a config: what it reads, what it makes, what it trains less for."""

import copy
import pickle
import time
from dataclasses import replace

import optuna
import pytest
import torch
from tiny import Half, Halve, tiny_experiment
from torch import nn

from kmr.cache import Store
from kmr.core import Instantiation, KMRError, measure
from kmr.data import Split
from kmr.finetune import FineTune
from kmr.instantiations.quantization import WeightQuantization
from kmr.meters import Accuracy, WeightBytes
from sweeps import Compression, search
from sweeps.errors import SweepError
from sweeps.experiment.evaluation import evaluate

optuna.logging.set_verbosity(optuna.logging.ERROR)
VECTOR = {"first.by": 0.5, "second.by": 0.25}


MADE: list[float] = []


class Counted(Half):
    def apply(self, model, knob, value):
        MADE.append(value)
        return super().apply(model, knob, value)


class Slow(FineTune):
    def __call__(self, model, **settings):
        time.sleep(0.15)
        return super().__call__(model, **settings)


def tiny(**given) -> Compression:
    experiment = tiny_experiment()
    return Compression(experiment.model, experiment.instantiation, **given)


def trained(**given) -> Compression:
    torch.manual_seed(0)
    inputs = torch.randn(200, 4)
    data = Split((inputs, (inputs[:, 0] > 0).long()), batch_size=20)
    rules, costs = (WeightQuantization(name="first"),), (WeightBytes(name="bytes"),)
    instantiation = Instantiation("t", rules, costs, (Accuracy(name="top1", data=data),))
    return Compression(nn.Linear(4, 2), instantiation, FineTune(data=data, steps=32), **given)


def test_it_reads_what_a_trial_of_a_sweep_reads() -> None:
    point = evaluate(tiny_experiment(), VECTOR, lambda point, model: None).points[-1]
    assert {name: [reading.value, reading.stderr] for name, reading in tiny()(VECTOR).items()} == point.readings


def test_the_model_of_a_vector_is_made_again_and_the_base_stays() -> None:
    mine = trained()
    before = copy.deepcopy(mine.model.state_dict())
    one, other = mine.build({"first.bits": 4}), mine.build({"first.bits": 4})
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    assert all(torch.equal(value, before[name]) for name, value in mine.model.state_dict().items())
    assert mine({"first.bits": 32}) == dict(mine.base.readings)
    assert measure(one, mine.instantiation.costs)["bytes"] == mine({"first.bits": 4})["bytes"]


def test_a_share_takes_fewer_steps_and_reads_less_data() -> None:
    steps = []
    mine = trained()
    mine.finetune = FineTune(data=mine.finetune.data, steps=32, progress=lambda *told: steps.append(told))
    noise = {}
    for share in (0.25, 1.0):
        steps.clear()
        noise[share] = mine({"first.bits": 4}, share)["top1"].stderr
        assert len(steps) == 32 * share
    assert noise[0.25] > noise[1.0]
    with pytest.raises(SweepError, match=r"\(0, 1\], not 2"):
        mine({"first.bits": 4}, 2)
    with pytest.raises(SweepError, match="pass finetune"):
        tiny()(VECTOR, 0.5)


def test_beginnings_that_vectors_share_are_made_once(tmp_path) -> None:
    MADE.clear()
    experiment = tiny_experiment(rules=(Counted(name="first"), Halve(name="second")))
    store = Store(tmp_path, 10**8)
    slow = Slow(data=experiment.data.train, steps=1)
    mine = Compression(experiment.model, experiment.instantiation, slow, store=store)
    for by in (0.25, 0.5, 0.75):
        mine({"first.by": 0.6, "second.by": by})
    assert MADE == [0.6]
    assert pickle.loads(pickle.dumps(mine)).store.folder == store.folder


def test_it_is_searched_under_a_limit_in_two_processes(forked_workers) -> None:
    mine = tiny(space={"first": {"by": {"values": [0.0, 0.5, 1.0]}}, "second": {"by": {"values": [0.0, 0.5, 1.0]}}})
    limit = 0.5 * mine.base.readings["total"].value
    found = search(**mine.problem, limits={"total": limit}, trials=3, workers=2)
    assert found.counts.complete == 3
    assert all(record.readings["total"] <= limit for record in found.records if record.state == "complete")
    for record in found.front:
        readings = measure(mine.build(record.params), mine.instantiation.qualities)
        assert readings["mean"].value == record.readings["mean"]


def test_what_leads_to_one_model_is_evaluated_once() -> None:
    experiment = tiny_experiment(rules=(Half(name="first"),))
    mine = Compression(experiment.model, experiment.instantiation)
    found = search(**mine.problem, trials=50)
    assert found.counts.complete == 3, "as it is, halved by a half, and by a whole"
    assert found.ended is not None


def test_a_space_that_fits_no_knob_is_refused() -> None:
    with pytest.raises(SweepError, match="thrid"):
        tiny(space={"thrid": {"by": {"values": [0.0]}}})


def test_a_study_of_another_training_is_refused_and_so_is_a_limit_on_no_meter() -> None:
    storage = optuna.storages.InMemoryStorage()
    search(**trained().problem, trials=1, storage=storage)
    search(**trained().problem, trials=2, storage=storage)
    other = trained()
    other.finetune = replace(other.finetune, steps=3)
    with pytest.raises(SweepError, match="made with other finetune"):
        search(**other.problem, trials=2, storage=storage)
    with torch.no_grad():
        other.model.weight.add_(1.0)
    with pytest.raises(SweepError, match="made with other model, finetune"):
        search(**Compression(other.model, other.instantiation, other.finetune).problem, trials=2, storage=storage)
    with pytest.raises(SweepError, match="there is no meter byts: there are bytes, top1"):
        search(**other.problem, limits={"byts": 10})


class Counts(nn.Module):
    """A model whose outputs depend on the calls before."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        return self.head(x) * self.calls


def test_a_model_that_is_not_what_it_computes_is_refused() -> None:
    like = trained()
    with pytest.raises(KMRError, match="depend on the calls before it"):
        Compression(Counts(), like.instantiation)
