"""The folder of own parts that docs/own_parts.md describes works as it is written there."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "own_parts.md").read_text()
QUICK = ("threads=1", "report.images=false", "tracking.enabled=false", "noise.seconds=0", "cache.enabled=false")
FILES = {
    "rule/rows.yaml": "my_parts.Rows",
    "meter/largest_layer.yaml": "my_parts.LargestLayer",
    "policy/patient.yaml": "my_parts.Patient",
    "exp/mine.yaml": "trusted_modules",
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("my_parts")
    python = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    *classes, tests = python
    (made / "my_parts.py").write_text("\n\n".join(classes))
    (made / "test_my_parts.py").write_text(tests)
    for name, holding in FILES.items():
        (made / name).parent.mkdir(exist_ok=True)
        blocks = re.findall(r"```yaml\n(.*?)```", PAGE, flags=re.DOTALL)
        (made / name).write_text(next(block for block in blocks if holding in block))
    return made


def run(folder: Path, *arguments: str) -> str:
    found = subprocess.run(
        [sys.executable, *arguments], cwd=folder, text=True, capture_output=True,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200"},
    )  # fmt: skip
    assert found.returncode == 0, found.stdout + found.stderr
    return found.stdout


def commands() -> list[list[str]]:
    import shlex

    lines = [line.strip() for line in PAGE.splitlines() if line.startswith("    python -m sweeps.run")]
    return [shlex.split(line)[1:] for line in lines]


def test_the_contract_tests_of_the_page_pass(folder: Path) -> None:
    assert "3 passed" in run(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_my_parts.py")


def test_the_commands_of_the_page_search_with_the_rule_the_meter_and_the_policy(folder: Path) -> None:
    knobs, policy = commands()
    run(folder, *knobs, *QUICK)
    frame = pd.read_parquet(folder / "runs" / "mine" / "results.parquet")
    assert frame["trial"].nunique() >= 4
    assert frame["sequence"].str.contains("rows.share").any()
    assert frame["sequence"].str.contains("quantize.bits").any()
    assert (frame["meter/largest_layer"] > 0).all()
    run(folder, *policy, *QUICK)
    frame = pd.read_parquet(folder / "runs" / "mine_patient" / "results.parquet")
    assert frame["sequence"].str.contains("rows.share").any(), "the policy turned the knob"


def test_the_experiment_is_listed(folder: Path) -> None:
    listed = run(folder, "-m", "sweeps.run", "--config-dir", ".")
    assert "mine  My rule, meter and data." in listed
    assert "quickstart" in listed
