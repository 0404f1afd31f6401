"""Building an experiment: the live parts of a config, checked before anything expensive starts."""

import hashlib
import json
import math
import random
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from kmr.artifact.folder import Builder
from kmr.cache import Store
from kmr.core import (
    Cost,
    Instantiation,
    KMRError,
    Meter,
    Quality,
    Rule,
    choose_device,
    isolated_rng,
)
from kmr.core.device import AUTO
from kmr.core.norms import fold_norms
from kmr.data import Data, as_data
from kmr.meters import Predictions
from sweeps.errors import SweepError, unknown
from sweeps.experiment.base_weights import with_weights
from sweeps.experiment.choose_task import with_task
from sweeps.experiment.compression import Compression
from sweeps.experiment.config import Config
from sweeps.experiment.experiment import Experiment
from sweeps.experiment.instantiate import part
from sweeps.experiment.knob_space import parameter_space
from sweeps.experiment.model_check import check_model, unwrapped
from sweeps.search.space import Space


def build_experiment(config: Config, plain: Mapping[str, Any]) -> Experiment:
    """Build the experiment that a config describes.

    Args:
        config: checked against the schema.
        plain: the same config, resolved, as plain dicts and lists.

    Raises:
        SweepError: a part is missing, invalid or does not fit the others.
    """
    if config.trials < 1:
        raise SweepError(f"trials must be at least 1, not {config.trials}")
    for needed in ("model", "data"):
        if plain.get(needed) is None:
            raise SweepError(f"the experiment has no {needed}: set {needed}._target_ to a function that makes it")
    _check_numbers(config)
    device = _device(config)
    trusted = tuple(config.trusted_modules)
    # A user's functions may draw from any generator; the same seed makes the same data and model at every start.
    torch.manual_seed(config.seed)
    random.seed(config.seed)
    np.random.seed(config.seed % 2**32)
    made = part("data", plain["data"], trusted)
    try:
        data = _evaluated_in_large_batches(as_data(made, config.batch_size), config)
        with isolated_rng(config.seed):
            data_digest = config.data_identity or data.fingerprint()
    except Exception as error:  # a user's data may raise anything
        raise SweepError(f"data: {' '.join(str(error).split()) or type(error).__name__}") from error
    model = part("model", plain["model"], trusted)
    if not isinstance(model, nn.Module):
        raise SweepError(f"model: {plain['model']['_target_']} made a {type(model).__name__}, not a torch.nn.Module")
    model = unwrapped(model).to(device)

    def rebuild() -> nn.Module:
        return unwrapped(part("model", plain["model"], trusted)).to(device)

    data = with_task(model, data, plain, trusted)
    try:
        assert data.train.task is not None
        check_model(model, data.validation, data.train.task, rebuild)
    except KMRError as error:
        raise SweepError(f"model: {error}") from error
    model = with_weights(model, config, plain, data, trusted).eval()
    if folded := fold_norms(model):
        shown = ", ".join(folded[:3]) + (f" and {len(folded) - 3} more" if len(folded) > 3 else "")
        print(f"norms: folded into plain weights: {shown}", flush=True)
    live = {
        "example_inputs": data.train.first_inputs(),
        "calibration": data.train,
        "original": model,
        "seed": config.seed,
    }
    finetune = part("finetune", plain["finetune"], trusted, data=data.train, seed=config.seed, original=model)
    instantiation = _instantiation(config, plain, data, {**live, "finetune": finetune}, trusted)
    parts = {name: plain[name] for name in _IDENTITY}
    if plain.get("task") is not None:
        parts["task"] = plain["task"]
    if device.type != "cpu":  # another kind of device gives other last digits
        parts["device"] = device.type
    identity = {**parts, "data_digest": data_digest, "weights_digest": _digest(model)}
    objectives = _objectives(config, instantiation)
    lowered = next((meter.name for meter in objectives if isinstance(meter, Cost)), None)
    if config.policy and lowered is None:
        raise SweepError(
            "a sweep over a policy needs a cost among the objectives for its budget: add one, such as weight_bytes"
        )
    compression = Compression(
        model, instantiation, finetune, plain["space"], _store(config), copied=False,
        objectives=[meter.name for meter in objectives], limited=tuple(config.limits),
        must_lower=lowered if config.policy else None,
    )  # fmt: skip
    space = compression.space
    if config.policy:
        space = parameter_space(config.policy_space, _turned(instantiation, space))
        if not space:
            raise SweepError(
                "a sweep over a policy needs policy_space, for example policy_space.budget={low: 0.1, high: 0.8}"
            )
    return Experiment(
        config=config,
        plain=plain,
        compression=compression,
        data=data,
        space=space,
        test_qualities=tuple(
            meter
            for meter in _meters(plain, {**live, "data": Predictions.of(data.test)}, trusted)
            if isinstance(meter, Quality)
        ),
        builder=_builder(plain["model"]),
        identity=json.loads(json.dumps(identity, default=str)),
    )


def _device(config: Config) -> torch.device:
    """Return the configured device; say which one `auto` chose."""
    try:
        device = choose_device(config.device)
    except KMRError as error:
        raise SweepError(str(error)) from error
    if config.device == AUTO:
        print(f"device: {device}, as torch finds it here; device= sets another", flush=True)
    return device


def _turned(instantiation: Instantiation, space: Space) -> tuple[Rule, ...]:
    """Return the rules that have a knob in the space."""
    return tuple(rule for rule in instantiation.rules if any(knob.name in space for knob in rule.knobs))


_IDENTITY = (
    "model", "weights", "train", "data", "batch_size", "rules", "meters", "finetune", "space", "policy", "policy_space",
    "policy_max_moves", "on_no_progress", "objectives", "limits", "seed",
)  # fmt: skip
"""The config entries that determine a trial's readings."""


def _check_numbers(config: Config) -> None:
    for name, limit in config.limits.items():
        if not math.isfinite(limit):
            raise SweepError(f"limits.{name} must be a finite number, not {limit}")
    if config.threads is not None and not 1 <= config.threads <= 1024:
        raise SweepError(f"threads must be between 1 and 1024, not {config.threads}")
    if not 1 <= config.workers <= 1024:
        raise SweepError(f"workers must be between 1 and 1024, not {config.workers}")
    if config.policy_max_moves < 1:
        raise SweepError(f"policy_max_moves must be at least 1, not {config.policy_max_moves}")
    if config.on_no_progress not in ("break", "next"):
        raise SweepError(f"on_no_progress must be break or next, not {config.on_no_progress}")


def _store(config: Config) -> Store | None:
    if not config.cache.enabled:
        return None
    folder = Path(config.cache.folder) if config.cache.folder else Path(config.output_dir) / ".cache" / "prefixes"
    try:
        return Store(folder.expanduser().absolute(), int(config.cache.max_gb * 1e9))
    except KMRError as error:
        print(f"the cache is off: {error}")
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
            raise SweepError(f"rules: a {type(rule).__name__} is not a kmr Rule; name a rule in _target_")
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
            raise SweepError(f"meters.{name}: a {type(meter).__name__} is neither a kmr Cost nor a Quality")
        meters.append(meter)
    return meters


def _objectives(config: Config, instantiation: Instantiation) -> tuple[Meter, ...]:
    meters = {meter.name: meter for meter in (*instantiation.costs, *instantiation.qualities)}
    wanted = [*config.objectives, *config.limits, *config.reference]
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
