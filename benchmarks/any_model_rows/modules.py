"""Rows by kind of module: norms and parametrizations, hooks, state, sharing, dtypes, and wrappers."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize

from benchmarks.any_model_rows import plain
from benchmarks.any_model_rows.row import Readings, Row

SIZES = {"train": 200, "validation": 60, "test": 70}


def data() -> dict[str, Any]:
    """Return features and the number of the largest of the first three."""
    found = {}
    for part in SIZES:
        x = torch.randn(SIZES[part], 8, generator=torch.Generator().manual_seed(70 + sorted(SIZES).index(part)))
        found[part] = (x, x[:, :3].argmax(1))
    return found


def waves() -> dict[str, Any]:
    found = {}
    for part in SIZES:
        x = torch.randn(SIZES[part], 2, 12, generator=torch.Generator().manual_seed(80 + sorted(SIZES).index(part)))
        y = torch.arange(SIZES[part]) % 3
        found[part] = (x + F.one_hot(y, 3)[:, :2, None], y)
    return found


def classes_of(model: nn.Module) -> Readings:
    return plain.classes(model, *data()["test"])


class Perceptron(nn.Module):
    """Two layers, which the rows below change."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 32), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.relu(self.body(x)))
        return logits


def convolutional(norm: Any) -> nn.Module:
    return nn.Sequential(
        norm(nn.Conv1d(2, 12, 3, padding=1)), nn.ReLU(), norm(nn.Conv1d(12, 12, 3, padding=2, dilation=2)), nn.ReLU(),
        nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(12, 3),
    )  # fmt: skip


def weight_norm() -> nn.Module:
    return convolutional(parametrizations.weight_norm)


def old_weight_norm() -> nn.Module:
    """Return a model that was called with gradients before, as a trained one was."""
    model = convolutional(nn.utils.weight_norm)
    model(torch.randn(2, 2, 12))
    return model


def spectral_norm() -> nn.Module:
    return convolutional(parametrizations.spectral_norm)


def old_spectral_norm() -> nn.Module:
    return convolutional(nn.utils.spectral_norm)


def orthogonal() -> nn.Module:
    model = Perceptron()
    parametrizations.orthogonal(model.body, orthogonal_map="cayley")
    return model


class Positive(nn.Module):
    """A parametrization of the user's own: weights that are never negative."""

    def forward(self, weight: Tensor) -> Tensor:
        return F.softplus(weight) - 0.5


def own_parametrization() -> nn.Module:
    model = Perceptron()
    parametrize.register_parametrization(model.body, "weight", Positive())
    return model


def scaled(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
    return output / 4


def doubled(module: nn.Module, inputs: Any) -> Any:
    return (2 * inputs[0],)


def hooked() -> nn.Module:
    model = Perceptron()
    model.head.register_forward_hook(scaled)
    model.body.register_forward_pre_hook(doubled)
    return model


class Cosine(nn.Module):
    """An embedding net whose cosine head reads the weight of its layer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 32), nn.PReLU(32), nn.Linear(32, 16))
        self.classes = nn.Linear(16, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return 8 * F.linear(F.normalize(self.body(x)), F.normalize(self.classes.weight))


class Listed(nn.Module):
    """Weights in a ParameterList, a buffer, and one that no state dict holds."""

    mean: Tensor
    scale: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.weights = nn.ParameterList([nn.Parameter(torch.randn(8, 24) / 3), nn.Parameter(torch.randn(24, 24) / 5)])
        self.head = nn.Linear(24, 3)
        self.register_buffer("mean", torch.full((8,), 0.25))
        self.register_buffer("scale", torch.linspace(1, 2, 24), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = x - self.mean
        for weight in self.weights:
            x = torch.relu(x @ weight) * self.scale
        logits: Tensor = self.head(x)
        return logits


class Shared(nn.Module):
    """One layer used three times, also under another name."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.again = nn.Linear(8, 24), nn.Linear(24, 24)
        self.other, self.head = self.again, nn.Linear(24, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        for layer in (self.again, self.other, self.again):
            x = x + torch.relu(layer(x))
        logits: Tensor = self.head(x)
        return logits


class Reads(nn.Module):
    """A model that asks a layer for the type and the shape of its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(8, 32), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = x.to(self.body.weight.dtype).reshape(-1, self.body.in_features)
        logits: Tensor = self.head(torch.relu(self.body(x))) / self.head.weight.shape[1] ** 0.5
        return logits


class Ensemble(nn.Module):
    """Several heads in a ModuleDict and a ModuleList, with an early exit that is off."""

    def __init__(self) -> None:
        super().__init__()
        self.bodies = nn.ModuleList([nn.Linear(8, 16), nn.Linear(8, 16)])
        self.heads = nn.ModuleDict({"left": nn.Linear(16, 3), "right": nn.Linear(16, 3)})

    def forward(self, x: Tensor) -> Tensor:
        found = [head(torch.tanh(body(x))) for body, head in zip(self.bodies, self.heads.values(), strict=True)]
        return torch.stack(found).mean(0)


def half() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 3)).to(torch.bfloat16)


def half_of(model: nn.Module) -> Readings:
    x, y = data()["test"]
    return plain.classes(model, x.to(torch.bfloat16), y)


def double() -> nn.Module:
    return Perceptron().double()


def double_of(model: nn.Module) -> Readings:
    x, y = data()["test"]
    return plain.classes(model, x.double(), y)


def parallel() -> nn.Module:
    return nn.DataParallel(Perceptron())


def compiled() -> nn.Module:
    wrapped: Any = torch.compile(Perceptron(), backend="eager")
    found: nn.Module = wrapped
    return found


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(32), nn.ReLU(), nn.LazyLinear(3))


def lazy_base() -> nn.Module:
    model = lazy()
    model(torch.zeros(1, 8))
    return model


def frozen() -> nn.Module:
    """Return a model whose first layer does not train."""
    model = Perceptron()
    model.body.requires_grad_(False)
    return model


def fixed() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        return Perceptron()


def checkpoint(folder: Path) -> None:
    """Write a checkpoint of a model that was trained in `DataParallel`, with the epoch beside it."""
    model = trained()
    torch.save({"epoch": 3, "state_dict": {f"module.{k}": v for k, v in model.state_dict().items()}}, folder / "old.pt")


def trained() -> nn.Module:
    """Return the model of the checkpoint, trained in plain PyTorch."""
    model = fixed()
    x, y = data()["train"]
    optimizer = torch.optim.Adam(model.parameters(), 0.02)
    for _ in range(40):
        optimizer.zero_grad()
        F.cross_entropy(model(x), y).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return model.eval()


def _row(name: str, build: Any, *rules: str, **others: Any) -> Row:
    given: dict[str, Any] = {
        "data": data, "truth": classes_of, "qualities": ("accuracy", "cross_entropy"), "epochs": 25,
        "learns": {"accuracy": 0.7}, "rules": rules or ("structured", "quantize"), **others,
    }  # fmt: skip
    return Row(name=name, build=build, **given)


def _norm(name: str, build: Any, *rules: str, **others: Any) -> Row:
    given = {"data": waves, "truth": plain.on(waves), "learns": {"accuracy": 0.6}, **others}
    return _row(name, build, *rules, **given)


ROWS = (
    _norm("weight_norm", weight_norm, "prune", "quantize", "structured"),
    _norm("weight_norm_by_hooks", old_weight_norm, "structured", "quantize"),
    _norm(
        "weight_norm_static", weight_norm, "static", precision="auto", close=0.1,
        settings={"space": {"static": {"bits": {"values": [8]}}}},
    ),
    _norm("spectral_norm", spectral_norm, "lowrank", "quantize"),
    _norm("spectral_norm_by_hooks", old_spectral_norm, "prune", "quantize"),
    _row("orthogonal", orthogonal, "lowrank", "prune"),
    _row("own_parametrization", own_parametrization, "structured", "quantize"),
    _row("hooks", hooked, "prune", "quantize"),
    _row("weight_read_by_the_head", Cosine, "lowrank", "quantize"),
    _row("weight_read_by_the_head_structured", Cosine, "structured", "lowrank"),
    _row("weight_asked_for_its_type", Reads, "lowrank", "quantize", "structured"),
    _row("parameter_list_and_buffers", Listed, "quantize", "prune"),
    _row("shared_layers", Shared, "structured", "quantize", "lowrank"),
    _row("module_dict", Ensemble, "structured", "quantize"),
    _row("bfloat16", half, "quantize", "prune", truth=half_of, export="pt2"),
    _row("bfloat16_structured", half, "structured", "lowrank", truth=half_of, export="pt2"),
    _row("float64", double, "structured", "quantize", truth=double_of, inputs=lambda: data()["test"][0].double()),
    _row("data_parallel", parallel, "structured", "quantize", base=Perceptron),
    _row("compiled", compiled, "prune", "quantize", base=Perceptron),
    _row("lazy_layers", lazy, "structured", "quantize", base=lazy_base),
    _row("frozen_layers", frozen, "structured", "quantize", learns={}),
    _row(
        "checkpoint_of_data_parallel", Perceptron, "lowrank", "quantize", epochs=None, files=checkpoint, base=trained,
        settings={"weights": "old.pt"},
    ),
    _row("trained_elsewhere", trained, "structured", "quantize", epochs=None),
)  # fmt: skip
