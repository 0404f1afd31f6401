"""`--help` of every command says what it does and shows commands that are real."""

import io
import shlex
from contextlib import redirect_stdout
from importlib import import_module

import pytest

COMMANDS = ("run", "show", "recommend", "reproduce", "sync", "export", "sensitivity")
MODULES = (*(f"sweeps.{name}" for name in COMMANDS), "analysis.report.__main__")


@pytest.mark.parametrize("module", MODULES)
def test_help_says_what_a_command_does_with_an_example(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["command", "--help"])
    monkeypatch.setenv("COLUMNS", "120")
    said = io.StringIO()
    with redirect_stdout(said), pytest.raises(SystemExit) as ended:
        import_module(module).main()
    assert ended.value.code == 0
    text = said.getvalue()
    about = import_module(module).__doc__ or ""
    what, _, examples = about.partition("\nExamples:\n")
    assert 2 <= len([line for line in what.splitlines() if line]) <= 4
    assert all(line in text for line in about.splitlines())
    assert "powered by Hydra" not in text
    lines = [shlex.split(line) for line in examples.strip().splitlines()]
    assert lines
    command = module.removesuffix(".__main__")
    assert {tuple(words[:3]) for words in lines} == {("python", "-m", command)}


@pytest.mark.parametrize("module", MODULES)
def test_the_examples_are_understood(module: str, monkeypatch: pytest.MonkeyPatch, tmp_path, capsys) -> None:
    """A command of a folder that is missing says so; one with an option that does not exist says something else."""
    if module in ("sweeps.run", "sweeps.sensitivity"):
        pytest.skip("they compose a config: tested by running it")
    monkeypatch.chdir(tmp_path)
    about = import_module(module).__doc__ or ""
    for line in about.partition("\nExamples:\n")[2].strip().splitlines():
        assert import_module(module).main(shlex.split(line)[3:]) == 2
        said = capsys.readouterr().err
        assert said.startswith("error: ")
        assert "runs/" in said
