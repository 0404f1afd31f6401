"""The manual says what is there: its links resolve, its tables are whole, its examples and commands run."""

import copy
import re
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch
import yaml
from hydra import compose, initialize_config_dir
from pages import DOCS, PAGES, ROOT, block, blocks, commands, generator
from small import sweep
from torch import nn

import conf
from kmr.core import measure
from kmr.data import Split
from kmr.finetune import FineTune

GENERATE = generator()
LINK = re.compile(r"\]\(([^)\s]+)\)")
OF_ITS_OWN = "own_parts.md"
"""The page whose examples are files of one folder, which `tests/test_own_parts.py` runs."""
WITH_CODE = [
    page for page in PAGES if page.name != OF_ITS_OWN and any(not each.mark for each in blocks(page, "python"))
]
NOT_COMPOSED = ("--config-dir", "--help", "-sc")


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run a tiny study named quickstart; return the folder that holds `runs/quickstart`."""
    folder = tmp_path_factory.mktemp("manual")
    code, _ = sweep(folder / "runs", "name=quickstart", "noise.seconds=2", "noise.resamples=10")
    assert code == 0
    return folder


@pytest.fixture(scope="module")
def member(study: Path) -> str:
    """Return the name of a saved point."""
    return sorted(path.name for path in (study / "runs" / "quickstart" / "front").iterdir())[0]


@pytest.fixture(scope="module")
def given() -> dict[str, object]:
    """Return the names that examples may use: a trained model, a smaller one, and data."""
    torch.manual_seed(0)
    inputs = torch.randn(384, 8)
    targets = (inputs[:, 0] > 0).long()
    train, validation = Split((inputs[:256], targets[:256])), Split((inputs[256:], targets[256:]))
    model = FineTune(data=train, epochs=20)(nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 2)))
    smaller = copy.deepcopy(model)
    with torch.no_grad():
        smaller[0].weight.mul_(0.9)
    return {
        "model": model.eval(), "original": model, "smaller": smaller, "train": train, "validation": validation,
        "images": inputs[:64],
    }  # fmt: skip


@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.stem)
def test_the_python_of_a_page_runs(page, study, member, given, monkeypatch, capsys) -> None:
    monkeypatch.chdir(study)
    module = type(sys)("page")  # dataclasses look their module up
    monkeypatch.setitem(sys.modules, "page", module)
    module.__dict__.update(copy.deepcopy(given))
    ran = [each for each in blocks(page, "python") if not each.mark.startswith("not run")]
    for each in ran:
        first = each.text.splitlines()[0]
        exec(compile(each.text.replace("12.3", member), f"{page.name}: {first}", "exec"), module.__dict__)
    assert ran


def test_the_search_alone_finds_a_front_within_its_limits(capsys) -> None:
    names: dict[str, object] = {}
    exec(block(DOCS / "library.md", "python", "evaluate=lambda"), names)
    found = names["found"]
    assert found.counts.complete == 20
    assert found.front
    assert all(trial.readings["bytes"] <= 100 for trial in found.front)


def test_a_model_is_compressed_without_a_config(given) -> None:
    names = copy.deepcopy(given)
    exec(block(DOCS / "library.md", "python", "sweeps import Compression"), names)
    found, smallest = names["found"], names["smallest"]
    assert found.counts.complete == 12
    assert all(trial.readings["bytes"] <= 2000 for trial in found.front)
    meters = (*names["costs"], *names["qualities"])
    assert {name: reading.value for name, reading in measure(smallest, meters).items()} == found.front[0].readings


@pytest.mark.parametrize(
    "words",
    [words for page in PAGES for each in blocks(page, "bash") if each.mark == "run" for words in each.commands],
    ids=" ".join,
)
def test_a_command_marked_to_run_ends_with_0(words, study, member, monkeypatch, capsys) -> None:
    monkeypatch.chdir(study)
    python, option, module, *arguments = [word.replace("12.3", member) for word in words]
    assert (python, option) == ("python", "-m")
    if module == "sweeps.run":  # `--cfg job` composes and prints
        monkeypatch.setattr(sys, "argv", ["run", *arguments])
        with pytest.raises(SystemExit) as ended:
            import_module(module).main()
        code = ended.value.code
    else:
        home = "analysis.report.__main__" if module == "analysis.report" else module
        code = import_module(home).main(arguments)
    assert code == 0, capsys.readouterr().err
    assert capsys.readouterr().out


def test_every_sweep_that_a_page_names_composes() -> None:
    asked = [words for page in PAGES for words in commands(page) if words[2] in ("sweeps.run", "sweeps.sensitivity")]
    lines = {tuple(words[3:]) for words in asked if not any(each in words for each in NOT_COMPOSED)} - {()}
    assert ("+exp=quickstart",) in lines
    with initialize_config_dir(str(Path(conf.__file__).parent), version_base="1.3"):
        for words in lines:
            assert compose("config", overrides=[word for word in words if word not in ("--cfg", "job")]).name


def test_every_experiment_in_a_command_is_there() -> None:
    own = {path.stem for path in (ROOT / "conf" / "exp").glob("*.yaml")} | {"diabetes", "mine"}
    named = {name for page in PAGES for name in re.findall(r"\+exp=(\w+)", page.read_text())}
    assert named <= own
    assert "quickstart" in named


def test_yaml_examples_can_be_read() -> None:
    found = [each for page in PAGES for each in blocks(page, "yaml")]
    assert len(found) > 5
    assert all(isinstance(yaml.safe_load(each.text), dict) for each in found)


def test_every_link_leads_somewhere() -> None:
    missing = []
    for page in PAGES:
        for target in LINK.findall(page.read_text()):
            if target.startswith(("http:", "https:")):
                continue
            path, _, anchor = target.partition("#")
            there = (page.parent / path).resolve() if path else page
            if not there.exists() or (anchor and anchor not in anchors(there)):
                missing.append(f"{page.name}: {target}")
    assert missing == []


def anchors(page: Path) -> set[str]:
    text = GENERATE.fill(page.read_text()) if page.name == "index.md" else page.read_text()
    heads = re.findall(r"^#+ (.+)$", re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S), flags=re.M)
    return {re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", head.strip().lower())) for head in heads}


def test_the_way_of_a_vector_names_at_most_25_files_that_are_there() -> None:
    page = (DOCS / "architecture.md").read_text()
    way = page.partition("<!-- way: files -->")[2].partition("<!-- way: end -->")
    assert way[1], "the two marks stand around the list"
    named = re.findall(r"`([\w/.]+\.py)`", way[0])
    assert len(named) <= 25
    assert [name for name in named if not (ROOT / name).is_file()] == []


def test_the_menu_has_every_page() -> None:
    menu = yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"]
    named = re.findall(r"\w+\.md", str(menu))
    assert sorted(named) == sorted(path.name for path in DOCS.glob("*.md"))


def test_every_generated_table_is_on_a_page_and_every_asked_for_is_known() -> None:
    asked = [found for page in PAGES for found in GENERATE.ASKED.findall(page.read_text())]
    assert {name for kind, name in asked if kind == "table"} == set(GENERATE.TABLES)
    assert [name for kind, name in asked if kind == "include"]


@pytest.mark.parametrize(
    ("table", "group"),
    [
        ("rules", "rule"), ("meters", "meter"), ("samplers", "sampler"), ("policies", "policy"),
        ("criteria", "criterion"), ("recipes", "finetune"), ("experiments", "exp"),
    ],
)  # fmt: skip
def test_a_table_has_every_part_of_its_group_and_no_empty_word(table, group) -> None:
    rows = [line.split(" | ") for line in GENERATE.TABLES[table]().splitlines()[2:]]
    names = sorted(path.stem for path in (ROOT / "conf" / group).glob("*.yaml"))
    assert [row[0].strip("|` ") for row in rows] == names
    assert all(len(row[1].strip(" |")) > 3 for row in rows)
    assert any(len(cell) > 20 for cell in rows[0])


def test_every_rule_is_listed_with_its_knobs() -> None:
    for line in GENERATE.rules().splitlines()[2:]:
        name = line.split("`")[1]
        assert f"`{name}." in line


def test_every_key_of_the_config_has_a_meaning() -> None:
    rows = [line.strip("| ").split(" | ") for line in GENERATE.keys().splitlines()[2:]]
    assert len(rows) > 40
    assert [row[0] for row in rows if len(row) < 3 or not row[2].endswith(".")] == []


def test_a_page_is_filled_and_an_unknown_table_is_refused() -> None:
    filled = GENERATE.fill("before\n\n<!-- table: samplers -->\n\nafter")
    assert filled.startswith("before\n\n| sampler |")
    assert filled.endswith("\n\nafter")
    assert "](concepts.md)" in GENERATE.fill("<!-- include: README.md -->")
    assert GENERATE.fill("<!-- api: kmr load save -->").splitlines()[0].startswith("::: kmr.artifact")
    with pytest.raises(KeyError):
        GENERATE.fill("<!-- table: nothing -->")


def test_every_reference_names_what_is_there() -> None:
    asked = [names for page in PAGES for kind, names in GENERATE.ASKED.findall(page.read_text()) if kind == "api"]
    made = [GENERATE.fill(f"<!-- api: {names} -->") for names in asked]
    assert "sweeps.search.function search" in asked
    assert all(line.startswith("::: ") for reference in made for line in reference.splitlines() if line)


def test_the_generator_prints_a_table_and_names_those_there_are(monkeypatch, capsys) -> None:
    import runpy

    monkeypatch.setattr(sys, "argv", ["generate.py", "samplers"])
    runpy.run_path(str(DOCS / "generate.py"), run_name="__main__")
    assert "| `tpe` |" in capsys.readouterr().out
    monkeypatch.setattr(sys, "argv", ["generate.py", "nothing"])
    with pytest.raises(SystemExit, match="name a table: rules, meters"):
        runpy.run_path(str(DOCS / "generate.py"), run_name="__main__")
