"""Rows of regression, forecasting and embeddings."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.any_model_rows import plain
from benchmarks.any_model_rows.row import Readings, Row

SIZES = {"train": 200, "validation": 50, "test": 60}


def points(part: str) -> tuple[Tensor, Tensor]:
    """Return features, and three numbers that follow from them."""
    x = torch.randn(SIZES[part], 6, generator=torch.Generator().manual_seed(20 + sorted(SIZES).index(part)))
    return x, torch.stack([x[:, 0] + x[:, 1], 3 * x[:, 2] + 5, x[:, 3] * 0.1], 1)


def data(kind: str) -> dict[str, Any]:
    """Return the splits with targets of a kind."""
    found: dict[str, Any] = {}
    for part in SIZES:
        x, y = points(part)
        found[part] = {
            "several": (x, y), "one": (x, y[:, 0]), "column": (x, y[:, :1]), "double": (x.double(), y.double()),
            "weighted": (x, {"labels": y, "weights": 1 + torch.arange(len(x)) % 3}), "int": (x, y[:, 0].round().int()),
            "two": (x, y[:, :2]), "nan": (x, torch.where(torch.arange(len(x))[:, None] == 9, torch.nan, y)),
        }[kind]  # fmt: skip
    return found


class Machine(nn.Module):
    """A regressor of several outputs."""

    def __init__(self, outputs: int = 3, flat: bool = False) -> None:
        super().__init__()
        self.body, self.flat = nn.Sequential(nn.Linear(6, 32), nn.Tanh(), nn.Linear(32, outputs)), flat

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.body(x)
        return found[:, 0] if self.flat else found


def several_of(model: nn.Module) -> Readings:
    return plain.numbers(model, *points("test"))


def first_of(model: nn.Module) -> Readings:
    x, y = points("test")
    return plain.numbers(model, x, y[:, 0])


def rounded_of(model: nn.Module) -> Readings:
    x, y = points("test")
    return plain.numbers(model, x, y[:, 0].round())


def weighted_of(model: nn.Module) -> Readings:
    (x, y), weight = points("test"), (1 + torch.arange(SIZES["test"]) % 3).double()
    errors = plain.logits_of(model, x) - y.double()

    def mean(each: Tensor) -> float:
        return float((each.mean(1) * weight).sum() / weight.sum())

    return {"mse": mean(errors.square()), "mae": mean(errors.abs())}


class Forecaster(nn.Module):
    """The next values of two variables, (n, horizon, variables), from the last ones."""

    def __init__(self, recurrent: bool = False) -> None:
        super().__init__()
        self.encoder = nn.GRU(2, 16, batch_first=True) if recurrent else None
        self.body = nn.Sequential(nn.Linear(16 if recurrent else 24, 24), nn.ReLU(), nn.Linear(24, 8))

    def forward(self, past: Tensor) -> Tensor:
        seen = past.flatten(1) if self.encoder is None else self.encoder(past)[0][:, -1]
        forecast: Tensor = self.body(seen).reshape(-1, 4, 2)
        return forecast


def recurrent_forecaster() -> nn.Module:
    return Forecaster(recurrent=True)


def windows() -> dict[str, Any]:
    time = torch.arange(340.0)
    series = torch.stack([torch.sin(time / 5), 0.5 * torch.cos(time / 7)], 1)
    cut = series.unfold(0, 16, 1).transpose(1, 2)
    parts = {"train": cut[:200], "validation": cut[220:265], "test": cut[280:]}
    return {name: (part[:, :12], part[:, 12:]) for name, part in parts.items()}


class Encoder(nn.Module):
    """An encoder that returns a vector for each sample beside its hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(6, 32), nn.Linear(32, 8)

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        hidden = torch.relu(self.body(x))
        return {"last_hidden_state": hidden[:, None], "pooler_output": self.head(hidden)}


def encoder() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return Encoder()


def features() -> dict[str, Any]:
    return {part: {"x": points(part)[0]} for part in SIZES}


def grouped() -> dict[str, Any]:
    return {part: (points(part)[0], (points(part)[1][:, 0] > 0).long()) for part in SIZES}


def cosine_of(model: nn.Module) -> Readings:
    """Return the mean cosine of vectors to those of the original."""
    x = points("test")[0]
    ours, original = (plain.called(one, x)["pooler_output"].double() for one in (model, encoder()))
    return {"cosine": float(F.cosine_similarity(ours, original).mean())}


_VECTORS = {"task": {"_target_": "kmr.tasks.Embedding", "output": "pooler_output"}}


def _row(name: str, kind: str, truth: Any, outputs: int = 3, **others: Any) -> Row:
    model = {"outputs": outputs, **others.pop("model", {})}
    settings = {"data": {"kind": kind}, "model": model, **others.pop("settings", {})}
    return Row(
        name=name, build=Machine, data=data, truth=truth, settings=settings, epochs=20,
        rules=others.pop("rules", ("lowrank", "quantize")), qualities=others.pop("qualities", ("mse", "mae", "r2")),
        inputs=lambda: points("test")[0], recipe=others.pop("recipe", "adamw_regression"), **others,
    )  # fmt: skip


def _windows(name: str, **others: Any) -> Row:
    return Row(
        name=name, data=windows, truth=plain.on(windows, plain.numbers), qualities=("mse", "mae", "r2"), epochs=15,
        learns={"mse": 0.1}, **others,
    )  # fmt: skip


ROWS = (
    _row("regression_of_several", "several", several_of, learns={"r2": 0.6}),
    _row("regression_of_one", "one", first_of, 1, learns={"mse": 0.5}, recipe="adamw"),
    _row("regression_flat_and_column", "column", first_of, 1, model={"flat": True}),
    _row("regression_double", "double", several_of, rules=("structured",)),
    _row("regression_weighted", "weighted", weighted_of, qualities=("mse", "mae"), recipe="adamw"),
    _row("weights_beside_a_plain_loss", "weighted", weighted_of, refuses=("mean_squared_error", "weights", "TaskLoss")),
    _row("regression_of_whole_numbers", "int", rounded_of, 1),
    _row(
        "regression_huber", "several", several_of, recipe="adamw",
        settings={"task": {"_target_": "kmr.tasks.Regression", "kind": "huber"}},
    ),
    _row("regression_of_another_width", "two", several_of, refuses=("(4, 3)", "(4, 2)")),
    _row("nan_in_the_targets", "nan", several_of, refuses=("targets", "NaN")),
    _windows("forecast", build=Forecaster, rules=("structured", "lowrank")),
    _windows("forecast_by_gru", build=recurrent_forecaster, rules=("prune", "quantize"), recipe="adamw"),
    Row(
        name="embedding_cosine", build=encoder, data=features, truth=cosine_of, epochs=None, recipe="none", tune=0,
        rules=("quantize", "lowrank"), qualities=("cosine",), settings=_VECTORS,
        inputs=lambda: {"x": points("test")[0]}, output="pooler_output",
    ),
)  # fmt: skip
