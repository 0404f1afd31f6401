"""KMR on a model as what `sweeps.search` evaluates: no config, no files, a knob vector in and readings out."""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

from torch import nn

from kmr.cache import PrefixCache, Store, describe, fingerprint, keeping
from kmr.core import (
    Direction,
    Instantiation,
    KMRError,
    OnStep,
    Reading,
    Run,
    Step,
    TransformationSequence,
    measure_base,
    run_sequence,
)
from kmr.finetune import FineTune
from sweeps.errors import SweepError
from sweeps.experiment.knob_space import search_space, to_sequence
from sweeps.experiment.reduced_fidelity import at_share
from sweeps.experiment.static_costs import Statics
from sweeps.search.problem import Params, Problem
from sweeps.search.proposals.acquisition import Screening
from sweeps.search.proposals.choose_sampler import screening_pays
from sweeps.search.space import Space

_WORTH_KEEPING = 0.1
"""Seconds: a step made in less is not worth a file."""


class Compression:
    """Compresses one model by knob vectors.

        >>> mine = Compression(model, Instantiation("mine", rules, costs, qualities), finetune)  # doctest: +SKIP
        >>> found = search(**mine.problem, limits={"bytes": 400}, trials=20)  # doctest: +SKIP
        >>> smallest = mine.build(found.front[0].params)  # doctest: +SKIP

    Args:
        model: M₀, trained; it is left as it is.
        instantiation: the rules to search over, and the meters to judge by.
        finetune: follows every move; none by default.
        space: narrows the knobs, as `sweeps.experiment.knob_space.search_space` takes it: `{"quantize": {"bits":
        {"values": [4, 8]}}}`.
        store: keeps models that vectors begin with alike, so that their beginnings are made once.
        objectives: names of the meters that are searched over; all by default.
        limited: names of meters that are limited and no objectives.
        must_lower: the cost that every move has to lower, where a policy chooses the moves.
        copied: whether the model is copied, so that the caller may go on with it.

    Raises:
        SweepError: an entry of the space names no knob, or leaves its domain.
        KMRError: the instantiation has no cost or no quality.
    """

    def __init__(
        self,
        model: nn.Module,
        instantiation: Instantiation,
        finetune: FineTune | None = None,
        space: Mapping[str, Any] | None = None,
        store: Store | None = None,
        *,
        objectives: Sequence[str] | None = None,
        limited: Sequence[str] = (),
        must_lower: str | None = None,
        copied: bool = True,
    ) -> None:
        self.model = copy.deepcopy(model).eval() if copied else model
        self.instantiation, self.finetune, self.store = instantiation, finetune, store
        self.space: Space = search_space(instantiation, space or {})
        """The domain of every knob."""
        meters = {meter.name: meter.direction for meter in (*instantiation.costs, *instantiation.qualities)}
        self.objectives: dict[str, Direction] = {name: meters[name] for name in objectives or meters}
        """The direction of every objective; `{**problem, "objectives": …}` searches over fewer."""
        self._limited, self._must_lower = tuple(limited), must_lower
        self._shares: dict[float, Compression] = {}

    @property
    def problem(self) -> dict[str, Any]:
        """What `sweeps.search` is given, but for `limits` and `trials`."""
        static_costs = self.statics.costs if self.statics.names else None
        searched = Problem(self.space, self.objectives, canonical=self.statics.key, static_costs=static_costs)
        return {
            "space": self.space, "evaluate": self, "objectives": self.objectives,
            "static_costs": static_costs, "canonical": self.statics.key,
            "screening": Screening(shortlist=8) if screening_pays(searched) else None, "identity": self.identity,
        }  # fmt: skip

    def __call__(self, params: Params, share: float = 1.0) -> dict[str, Reading]:
        """Make the model of a vector and read every meter; at a share, with so much of the fine-tuning and the data.

        Raises:
            NotApplicable: a rule cannot transform the model.
            NonFiniteReading: the model diverged.
        """
        return dict(self.run(params, share).trace.accepted[-1].readings)

    def build(self, params: Params) -> nn.Module:
        """Make the model of a vector again: the same one, as every random choice of rules and fine-tuning is seeded."""
        return self.run(params).model

    def run(self, params: Params, share: float = 1.0) -> Run:
        """Make the model of a vector, with every step on the way."""
        return self.at(share).make(to_sequence(self.instantiation, params))

    def make(self, sequence: TransformationSequence, on_step: OnStep | None = None) -> Run:
        """Make the model of a sequence; `on_step` is called with every model on the way, the base model first."""
        with keeping(self.store):
            return run_sequence(
                self.model, self.instantiation, sequence, finetune=self.finetune, on_step=on_step, base=self.base,
                prefixes=self.prefixes,
            )  # fmt: skip

    def at(self, share: float) -> "Compression":
        """Return the compression with a share of the fine-tuning, whose objectives read that share of their data.

        Args:
            share: in (0, 1]; at least one step and 32 samples are left.

        Raises:
            SweepError: a share out of its range, or there are no fine-tuning steps to share out.
        """
        if share == 1:
            return self
        if not 0 < share < 1:
            raise SweepError(f"a share of the fine-tuning must be in (0, 1], not {share}")
        if self.finetune is None:
            raise SweepError("fidelities share out fine-tuning steps: give a finetune")
        if share not in self._shares:
            judged = replace(
                self.instantiation,
                costs=tuple(meter for meter in self.instantiation.costs if meter.name in self.objectives),
                qualities=tuple(meter for meter in self.instantiation.qualities if meter.name in self.objectives),
            )
            self._shares[share] = Compression(
                self.model, *at_share(judged, self.finetune, share), store=self.store,
                objectives=tuple(self.objectives), copied=False,
            )  # fmt: skip
        return self._shares[share]

    def with_base(self, base: Step) -> "Compression":
        """Return the compression with the base model's step as it was measured before: timings never read the same."""
        other = copy.copy(self)
        other.__dict__["base"] = base
        return other

    @cached_property
    def base(self) -> Step:
        """What the model reads as it is."""
        return measure_base(self.model, self.instantiation)

    @cached_property
    def statics(self) -> Statics:
        """What is known of a vector before it is trained."""
        return Statics(self.model, self.instantiation, {*self.objectives, *self._limited}, self.store)

    @cached_property
    def prefixes(self) -> PrefixCache | None:
        """What recalls models; None without a store or fine-tuning, or where a part cannot be told from others."""
        if self.store is None or self.finetune is None or getattr(self.finetune, "total_steps", 1) == 0:
            return None
        context = {"finetune": describe(self.finetune, without=("progress",))}
        if self._must_lower is not None:  # what had to lower a cost is kept apart
            context["must_lower"] = self._must_lower
        return PrefixCache(self.store, self.model, context, worth=_WORTH_KEEPING)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a study to be continued; null for what has no name another process could find."""
        instantiation = self.instantiation
        parts = {
            "rules": instantiation.rules, "meters": (*instantiation.costs, *instantiation.qualities),
            "finetune": self.finetune,
        }  # fmt: skip
        return {"model": fingerprint(self.model), **{name: _digest(value) for name, value in parts.items()}}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what another process makes for itself."""
        made = ("statics", "prefixes")
        return {name: value for name, value in self.__dict__.items() if name not in made} | {"_shares": {}}


def _digest(value: object) -> str | None:
    try:
        described = describe(value, without=("progress",))
    except KMRError:
        return None
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
