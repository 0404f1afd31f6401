"""The schema of a sweep's config; Hydra checks names and types against it before anything runs."""

from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore


@dataclass
class Tracking:
    """Where MLflow writes: `uri` is any tracking URI; by default a sqlite file in the study's folder."""

    enabled: bool = True
    uri: str | None = None
    experiment: str | None = None


@dataclass
class Report:
    """What is written at the end; images need a Chrome or Chromium."""

    images: bool = True


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
    seed: int = 0
    trials: int = 60
    threads: int | None = None
    objectives: list[str] = field(default_factory=lambda: ["weight_bytes", "accuracy"])
    budget: dict[str, float] = field(default_factory=dict)
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
    first_trials: str | None = None

    cache: Cache = field(default_factory=Cache)
    sensitivity: Sensitivity = field(default_factory=Sensitivity)
    tracking: Tracking = field(default_factory=Tracking)
    report: Report = field(default_factory=Report)
    trusted_modules: list[str] = field(default_factory=list)


ConfigStore.instance().store(name="schema", node=Config)
