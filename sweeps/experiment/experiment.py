"""An experiment: the live parts of a config, checked before anything expensive starts."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from torch import nn

from kmr.artifact.folder import Builder
from kmr.cache import PrefixCache, Store
from kmr.core import (
    Direction,
    Instantiation,
    Meter,
    Quality,
    Readings,
    Step,
    measure,
)
from kmr.data import Data
from kmr.finetune import FineTune
from kmr.runtimes.program import describe_inputs
from sweeps.experiment.compression import Compression
from sweeps.experiment.config import Config
from sweeps.search.space import Space


@dataclass(frozen=True, eq=False)
class Experiment:
    """Everything a trial needs: the base model, its data, what may be done to it, and how it is judged.

    `identity` holds what must not change for a study to be continued, in plain values.
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
        """What follows every move."""
        assert self.compression.finetune is not None, "a config always names one"
        return self.compression.finetune

    @property
    def store(self) -> Store | None:
        """What rules found out, and models on the way."""
        return self.compression.store

    @property
    def prefixes(self) -> PrefixCache | None:
        """What recalls models that earlier trials made."""
        return self.compression.prefixes

    @property
    def objectives(self) -> tuple[Meter, ...]:
        """The meters that are searched over."""
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
        """The base model's readings, measured once in the life of a study."""
        return self.compression.base

    def with_base(self, base: Step) -> "Experiment":
        """Return the experiment with the base model's step as the study has measured it before."""
        return replace(self, compression=self.compression.with_base(base))

    def at_share(self, share: float) -> "Experiment":
        """Return the experiment with a share of its fine-tuning, whose objectives read that share of their data."""
        return replace(self, compression=self.compression.at(share))

    @cached_property
    def usage(self) -> dict[str, Any]:
        """What one who is given a model must know to call it: the form of its inputs, how they are made."""
        inputs = describe_inputs(self.data.train.first_inputs())
        return {"inputs": inputs, "preprocessing": dict(self.data.preprocessing) or None}

    def test(self, model: nn.Module) -> Readings:
        """Read the quality meters on the held-out test data."""
        return measure(model, self.test_qualities)
