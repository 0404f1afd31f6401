"""The schema of a sweep's config; Hydra checks names and types against it before anything runs."""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from hydra.core.config_store import ConfigStore

from sweeps.experiment.renamed_entries import RENAMED
from sweeps.search.execution.stopping import Stop


@dataclass
class TrackingConfig:
    """MLflow tracking."""

    enabled: bool = True
    """Write to MLflow; `false` leaves the tables and the report."""
    uri: str | None = None
    """Any MLflow tracking URI; by default a SQLite file in the study's folder."""
    experiment: str | None = None
    """MLflow's experiment; by default the study's name."""
    models: bool = True
    """Log the front as models that MLflow loads and registers."""
    system_metrics: bool = True
    """Log the machine's load."""


@dataclass
class ReportConfig:
    """The report."""

    images: bool = True
    """Draw the report's figures as PNG, SVG and PDF, which needs a Chrome or Chromium."""


@dataclass
class NoiseConfig:
    """The noise stage, which estimates how certain the front is."""

    seconds: float = 10.0
    """Time limit; models that would not finish within it are skipped, and 0 skips the stage."""
    resamples: int = 100
    """Bootstrap samples of the validation data on which the front is re-measured."""
    near: float = 0.05
    """Points off the front are re-measured if they are on it with at least this probability."""
    seeds: int = 0
    """Further seeds with which each front member is rebuilt."""


@dataclass
class CacheConfig:
    """Intermediate models of earlier trials: a trial starts from the longest sequence of moves that is cached."""

    enabled: bool = True
    """Use the cache."""
    folder: str | None = None
    """The cache's folder; by default `<output_dir>/.cache/prefixes`, shared by all studies there."""
    max_gb: float = 2.0
    """The cache's largest size in gigabytes; the least recently used models are removed first."""


@dataclass
class SensitivityConfig:
    """A sensitivity scan, layer by layer (`python -m sweeps.sensitivity`)."""

    rule: str | None = None
    """The rule to scan; by default the structured one."""
    quality: str | None = None
    """The quality to read; by default the first one among the objectives."""
    values: list[float] = field(default_factory=lambda: [0.25, 0.5, 0.75])
    """Values of the knob to try."""
    levels: int = 3
    """Number of values to try if the knob takes none of `values`."""
    groups: int = 8
    """Largest number of layer groups with similar losses, each with its own knob; at most 20."""
    seeds: int = 4
    """Knob vectors to write as first trials of a search."""


@dataclass
class Config:
    """One sweep: a model, its data, the rules to search over, the meters to read, and how long to search."""

    name: str = "default"
    """Name of the study and of its folder."""
    output_dir: str = "runs"
    """Folder of all studies."""
    storage: str | None = None
    """URL of a shared Optuna storage, such as `postgresql://…`; by default a journal in the study's folder."""
    reuse: str | None = None
    """An older study with another `space`, whose trials are reused where they fit."""
    seed: int = 0
    """Seed of the sampler, the rules and fine-tuning."""
    trials: int = 60
    """Total number of trials; a resumed study continues to this number."""
    threads: int | None = None
    """Threads of each process; by default an even share of the cores."""
    objectives: list[str] = field(default_factory=lambda: ["weight_bytes", "accuracy"])
    """Two or more meters to search over, each in its own direction."""
    limits: dict[str, float] = field(default_factory=dict)
    """Limits on meters, such as `weight_bytes: 20000`: upper for a minimised meter, lower for a maximised one."""
    reference: dict[str, float] = field(default_factory=dict)
    """Reference point of the hypervolume by meter; by default somewhat worse than the base model."""

    model: Any = None
    """The function or class that makes the model, in `_target_`, and its arguments."""
    weights: str | None = None
    """A file with the trained weights: safetensors, a state dict of `torch.save`, or the index of a file in shards."""
    train: Any = None
    """A fine-tuning recipe that trains the base model once; the result is cached."""
    data: Any = None
    """The function that returns the `train`, `validation` and `test` splits, in `_target_`, and its arguments."""
    task: Any = None
    """What a batch means, in `_target_` (`kmr.tasks.…`); chosen where the first outputs and targets leave no doubt."""
    data_identity: str | None = None
    """A name for the data's version, in place of a digest of the data, where they differ at every start."""
    device: str = "auto"
    """Where models run: `cpu`, `cuda`, `cuda:1` or `mps`; `auto` is an accelerator that torch finds, or the CPU."""
    batch_size: int = 64
    """Samples in a training batch."""
    eval_batch_size: int = 500
    """Samples in a validation or test batch, or fewer where outputs are large."""

    rules: dict[str, Any] = field(default_factory=dict)
    """Settings of the rules that `rule=[…]` chose; their order is the order of application."""
    meters: dict[str, Any] = field(default_factory=dict)
    """Settings of the meters that `meter=[…]` chose."""
    finetune: Any = None
    """The fine-tuning after every move; `finetune=<recipe>` chooses one, `sgd` by default."""
    space: dict[str, Any] = field(default_factory=dict)
    """Narrows a knob (`low`, `high`, `step`, `log` or `values`), fixes it (a value) or leaves it out (`null`)."""
    policy: Any = None
    """Search the settings of a policy instead of knob vectors; `policy=<name>` chooses one."""
    policy_space: dict[str, Any] = field(default_factory=dict)
    """Search space of the policy: `budget` as a share of the original's cost, and the policy's arguments."""
    policy_max_moves: int = 12
    """Largest number of moves that a policy may make."""
    on_no_progress: str = "next"
    """After a move that lowers no cost: `next` asks the policy for another, `break` stops."""
    sampler: Any = None
    """The sampler that proposes vectors; `sampler=<name>` chooses one, `auto` by default."""
    anchors: int = 3
    """Number of strengths at which the first trials apply each technique alone; 0 adds no such trials."""
    screening: Any = True
    """Screening of candidates by expected hypervolume improvement: `true` where it helps, `false`, or its settings."""
    halving: Any = None
    """Stop trials early: `fidelities`, `reduction`, `grace` and `z`."""
    workers: int = 1
    """Processes that evaluate trials."""
    stop: Stop = field(default_factory=Stop)
    first_trials: str | None = None
    """A JSON file with the knob vectors to try first."""

    noise: NoiseConfig = field(default_factory=NoiseConfig)
    cache: CacheConfig = field(default_factory=CacheConfig)
    sensitivity: SensitivityConfig = field(default_factory=SensitivityConfig)
    tracking: TrackingConfig = field(default_factory=TrackingConfig)
    report: ReportConfig = field(default_factory=ReportConfig)
    accept_code_change: bool = False
    """Resume a study whose code has changed; its later trials are marked in the results table."""
    trusted_modules: list[str] = field(default_factory=list)
    """Modules outside this project that `_target_` may name."""


def threads_of(config: Config) -> int:
    """Return the threads of each process: as configured, or an even share of the cores."""
    return config.threads or max(1, (os.cpu_count() or 1) // max(1, config.workers))


def with_names_of_now(entries: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the entries of a config that an older version wrote to their current names."""
    return {RENAMED.get(name, name): value for name, value in entries.items()}


ConfigStore.instance().store(name="schema", node=Config)
