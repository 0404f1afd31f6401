"""Reading and writing a run folder, and what is said of one that is damaged."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.table import StudyTable, TableError, from_frame, load, save


def test_what_is_saved_is_loaded(make: Callable, tmp_path: Path) -> None:
    frame, meta = make(trials=5)
    save(tmp_path / "study", frame, meta)
    table = load(tmp_path / "study")
    pd.testing.assert_frame_equal(table.frame, frame, check_dtype=False)
    assert table.meta == meta
    assert sorted(path.name for path in (tmp_path / "study").iterdir()) == ["meta.json", "results.parquet"]


def test_saving_again_replaces(make: Callable, tmp_path: Path) -> None:
    save(tmp_path, *make(trials=2))
    save(tmp_path, *make(trials=4))
    assert load(tmp_path).frame["trial"].nunique() == 4


def test_a_failed_write_leaves_the_old_table(make: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path, *make(trials=2))

    def refuse(*_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr("analysis.atomic.os.replace", refuse)
    with pytest.raises(OSError, match="no space"):
        save(tmp_path, *make(trials=4))
    assert load(tmp_path).frame["trial"].nunique() == 2
    assert len(list(tmp_path.iterdir())) == 2


def test_mixed_knobs_and_infinite_meta_are_stored(make: Callable, tmp_path: Path) -> None:
    frame, meta = make(trials=1)
    frame = pd.concat([frame] * 2, ignore_index=True).assign(point=lambda rows: [str(i) for i in range(len(rows))])
    frame["knob/mixed"] = pd.Series(["none", 4.0, None, 8.0, *[None] * len(frame)][: len(frame)], dtype=object)
    meta["baseline"]["accuracy"] = {"value": np.float64(0.5), "stderr": math.inf}
    save(tmp_path, frame, meta)
    table = load(tmp_path)
    assert table.frame["knob/mixed"].dropna().tolist()[:2] == ["none", "4.0"]
    assert table.baseline("accuracy")[0] == 0.5
    assert math.isnan(table.baseline("accuracy")[1])


def test_meaning_of_the_columns(table: StudyTable) -> None:
    assert table.objectives == ("weight_bytes", "accuracy")
    assert table.directions == ("minimize", "maximize")
    assert table.meters == ("weight_bytes", "accuracy", "latency_ms", "macs")
    assert (table.unit("latency_ms"), table.kind("accuracy"), table.kind("macs")) == ("ms", "quality", "cost")
    assert table.unit("unheard_of") == ""
    assert np.isnan(table.values(("unheard_of",))).all()
    assert table.corner("reference").tolist() == [1.1 * 438_000, 0.5]


def test_a_column_of_words_reads_as_unknown(table: StudyTable) -> None:
    frame = table.frame.assign(**{"meter/accuracy": "broken"})
    assert np.isnan(StudyTable(frame, table.meta, table.folder).column("meter/accuracy")).all()


def test_states_of_older_tables_are_read_in_the_words_of_today(make: Callable, tmp_path: Path) -> None:
    frame, meta = make(trials=3)
    old = ["pruned", "interrupted", "infeasible"]
    frame = pd.concat([frame, frame.iloc[:3].assign(point=["a", "b", "c"], state=old)], ignore_index=True)
    save(tmp_path, frame, {**meta, "trials": {"asked": 9, "pruned": 1, "interrupted": 2, "served": 3}})
    table = load(tmp_path)
    assert table.frame["state"].tolist()[-3:] == ["early-stopped", "retried", "infeasible"]
    assert table.frame["state"].tolist()[:-3] == frame["state"].tolist()[:-3]
    assert table.meta["trials"] == {"asked": 9, "early-stopped": 1, "retried": 2, "duplicate": 3}


def test_optional_columns_may_be_missing(make: Callable, tmp_path: Path) -> None:
    frame, meta = make(trials=2)
    save(tmp_path, frame[["point", "trial", "step", "state", "meter/accuracy"]], meta)
    assert load(tmp_path).frame["notes"].isna().all()


def _broken(make: Callable, folder: Path, what: str) -> Path:
    frame, meta = make(trials=2)
    save(folder, frame, meta)
    match what:
        case "missing folder":
            return folder / "nothing"
        case "a file":
            return folder / "meta.json"
        case "no meta":
            (folder / "meta.json").unlink()
        case "no results":
            (folder / "results.parquet").unlink()
        case "meta is no JSON":
            (folder / "meta.json").write_text("{")
        case "meta is a list":
            (folder / "meta.json").write_text("[]")
        case "other format":
            (folder / "meta.json").write_text(json.dumps({**meta, "format": 2}))
        case "no objectives":
            (folder / "meta.json").write_text(json.dumps({**meta, "objectives": []}))
        case "bad direction":
            (folder / "meta.json").write_text(json.dumps({**meta, "objectives": [{"name": "x", "direction": "up"}]}))
        case "no study":
            (folder / "meta.json").write_text(json.dumps({**meta, "study": None}))
        case "corrupt parquet":
            (folder / "results.parquet").write_bytes(b"PAR1 nonsense")
        case "no state":
            save(folder, frame.drop(columns="state"), meta)
        case "twice":
            save(folder, pd.concat([frame, frame]), meta)
    return folder


BROKEN = {
    "missing folder": "no such folder",
    "a file": "a file, not a run folder",
    "no meta": "meta.json is missing",
    "no results": "results.parquet is missing",
    "meta is no JSON": "cannot read",
    "meta is a list": "format none",
    "other format": "format 2",
    "no objectives": "no objectives",
    "bad direction": "needs a name, and minimize or maximize",
    "no study": "study or meters",
    "corrupt parquet": "cannot read",
    "no state": "no column state",
    "twice": "is twice in",
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_damaged_folder_is_named_in_one_line(make: Callable, tmp_path: Path, what: str) -> None:
    path = _broken(make, tmp_path, what)
    with pytest.raises(TableError, match=BROKEN[what]) as caught:
        load(path)
    assert "\n" not in str(caught.value)
    assert str(tmp_path) in str(caught.value)


def test_a_table_of_any_frame() -> None:
    frame = pd.DataFrame({"bytes": [3.0, 1.0], "quality": [0.9, 0.8], "knob/bits": [8, 4], "technique": ["a", "b"]})
    table = from_frame(frame, {"bytes": "minimize", "quality": "maximize"}, meters={"bytes": {"unit": "B"}})
    assert table.values(table.objectives).tolist() == [[3.0, 0.9], [1.0, 0.8]]
    assert table.complete.all()
    assert (table.unit("bytes"), table.kind("quality")) == ("B", "quality")
    assert table.frame["point"].tolist() == ["0", "1"]
    for objectives, wrong in (({"speed": "minimize"}, "no column speed"), ({"bytes": "up"}, "minimize or maximize")):
        with pytest.raises(TableError, match=wrong):
            from_frame(frame, objectives)
    with pytest.raises(TableError, match="twice"):
        from_frame(frame.assign(point="x"), {"bytes": "minimize"})


@pytest.mark.parametrize(
    ("objectives", "plane"),
    [
        (("accuracy",), ("accuracy", "weight_bytes")),
        (("weight_bytes", "accuracy"), ("weight_bytes", "accuracy")),
        (("weight_bytes", "latency_ms", "accuracy"), ("weight_bytes", "accuracy")),
        (("weight_bytes", "latency_ms"), ("weight_bytes", "latency_ms")),
    ],
)
def test_a_flat_picture_shows_cost_against_quality(
    make: Callable, objectives: tuple[str, ...], plane: tuple[str, str]
) -> None:
    frame, meta = make(trials=3, objectives=objectives)
    assert StudyTable(frame, meta, Path()).plane == plane
