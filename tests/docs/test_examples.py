"""The five examples of the page on tasks: each ends with a front whose models learned something."""

import io
import re
import sys
from pathlib import Path

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from pages import DOCS
from rich.console import Console

from sweeps.run import run

PAGE = (DOCS / "tasks.md").read_text()
FILES = {
    name: text
    for text in re.findall(r"```(?:python|yaml)\n(.*?)```", PAGE, re.DOTALL)
    for name in re.findall(r"^# (\w+\.py|exp/\w+\.yaml)$", text, re.MULTILINE)
}
EXAMPLES = {
    "text": ("accuracy", 0.7),
    "labels": ("f1", 0.4),
    "forecast": ("mse", 0.1),
    "detector": ("map", 0.1),
    "border": ("iou", 0.6),
}


def test_the_page_has_five_examples_that_are_short() -> None:
    assert set(FILES) == {f"{name}.py" for name in EXAMPLES} | {f"exp/{name}.yaml" for name in EXAMPLES}
    for name, text in FILES.items():
        assert len(text.splitlines()) < (40 if name.endswith(".py") else 20), name


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_finds_a_front(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "exp").mkdir()
    for file in (f"{name}.py", f"exp/{name}.yaml"):
        (tmp_path / file).write_text(FILES[file])
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))

    argv = [
        f"hydra.searchpath=[file://{tmp_path}]", f"+exp={name}", f"output_dir={tmp_path}/runs", "trials=3", "threads=1",
        "noise.seconds=0", "report.images=false", "tracking.enabled=false",
    ]  # fmt: skip
    import conf

    with initialize_config_dir(str(Path(conf.__file__).parent), version_base="1.3"):
        config = compose("config", overrides=argv)
    console = Console(file=io.StringIO(), width=200, record=True)
    assert run(config, argv, console) == 0, console.export_text()
    meter, bar = EXAMPLES[name]
    table = pd.read_parquet(tmp_path / "runs" / name / "results.parquet")
    base = float(table.loc[table["point"] == "base", f"meter/{meter}"].iloc[0])
    assert base < bar if meter == "mse" else base > bar
    assert (table["state"] == "complete").sum() >= 3
    assert table[table["state"] == "complete"][f"meter/{meter}"].notna().all()
    sys.modules.pop(name, None)
