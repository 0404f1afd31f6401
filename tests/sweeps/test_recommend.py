"""The command that names one point."""

import io
import json

from rich.console import Console

import kmr
from analysis.wording import quantity
from sweeps.recommend import main
from sweeps.views.run_folder import open_run


def told(*arguments: str) -> tuple[int, str]:
    console = Console(file=io.StringIO(), width=200, record=True)
    return main(arguments, console), console.export_text()


def test_one_point_its_interval_the_runner_up_and_the_command(ran) -> None:
    code, text = told(str(ran), "weight_bytes<=5000")
    points = open_run(ran).state.points
    names = [name for name, point in points.items() if point.readings["weight_bytes"][0] <= 5000]
    best = max(
        names, key=lambda name: (points[name].readings["accuracy"][0], -points[name].readings["weight_bytes"][0])
    )
    assert code == 0
    assert f"take         {best}  " in text
    assert "95 % interval" in text
    assert f"python -m sweeps.reproduce {ran} {best}" in text
    assert ("runner-up    none" in text) == (len(names) == 1)


def test_the_line_that_loads_the_point_works(ran) -> None:
    _, text = told(str(ran), "weight_bytes<=5000")
    (line,) = [line for line in text.splitlines() if line.startswith("load")]
    model = eval(line.split(maxsplit=1)[1], {"kmr": kmr})
    assert sum(parameter.numel() for parameter in model.parameters()) > 0


def test_none_is_exit_code_1_and_bad_input_2(ran, capsys) -> None:
    code, text = told(str(ran), "weight_bytes<=1")
    assert (code, "no model meets the limits" in text) == (1, True)
    assert told(str(ran), "top1>=0.5")[0] == 2
    assert told(str(ran / "nothing"))[0] == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert len(errors) == 2
    assert "no meter is named top1" in errors[0]
    assert told(str(ran), "neg_cross_entropy>=-0.5")[0] == 2
    assert told(str(ran), "--best", "neg_ece")[0] == 2
    errors = capsys.readouterr().err.strip().splitlines()
    assert "neg_cross_entropy (neg_cross_entropy is now cross_entropy, lower is better)" in errors[0]
    assert "neg_ece is now ece, lower is better" in errors[1]


def test_a_loss_is_limited_from_above_and_best_where_least(ran) -> None:
    table = open_run(ran).table()
    base, least = table.baseline("cross_entropy")[0], table.column("meter/cross_entropy").min()
    code, text = told(str(ran), "cross_entropy<=1.02*baseline", "--best", "cross_entropy")
    assert code == 0
    assert f"lowest cross_entropy with cross_entropy at most {quantity(1.02 * base, 'nat')}" in text
    assert quantity(least, "nat") in text
    assert told(str(ran), "cross_entropy<=0")[0] == 1


def test_json_holds_the_same(ran, capsys) -> None:
    assert main([str(ran), "accuracy>=0.5*baseline", "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["best"] == "weight_bytes"
    assert answer["pick"]["point"] in answer["reproduce"]


def test_without_limits_it_says_so_and_how_to_set_some(ran) -> None:
    code, text = told(str(ran))
    assert code == 0
    assert "highest accuracy, no limit set" in text
    assert "meets the limits" not in text
    assert "'weight_bytes<=0.25*baseline' or 'accuracy>=0.98*baseline'" in text
