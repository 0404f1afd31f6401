"""The report in a real browser, opened from disk with the network cut: what a reader does with it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from analysis import report
from analysis.exporting.render_images import find_browser
from analysis.front import front_frame
from analysis.table import StudyTable, load, save

sync_api = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed (pip install kmr-sweeps[dev])"
)
pytestmark = pytest.mark.skipif(find_browser() is None, reason="no Chrome or Chromium found to open the page with")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as started:
        made = started.chromium.launch(executable_path=find_browser(), args=["--no-sandbox", "--disable-gpu"])
        yield made
        made.close()


@pytest.fixture(scope="module")
def study(make: Callable, tmp_path_factory: pytest.TempPathFactory) -> StudyTable:
    frame, meta = make(trials=30)
    layer = {"layer": "conv1", "width": 8, "width_of": 16, "rank": None, "rank_of": 9, "bits": 4, "bits_of": 32}
    layer |= {"kept": 0.5, "bytes": 100, "bytes_of": 1000}
    frame["layers"] = [json.dumps([layer]) if state == "complete" else None for state in frame["state"]]
    config = {"space": {"quantize": {"bits": {"values": [2, 4]}}, "structured": {"ratio": {"low": 0.0, "high": 1.0}}}}
    mlflow = {**meta["mlflow"], "link": "http://127.0.0.1:5000/#/experiments/1/runs"}
    folder = tmp_path_factory.mktemp("browser") / "demo"
    save(folder, frame, {**meta, "config": config, "command": "python -m sweeps.run +exp=demo", "mlflow": mlflow})
    report.write(folder, images=False)
    return load(folder)


def opened(browser: Any, path: Path, **context: Any) -> tuple[Any, list[str]]:
    """Open a page without a network; returns it with the list that its errors go to."""
    place = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, "offline": True, **context})
    page, errors = place.new_page(), []
    page.on("console", lambda message: errors.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on(
        "request", lambda asked: None if asked.url.startswith(("file:", "data:", "blob:")) else errors.append(asked.url)
    )
    page.goto(path.as_uri())
    page.wait_for_function("document.querySelector('main .main-svg, main > header') !== null")
    return page, errors


@pytest.fixture(scope="module")
def only_page(browser: Any, study: StudyTable) -> Iterator[tuple[Any, list[str]]]:
    shown, errors = opened(browser, study.folder / "report.html")
    yield shown, errors
    shown.context.close()


@pytest.fixture
def page(only_page: tuple[Any, list[str]]) -> Any:
    """The report as it opens: one page for all tests, put back before each."""
    shown, errors = only_page
    shown.evaluate(RESET)
    shown.mouse.move(1, 1)
    yield shown
    assert errors == []
    errors.clear()


RESET = """() => {
    const change = (id, value) => {
        const select = document.getElementById(id);
        if (select.value !== value) { select.value = value; select.dispatchEvent(new Event('change')); }
    };
    change('axis-z', ''); change('axis-x', 'weight_bytes'); change('axis-y', 'accuracy');
    document.querySelector('#limits .reset').click();
    document.querySelector('#card .close')?.click();
    window.scrollTo(0, 0);
}"""


def trace(page: Any, name: str) -> dict[str, Any]:
    found = page.evaluate(
        "name => document.getElementById('explorer').data.filter(t => t.name === name || t.meta === name)", name
    )
    assert found, f"no trace {name}"
    return dict(found[0])


def place_of(page: Any, row: str) -> tuple[float, float]:
    """Return where a point is on the screen, through the plot's own axes."""
    at = page.evaluate(
        """name => {
            const plot = document.getElementById('explorer'), row = kmr.data.point.indexOf(name);
            const {xaxis: x, yaxis: y} = plot._fullLayout, box = plot.getBoundingClientRect();
            const value = (key) => kmr.data.value[document.getElementById('axis-' + key).value][row];
            return [box.x + x._offset + x.d2p(value('x')), box.y + y._offset + y.d2p(value('y'))];
        }""",
        row,
    )
    return at[0], at[1]


def test_the_plot_shows_the_front_of_the_table(page: Any, study: StudyTable) -> None:
    line = trace(page, "Pareto front")
    front = front_frame(study)
    assert line["customdata"] == [study.frame["point"].tolist().index(point) for point in front["point"]]
    shown = page.text_content("#explorer-caption")
    assert shown.startswith(f"{len(front)} of ")
    lines = page.evaluate("document.getElementById('explorer').data.map(t => t.name)")
    assert {"structured alone", "quantize alone", "held-out test", "baseline"} <= set(lines)


def test_hover_and_click_pin_a_card(page: Any, study: StudyTable) -> None:
    row = front_frame(study).iloc[4]
    page.mouse.move(*place_of(page, row["point"]))
    page.wait_for_selector(".hoverlayer .hovertext")
    said = page.text_content(".hoverlayer")
    assert "accuracy:" in said
    page.mouse.click(*place_of(page, row["point"]))
    page.wait_for_selector("#card:not([hidden])")
    pinned = page.text_content("#card h3").split()[0]
    card = page.text_content("#card")
    for part in (
        "Held-out test",
        "conv1",
        "8 / 16",
        "The trial, step by step",
        "Load this model",
        "python -m sweeps.run +exp=demo",
    ):
        assert part in card, part
    moves = json.loads(study.frame.set_index("point").loc[pinned, "sequence"])
    assert page.locator("#card .strip li").count() == len(moves) + 1
    assert page.get_attribute("#card a", "href").startswith("http://127.0.0.1:5000/#/experiments/1/runs/")
    page.keyboard.press("Escape")
    assert page.is_hidden("#card")


def test_the_command_sets_every_knob(page: Any, study: StudyTable) -> None:
    only = study.frame[(study.frame["technique"] == "quantize") & study.complete].iloc[0]
    page.evaluate("name => kmr.pin(kmr.rows.rowOf.get(name))", only["point"])
    command = page.locator("#card .copy", has_text="Make it without the run folder").locator("code").text_content()
    bits = int(only["knob/quantize.bits"])
    assert f"name=digits-demo-{only['point']} trials=1" in command
    assert f"'++space.quantize.bits={bits}'" in command
    assert "'++space.structured.ratio=null'" in command


def test_a_limit_moves_the_recommended_point(page: Any, study: StudyTable) -> None:
    complete = study.frame[study.complete]
    best = complete.sort_values("meter/accuracy", ascending=False).iloc[0]
    assert page.text_content("#limit-answer strong") == best["point"]
    page.focus("[data-cost=weight_bytes]")
    for _ in range(8):
        page.keyboard.press("PageDown")
    words = page.get_attribute("[data-cost=weight_bytes]", "aria-valuetext")
    assert words.startswith("at most ")
    shapes = page.evaluate("document.getElementById('explorer').layout.shapes")
    limit = next(shape["x0"] for shape in shapes if shape["type"] == "line" and shape["line"]["dash"] == "solid")
    allowed = complete[complete["meter/weight_bytes"] <= limit].sort_values("meter/accuracy", ascending=False).iloc[0]
    assert page.text_content("#limit-answer strong") == allowed["point"]
    ring = next(shape for shape in shapes if shape.get("name") == "advised")
    assert (ring["xanchor"], ring["yanchor"]) == (
        pytest.approx(allowed["meter/weight_bytes"], rel=1e-5), pytest.approx(allowed["meter/accuracy"], rel=1e-5),
    )  # fmt: skip
    round_it = """() => [...document.querySelectorAll('#explorer .shapelayer path')]
        .map((path) => path.getBoundingClientRect())
        .filter((box) => box.width > 15 && box.width < 40 && Math.abs(box.width - box.height) < 2)
        .map((box) => [box.x + box.width / 2, box.y + box.height / 2])"""
    assert page.evaluate(round_it) == [pytest.approx(place_of(page, allowed["point"]), abs=2)]
    page.click("text=No limits")
    assert page.text_content("#limit-answer strong") == best["point"]


def test_axes_switch_and_the_front_follows(page: Any, study: StudyTable) -> None:
    page.select_option("#axis-x", "latency_ms")
    line = trace(page, "Pareto front")
    expected = front_frame(study, ("latency_ms", "accuracy"))
    assert [study.frame["point"][row] for row in line["customdata"]] == expected["point"].tolist()
    assert page.evaluate("document.getElementById('explorer').layout.xaxis.title.text") == "latency_ms, lower is better"
    page.check("#log-x")
    assert page.evaluate("document.getElementById('explorer').layout.xaxis.type") == "log"
    page.select_option("#axis-z", "macs")
    kinds = page.evaluate("[...new Set(document.getElementById('explorer').data.map(t => t.type))]")
    assert kinds == ["scatter3d"]


def test_arrow_keys_go_along_the_front(page: Any, study: StudyTable) -> None:
    front = front_frame(study)["point"].tolist()
    page.focus("#explorer")
    page.keyboard.press("ArrowRight")
    assert page.text_content("#card h3").split()[0] == front[0]
    page.keyboard.press("ArrowRight")
    assert page.text_content("#card h3").split()[0] == front[1]
    assert page.evaluate("document.activeElement.id") == "explorer"


def test_tables_sort_by_value(page: Any, study: StudyTable) -> None:
    column = page.locator("table.front").first.locator("th[data-column]", has_text="latency_ms").first
    assert not column.is_visible()
    page.locator("button.unfold").first.click()
    assert column.is_visible()
    column.locator("button").click()
    shown = page.evaluate("[...document.querySelectorAll('table.front tr[data-point]')].map(r => r.dataset.point)")
    expected = front_frame(study).sort_values("meter/latency_ms", kind="stable")["point"].tolist()
    assert shown[: len(expected)] == expected
    assert column.get_attribute("aria-sort") == "ascending"
    column.locator("button").click()
    assert column.get_attribute("aria-sort") == "descending"
    page.locator("table.front button.pin").first.click()
    assert page.is_visible("#card")


def test_the_axes_follow_the_front_and_show_all_when_asked(browser: Any, make: Callable, tmp_path: Path) -> None:
    frame, meta = make(trials=30)
    sizes = frame["meter/weight_bytes"].mask((frame["step"] == 0) | (frame["state"] != "complete"))
    lost = [sizes.idxmax(), sizes.idxmin()]  # the second is on the front: nothing is smaller
    save(
        tmp_path, frame.assign(**{"meter/accuracy": frame["meter/accuracy"].mask(frame.index.isin(lost), -30.0)}), meta
    )
    shown, errors = opened(browser, report.write(tmp_path, images=False).html)
    low = "document.getElementById('explorer').layout.yaxis.range[0]"
    assert shown.evaluate(low) > -1
    assert " models outside the axes" in shown.text_content("#explorer-caption")
    shown.locator("details.more summary").click()
    shown.check("#show-all")
    assert shown.evaluate(low) < -30
    assert "outside the axes" not in shown.text_content("#explorer-caption")
    assert errors == []
    shown.context.close()


def test_no_table_scrolls_sideways_on_a_desk(browser: Any, make: Callable, tmp_path: Path) -> None:
    frame, meta = make(trials=30)
    faithful = ("agreement", "kl", "chi_squared_p", "ece", "worst_class_accuracy")
    for name in (*faithful, "parameters", "nonzero_parameters", "cross_entropy"):
        frame = frame.assign(**{f"{kind}/{name}": 0.0123 for kind in ("meter", "stderr", "test", "test_stderr")})
    down = {"direction": "minimize", "kind": "quality", "unit": ""}
    meta["meters"] |= dict.fromkeys(("kl", "ece", "cross_entropy"), down)
    save(tmp_path, frame, meta)
    shown, errors = opened(browser, report.write(tmp_path, images=False).html, viewport={"width": 1400, "height": 900})
    widths = shown.evaluate("[...document.querySelectorAll('.scroll')].map(n => [n.scrollWidth, n.clientWidth])")
    assert len(widths) >= 3
    assert all(inside <= outside for inside, outside in widths), widths
    assert errors == []
    shown.context.close()


def test_every_figure_is_drawn_when_it_comes_near(page: Any) -> None:
    names = page.evaluate("[...document.querySelectorAll('[data-figure]')].map(n => n.dataset.figure)")
    for name in names:
        page.locator(f"[data-figure={name}]").scroll_into_view_if_needed()
        page.wait_for_selector(f"[data-figure={name}] .main-svg")
        assert page.text_content(f"figure:has([data-figure={name}]) figcaption")
    assert {"importance", "contribution", "parallel", "hypervolume", "training"} <= set(names)


@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_every_size_and_scheme(browser: Any, study: StudyTable, tmp_path: Path, width: int, scheme: str) -> None:
    size = {"width": width, "height": 844}
    shown, errors = opened(browser, study.folder / "report.html", viewport=size, color_scheme=scheme)
    assert shown.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out"
    paper = shown.evaluate("document.getElementById('explorer').layout.paper_bgcolor")
    assert paper == {"light": "#ffffff", "dark": "#14181d"}[scheme]
    from PIL import Image

    shown.locator("#explorer").screenshot(path=tmp_path / "shot.png")
    with Image.open(tmp_path / "shot.png") as image:
        tones = np.asarray(image.convert("L"), dtype=float)
    assert (tones.mean() > 128) == (scheme == "light")
    assert tones.std() > 5, "something is drawn"
    assert errors == []
    shown.context.close()


def test_print_is_dark_on_white(browser: Any, study: StudyTable, tmp_path: Path) -> None:
    shown, errors = opened(browser, study.folder / "report.html", color_scheme="dark")
    shown.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    assert shown.evaluate("document.getElementById('explorer').layout.paper_bgcolor") == "#ffffff"
    assert shown.pdf(path=tmp_path / "page.pdf").startswith(b"%PDF")
    assert errors == []
    shown.context.close()


EVIL = "</script><img src=x onerror=\"document.title='owned'\">"


def test_names_from_outside_stay_text(browser: Any, make: Callable, tmp_path: Path) -> None:
    frame, meta = make(trials=6)
    moves = json.dumps([[EVIL, EVIL]])
    frame = frame.assign(technique=EVIL, sequence=moves, notes=EVIL, artifact=EVIL, mlflow_run_id=EVIL)
    frame.loc[frame["step"] == 0, "technique"] = "baseline"
    frame = frame.rename(columns={"knob/quantize.bits": f"knob/{EVIL}", "meter/latency_ms": f"meter/{EVIL}"})
    save(tmp_path, frame, {**meta, "study": "evil"})
    shown, errors = opened(browser, report.write(tmp_path, images=False).html)
    shown.locator("button.pin").first.click()
    shown.hover("#explorer")
    for figure in ("importance", "parallel"):
        shown.locator(f"[data-figure={figure}]").scroll_into_view_if_needed()
        shown.wait_for_selector(f"[data-figure={figure}] .main-svg")
    assert shown.title() == "evil · sweep report"
    assert shown.locator("img").count() == 0
    assert EVIL in shown.text_content("#card")
    assert errors == []
    shown.context.close()


@pytest.mark.parametrize("shape", ["empty", "one point", "all infeasible", "not finite", "one meter"])
def test_odd_studies_give_a_clear_page(browser: Any, make: Callable, tmp_path: Path, shape: str) -> None:
    frame, meta = make(trials=4, seed=1)
    match shape:
        case "empty":
            frame = frame.iloc[:0]
        case "one point":
            frame = frame[frame["step"] == 1].iloc[:1]
        case "all infeasible":
            frame = frame.assign(state="infeasible")
        case "not finite":
            frame = frame.assign(**{"meter/accuracy": np.inf})
        case "one meter":
            frame = frame.drop(columns=[name for name in frame if name.startswith("meter/") and "accuracy" not in name])
    save(tmp_path, frame, meta)
    shown, errors = opened(browser, report.write(tmp_path, images=False).html)
    assert shown.locator("h1").text_content() == "digits-demo"
    said = shown.text_content("main")
    assert {
        "empty": "The study has no points yet.",
        "one point": "1 of 1 model on this front",
        "all infeasible": "no point is complete",
        "not finite": "lack a finite accuracy and are left out",
        "one meter": "no values of the objective weight_bytes",
    }[shape] in said
    assert errors == []
    shown.context.close()


def test_the_comparison_draws(browser: Any, make: Callable, tmp_path: Path) -> None:
    for seed in range(2):
        frame, meta = make(trials=8, seed=seed)
        save(tmp_path / f"run{seed}", frame, meta)
    written = report.write_comparison([f"a={tmp_path / 'run0'}", f"b={tmp_path / 'run1'}"], tmp_path)
    shown, errors = opened(browser, written.html)
    for name in ("attainment", "volumes", "growth"):
        shown.locator(f"[data-figure={name}]").scroll_into_view_if_needed()
        shown.wait_for_selector(f"[data-figure={name}] .main-svg")
    assert errors == []
    shown.context.close()
