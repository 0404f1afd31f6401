"""A point made again reads the same."""

import io

from rich.console import Console

import kmr
from kmr.artifact import folder as artifact
from sweeps.reproduce import main
from sweeps.views.run_folder import open_run


def told(*arguments: str) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=160, record=True)
    return main(arguments, console), console.export_text()


def test_a_front_member_made_again_is_the_same_model(ran, tmp_path) -> None:
    opened = open_run(ran)
    point = next(name for name in opened.front.members if name != "base")
    code, text = told(str(ran), point, "--out", str(tmp_path / "again"))
    assert code == 0
    assert "differs" not in text
    assert artifact.digest(tmp_path / "again") == artifact.digest(ran / "front" / point)
    assert kmr.load(tmp_path / "again") is not None


def test_a_reading_that_differs_is_exit_code_1(copied, monkeypatch) -> None:
    from sweeps.search.study.point import Point

    opened = open_run(copied)
    point = next(name for name in opened.front.members if name != "base")
    readings = {**opened.state.points[point].readings, "weight_bytes": [1.0, None]}
    changed = {point: Point(1, opened.state.points[point].sequence, readings)}
    monkeypatch.setattr("sweeps.views.state.State.points", changed)
    code, text = told(str(copied), point)
    assert code == 1
    assert "differs" in text


def test_a_point_that_is_not_there_is_named(ran, capsys) -> None:
    assert told(str(ran), "99.9")[0] == 2
    assert "there is no point 99.9" in capsys.readouterr().err
