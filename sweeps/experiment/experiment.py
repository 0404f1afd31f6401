"""An experiment: the live parts of a config, checked before anything expensive starts."""

import copy
import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kmr.artifact.folder import Builder
from kmr.cache import PrefixCache, Store, describe
from kmr.core import (
    Cost,
    Direction,
    Instantiation,
    KMRError,
    Meter,
    Quality,
    Readings,
    Rule,
    Step,
    measure,
    measure_base,
)
from kmr.data import Data, as_data, forward
from kmr.finetune import FineTune
from kmr.meters import Predictions
from kmr.runtimes.program import describe_inputs
from sweeps.errors import SweepError, unknown
from sweeps.experiment.base_weights import with_weights
from sweeps.experiment.config import Config
from sweeps.experiment.instantiate import part
from sweeps.experiment.knob_space import parameter_space, search_space
from sweeps.experiment.reduced_fidelity import at_share
from sweeps.search.space import Space


@dataclass(frozen=True, eq=False)
class Experiment:
    """Everything a trial needs: the base model, its data, what may be done to it, and how it is judged.

    `identity` holds what must not change for a study to be continued, in plain values. `known_base` is the base model's
    step where the study has measured it before: timings would not read the same twice. `prefixes` recalls models that
    earlier trials made, `store` what they found out on the way.
    """

    config: Config
    plain: Mapping[str, Any]
    model: nn.Module
    data: Data
    instantiation: Instantiation
    space: Space
    objectives: tuple[Meter, ...]
    test_qualities: tuple[Quality, ...]
    finetune: FineTune
    builder: Builder
    identity: Mapping[str, Any] = field(repr=False)
    known_base: Step | None = None
    prefixes: PrefixCache | None = None
    store: Store | None = None

    @property
    def searches_policy(self) -> bool:
        """Whether the search is over a policy's parameters rather than over knob vectors."""
        return self.config.policy is not None

    @property
    def directions(self) -> list[Direction]:
        """The direction of each objective."""
        return [meter.direction for meter in self.objectives]

    @cached_property
    def base(self) -> Step:
        """The base model's readings, measured once in the life of a study."""
        return self.known_base or measure_base(self.model, self.instantiation)

    @cached_property
    def usage(self) -> dict[str, Any]:
        """What one who is given a model must know to call it: the form of its inputs, how they are made."""
        inputs = describe_inputs(self.data.train.first_inputs())
        return {"inputs": inputs, "preprocessing": dict(self.data.preprocessing) or None}

    def test(self, model: nn.Module) -> Readings:
        """Read the quality meters on the held-out test data."""
        return measure(model, self.test_qualities)


def build_experiment(config: Config, plain: Mapping[str, Any]) -> Experiment:
    """Make the live parts of a config.

    Args:
        config: checked against the schema.
        plain: the same with everything resolved, as plain dicts and lists.

    Raises:
        SweepError: a part is missing, wrong or does not fit the others; the message says which and what to do.
    """
    if config.trials < 1:
        raise SweepError(f"trials must be at least 1, not {config.trials}")
    for needed in ("model", "data"):
        if plain.get(needed) is None:
            raise SweepError(f"the experiment has no {needed}: set {needed}._target_ to a function that makes it")
    _check_numbers(config)
    trusted = tuple(config.trusted_modules)
    torch.manual_seed(config.seed)
    made = part("data", plain["data"], trusted)
    try:
        data = _evaluated_in_large_batches(as_data(made, config.batch_size), config)
        data_digest = data.fingerprint()
    except Exception as error:  # what a user's data holds may fail anywhere
        raise SweepError(f"data: {' '.join(str(error).split()) or type(error).__name__}") from error
    model = part("model", plain["model"], trusted)
    if not isinstance(model, nn.Module):
        raise SweepError(f"model: {plain['model']['_target_']} made a {type(model).__name__}, not a torch.nn.Module")
    _try_once(model, data)
    model = with_weights(model, config, plain, data, trusted).eval()
    live = {
        "example_inputs": data.train.first_inputs(),
        "calibration": data.train,
        "original": model,
        "seed": config.seed,
    }
    finetune = part("finetune", plain["finetune"], trusted, data=data.train, seed=config.seed, original=model)
    instantiation = _instantiation(config, plain, data, {**live, "finetune": finetune}, trusted)
    parts = {name: plain[name] for name in _IDENTITY}
    identity = {**parts, "data_digest": data_digest, "weights_digest": _digest(model)}
    turned = search_space(instantiation, plain["space"])
    store = _store(config)
    space = parameter_space(config.policy_space, _turned(instantiation, turned)) if config.policy else turned
    if config.policy and not space:
        raise SweepError(
            "a sweep over a policy needs policy_space, for example policy_space.budget={low: 0.1, high: 0.8}"
        )
    objectives = _objectives(config, instantiation)
    lowered = next((meter.name for meter in objectives if isinstance(meter, Cost)), None)
    if config.policy and lowered is None:
        raise SweepError("a sweep over a policy needs a cost among the objectives, which its budget limits")
    return Experiment(
        config=config,
        plain=plain,
        model=model,
        data=data,
        instantiation=instantiation,
        space=space,
        objectives=objectives,
        test_qualities=tuple(
            meter
            for meter in _meters(plain, {**live, "data": Predictions.of(data.test)}, trusted)
            if isinstance(meter, Quality)
        ),
        finetune=finetune,
        builder=_builder(plain["model"]),
        identity=json.loads(json.dumps(identity, default=str)),
        prefixes=_prefixes(store, model, finetune, lowered if config.policy else None),
        store=store,
    )


def at_fidelity(experiment: Experiment, share: float) -> Experiment:
    """Return the experiment with a share of its fine-tuning steps, and its objectives read on that share of the data.

    Args:
        experiment: at full fidelity.
        share: in (0, 1); at least one step and 32 samples are left.

    Raises:
        SweepError: the fine-tuning has no number of steps to share out.
    """
    costs = tuple(meter for meter in experiment.objectives if isinstance(meter, Cost))
    qualities = tuple(meter for meter in experiment.objectives if isinstance(meter, Quality))
    judged = replace(experiment.instantiation, costs=costs, qualities=qualities)
    instantiation, finetune = at_share(judged, experiment.finetune, share)
    meters: dict[str, Meter] = {meter.name: meter for meter in (*instantiation.costs, *instantiation.qualities)}
    return replace(
        experiment,
        instantiation=instantiation,
        objectives=tuple(meters[meter.name] for meter in experiment.objectives),
        finetune=finetune,
        known_base=None,
        prefixes=_prefixes(experiment.store, experiment.model, finetune),
    )


def _turned(instantiation: Instantiation, space: Space) -> tuple[Rule, ...]:
    """Return the rules with a knob that is turned."""
    return tuple(rule for rule in instantiation.rules if any(knob.name in space for knob in rule.knobs))


_IDENTITY = (
    "model", "weights", "train", "data", "batch_size", "rules", "meters", "finetune", "space", "policy", "policy_space",
    "policy_max_moves", "on_no_progress", "objectives", "budget", "seed",
)  # fmt: skip
"""The parts of a config that decide what a trial's values mean."""


def _check_numbers(config: Config) -> None:
    for name, limit in config.budget.items():
        if not math.isfinite(limit):
            raise SweepError(f"budget.{name} must be a finite number, not {limit}")
    if config.threads is not None and not 1 <= config.threads <= 1024:
        raise SweepError(f"threads must be between 1 and 1024, not {config.threads}")
    if not 1 <= config.workers <= 1024:
        raise SweepError(f"workers must be between 1 and 1024, not {config.workers}")
    if config.policy_max_moves < 1:
        raise SweepError(f"policy_max_moves must be at least 1, not {config.policy_max_moves}")
    if config.on_no_progress not in ("break", "next"):
        raise SweepError(f"on_no_progress must be break or next, not {config.on_no_progress}")


def _try_once(model: nn.Module, data: Data) -> None:
    """Call the model on a few samples of each split, so that what does not fit shows before hours are spent."""
    twin = copy.deepcopy(model).eval()
    for name in ("train", "validation", "test"):
        try:
            with torch.no_grad():
                forward(twin, getattr(data, name).subset(4).first_inputs(4))
        except Exception as error:  # a user's forward pass may raise anything
            why = " ".join(str(error).split())[:300]
            raise SweepError(f"the model does not take the {name} data: {type(error).__name__}: {why}") from error


_WORTH_KEEPING = 0.1
"""Seconds: a step made in less is not worth a file."""


def _store(config: Config) -> Store | None:
    if not config.cache.enabled:
        return None
    folder = Path(config.cache.folder) if config.cache.folder else Path(config.output_dir) / ".cache" / "prefixes"
    try:
        return Store(folder.expanduser().absolute(), int(config.cache.max_gb * 1e9))
    except KMRError as error:
        print(f"nothing is cached: {error}")
        return None


def _prefixes(
    store: Store | None, model: nn.Module, finetune: FineTune, must_lower: str | None = None
) -> PrefixCache | None:
    """Return what recalls models; moves that had to lower a cost are kept apart from those that did not."""
    if store is None or finetune.total_steps == 0:
        return None
    try:
        context = {"finetune": describe(finetune, without=("progress",))}
        context |= {} if must_lower is None else {"must_lower": must_lower}
        return PrefixCache(store, model, context, worth=_WORTH_KEEPING)
    except KMRError as error:
        print(f"models are not cached: {error}")
        return None


def _evaluated_in_large_batches(data: Data, config: Config) -> Data:
    size = config.eval_batch_size
    return replace(data, validation=replace(data.validation, batch_size=size), test=replace(data.test, batch_size=size))


def _instantiation(
    config: Config, plain: Mapping[str, Any], data: Data, live: Mapping[str, Any], trusted: tuple[str, ...]
) -> Instantiation:
    _check_are_parts("rules", "rule", plain.get("rules") or {})
    rules = [
        part(f"rules.{name}", entry, trusted, name=name, data=data.train, **live)
        for name, entry in (plain.get("rules") or {}).items()
        if entry is not None
    ]
    for rule in rules:
        if not isinstance(rule, Rule):
            raise SweepError(f"rules hold a {type(rule).__name__}, which is not a kmr Rule")
    if not rules:
        raise SweepError("the experiment has no rules: choose some, for example rule=[structured,lowrank,quantize]")
    meters = _meters(plain, {**live, "data": Predictions.of(data.validation)}, trusted)
    costs = tuple(meter for meter in meters if isinstance(meter, Cost))
    qualities = tuple(meter for meter in meters if isinstance(meter, Quality))
    try:
        return Instantiation(config.name, tuple(rules), costs, qualities)
    except KMRError as error:
        raise SweepError(str(error)) from error
    except (TypeError, AttributeError) as error:
        raise SweepError(f"a rule's knobs must be a tuple of Knob: {error}") from error


def _check_are_parts(group: str, option: str, entries: Mapping[str, Any]) -> None:
    """Raise `SweepError` where settings are given for a part the experiment does not have."""
    known = [name for name, entry in entries.items() if isinstance(entry, Mapping) and "_target_" in entry]
    for name, entry in entries.items():
        if entry is not None and name not in known:
            raise SweepError(
                f"the experiment has no {group}.{name}{unknown(name, known)}; choose it with {option}=[…], or name its "
                "code in _target_"
            )


def _meters(plain: Mapping[str, Any], live: Mapping[str, Any], trusted: tuple[str, ...]) -> list[Cost | Quality]:
    _check_are_parts("meters", "meter", plain.get("meters") or {})
    meters: list[Cost | Quality] = []
    for name, entry in (plain.get("meters") or {}).items():
        if entry is None:
            continue
        meter = part(f"meters.{name}", entry, trusted, name=name, **live)
        if not isinstance(meter, Cost | Quality):
            raise SweepError(f"meters.{name} made a {type(meter).__name__}, which is neither a kmr Cost nor a Quality")
        meters.append(meter)
    return meters


def _objectives(config: Config, instantiation: Instantiation) -> tuple[Meter, ...]:
    meters = {meter.name: meter for meter in (*instantiation.costs, *instantiation.qualities)}
    wanted = [*config.objectives, *config.budget, *config.reference]
    missing = [name for name in wanted if name not in meters]
    if missing:
        raise SweepError(f"no meter is named {', '.join(missing)}{unknown(missing[0], list(meters))}")
    if len(config.objectives) < 2 or len(set(config.objectives)) < len(config.objectives):
        raise SweepError(f"objectives must name two or more different meters, not {list(config.objectives)}")
    return tuple(meters[name] for name in config.objectives)


def _builder(config: Mapping[str, Any]) -> Builder:
    return Builder(str(config["_target_"]), {key: value for key, value in config.items() if not key.startswith("_")})


def _digest(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        digest.update(
            name.encode() + tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        )
    return digest.hexdigest()
