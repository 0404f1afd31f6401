"""Rows by task and layout: outputs of several parts, axes, a task of the user's own, and a loss of the user's own."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from benchmarks.any_model_rows import plain
from benchmarks.any_model_rows.row import Readings, Row
from kmr.core import Task
from kmr.tasks import Classification, ClassScores

SIZES = {"train": 200, "validation": 60, "test": 70}


def points(part: str) -> tuple[Tensor, Tensor]:
    x = torch.randn(SIZES[part], 8, generator=torch.Generator().manual_seed(30 + sorted(SIZES).index(part)))
    return x, x[:, :3].argmax(1)


def data() -> dict[str, Any]:
    return {part: points(part) for part in SIZES}


def classes_of(model: nn.Module) -> Readings:
    return plain.classes(model, *points("test"))


@dataclass
class Answer:
    """Outputs as an object of the user's own."""

    logits: Tensor
    hidden: Tensor


@dataclass
class Scores:
    """Outputs under names of the user's own."""

    hidden: Tensor
    scores: Tensor


class Net(nn.Module):
    """A classifier that returns its logits in one of several forms, beside others."""

    def __init__(self, form: str) -> None:
        super().__init__()
        self.form, self.body, self.head, self.aside = form, nn.Linear(8, 32), nn.Linear(32, 3), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Any:
        hidden = torch.relu(self.body(x))
        logits, aside = self.head(hidden), self.aside(hidden)
        return {
            "object": Answer(logits, hidden), "named": Scores(hidden, logits), "pair": (aside, logits),
            "nested": {"aside": {"logits": aside}, "main": {"logits": logits, "hidden": hidden}},
            "dict": {"logits": logits, "hidden": hidden}, "list": [logits, aside],
        }[self.form]  # fmt: skip


class Rest(nn.Module):
    """A classifier that returns the logits alone, with the weights of another."""

    def __init__(self, model: nn.Module, part: Any) -> None:
        super().__init__()
        self.model, self.part = model, part

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.part(self.model(x))
        return found


def part_of(part: Any) -> Any:
    """Return the truth of a model that returns its logits as a part."""

    def truth(model: nn.Module) -> Readings:
        found = plain.classes(Rest(model, part), *points("test"))
        return {**found, "ort_accuracy": found["accuracy"]}

    return truth


@dataclass(frozen=True)
class Pixels(Classification):
    """A task of the user's own: raw bytes as inputs, class numbers from 1, logits as the second of a pair."""

    def prepare(self, inputs: Any, targets: Any) -> tuple[Any, Any]:
        return inputs.float() / 255 - 0.5, targets - 1

    def outputs(self, returned: Any) -> Tensor:
        found: Tensor = returned[1]
        return found


@dataclass(frozen=True)
class Ranking(Task):
    """A task of the user's own from nothing: the larger of two scores wins."""

    convention = "scores of shape (n, 2) and 0 or 1, the better one"

    def prepare(self, inputs: Any, targets: Any) -> tuple[Any, Any]:
        return inputs, targets

    def call(self, model: nn.Module, inputs: Any) -> Any:
        return model(inputs["left"]), model(inputs["right"])

    def outputs(self, returned: Any) -> Tensor:
        return returned if isinstance(returned, Tensor) else torch.cat(returned, 1)

    def loss(self, outputs: Tensor, targets: Tensor) -> Tensor:
        return F.cross_entropy(outputs, targets)

    def scores(self, outputs: Tensor, targets: Tensor) -> ClassScores:
        everyone = torch.arange(len(outputs))
        return ClassScores(len(outputs), all_logits=outputs, places=None, targets=targets, sample=everyone)


def raw() -> dict[str, Any]:
    """Return bytes, and class numbers from 1."""
    found = {}
    for part in SIZES:
        x = torch.randint(0, 256, (SIZES[part], 8), generator=torch.Generator().manual_seed(len(part))).to(torch.uint8)
        found[part] = (x, x[:, :3].float().argmax(1) + 1)
    return found


def raw_of(model: nn.Module) -> Readings:
    x, y = raw()["test"]
    return plain.classes(Rest(model, lambda returned: returned[1]), x.float() / 255 - 0.5, y - 1)


def scorer() -> nn.Module:
    return nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 1))


def pairs() -> dict[str, Any]:
    found = {}
    for part in SIZES:
        left, right = points(part)[0], points(part)[0].flip(0)
        found[part] = ({"left": left, "right": right}, (right.sum(1) > left.sum(1)).long())
    return found


def pairs_of(model: nn.Module) -> Readings:
    inputs, targets = pairs()["test"]
    logits = torch.cat([plain.logits_of(model, inputs[side]) for side in ("left", "right")], 1)
    return plain.of_logits(logits, targets)


def focal(outputs: Tensor, targets: Tensor, gamma: float = 2.0) -> Tensor:
    """Return the focal loss, a loss of the user's own."""
    each = F.cross_entropy(outputs, targets, reduction="none")
    return ((1 - (-each).exp()) ** gamma * each).mean()


class Grid(nn.Module):
    """One class for each place of a map, with the classes along an axis of the user's choice."""

    def __init__(self, axis: int) -> None:
        super().__init__()
        self.axis, self.body = axis, nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 5))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.body(x).movedim(-1, self.axis)
        return found


def maps(size: int = 5) -> dict[str, Any]:
    """Return features (n, size, 5, 4) and classes (n, size, 5): as many classes as places."""
    found = {}
    for part in SIZES:
        x = torch.randn(SIZES[part] // 3, size, 5, 4, generator=torch.Generator().manual_seed(len(part)))
        found[part] = (x, (x.argmax(-1) + (x[..., 0] > 1)).clamp(max=4))
    return found


def maps_of(axis: int) -> Any:
    def truth(model: nn.Module) -> Readings:
        x, y = maps()["test"]
        return plain.classes(Rest(model, lambda logits: logits.movedim(axis, -1)), x, y)

    return truth


def _form(name: str, form: str, part: Any, **others: Any) -> Row:
    given: dict[str, Any] = {
        "rules": ("structured", "quantize"), "epochs": 12, "qualities": ("accuracy", "cross_entropy"),
        "learns": {"accuracy": 0.75}, **others, "settings": {"model": {"form": form}, **others.get("settings", {})},
    }  # fmt: skip
    return Row(name=name, build=Net, data=data, truth=part_of(part), **given)


def _axis(name: str, axis: int, **others: Any) -> Row:
    task = {"task": {"_target_": "kmr.tasks.Classification", "class_axis": axis}}
    return Row(
        name=name, build=Grid, data=maps, truth=maps_of(axis), rules=("structured", "quantize"), epochs=40,
        qualities=("accuracy", "cross_entropy"), learns={"accuracy": 0.7},
        settings={"model": {"axis": axis}, **others.pop("settings", task)}, **others,
    )  # fmt: skip


def _output(name: str | int) -> dict[str, Any]:
    return {"task": {"_target_": "kmr.tasks.Classification", "output": name}}


ROWS = (
    _form("output_object", "object", lambda returned: returned.logits),
    _form("output_dict", "dict", lambda returned: returned["logits"]),
    _form("output_list", "list", lambda returned: returned[0]),
    _form(
        "output_object_of_own_names", "named", lambda returned: returned.scores, settings=_output("scores"), export=None
    ),
    _form(
        "output_second_of_a_pair", "pair", lambda returned: returned[1], settings=_output(1), output=1,
        qualities=("accuracy", "ort_accuracy"), rules=("structured",),
    ),
    _form(
        "output_nested", "nested", lambda returned: returned["main"]["logits"], settings=_output("main"), output="main"
    ),
    _form("output_in_doubt", "nested", None, refuses=("aside, main", "task.output")),
    _axis("classes_last", -1),
    _axis("classes_in_the_middle", 2),
    _axis("classes_second", 1),
    _axis("as_many_classes_as_places", -1, settings={}, refuses=("(4, 5, 5, 5)", "kmr.tasks.TokenClassification")),
    Row(
        name="own_task_by_inheritance", build=Net, data=raw, truth=raw_of, rules=("structured", "quantize"), epochs=40,
        settings={"model": {"form": "pair"}, "task": {"_target_": f"{__name__}.Pixels"}}, learns={"accuracy": 0.7},
        qualities=("accuracy", "cross_entropy"), inputs=lambda: raw()["test"][0].float() / 255 - 0.5, output=1,
    ),
    Row(
        name="own_task_from_nothing", build=scorer, data=pairs, truth=pairs_of, rules=("quantize", "prune"), epochs=15,
        settings={"task": {"_target_": f"{__name__}.Ranking"}}, learns={"accuracy": 0.8}, export=None,
    ),
    Row(
        name="own_loss", build=Net, data=data, truth=part_of(lambda returned: returned["logits"]),
        rules=("lowrank", "quantize"), epochs=15, learns={"accuracy": 0.75}, qualities=("cross_entropy", "accuracy"),
        settings={
            "model": {"form": "dict"}, "train": {"loss": {"_target_": f"{__name__}.focal", "gamma": 1.0}},
            "finetune": {"loss": {"_target_": f"{__name__}.focal"}},
        },
    ),
)  # fmt: skip
