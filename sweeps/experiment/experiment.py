"""An experiment: the live parts of a config, checked before anything expensive starts."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from torch import nn

from kmr.artifact import folder as artifact
from kmr.artifact.folder import Builder
from kmr.cache import PrefixCache, Store
from kmr.core import (
    Direction,
    Instantiation,
    Meter,
    Quality,
    Readings,
    Step,
    device_of,
    measure,
)
from kmr.data import Data
from kmr.data.description import describe_inputs
from kmr.finetune import FineTune
from sweeps.experiment.compression import Compression
from sweeps.experiment.config import Config
from sweeps.search.space import Space


@dataclass(frozen=True, eq=False)
class Experiment:
    """Everything a trial needs: the base model, its data, the rules and the meters.

    `identity` holds, as plain values, the settings that must match for a study to resume.
    """

    config: Config
    plain: Mapping[str, Any]
    compression: Compression
    data: Data
    space: Space
    test_qualities: tuple[Quality, ...]
    builder: Builder
    identity: Mapping[str, Any] = field(repr=False)

    @property
    def model(self) -> nn.Module:
        """The base model."""
        return self.compression.model

    @property
    def instantiation(self) -> Instantiation:
        """The rules and the meters."""
        return self.compression.instantiation

    @property
    def finetune(self) -> FineTune:
        """The fine-tuning after every move."""
        assert self.compression.finetune is not None, "a config always names one"
        return self.compression.finetune

    @property
    def store(self) -> Store | None:
        """The store of rules' intermediate results and models."""
        return self.compression.store

    @property
    def prefixes(self) -> PrefixCache | None:
        """The cache of models that earlier trials made."""
        return self.compression.prefixes

    @property
    def objectives(self) -> tuple[Meter, ...]:
        """The meters to search over."""
        meters = {meter.name: meter for meter in (*self.instantiation.costs, *self.instantiation.qualities)}
        return tuple(meters[name] for name in self.compression.objectives)

    @property
    def searches_policy(self) -> bool:
        """Whether the search is over a policy's parameters rather than over knob vectors."""
        return self.config.policy is not None

    @property
    def directions(self) -> list[Direction]:
        """The direction of each objective."""
        return [meter.direction for meter in self.objectives]

    @property
    def base(self) -> Step:
        """The base model's readings, measured once for each study."""
        return self.compression.base

    def with_base(self, base: Step) -> "Experiment":
        """Return the experiment with a base step that the study measured earlier."""
        return replace(self, compression=self.compression.with_base(base))

    def at_share(self, share: float) -> "Experiment":
        """Return the experiment at a lower fidelity: a share of the fine-tuning steps and of the objectives' data."""
        return replace(self, compression=self.compression.at(share))

    @cached_property
    def usage(self) -> dict[str, Any]:
        """The instructions for calling a saved model: the form of its inputs and their preprocessing."""
        inputs = describe_inputs(self.data.train.first_inputs())
        return {"inputs": inputs, "preprocessing": dict(self.data.preprocessing) or None}

    def load(self, saved: Path) -> nn.Module:
        """Load a saved model of the experiment, on the base model's device."""
        return artifact.load(saved, base=self.model, device=device_of(self.model))

    def test(self, model: nn.Module) -> Readings:
        """Read the quality meters on the held-out test data."""
        return measure(model, self.test_qualities)
