"""A folder in the working directory that hides a package of ours is named in one line, by every command."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
COMMANDS = ("run", "show", "recommend", "reproduce", "sync", "export", "sensitivity")


def start(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, env=environment, text=True, capture_output=True, timeout=120
    )


def package(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text("'''Mine.'''\n")
    return folder / name


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_names_the_folder_and_the_way_out(tmp_path: Path, command: str) -> None:
    mine = package(tmp_path, "analysis")
    ended = start(tmp_path, "-m", f"sweeps.{command}", "--help")
    assert ended.returncode == 2
    assert ended.stdout == ""
    (line,) = ended.stderr.splitlines()
    assert line.startswith(f"error: {mine} hides the package analysis of kmr-sweeps: rename it, or start from another")


@pytest.mark.parametrize("name", ["conf", "kmr"])
def test_the_other_packages_and_single_files_are_found_too(tmp_path: Path, name: str) -> None:
    (tmp_path / f"{name}.py").write_text("")
    assert f"{tmp_path / name}.py hides the package {name}" in start(tmp_path, "-m", "sweeps.show", "--help").stderr
    (tmp_path / f"{name}.py").unlink()
    assert "hides" in start(package(tmp_path, name).parent, "-m", "sweeps.show", "--help").stderr


def test_a_folder_of_files_hides_nothing(tmp_path: Path) -> None:
    for name in ("analysis", "conf", "sweeps"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "notes.yaml").write_text("a: 1\n")
    ended = start(tmp_path, "-m", "sweeps.run")
    assert ended.returncode == 0, ended.stderr
    assert "quickstart" in ended.stdout


def test_the_ways_out_lead_out_and_still_find_the_users_module(tmp_path: Path) -> None:
    for name in ("analysis", "conf", "kmr", "sweeps"):
        package(tmp_path, name)
    (tmp_path / "mine.py").write_text("def model(width):\n    raise RuntimeError('mine was called')\n")
    overrides = ("+exp=quickstart", "model={_target_: mine.model}", "trusted_modules=[mine]", "trials=1")
    console_script = ("-c", "import sys; sys.path.pop(0); from sweeps.run import main; main()")
    for way in (("-P", "-m", "sweeps.run"), console_script):
        ended = start(tmp_path, *way, *overrides)
        assert ended.returncode == 2
        assert "model: RuntimeError: mine was called" in ended.stderr, ended.stderr


def test_an_import_elsewhere_raises_an_import_error(tmp_path: Path) -> None:
    package(tmp_path, "analysis")
    ended = start(tmp_path, "-c", "import sweeps")
    assert ended.stderr.splitlines()[-1].startswith("ImportError: ")
    assert "hides the package analysis" in ended.stderr
