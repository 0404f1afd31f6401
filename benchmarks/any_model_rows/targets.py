"""Rows by kind of target of a classifier: dtypes, texts, weights, probabilities, several labels, and refusals."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.any_model_rows import plain
from benchmarks.any_model_rows.row import Readings, Row

SIZES = {"train": 200, "validation": 60, "test": 70}
WORDS = np.array(["virginica", "setosa", "versicolor"])
WEIGHTS = (1.0, 4.0)


def classifier(classes: int = 3) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 32), nn.ReLU(), nn.Linear(32, classes))


def points(part: str, classes: int = 3) -> tuple[Tensor, Tensor]:
    """Return features and the number of the largest of the first ones."""
    random = torch.Generator().manual_seed(10 + sorted(SIZES).index(part))
    x = torch.randn(SIZES[part], 6, generator=random)
    return x, x[:, :classes].argmax(1)


def weights(part: str) -> Tensor:
    return 0.2 + torch.rand(SIZES[part], generator=torch.Generator().manual_seed(SIZES[part]))


def shares(part: str) -> Tensor:
    return (3 * points(part)[0][:, :3]).softmax(1)


def data(kind: str) -> dict[str, Any]:
    """Return the splits with targets of a kind."""
    return {part: _split(kind, part) for part in SIZES}


def _split(kind: str, part: str) -> Any:
    x, y = points(part)
    two = (points(part, 2)[1]).numpy()
    forms: dict[str, Callable[[], Any]] = {
        "int32": lambda: (x.numpy(), y.numpy().astype("int32")),
        "uint8": lambda: (x, y.to(torch.uint8)),
        "bool": lambda: (x, torch.from_numpy(two.astype(bool))),
        "words": lambda: (x.numpy(), WORDS[y.numpy()]),
        "list_of_words": lambda: (x, [str(word) for word in WORDS[y.numpy()]]),
        "column": lambda: (x, y[:, None]),
        "float": lambda: (x, y.float()),
        "shares": lambda: (x, shares(part)),
        "one_hot": lambda: (x, nn.functional.one_hot(y, 3).float()),
        "weighted": lambda: (x, {"labels": y, "weights": weights(part)}),
        "from_one": lambda: (x, y + 1),
        "three_parts": lambda: (x, y, weights(part)),
        "two_keys": lambda: {"x": x, "label": y, "target": y},
        "unknown_words": lambda: (x, np.where(np.arange(len(y)) == 5, part, WORDS[y.numpy()])),
        "too_short": lambda: (x, y[:-1]),
        "nan": lambda: (torch.where(torch.arange(6) == 2, torch.nan, x), y),
    }
    return forms[kind]()


def classes_of(model: nn.Module) -> Readings:
    return plain.classes(model, *points("test"))


def words_of(model: nn.Module) -> Readings:
    """Return the readings where classes are numbered by the alphabet."""
    x, y = points("test")
    order = sorted(WORDS.tolist())
    return plain.classes(model, x, torch.tensor([order.index(word) for word in WORDS[y.numpy()].tolist()]))


def two_of(model: nn.Module) -> Readings:
    return plain.classes(model, *points("test", 2))


def shares_of(model: nn.Module) -> Readings:
    return plain.classes(model, points("test")[0], shares("test").argmax(1))


def weighted_of(model: nn.Module) -> Readings:
    """Return accuracy and cross-entropy as means with the samples' weights."""
    (x, y), weight = points("test"), weights("test").double()
    logits = plain.logits_of(model, x)
    losses = nn.functional.cross_entropy(logits, y, reduction="none")
    hits = (logits.argmax(1) == y).double()
    return {
        "accuracy": float((hits * weight).sum() / weight.sum()),
        "cross_entropy": float((losses * weight).sum() / weight.sum()),
    }


def binary() -> nn.Module:
    return classifier(2)


def tagger(labels: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(6, 24), nn.ReLU(), nn.Linear(24, labels))


def one_logit() -> nn.Module:
    return tagger(1)


def tags(part: str, labels: int = 4) -> tuple[Tensor, Tensor]:
    x, _ = points(part)
    return x, x[:, :labels] > 0.5


def tag_data(kind: str) -> dict[str, Any]:
    """Return the splits with several labels of a kind."""
    found: dict[str, Any] = {}
    for part in SIZES:
        x, yes = tags(part)
        hidden = torch.rand(yes.shape, generator=torch.Generator().manual_seed(7)) < 0.2
        found[part] = {
            "bool": (x, yes), "float": (x, yes.float()), "int": (x, yes.int()), "one": (x, yes[:, 0].float()),
            "column": (x, yes[:, :1].float()), "wide": (x, yes[:, :3]),
            "partly": (x, yes.long().masked_fill(hidden, -1)),
        }[kind]  # fmt: skip
    return found


def tags_of(model: nn.Module) -> Readings:
    return plain.labels(model, *tags("test"))


def first_tag_of(model: nn.Module) -> Readings:
    x, yes = tags("test")
    return plain.labels(model, x, yes[:, :1])


def known_tags_of(model: nn.Module) -> Readings:
    x, targets = tag_data("partly")["test"]
    logits, known = plain.logits_of(model, x), targets >= 0
    hits = ((logits > 0) == (targets == 1))[known]
    losses = nn.functional.binary_cross_entropy_with_logits(logits[known], targets[known].double())
    return {"accuracy": float(hits.double().mean()), "cross_entropy": float(losses)}


def _row(name: str, kind: str, truth: Any = classes_of, build: Any = classifier, **others: Any) -> Row:
    given: dict[str, Any] = {
        "learns": {"accuracy": 0.75}, "rules": ("structured", "quantize"), "qualities": ("accuracy", "cross_entropy"),
        "inputs": lambda: points("test")[0], "epochs": 15, **others,
        "settings": {"data": {"kind": kind}, **others.get("settings", {})},
    }  # fmt: skip
    return Row(name=name, build=build, data=data, truth=truth, **given)


def _tags(name: str, kind: str, truth: Any = tags_of, build: Any = tagger, **others: Any) -> Row:
    given: dict[str, Any] = {
        "rules": ("prune", "quantize"), "qualities": ("f1", "accuracy", "cross_entropy"), "epochs": 20,
        "inputs": lambda: points("test")[0], **others,
        "settings": {"data": {"kind": kind}, **others.get("settings", {})},
    }  # fmt: skip
    return Row(name=name, build=build, data=tag_data, truth=truth, **given)


def _one(name: str, kind: str, **others: Any) -> Row:
    return _tags(name, kind, first_tag_of, one_logit, qualities=("accuracy",), **others)


def _refused(name: str, kind: str, *words: str) -> Row:
    return _row(name, kind, refuses=words)


def _labels(**settings: Any) -> dict[str, Any]:
    return {"task": {"_target_": "kmr.tasks.MultiLabel", **settings}}


_SMOOTH = {"task": {"_target_": "kmr.tasks.Classification", "label_smoothing": 0.1, "class_weights": [1.0, 2.0, 3.0]}}

ROWS = (
    _row("int32_labels", "int32"),
    _row("uint8_labels", "uint8"),
    _row("bool_labels", "bool", two_of, binary),
    _row("text_labels", "words", words_of),
    _row("list_of_text_labels", "list_of_words", words_of),
    _row("column_of_labels", "column"),
    _row("soft_labels", "shares", shares_of, qualities=("accuracy",)),
    _row("sample_weights", "weighted", weighted_of),
    _row("label_smoothing", "int32", settings=_SMOOTH, qualities=("f1", "cross_entropy")),
    _row(
        "loss_weights_in_yaml", "bool", two_of, binary,
        settings={"train": {"loss": {"weight": list(WEIGHTS)}}, "finetune": {"loss": {"weight": list(WEIGHTS)}}},
    ),
    _row(
        "torch_loss_in_yaml", "int32",
        settings={"train": {"loss": {"_target_": "torch.nn.CrossEntropyLoss", "weight": [1.0, 2.0, 1.0]}}},
    ),
    _tags("tags_bool", "bool", learns={"f1": 0.6}),
    _tags("tags_int_weighted", "int", settings=_labels(label_weights=[3] * 4), learns={"f1": 0.6}),
    _tags("tags_float", "float"),
    _tags(
        "tags_partly_known", "partly", known_tags_of, qualities=("accuracy", "cross_entropy"),
        settings=_labels(ignore_index=-1),
    ),
    _one("one_logit", "column", settings=_labels()),
    _one("one_logit_in_doubt", "one", refuses=("MultiLabel", "Regression")),
    _tags("tags_of_another_number", "wide", refuses=("(4, 4)", "(4, 3)")),
    _refused("labels_from_one", "from_one", "contain 3", "3 classes", "from 0"),
    _refused("float_class_numbers", "float", "torch.float32", ".long()"),
    _refused("one_hot_in_doubt", "one_hot", "Classification", "MultiLabel"),
    _refused("sample_of_three_parts", "three_parts", "3 parts", "weights"),
    _refused("two_keys_of_targets", "two_keys", "label and target"),
    _refused("label_unseen_in_training", "unknown_words", "'validation'", "training"),
    _refused("inputs_without_targets", "too_short", "train", "200 inputs", "199 targets"),
    _refused("nan_in_the_data", "nan", "inputs", "NaN"),
)  # fmt: skip
