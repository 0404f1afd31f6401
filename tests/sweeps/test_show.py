"""How a study stands, in a terminal."""

import io

from rich.console import Console

from sweeps.show import main
from sweeps.views.run_folder import open_run


def told(*arguments: str) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=160, record=True)
    return main(arguments, console), console.export_text()


def test_counts_front_and_where_everything_is(ran) -> None:
    code, text = told(str(ran))
    opened = open_run(ran)
    assert code == 0
    assert "small: 4 of 4 trials" in text
    assert f"hypervolume {opened.front.hypervolume:.4f}" in text
    rows = [line for line in text.splitlines() if line.startswith("│")]
    assert {row.split("│")[1].strip() for row in rows} - {""} == set(opened.front.members)
    assert "P(front)" in text
    assert str(ran / "report.html") in text
    assert f"optuna-dashboard {ran / 'journal.log'}" in text
    assert "●" in text


def test_a_folder_that_is_none_is_one_line(tmp_path, capsys) -> None:
    assert told(str(tmp_path))[0] == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
