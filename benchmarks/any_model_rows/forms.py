"""Rows by form of the data: the same classifier with data as people hold them."""

import random
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset, WeightedRandomSampler

from benchmarks.any_model_rows.plain import classes, on
from benchmarks.any_model_rows.row import Readings, Row

SIZES = {"train": 160, "validation": 60, "test": 70}


def points(part: str, features: int = 8) -> tuple[Tensor, Tensor]:
    """Return standard normal features of a split and the class of their sum."""
    x = torch.randn(SIZES[part], features, generator=torch.Generator().manual_seed(sorted(SIZES).index(part)))
    return x, (x.sum(1) > 0).long()


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 2))


def tensors() -> dict[str, Any]:
    return {name: points(name) for name in SIZES}


def arrays() -> dict[str, Any]:
    return {name: (x.numpy().astype("float64"), y.numpy()) for name, (x, y) in tensors().items()}


def frames() -> dict[str, Any]:
    columns = [f"feature {number}" for number in range(8)]
    return {
        name: (pd.DataFrame(x.numpy(), columns=columns), pd.Series(y.numpy())) for name, (x, y) in tensors().items()
    }


def lists() -> dict[str, Any]:
    return {name: (x.tolist(), y.tolist()) for name, (x, y) in tensors().items()}


def datasets() -> dict[str, Any]:
    return {name: TensorDataset(*pair) for name, pair in tensors().items()}


class Pairs(Dataset[Any]):
    """Samples in a list, as a user's own class has them."""

    def __init__(self, part: str) -> None:
        self.samples = list(zip(*points(part), strict=True))

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, place: int) -> Any:
        x, y = self.samples[place]
        return x.numpy(), int(y)


def own_datasets() -> dict[str, Any]:
    return {name: Pairs(name) for name in SIZES}


class Stream(IterableDataset[Any]):
    """Samples one after another, with a length."""

    def __init__(self, part: str) -> None:
        self.part = part

    def __len__(self) -> int:
        return SIZES[self.part]

    def __iter__(self) -> Iterator[Any]:
        return zip(*points(self.part), strict=True)


def streams() -> dict[str, Any]:
    return {name: Stream(name) for name in SIZES}


def collate(samples: list[Any]) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(np.stack([x for x, _ in samples])), torch.tensor([y for _, y in samples])


def loaders() -> dict[str, Any]:
    """Return loaders with a collate function, a sampler and worker processes."""
    sampler = WeightedRandomSampler([1.0] * SIZES["train"], SIZES["train"])
    return {
        "train": DataLoader(Pairs("train"), batch_size=32, sampler=sampler, collate_fn=collate),
        "validation": DataLoader(Pairs("validation"), batch_size=25, collate_fn=collate, num_workers=1),
        "test": DataLoader(Pairs("test"), batch_size=25, collate_fn=collate),
    }


class TwoInputs(nn.Module):
    """Numbers and a category, each with its own layer."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers, self.categories, self.head = nn.Linear(8, 16), nn.Embedding(5, 16), nn.Linear(16, 2)

    def forward(self, numbers: Tensor, category: Tensor) -> Tensor:
        hidden: Tensor = self.head(torch.relu(self.numbers(numbers) + self.categories(category)))
        return hidden


def categories(part: str) -> Tensor:
    return torch.arange(SIZES[part]) % 5


def tuples() -> dict[str, Any]:
    return {name: ((x, categories(name)), y) for name, (x, y) in tensors().items()}


def dicts() -> dict[str, Any]:
    return {name: ({"numbers": x, "category": categories(name)}, y) for name, (x, y) in tensors().items()}


def two_inputs(model: nn.Module) -> Readings:
    x, y = points("test")
    return classes(model, (x, categories("test")), y)


def named_test() -> dict[str, Tensor]:
    return {"numbers": points("test")[0], "category": categories("test")}


def one_dict() -> dict[str, Any]:
    """Return dicts of tensors with the targets in labels, as `datasets` give them in torch's format."""
    return {name: {"category": categories(name), "numbers": x, "labels": y} for name, (x, y) in tensors().items()}


class Records(Dataset[Any]):
    """Samples as dicts with the labels inside."""

    def __init__(self, part: str) -> None:
        self.part, (self.x, self.y) = part, points(part)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, place: int) -> dict[str, Any]:
        return {"numbers": self.x[place], "category": place % 5, "label": int(self.y[place])}


def records() -> dict[str, Any]:
    return {name: Records(name) for name in SIZES}


def list_of_dicts() -> dict[str, Any]:
    return {name: [Records(name)[place] for place in range(SIZES[name])] for name in SIZES}


class Augmented(Pairs):
    """Samples that change at random each time they are read in training, by Python's and NumPy's generators."""

    def __getitem__(self, place: int) -> Any:
        x, y = super().__getitem__(place)
        return (x * random.uniform(0.8, 1.2) + np.random.normal(0, 0.05, 8)).astype("float32"), y


def augmented() -> dict[str, Any]:
    return {name: Augmented(name) if name == "train" else Pairs(name) for name in SIZES}


_TRUTH = on(tensors)
_LEARNS = {"accuracy": 0.8}


def _form(name: str, data: Any, **others: Any) -> Row:
    return Row(
        name=name, build=perceptron, data=data, truth=_TRUTH, learns=_LEARNS, inputs=lambda: points("test")[0],
        qualities=("accuracy", "cross_entropy"), rules=("structured", "quantize"), **others,
    )  # fmt: skip


def _two(name: str, data: Any) -> Row:
    return Row(
        name=name, build=TwoInputs, data=data, truth=two_inputs, learns=_LEARNS, inputs=named_test,
        rules=("structured", "quantize"),
    )  # fmt: skip


ROWS = (
    _form("tensors", tensors),
    _form("float64_arrays", arrays),
    _form("data_frames", frames),
    _form("lists_of_numbers", lists),
    _form("tensor_datasets", datasets),
    _form("own_datasets", own_datasets),
    _form("iterable_datasets", streams),
    _form("data_loaders", loaders),
    _form("random_augmentation", augmented, resumes=True),
    _two("tuple_of_inputs", tuples),
    _two("dict_of_inputs", dicts),
    _two("dict_with_labels", one_dict),
    _two("records_with_label", records),
    _two("list_of_records", list_of_dicts),
)
