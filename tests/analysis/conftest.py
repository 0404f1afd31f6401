"""A run folder made by formula: sixty trials of up to four models each, with failures, warnings and a held-out test."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from analysis.pareto.dominance import non_dominated
from analysis.table import StudyTable, load, save

Recipe = Callable[..., tuple[pd.DataFrame, dict[str, Any]]]

PLANS = (
    ("structured",),
    ("quantize",),
    ("low_rank",),
    ("structured", "quantize"),
    ("quantize", "structured"),
    ("low_rank", "quantize"),
    ("structured", "low_rank", "quantize"),
    ("sparse", "quantize"),
)
SIZE, ACCURACY, SAMPLES = 438_000.0, 0.942, 1000
DIRECTIONS = {"weight_bytes": "minimize", "accuracy": "maximize", "latency_ms": "minimize"}
UNITS = {"weight_bytes": "bytes", "accuracy": "", "latency_ms": "ms", "macs": ""}


def recipe(
    trials: int = 60,
    seed: int = 0,
    objectives: tuple[str, ...] = ("weight_bytes", "accuracy"),
    name: str = "digits-demo",
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Build the rows and the meta data of a study."""
    random = np.random.default_rng(seed)
    rows = [row for trial in range(trials) for row in _trial(trial, random, name)]
    frame = pd.DataFrame(rows, columns=COLUMNS)
    return _with_test(frame, objectives, random), _meta(frame, objectives, name, seed)


COLUMNS = [
    *("point", "trial", "step", "last", "state", "error", "notes", "technique", "sequence"),
    *(
        f"knob/{name}.{knob}"
        for name, knob in (("structured", "ratio"), ("low_rank", "energy"), ("quantize", "bits"), ("sparse", "ratio"))
    ),
    *("meter/weight_bytes", "meter/accuracy", "meter/latency_ms", "meter/macs", "stderr/accuracy", "stderr/latency_ms"),
    *("seconds/rule", "seconds/meter", "seconds/finetune", "seconds/other", "finished", "artifact", "mlflow_run_id"),
]


def _trial(trial: int, random: np.random.Generator, name: str) -> list[dict[str, Any]]:
    plan = PLANS[int(random.integers(len(PLANS)))]
    size, loss, latency, macs = SIZE, 0.0, 4.2, 31_200_000.0
    moves: list[tuple[str, Any]] = []
    knobs: dict[str, Any] = {}
    rows = []
    for step in range(len(plan) + 1):
        notes, state, error = "", "complete", None
        if step:
            technique = plan[step - 1]
            strength = float(random.uniform(0.05, 0.95))
            match technique:
                case "quantize":
                    value: Any = int(random.choice([2, 3, 4, 6, 8]))
                    knob, size, loss = "quantize.bits", size * value / 32, loss + 0.45 * 2.0 ** (-1.4 * value)
                case "structured":
                    knob, value, size, loss = (
                        "structured.ratio",
                        strength,
                        size * (1 - strength),
                        loss + 0.12 * strength**3,
                    )
                    latency, macs = latency * (1 - 0.6 * strength), macs * (1 - strength)
                case "low_rank":
                    knob, value, size, loss = (
                        "low_rank.energy",
                        strength,
                        size * (0.15 + 0.8 * strength),
                        loss + 0.05 * (1 - strength) ** 2,
                    )
                    latency = latency * (0.5 + 0.5 * strength)
                    notes = "layer head skipped because its rank is 1" if strength < 0.5 else ""
                case _:
                    knob, value, size, loss = (
                        "sparse.ratio",
                        strength,
                        size * (1 - 0.5 * strength),
                        loss + 0.2 * strength**4,
                    )
            moves.append((knob, value))
            knobs[f"knob/{knob}"] = float(value)
            if random.random() < 0.05:
                state = "failed"
                error = (
                    "RuntimeError: the loss is not finite after fine-tuning\n  in layer 3"
                    if trial % 2
                    else "MemoryError: out of memory"
                )
            elif size < 0.004 * SIZE:
                state = "infeasible"
        accuracy = max(0.1, ACCURACY - loss + float(random.normal(0, 0.004 if step else 0.0)))
        measured = state != "failed"
        rows.append(
            {
                "point": f"{trial}.{step}",
                "trial": trial,
                "step": step,
                "last": step == len(plan),
                "state": state,
                "error": error,
                "notes": notes,
                "technique": " + ".join(plan[:step]) or "baseline",
                "sequence": json.dumps(moves),
                **knobs,
                "meter/weight_bytes": round(size) if measured else None,
                "meter/accuracy": accuracy if measured else None,
                "meter/latency_ms": latency if measured else None,
                "meter/macs": macs if measured else None,
                "stderr/accuracy": math.sqrt(accuracy * (1 - accuracy) / SAMPLES) if measured else None,
                "stderr/latency_ms": 0.03 * latency if measured else None,
                "seconds/rule": 0.2,
                "seconds/meter": 0.9,
                "seconds/finetune": 6.0 if step else 0.0,
                "seconds/other": 0.05,
                "finished": f"2026-03-01T{10 + trial // 30:02d}:{2 * (trial % 30):02d}:{10 * step:02d}+00:00",
                "artifact": f"artifacts/{trial}.{step}" if measured else None,
                "mlflow_run_id": f"{trial:04x}{step:04x}" * 4 if measured else None,
            }
        )
        if state != "complete":
            rows[-1]["last"] = True
            break
    return rows


def _with_test(frame: pd.DataFrame, objectives: tuple[str, ...], random: np.random.Generator) -> pd.DataFrame:
    values = frame[[f"meter/{name}" for name in objectives]].to_numpy(dtype=float, copy=True)
    values[(frame["state"] != "complete").to_numpy()] = np.nan
    front = non_dominated(values, [DIRECTIONS[name] for name in objectives])
    test = np.clip(
        frame["meter/accuracy"].to_numpy(dtype=float, copy=True) - 0.006 + random.normal(0, 0.006, len(frame)), 0, 1
    )
    test[~front] = np.nan
    return frame.assign(**{"test/accuracy": test, "test_stderr/accuracy": np.sqrt(test * (1 - test) / SAMPLES)})


def _meta(frame: pd.DataFrame, objectives: tuple[str, ...], name: str, seed: int) -> dict[str, Any]:
    reference = {"weight_bytes": 1.1 * SIZE, "accuracy": 0.5, "latency_ms": 5.0}
    ideal = {"weight_bytes": 0.0, "accuracy": 1.0, "latency_ms": 0.0}
    stderr = math.sqrt(ACCURACY * (1 - ACCURACY) / SAMPLES)
    failed = (
        int(frame.groupby("trial")["state"].agg(lambda states: (states == "failed").any()).sum()) if len(frame) else 0
    )
    return {
        "format": 1,
        "study": name,
        "created": "2026-03-01T10:00:00+00:00",
        "seed": seed,
        "objectives": [{"name": meter, "direction": DIRECTIONS[meter], "unit": UNITS[meter]} for meter in objectives],
        "meters": {
            "weight_bytes": {"unit": "bytes", "direction": "minimize", "kind": "cost"},
            "accuracy": {"unit": "", "direction": "maximize", "kind": "quality"},
            "latency_ms": {"unit": "ms", "direction": "minimize", "kind": "cost"},
            "macs": {"unit": "", "direction": "minimize", "kind": "cost"},
        },
        "reference": {meter: reference[meter] for meter in objectives},
        "ideal": {meter: ideal[meter] for meter in objectives},
        "baseline": {
            "weight_bytes": {"value": SIZE, "stderr": None},
            "accuracy": {"value": ACCURACY, "stderr": stderr},
            "latency_ms": {"value": 4.2, "stderr": 0.1},
            "macs": {"value": 31_200_000.0, "stderr": None},
        },
        "baseline_test": {"accuracy": {"value": 0.936, "stderr": stderr}},
        "limits": {},
        "trials": {
            "asked": int(frame["trial"].nunique()),
            "complete": int(frame["trial"].nunique()) - failed,
            "failed": failed,
            "target": 60,
        },
        "seconds": 1234.5,
        "command": "python -m sweeps.run exp=digits",
        "resume": f"python -m sweeps.run exp=digits study={name} resume=true",
        "mlflow": {
            "uri": f"sqlite:///runs/{name}/mlflow.db",
            "experiment_id": "1",
            "run_id": "ab" * 16,
            "ui": f"mlflow ui --backend-store-uri sqlite:///runs/{name}/mlflow.db",
        },
        "versions": {"python": "3.11.9", "torch": "2.13.0", "optuna": "5.0.0"},
        "git": "0123456789abcdef (clean)",
        "environment": {"cpu": "Example CPU, 8 cores"},
        "config": {"study": name, "budget": {"trials": 60}, "rules": ["structured", "low_rank", "quantize", "sparse"]},
    }


@pytest.fixture(scope="session")
def make() -> Recipe:
    """Return the recipe, for a test that changes rows before they are saved."""
    return recipe


@pytest.fixture(scope="session")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Save the run folder once; tests only read it."""
    path = tmp_path_factory.mktemp("runs") / "digits-demo"
    save(path, *recipe())
    return path


@pytest.fixture(scope="session")
def table(folder: Path) -> StudyTable:
    """Load the run folder once."""
    return load(folder)
