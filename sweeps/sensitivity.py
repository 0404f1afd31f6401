"""Measure how much quality each layer of a model loses when it alone is compressed.

Each layer (or group of layers that shrink together) is compressed at a few values of its knob, without training. Layers
with similar losses form a group with one knob. The command of a search that starts from these groups is printed.

Examples:
    python -m sweeps.sensitivity +exp=quickstart
    python -m sweeps.sensitivity +exp=quickstart sensitivity.rule=quantize sensitivity.groups=4
"""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pandas as pd
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from analysis.atomic import write_bytes
from analysis.sensitivity import LayerGroup, allocation, layer_groups, tolerances
from kmr.cache.code import code_behind
from kmr.core import Choice, IntRange, Knob, Quality, Rule
from kmr.instantiations.pruning import StructuredPruning
from sweeps.errors import SweepError, unknown
from sweeps.experiment.config import Config
from sweeps.terminal.hydra_entry import enter, guarded

MOST_GROUPS = 20
"""Most groups; each is a knob, and a search over many more would take thousands of trials."""


def main() -> None:
    """Scan the experiment named on the command line; exit with 0, 1, 2 or 130."""
    enter(_scan, __doc__, stopped="stopped: run the same command again to resume")


def run(raw: DictConfig, argv: list[str], console: Console | None = None) -> int:
    """Scan a composed config; return the exit code."""
    return guarded(_scan, raw, argv, console)


def _scan(config: Config, plain: dict[str, Any], argv: list[str], console: Console) -> int:
    import torch

    from analysis.exporting.export import export_images
    from analysis.plots.sensitivity import sensitivity
    from analysis.report.sensitivity import Scan, write_sensitivity
    from sweeps.experiment.build_experiment import build_experiment
    from sweeps.experiment.layer_scan import probes, scan, values_of
    from sweeps.experiment.open_study import run_folder
    from sweeps.terminal.progress import counted

    torch.set_num_threads(config.threads or os.cpu_count() or 1)
    experiment = build_experiment(config, plain)
    if not 1 <= config.sensitivity.groups <= MOST_GROUPS:
        raise SweepError(
            f"sensitivity.groups must be between 1 and {MOST_GROUPS}, not {config.sensitivity.groups}: each is a knob"
        )
    rule = _rule(experiment.instantiation.rules, config.sensitivity.rule)
    quality = _quality(experiment.instantiation.qualities, [m.name for m in experiment.objectives], config)
    folder = run_folder(config.output_dir, config.name) / "sensitivity"
    folder.mkdir(exist_ok=True)
    wanted = [
        (probe, value)
        for probe in probes(rule, experiment.model)
        for value in values_of(probe, config.sensitivity.values, config.sensitivity.levels)
    ]
    if not wanted:
        raise SweepError(f"the rule {rule.name} matches no layer: choose another with sensitivity.rule=…")
    stamp = _stamp(experiment.identity, rule, quality)
    rows = _known(folder, stamp)
    done = {(row["layer"], row["value"]) for row in rows}
    left = [(probe, value) for probe, value in wanted if (probe.layer, value) not in done]
    console.print(
        f"{config.name}: {len(wanted)} cuts by {rule.name}, {len(wanted) - len(left)} known, in {folder}",
        style="bold", markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip
    base = {name: reading.value for name, reading in experiment.base.readings.items()}
    found = scan(experiment.model, left, quality, experiment.instantiation.costs, base)
    # The file is rewritten first: an incomplete last line after a kill would corrupt the next one.
    write_bytes(folder / "scan.jsonl", "".join(_line(stamp, row) for row in rows).encode())
    with (folder / "scan.jsonl").open("a") as file:
        for row in counted(console, found, len(left), "cuts"):
            file.write(_line(stamp, row))
            file.flush()
            rows.append(row)
    order = {(probe.layer, value): place for place, (probe, value) in enumerate(wanted)}
    rows = sorted((r for r in rows if (r["layer"], r["value"]) in order), key=lambda r: order[r["layer"], r["value"]])
    table = pd.DataFrame(rows)
    table["lost"] = table["lost"].astype(float)
    table.to_csv(folder / "sensitivity.csv", index=False)
    table.to_parquet(folder / "sensitivity.parquet", index=False)
    figure = sensitivity(table, quality.name)
    messages = export_images({"sensitivity": figure}, folder).messages if config.report.images else ()
    command, groups = "", []
    knob = wanted[0][0].turned
    if table["lost"].notna().any() and isinstance(knob.domain.neutral, int | float):
        groups = layer_groups(table, config.sensitivity.groups, float(knob.domain.neutral))
        command = _write_seed(table, groups, knob, rule, config, folder, argv)
    about = Scan(config.name, rule.name, quality.name, quality.unit, base[quality.name])
    write_sensitivity(table, about, folder / "sensitivity.html", groups, command)
    console.print(f"table   {folder / 'sensitivity.csv'}", markup=False, highlight=False, soft_wrap=True)
    console.print(f"map     {folder / 'sensitivity.html'}", markup=False, highlight=False, soft_wrap=True)
    for message in messages:
        console.print(message, markup=False, highlight=False, soft_wrap=True)
    if command:
        console.print(f"search  {command}", markup=False, highlight=False, soft_wrap=True)
    return 0


def vectors(groups: list[LayerGroup], knob: Knob, rule: Rule, count: int) -> list[dict[str, float]]:
    """Return knob vectors that compress each group as far as it tolerates, one vector for each level of loss per layer.

    In structured pruning all layers share a ratio, the smallest of the groups' ratios. Each group prunes the rest with
    its own knob `extra`, so that (1 − ratio)·(1 − extra) of its channels stay. In other rules each group has its own
    setting.

    Args:
        groups: groups of the rule's layers.
        knob: the scanned knob.
        rule: the knob's rule.
        count: number of loss levels.
    """
    neutral = float(knob.domain.neutral)
    whole = isinstance(knob.domain, IntRange) or (
        isinstance(knob.domain, Choice) and all(isinstance(value, int) for value in knob.domain.values)
    )
    found: list[dict[str, float]] = []
    for allowed in tolerances(groups, count):
        chosen = allocation(groups, allowed, neutral)
        if isinstance(rule, StructuredPruning):
            shared = min(chosen.values())
            vector = {f"{rule.name}.ratio": shared}
            for name, ratio in chosen.items():
                vector[f"{rule.name}.extra@{name}"] = round(1 - (1 - ratio) / (1 - shared), 10)
        else:
            setting = knob.name.partition("@")[0]
            vector = {f"{setting}@{name}": int(value) if whole else value for name, value in chosen.items()}
        if any(value != neutral for value in vector.values()) and vector not in found:
            found.append(vector)
    return found


def _write_seed(
    table: pd.DataFrame,
    groups: list[LayerGroup],
    knob: Knob,
    rule: Rule,
    config: Config,
    folder: Path,
    argv: list[str],
) -> str:
    """Write the groups as a config and the vectors to a file; return the command of a search that uses them."""
    together = dict(zip(table["layer"], table["together"], strict=True))
    patterns = {g.name: [path for layer in g.layers for path in str(together[layer]).split()] for g in groups}
    seeds = folder / "first_trials.json"
    seeds.write_text(json.dumps(vectors(groups, knob, rule, config.sensitivity.seeds), indent=1))
    (folder / "conf" / "seed").mkdir(parents=True, exist_ok=True)
    # Module paths need no escaping: they contain no special character of patterns.
    shared: dict[str, Any] = {"groups": patterns}
    if not isinstance(rule, StructuredPruning):
        shared["layers"] = list(patterns)
    content = {"rules": {rule.name: shared}, "first_trials": str(seeds.absolute())}
    head = (
        "# @package _global_\n# Layers with similar losses share a knob; the search starts from what each tolerates.\n"
    )
    (folder / "conf" / "seed" / "groups.yaml").write_text(head + OmegaConf.to_yaml(OmegaConf.create(content)))
    given = " ".join(word for word in argv if not word.startswith(("name=", "sensitivity.")))
    return f"python -m sweeps.run --config-dir {folder / 'conf'} {given} +seed=groups name={config.name}_groups"


def _rule(rules: tuple[Rule, ...], wanted: str | None) -> Rule:
    names = [rule.name for rule in rules]
    if wanted is None:
        return next((rule for rule in rules if isinstance(rule, StructuredPruning)), rules[0])
    if wanted not in names:
        raise SweepError(f"sensitivity.rule={wanted} is not a rule of the experiment: there are {', '.join(names)}")
    return rules[names.index(wanted)]


def _quality(qualities: tuple[Quality, ...], objectives: list[str], config: Config) -> Quality:
    by_name = {quality.name: quality for quality in qualities}
    wanted = config.sensitivity.quality or next((name for name in objectives if name in by_name), None)
    if wanted not in by_name:
        raise SweepError(
            f"sensitivity.quality={wanted} is not a quality of the experiment{unknown(str(wanted), list(by_name))}"
        )
    return by_name[wanted]


def _stamp(identity: Any, rule: Rule, quality: Quality) -> str:
    """Return a digest of everything on which a measured loss depends."""
    parts = {name: identity[name] for name in ("model", "weights_digest", "data_digest", "rules", "meters", "seed")}
    code = [code_behind(type(each)).digest for each in (rule, quality)]
    text = json.dumps([parts, rule.name, quality.name, code], sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _line(stamp: str, row: dict[str, Any]) -> str:
    return json.dumps({"stamp": stamp, **row}) + "\n"


def _known(folder: Path, stamp: str) -> list[dict[str, Any]]:
    """Return the rows measured earlier under the same conditions, without incomplete lines."""
    rows = []
    path = folder / "scan.jsonl"
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if row.pop("stamp", None) == stamp:
            rows.append(row)
    return rows


if __name__ == "__main__":
    main()
