"""KMR on a model as what `sweeps.search` evaluates: no config, no files, a knob vector in and readings out."""

import copy
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from torch import nn

from kmr.cache import PrefixCache, Store, describe, fingerprint
from kmr.core import Direction, Instantiation, KMRError, Reading, Run, Step, measure_base, run_sequence
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
    ) -> None:
        self.model = copy.deepcopy(model).eval()
        self.instantiation, self.finetune, self.store = instantiation, finetune, store
        self.space: Space = search_space(instantiation, space or {})
        """The domain of every knob."""
        meters = (*instantiation.costs, *instantiation.qualities)
        self.objectives: dict[str, Direction] = {meter.name: meter.direction for meter in meters}
        """The direction of every meter; `{**problem, "objectives": …}` searches over fewer."""
        self._recipes: dict[float, _Recipe] = {}

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
        recipe = self._recipe(share)
        sequence = to_sequence(self.instantiation, params)
        return run_sequence(
            self.model, recipe.instantiation, sequence, finetune=recipe.finetune, base=recipe.base,
            prefixes=recipe.prefixes,
        )  # fmt: skip

    @cached_property
    def base(self) -> Step:
        """What the model reads as it is."""
        return measure_base(self.model, self.instantiation)

    @cached_property
    def statics(self) -> Statics:
        """What is known of a vector before it is trained."""
        return Statics(self.model, self.instantiation, tuple(self.objectives), self.store)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """What must be the same for a study to be continued; null for what has no name another process could find."""
        instantiation = self.instantiation
        parts = {
            "rules": instantiation.rules, "meters": (*instantiation.costs, *instantiation.qualities),
            "finetune": self.finetune,
        }  # fmt: skip
        return {"model": fingerprint(self.model), **{name: _digest(value) for name, value in parts.items()}}

    def _recipe(self, share: float) -> "_Recipe":
        if share not in self._recipes:
            self._recipes[share] = self._make_recipe(share)
        return self._recipes[share]

    def _make_recipe(self, share: float) -> "_Recipe":
        if not 0 < share <= 1:
            raise SweepError(f"a share of the fine-tuning must be in (0, 1], not {share}")
        instantiation, finetune, base, prefixes = self.instantiation, self.finetune, self.base, None
        if share < 1:
            if finetune is None:
                raise SweepError("fidelities share out fine-tuning steps: give a finetune")
            instantiation, finetune = at_share(instantiation, finetune, share)
            base = measure_base(self.model, instantiation)
        if self.store is not None and finetune is not None:
            context = {"finetune": describe(finetune, without=("progress",))}
            prefixes = PrefixCache(self.store, self.model, context, worth=_WORTH_KEEPING)
        return _Recipe(instantiation, finetune, base, prefixes)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what another process makes for itself."""
        return {name: value for name, value in self.__dict__.items() if name != "statics"} | {"_recipes": {}}


def _digest(value: object) -> str | None:
    try:
        described = describe(value, without=("progress",))
    except KMRError:
        return None
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class _Recipe:
    """How models are made and judged at one fidelity."""

    instantiation: Instantiation
    finetune: FineTune | None
    base: Step
    prefixes: PrefixCache | None
