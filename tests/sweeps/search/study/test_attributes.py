"""The names of a study's attributes stand in one file, and attributes by point are kept apart."""

import re
from pathlib import Path

import optuna

from sweeps.search.study import attributes
from sweeps.search.study.attributes import NOISE, TEST, by_point, keep_for_point

ROOT = Path(attributes.__file__).parents[3]


def test_no_other_file_spells_a_name() -> None:
    files = [path for folder in ("kmr", "sweeps", "analysis", "benchmarks", "tests") for path in
             (ROOT / folder).rglob("*.py") if path.name not in ("attributes.py", "test_attributes.py")]  # fmt: skip
    assert len(files) > 200
    assert [path for path in files if re.search(r"""["']kmr:""", path.read_text())] == []


def test_no_two_names_are_the_same() -> None:
    names = [value for name, value in vars(attributes).items() if name.isupper()]
    assert len(names) == len(set(names)) > 15
    assert all(name.startswith("kmr:") for name in names)


def test_what_is_kept_for_a_point_is_read_by_point() -> None:
    study = optuna.create_study()
    keep_for_point(study, NOISE, "0.1", [1.0])
    keep_for_point(study, NOISE, "base", [2.0])
    keep_for_point(study, TEST, "0.1", {"accuracy": 0.5})
    assert by_point(study, NOISE) == {"0.1": [1.0], "base": [2.0]}
    assert by_point(study, TEST) == {"0.1": {"accuracy": 0.5}}
