"""Compression of one model as a function for `sweeps.search`: a knob vector in, readings out, no config, no files."""

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from kmr.cache import PrefixCache, Store, describe, fingerprint, keeping
from kmr.cache.code import code_of_all
from kmr.core import (
    Direction,
    Instantiation,
    KMRError,
    OnStep,
    Reading,
    Run,
    Step,
    TransformationSequence,
    choose_device,
    device_of,
    measure_base,
    run_sequence,
)
from kmr.core.copying import copied as copy_of
from kmr.core.norms import fold_norms
from kmr.finetune import FineTune
from kmr.meters import Predictions
from kmr.tasks import task_for
from sweeps.errors import SweepError
from sweeps.experiment.knob_space import search_space, to_sequence
from sweeps.experiment.model_check import check_model, unwrapped
from sweeps.experiment.reduced_fidelity import at_share
from sweeps.experiment.static_costs import Statics
from sweeps.search.problem import Params, Problem
from sweeps.search.proposals.choose_sampler import screening_for
from sweeps.search.space import Space

_WORTH_KEEPING = 0.1
"""Seconds a step must take for its model to be cached."""


class Compression:
    """A model's compression, as a function of a knob vector.

        >>> mine = Compression(model, Instantiation("mine", rules, costs, qualities), finetune)  # doctest: +SKIP
        >>> found = search(**mine.problem, limits={"bytes": 400}, trials=20)  # doctest: +SKIP
        >>> smallest = mine.build(found.front[0].params)  # doctest: +SKIP

    Args:
        model: M₀, trained; it is not changed.
        instantiation: the rules to search over and the meters to read.
        finetune: runs after every move; none by default.
        space: narrows the knobs, as in `sweeps.experiment.knob_space.search_space`: `{"quantize": {"bits": {"values":
            [4, 8]}}}`.
        store: caches models by their sequence, so that vectors with a common prefix share them.
        objectives: names of the meters to search over; all by default.
        limited: names of meters that have a limit but are not objectives.
        must_lower: the cost that every move has to lower, where a policy chooses the moves.
        device: where the model runs, is trained and measured: `auto`, `cpu`, `cuda`, `cuda:1` or `mps`; None leaves it
            where it is.
        copied: copy the model, so that the caller may change it afterwards.

    Raises:
        SweepError: an entry of the space names an unknown knob, or a value outside the knob's domain.
        KMRError: the instantiation has no cost or no quality, the device cannot be used here, or a copy of the model
            computes something else.
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
        device: str | torch.device | None = None,
        copied: bool = True,
    ) -> None:
        place = None if device is None else choose_device(device)
        model = unwrapped(model)
        if copied:
            _check(model, instantiation)
            model = copy_of(model).eval()
            fold_norms(model)
        self.model = model if place is None else model.to(place)
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
        """The arguments of `sweeps.search`, except `limits` and `trials`."""
        static_costs = self.statics.costs if self.statics.names else None
        searched = Problem(self.space, self.objectives, canonical=self.statics.key, static_costs=static_costs)
        return {
            "space": self.space, "evaluate": self, "objectives": self.objectives,
            "static_costs": static_costs, "canonical": self.statics.key,
            "screening": screening_for(searched), "identity": self.identity,
        }  # fmt: skip

    def __call__(self, params: Params, share: float = 1.0) -> dict[str, Reading]:
        """Compress the model by a vector and read every meter; `share` scales fine-tuning and evaluation data.

        Raises:
            NotApplicable: a rule cannot transform the model.
            NonFiniteReading: the model diverged.
        """
        return dict(self.run(params, share).trace.accepted[-1].readings)

    def build(self, params: Params) -> nn.Module:
        """Rebuild a vector's model: exactly the one measured, as rules and fine-tuning are seeded."""
        return self.run(params).model

    def run(self, params: Params, share: float = 1.0) -> Run:
        """Compress the model by a vector and return every step."""
        return self.at(share).make(to_sequence(self.instantiation, params))

    def make(self, sequence: TransformationSequence, on_step: OnStep | None = None) -> Run:
        """Apply a sequence to the model; `on_step` is called with every intermediate model, the base model first."""
        with keeping(self.store):
            return run_sequence(
                self.model, self.instantiation, sequence, finetune=self.finetune, on_step=on_step, base=self.base,
                prefixes=self.prefixes,
            )  # fmt: skip

    def at(self, share: float) -> "Compression":
        """Return the compression at a lower fidelity: a share of the fine-tuning steps and of the objectives' data.

        Args:
            share: in (0, 1]; at least one step and 32 samples remain.

        Raises:
            SweepError: the share is outside its range, or there is no fine-tuning to shorten.
        """
        if share == 1:
            return self
        if not 0 < share < 1:
            raise SweepError(f"a fidelity must be in (0, 1], not {share}")
        if self.finetune is None:
            raise SweepError("a fidelity below 1 shortens fine-tuning, and there is none: pass finetune")
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
        """Return the compression with a base step measured earlier, because timings differ on every read."""
        other = copy.copy(self)
        other.__dict__["base"] = base
        return other

    @cached_property
    def base(self) -> Step:
        """The base model's step."""
        return measure_base(self.model, self.instantiation)

    @cached_property
    def statics(self) -> Statics:
        """The costs and keys of vectors that need no training."""
        return Statics(self.model, self.instantiation, {*self.objectives, *self._limited}, self.store)

    @cached_property
    def prefixes(self) -> PrefixCache | None:
        """The cache of intermediate models; None without a store or without fine-tuning."""
        if self.store is None or self.finetune is None or getattr(self.finetune, "total_steps", 1) == 0:
            return None
        context = {"finetune": describe(self.finetune, without=("progress",))}
        if self._must_lower is not None:  # models that had to lower a cost have entries of their own
            context["must_lower"] = self._must_lower
        return PrefixCache(self.store, self.model, context, worth=_WORTH_KEEPING)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """The digests that must match for a study to resume; null for a part that has no stable description."""
        instantiation = self.instantiation
        meters = (*instantiation.costs, *instantiation.qualities)
        parts = {"rules": instantiation.rules, "meters": meters, "finetune": self.finetune}
        digests = {name: _digest(value) for name, value in parts.items()}
        code = code_of_all(type(part) for part in (*instantiation.rules, *meters, self.finetune) if part is not None)
        kind = device_of(self.model).type
        where = {} if kind == "cpu" else {"device": kind}
        return {"model": fingerprint(self.model), **where, **digests, "code": code}

    def __getstate__(self) -> dict[str, Any]:
        """Leave out the parts that another process builds for itself."""
        made = ("statics", "prefixes")
        return {name: value for name, value in self.__dict__.items() if name not in made} | {"_shares": {}}


def _check(model: nn.Module, instantiation: Instantiation) -> None:
    """Check that a model is what it computes, on the data of its first quality."""
    splits = [meter.view.split for meter in instantiation.qualities if isinstance(meter.view, Predictions)]
    if splits:
        check_model(model, splits[0], task_for(model, splits[0]))


def _digest(value: object) -> str | None:
    try:
        described = describe(value, without=("progress",))
    except KMRError:
        return None
    return hashlib.sha256(json.dumps(described, sort_keys=True).encode()).hexdigest()
