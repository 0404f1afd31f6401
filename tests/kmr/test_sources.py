"""Forms in which people bring data: each gives the same batches as tensors in memory."""

from collections import namedtuple

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from kmr.core import KMRError, isolated_rng
from kmr.data import Split, as_data, call
from kmr.finetune import FineTune
from kmr.meters import Accuracy

X = torch.randn(10, 3, generator=torch.Generator().manual_seed(0))
Y = torch.arange(10) % 3


class Pairs(Dataset):
    def __len__(self):
        return 10

    def __getitem__(self, i):
        return X[i], int(Y[i])


class Dicts(Pairs):
    def __getitem__(self, i):
        return {"x": X[i], "labels": Y[i]}


class Stream(IterableDataset):
    def __len__(self):
        return 10

    def __iter__(self):
        yield from zip(X, Y, strict=True)


class Sized(nn.Module):
    def forward(self, x):
        return x


@pytest.mark.parametrize(
    "source",
    [
        (X, Y),
        (X.numpy(), Y.numpy().astype("int32")),
        (X.tolist(), Y.numpy().astype("uint8")),
        (pd.DataFrame(X.numpy()), pd.Series(Y.numpy())),
        ({"x": X}, Y),
        {"x": X, "labels": Y},
        (list(X), Y),
        Pairs(),
        Dicts(),
        TensorDataset(X, Y.to(torch.int16)),
        Stream(),
        DataLoader(Pairs(), batch_size=4),
        DataLoader(Dicts(), batch_size=4),
        DataLoader(Stream(), batch_size=4),
        [(X[i], int(Y[i])) for i in range(10)],
    ],
    ids=lambda source: type(source).__name__,
)
def test_every_form_gives_the_same_samples_and_the_same_reading(source) -> None:
    split = Split(source, 4)
    assert len(split) == 10
    batches = list(split.batches())
    inputs = torch.cat([x["x"] if isinstance(x, dict) else x for x, _ in batches])
    targets = torch.cat([y for _, y in batches])
    torch.testing.assert_close(inputs.float(), X)
    assert targets.dtype == torch.int64
    assert targets.tolist() == Y.tolist()
    reading = Accuracy(data=split)(Sized())
    assert reading.value == float((X.argmax(1) == Y).double().mean())
    assert split.steps == 3
    assert len(split.subset(3)) == 3
    x, y = split.sample(4, seed=1)
    assert len(y) == 4
    assert len(x["x"] if isinstance(x, dict) else x) == 4


def test_a_loader_keeps_its_order_of_its_own_and_repeats_it_by_the_seed() -> None:
    split = Split(DataLoader(Pairs(), batch_size=4, shuffle=True), 99)
    state = torch.random.get_rng_state()
    first, again, other = (torch.cat([y for _, y in split.batches(seed)]).tolist() for seed in (1, 1, 2))
    assert torch.equal(state, torch.random.get_rng_state())
    assert first == again != other
    assert [places for places, _, _ in split.numbered_batches(1)] == [None] * 3
    with pytest.raises(KMRError, match="samples have no index"):
        split.divide(0.5)


@pytest.mark.parametrize(
    ("source", "named"),
    [
        (TensorDataset(X, Y, Y), "samples have 3 parts"),
        ({"x": X, "labels": Y, "label": Y}, "labels and label"),
        (({"a": X, "b": X[:4]}, Y), "a 10, b 4"),
        (iter([]), "not list_iterator"),
        ((X, object()), "object is not an array"),
    ],
)
def test_parts_that_nobody_would_use_are_refused(source, named) -> None:
    with pytest.raises(KMRError, match=named):
        list(Split(source, 4).batches())


def test_texts_are_numbered_alike_in_all_splits() -> None:
    names = np.array(["dog", "cat", "eel"])[Y.numpy()]
    data = as_data({"train": (X, names), "validation": (X[:2], list(names[:2])), "test": (X[1:], names[1:])}, 4)
    assert data.train.source[1].tolist() == [1, 0, 2] * 3 + [1]
    assert data.test.source[1].tolist() == ([1, 0, 2] * 3 + [1])[1:]
    with pytest.raises(KMRError, match="the test split has the label 'fox'"):
        as_data({"train": (X, names), "validation": (X, names), "test": (X[:1], ["fox"])}, 4)


def test_groups_make_the_standard_error_that_of_independent_groups() -> None:
    hits = torch.tensor([1, 1, 0, 0, 1, 1, 0, 0])
    logits = nn.functional.one_hot(1 - hits, 2).float()
    zeros = torch.zeros(8).long()
    alone = Accuracy(data=Split((logits, zeros)))(Sized())
    paired = Accuracy(data=Split((logits, zeros), groups=torch.tensor([0, 0, 1, 1, 2, 2, 3, 3])))(Sized())
    assert paired.value == alone.value == 0.5
    assert paired.stderr == pytest.approx(alone.stderr * 2**0.5)
    with pytest.raises(KMRError, match="groups must have one number"):
        Split((logits, zeros), groups=torch.zeros(3))


@pytest.mark.parametrize(
    "source", [(X, Y), Pairs(), DataLoader(Pairs(), batch_size=3, shuffle=True)], ids=["memory", "dataset", "loader"]
)
def test_a_last_batch_of_one_trains_with_batch_normalisation(source) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    before = model[0].weight.clone()
    FineTune(data=Split(source, 3), epochs=2)(model)
    assert not torch.equal(before, model[0].weight)
    assert len(Split(source, 3)) % 3 == 1


def test_gradients_accumulate_to_those_of_the_larger_batch() -> None:
    def trained(batch: int, accumulate: int) -> torch.Tensor:
        torch.manual_seed(0)
        model = nn.Linear(3, 3)
        FineTune(data=Split((X[:8], Y[:8]), batch), steps=3, accumulate=accumulate, schedule="constant")(model)
        return model.weight.detach()

    torch.testing.assert_close(trained(4, 2), trained(8, 1))
    recipe = FineTune(data=Split((X, Y), 4), epochs=2, drop_last=True)
    assert recipe.total_steps == 4


def test_inputs_take_the_type_of_the_weights_and_any_structure() -> None:
    assert call(nn.Linear(3, 2).bfloat16(), X).dtype == torch.bfloat16
    assert call(nn.Linear(3, 2), X.double()).dtype == torch.float32
    assert call(nn.Linear(3, 2).double(), X).dtype == torch.float64
    pair = namedtuple("pair", "a b")(X, X)
    assert torch.equal(call(Add(), pair), 2 * X)


class Add(nn.Module):
    def forward(self, a, b):
        return a + b


def test_random_samples_of_a_loader_are_drawn_by_the_seed() -> None:
    class Noisy(Pairs):
        def __getitem__(self, i):
            return X[i] + torch.randn(3), int(Y[i])

    split = Split(DataLoader(Noisy(), batch_size=4), 4)
    with isolated_rng(5):
        one = torch.cat([x for x, _ in split.batches(3)])
    with isolated_rng(6):
        other = torch.cat([x for x, _ in split.batches(3)])
    assert torch.equal(one, other)
