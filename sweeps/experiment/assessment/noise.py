"""Noise stage: the front's uncertainty, estimated from bootstrap samples and from other seeds.

The stage separates two kinds of noise. A *bootstrap* of the validation data (Efron 1979) estimates how much of a saved
model's quality is due to the choice of samples. All models use the same resamples, so that common noise cancels in
comparisons. *Other seeds* repeat the same moves and estimate how much is due to the randomness of fine-tuning. That is
the spread to expect when someone repeats the recipe, not the uncertainty of the saved model.
"""

import dataclasses
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from torch import nn

from analysis.pareto.probability import probability_non_dominated
from kmr.core import KMRError, Meter, Quality, run_sequence
from kmr.meters import Predictions
from kmr.meters.predictions import statistics_of
from kmr.meters.statistics import smallest
from sweeps.experiment.experiment import Experiment
from sweeps.experiment.front_artifacts import artifact_path
from sweeps.experiment.remade import remake
from sweeps.search.study.attributes import NOISE, by_point, keep_for_point
from sweeps.search.study.point import Point


@dataclass(frozen=True)
class PointNoise:
    """A point's readings by quality meter: on bootstrap samples, and with other seeds."""

    resamples: Mapping[str, list[float]] = field(default_factory=dict)
    seeds: Mapping[str, list[float]] = field(default_factory=dict)


def kept_noise(study: optuna.Study) -> dict[str, PointNoise]:
    """Return the stored noise readings by point."""
    return {name: PointNoise(**value) for name, value in by_point(study, NOISE).items()}


def measure_noise(
    experiment: Experiment,
    study: optuna.Study,
    points: Mapping[str, Point],
    front: Sequence[str],
    folder: Path,
    *,
    clock: Callable[[], float] = time.monotonic,
    may_go_on: Callable[[], bool] = lambda: True,
) -> tuple[str, ...]:
    """Run the stage within its time limit and store the readings in the study; stored readings are not repeated.

    Args:
        experiment: the model, its rules and meters; `experiment.config.noise` holds the time limit.
        study: stores the readings.
        points: all measured models by id.
        front: the ids of front members, which are measured first.
        folder: the study's folder, where front members are saved.
        clock: returns seconds.
        may_go_on: called before each model; False skips the model.

    Returns:
        Messages about points that were left out.
    """
    config = experiment.config.noise
    meters = [meter for meter in experiment.objectives if isinstance(meter, Quality)]
    if config.seconds <= 0 or not meters:
        return ()
    done = kept_noise(study)
    ends, late, problems = clock() + config.seconds, 0, []
    bootstrap = [meter for meter in meters if isinstance(meter.view, Predictions)] if config.resamples > 0 else []
    for name in (*front, *_near(experiment, points, front)) if bootstrap else ():
        if len(next(iter(done.get(name, PointNoise()).resamples.values()), [])) >= config.resamples:
            continue
        saved = artifact_path(folder, name)
        cost = points[name].seconds.get("meter", 0.0) if saved.is_dir() or name == "base" else _remake(points, name)
        if clock() + cost > ends or not may_go_on():
            late += 1
            continue
        try:
            model = _model(experiment, name, points[name], saved)
            readings = bootstrap_readings(model, bootstrap, config.resamples, experiment.config.seed)
        except Exception as error:  # one model that cannot be rebuilt must not end the stage
            problems.append(f"noise: {name} was not re-measured: {type(error).__name__}: {error}")
            continue
        done[name] = replace(done.get(name, PointNoise()), resamples=readings)
        _keep(study, name, done[name])
    for name in [name for name in front if name != "base"] if config.seeds > 0 else ():
        known = done.get(name, PointNoise())
        for extra in range(len(next(iter(known.seeds.values()), [])), config.seeds):
            if clock() + _remake(points, name) > ends or not may_go_on():
                late += 1
                continue
            try:
                found = other_seed(experiment, points[name], extra + 1, meters)
            except Exception as error:
                problems.append(f"noise: {name} failed with another seed: {type(error).__name__}: {error}")
                break
            known = replace(known, seeds={key: [*known.seeds.get(key, []), value] for key, value in found.items()})
            _keep(study, name, known)
    if late:
        problems.append(f"noise: skipped {late} readings, which exceed noise.seconds={config.seconds:g}")
    return tuple(problems)


def bootstrap_readings(model: nn.Module, meters: Sequence[Meter], resamples: int, seed: int) -> dict[str, list[float]]:
    """Read prediction meters on bootstrap samples of their data; the same seed draws the same samples.

    Groups of samples are drawn together. Where all samples agree, a share varies by its smallest
    credible error. Readings are rounded to eight digits, which is far below their noise.
    """
    found: dict[str, list[float]] = {}
    for name, seen in statistics_of(model, meters).items():
        meter = next(meter for meter in meters if meter.name == name)
        random = np.random.default_rng(seed)
        itself = getattr(meter, "original", None) is model  # which agrees with itself on any sample
        readings = [meter.read(seen.resampled(random)).value for _ in range(resamples)]
        if len(readings) > 1 and meter.unit == "fraction" and len(set(readings)) == 1 and not itself:
            own = np.random.default_rng([seed, *seen.rows.numpy().tobytes()[:64], len(seen.rows)])
            added = own.normal(0.0, smallest(seen.units), len(readings))
            readings = [min(1.0, max(0.0, value + step)) for value, step in zip(readings, added, strict=True)]
        found[name] = [float(f"{value:.8g}") for value in readings]
    return found


def other_seed(experiment: Experiment, point: Point, extra: int, meters: Sequence[Meter]) -> dict[str, float]:
    """Repeat a point's moves with other seeds for rules and fine-tuning, and read the meters.

    The base model and the data stay the same.
    """
    instantiation = experiment.instantiation
    moved = replace(instantiation, rules=tuple(_reseeded(rule, extra) for rule in instantiation.rules))
    finetune = _reseeded(experiment.finetune, extra)
    run = run_sequence(experiment.model, moved, point.moves, finetune=finetune, base=experiment.base)
    readings = run.trace.accepted[-1].readings
    return {meter.name: readings[meter.name].value for meter in meters}


def summary(noise: PointNoise) -> dict[str, float]:
    """Return a point's noise columns in the results table.

    `bootstrap_stderr/<meter>` is the standard deviation of the bootstrap readings; `seed_mean/` and `seed_sd/` are the
    mean and the standard deviation of the `seeds` readings with other seeds.
    """
    row = {f"bootstrap_stderr/{name}": _sd(values) for name, values in noise.resamples.items() if len(values) > 1}
    for name, values in noise.seeds.items():
        row |= {f"seed_mean/{name}": float(np.mean(values)), "seeds": float(len(values))}
        if len(values) > 1:
            row[f"seed_sd/{name}"] = _sd(values)
    return row


def _sd(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1))


def _near(experiment: Experiment, points: Mapping[str, Point], front: Sequence[str]) -> list[str]:
    """Return the points off the front that may truly be on it, the most probable first."""
    names = list(points)
    objectives = [meter.name for meter in experiment.objectives]
    readings = [[points[name].readings[meter] for meter in objectives] for name in names]
    table = np.array([[[math.nan if x is None else x for x in pair] for pair in row] for row in readings])
    chance = probability_non_dominated(table[..., 0], table[..., 1], experiment.directions)
    near = [(-p, name) for name, p in zip(names, chance, strict=True) if p >= max(experiment.config.noise.near, 1e-9)]
    return [name for _, name in sorted(near) if name not in front]


def _remake(points: Mapping[str, Point], name: str) -> float:
    """Return the seconds that a point's moves took, from the base model on."""
    trial, _, last = name.partition(".")
    steps = (points.get(f"{trial}.{step}") for step in range(1, int(last or 0) + 1))
    return sum(sum(point.seconds.values()) for point in steps if point is not None)


def _model(experiment: Experiment, name: str, point: Point, saved: Path) -> nn.Module:
    if name == "base":
        return experiment.model
    if saved.is_dir():
        return experiment.load(saved)
    model, differs = remake(experiment, point, [meter for meter in experiment.objectives if isinstance(meter, Quality)])
    if differs is not None:
        raise KMRError(f"it was {differs.note(point)}")
    return model


def _reseeded(part: Any, extra: int) -> Any:
    fields = dataclasses.fields(part) if dataclasses.is_dataclass(part) else ()
    if any(entry.name == "seed" and entry.init for entry in fields):
        return replace(part, seed=part.seed + 1000 * extra)
    return part


def _keep(study: optuna.Study, name: str, noise: PointNoise) -> None:
    keep_for_point(study, NOISE, name, asdict(noise))
