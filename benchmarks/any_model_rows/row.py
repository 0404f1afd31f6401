"""One row of the benchmark: a model, its data and task as a user has them, and the right values."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import nn

Readings = Mapping[str, float]
"""Qualities by meter."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """A user's model with its data, and what must come out.

    Args:
        name: the row's name.
        build: makes the model; a function or class of a module, which the config names.
        data: makes the splits, as `build`.
        truth: reads the qualities of a model on the row's own test data in plain PyTorch, NumPy or scikit-learn.
        rules: rules of the search, in order.
        qualities: meters of quality; the first is an objective.
        settings: further entries of the experiment.
        recipe: the recipe of training and fine-tuning.
        epochs: epochs of the base model's training; None leaves the model as it is built.
        tune: epochs of fine-tuning after each move.
        trials: trials of the search.
        learns: bars that the trained base model passes on test data, a value for each meter: at least that of a
            quality to maximise, at most that of an error.
        refuses: words that the error message must contain; empty if the row must work.
        export: the format of the exported file; None where there is none, as of detectors.
        precision: the precision of an ONNX file.
        close: the relative difference of its outputs that counts as none.
        no_export: words of the message that refuses the export; empty if it must work.
        inputs: makes inputs for the comparison with the exported file; by default those of the test tensors.
        output: the key or place of the compared output, where a model returns several.
        base: makes the model that takes the trained base's weights, if it is not what `build` makes.
        resumes: whether the study must go on by a further trial when it is run again.
        files: writes further files into the folder of the experiment.
        needs: packages without which the row is skipped.
    """

    name: str
    build: Callable[..., Any]
    data: Callable[..., Any]
    truth: Callable[[Any], Readings] | None = None
    rules: tuple[str, ...] = ("quantize",)
    qualities: tuple[str, ...] = ("accuracy",)
    settings: Mapping[str, Any] = field(default_factory=dict)
    recipe: str = "adamw"
    epochs: float | None = 5
    tune: float = 1
    trials: int = 4
    learns: Mapping[str, float] = field(default_factory=dict)
    refuses: tuple[str, ...] = ()
    export: str | None = "onnx"
    precision: str = "fp32"
    close: float = 1e-3
    no_export: tuple[str, ...] = ()
    inputs: Callable[[], Any] | None = None
    output: str | int | None = None
    base: Callable[[], nn.Module] | None = None
    files: Callable[[Path], None] | None = None
    resumes: bool = False
    needs: tuple[str, ...] = ()

    def experiment(self) -> dict[str, Any]:
        """Return the experiment's YAML as a dict."""
        recipes: list[Any] = [{"override /finetune": self.recipe}]
        if self.epochs is not None:
            recipes.insert(0, {"/finetune@train": self.recipe})
        found: dict[str, Any] = {
            "defaults": [{"/rule": list(self.rules)}, {"/meter": ["weight_bytes", *self.qualities]}, *recipes],
            "name": self.name,
            "trials": self.trials,
            "objectives": ["weight_bytes", self.qualities[0]],
            "trusted_modules": sorted({self.build.__module__, self.data.__module__}),
            "model": {"_target_": _named(self.build)},
            "data": {"_target_": _named(self.data)},
            "finetune": {"epochs": self.tune},
        }
        if self.epochs is not None:
            found["train"] = {"epochs": self.epochs, "optimizer": {"lr": 0.01}}
        return _merged(found, self.settings)


def _named(made: Callable[..., Any]) -> str:
    return f"{made.__module__}.{made.__qualname__}"


def _merged(one: dict[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Return a nested dict with the entries of another."""
    found = dict(one)
    for key, value in other.items():
        nested = isinstance(value, Mapping) and isinstance(found.get(key), dict)
        found[key] = _merged(found[key], value) if nested else value
    return found
