"""The schema of a sweep's config; Hydra checks names and types against it before anything runs."""

import os
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore

from sweeps.search.execution.stopping import Stop


@dataclass
class Tracking:
    """Where MLflow writes: `uri` is any tracking URI; by default a sqlite file in the study's folder.

    `models` logs the front as models that MLflow loads and registers; `system_metrics` the machine's load.
    """

    enabled: bool = True
    uri: str | None = None
    experiment: str | None = None
    models: bool = True
    system_metrics: bool = True


@dataclass
class Report:
    """What is written at the end; images need a Chrome or Chromium."""

    images: bool = True


@dataclass
class Noise:
    """The last stage: how sure the front is.

    The front is read again on `resamples` bootstrap samples of the validation data, and so are the points that are on
    it with a probability of at least `near`, made again for that. `seeds` times each front member is also made with
    another seed. No model is begun that would not be done within `seconds` in all; 0 leaves the stage out.
    """

    seconds: float = 10.0
    resamples: int = 100
    near: float = 0.05
    seeds: int = 0


@dataclass
class Cache:
    """Models on the way of earlier trials, kept so that a trial starts from the longest beginning that is known.

    `folder` is `<output_dir>/.cache/prefixes` by default, shared by all studies there; the least recently used models
    leave it when it holds more than `max_gb`.
    """

    enabled: bool = True
    folder: str | None = None
    max_gb: float = 2.0


@dataclass
class Sensitivity:
    """A scan of what each layer bears (`python -m sweeps.sensitivity`).

    `rule` and `quality` by name (the structured rule and the first quality objective by default); `values` of the knob
    to try, or `levels` of its ladder where it takes none of them; at most `groups` groups of layers that bear the same;
    `seeds` knob vectors to begin a study with.
    """

    rule: str | None = None
    quality: str | None = None
    values: list[float] = field(default_factory=lambda: [0.25, 0.5, 0.75])
    levels: int = 3
    groups: int = 8
    seeds: int = 4


@dataclass
class Config:
    """One sweep: a model, its data, the rules to search over, the meters to judge by, and how long to search."""

    name: str = "default"
    output_dir: str = "runs"
    storage: str | None = None
    reuse: str | None = None
    seed: int = 0
    trials: int = 60
    threads: int | None = None
    objectives: list[str] = field(default_factory=lambda: ["weight_bytes", "accuracy"])
    limits: dict[str, float] = field(default_factory=dict)
    reference: dict[str, float] = field(default_factory=dict)

    model: Any = None
    weights: str | None = None
    train: Any = None
    data: Any = None
    batch_size: int = 64
    eval_batch_size: int = 500

    rules: dict[str, Any] = field(default_factory=dict)
    meters: dict[str, Any] = field(default_factory=dict)
    finetune: Any = None
    space: dict[str, Any] = field(default_factory=dict)
    policy: Any = None
    policy_space: dict[str, Any] = field(default_factory=dict)
    policy_max_moves: int = 12
    on_no_progress: str = "next"
    sampler: Any = None
    anchors: int = 3
    screening: Any = True
    halving: Any = None
    workers: int = 1
    stop: Stop = field(default_factory=Stop)
    first_trials: str | None = None

    noise: Noise = field(default_factory=Noise)
    cache: Cache = field(default_factory=Cache)
    sensitivity: Sensitivity = field(default_factory=Sensitivity)
    tracking: Tracking = field(default_factory=Tracking)
    report: Report = field(default_factory=Report)
    trusted_modules: list[str] = field(default_factory=list)


def threads_of(config: Config) -> int:
    """Return the threads each process computes with: an even share of the cores, unless the config says."""
    return config.threads or max(1, (os.cpu_count() or 1) // max(1, config.workers))


RENAMED = {"budget": "limits"}
"""Entries until version 0.1, and their names now."""

ConfigStore.instance().store(name="schema", node=Config)
