import itertools

import numpy as np
import pandas as pd
import pytest

from analysis.plots.sensitivity import sensitivity
from analysis.sensitivity import LayerGroup, allocation, layer_groups, tolerances


def scan_of(losses: dict[str, list[float]]) -> pd.DataFrame:
    values = (0.25, 0.5, 0.75)
    rows = [
        {"layer": layer, "value": value, "lost": lost, "why": "" if lost == lost else "cannot"}
        for layer, row in losses.items()
        for value, lost in zip(values, row, strict=True)
    ]
    return pd.DataFrame(rows)


def test_layers_that_react_alike_are_grouped_the_least_sensitive_first() -> None:
    scan = scan_of({"a": [0.0, 0.1, 0.2], "b": [0.4, 0.6, 0.9], "c": [0.0, 0.1, 0.3], "d": [0.1, 0.3, 0.4]})
    groups = layer_groups(scan, 3)
    assert [group.layers for group in groups] == [("a", "c"), ("d",), ("b",)]
    assert [group.name for group in groups] == ["g1", "g2", "g3"]
    assert groups[0].lost == pytest.approx({0.25: 0.0, 0.5: 0.1, 0.75: 0.25})


def test_the_groups_are_the_best_of_all_ways_to_cut() -> None:
    losses = np.random.default_rng(0).random(9)
    scan = scan_of({f"l{i}": [loss] * 3 for i, loss in enumerate(losses)})
    ordered = np.sort(losses)

    def deviation(cuts: tuple[int, ...]) -> float:
        parts = np.split(ordered, cuts)
        return sum(float(((part - part.mean()) ** 2).sum()) for part in parts)

    best = min(itertools.combinations(range(1, 9), 3), key=deviation)
    found = layer_groups(scan, 4)
    assert [len(group.layers) for group in found] == [len(part) for part in np.split(ordered, best)]


def test_equal_layers_are_one_group_and_what_was_not_measured_is_left_out() -> None:
    nan = float("nan")
    groups = layer_groups(scan_of({"a": [0.0, 0.1, 0.2], "b": [0.0, 0.1, 0.2], "c": [nan] * 3}), 20)
    assert [group.layers for group in groups] == [("a", "b")]
    with pytest.raises(ValueError, match="no measured layer"):
        layer_groups(scan_of({"c": [nan] * 3}))
    with pytest.raises(ValueError, match="at least one group"):
        layer_groups(scan_of({"a": [0.0] * 3}), 0)


def test_each_group_has_its_strongest_allowed_value() -> None:
    groups = [
        LayerGroup("g1", ("a",), {0.25: 0.0, 0.5: 0.02, 0.75: 0.3}),
        LayerGroup("g2", ("b",), {0.25: 0.1, 0.5: 0.0}),
    ]
    assert allocation(groups, 0.05) == {"g1": 0.5, "g2": 0.0}  # a smaller cut that costs more forbids the larger
    assert allocation(groups, 0.1) == {"g1": 0.5, "g2": 0.5}
    allowed = tolerances(groups, 3)
    assert allowed == sorted(allowed)
    assert allowed[0] > 0
    assert allowed[-1] < 0.3
    assert tolerances(groups, 0) == []


def test_where_less_is_more_the_nearest_to_neutral_is_the_mildest() -> None:
    rows = [{"layer": "a", "value": bits, "lost": lost} for bits, lost in ((2, 0.9), (4, 0.1), (8, 0.0))]
    (group,) = layer_groups(pd.DataFrame(rows), 1, neutral=32.0)
    assert list(group.lost) == [8.0, 4.0, 2.0]
    assert allocation([group], 0.1, neutral=32.0) == {"g1": 4.0}
    assert allocation([group], -1.0, neutral=32.0) == {"g1": 32.0}


def test_the_map_shows_every_layer_in_order_and_why_a_cell_is_empty() -> None:
    nan = float("nan")
    figure = sensitivity(scan_of({"late": [0.1, nan, 0.3], "early": [0.0, 0.2, 0.4]}), "accuracy")
    (drawn,) = figure.data
    assert list(drawn.y) == ["late", "early"]
    assert list(drawn.x) == ["0.25", "0.5", "0.75"]
    assert np.isnan(drawn.z[0][1])
    assert (drawn.text[0][1], drawn.customdata[0][1]) == ("", "cannot")
    assert drawn.z[1][2] == pytest.approx(0.4)


def test_the_page_holds_the_losses_the_groups_and_the_command(tmp_path) -> None:
    from analysis.report.sensitivity import Scan, write_sensitivity

    scan = scan_of({"hard<b>": [0.4, 0.6, float("nan")], "soft": [0.0, 0.01, 0.02]})
    scan = scan.assign(stderr=0.01, together=["hard<b> twin"] * 3 + ["soft"] * 3)
    groups = layer_groups(scan, 2)
    about = Scan("demo", "structured", "accuracy", "fraction", 0.98)
    text = write_sensitivity(scan, about, tmp_path / "page.html", groups, "python -m x 'y'").read_text()
    page = text.partition("<main>")[2].partition("</main>")[0]
    assert page.index('<th scope="row">soft') < page.index('<th scope="row">hard&lt;b&gt;'), "the least sensitive first"
    assert "with twin" in page
    assert 'data-value="0.6">0.600 ± 0.010' in page
    assert 'data-value="" title="cannot">–' in page
    assert "has accuracy 0.98 on" in page
    assert "python -m x &#39;y&#39;" in page
    assert "hard<b>" not in text
    assert "https://" not in page
