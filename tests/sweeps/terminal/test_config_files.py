"""Config files with byte order marks, line ends, encodings and tabs as editors write them."""

import json

import pytest
from hydra import compose, initialize_config_module
from hydra.errors import HydraException

from kmr.core import FloatRange
from sweeps.experiment.first_trials import first_trials
from sweeps.terminal.config_files import FileConfigSource, read_files_as_written

TEXT = "# @package _global_\r\nname: mine\r\ntrials: 7\r\n"


def composed(folder):
    read_files_as_written()
    with initialize_config_module("conf", version_base="1.3"):
        return compose("config", ["+exp=case", f"hydra.searchpath=[file://{folder}]"])


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_byte_order_marks_and_line_ends_change_nothing(tmp_path, encoding, ends) -> None:
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "case.yaml").write_bytes(TEXT.replace("\r\n", ends).encode(encoding))
    config = composed(tmp_path)
    assert (config.name, config.trials) == ("mine", 7)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (TEXT.encode("utf-16"), r"case\.yaml is not UTF-8 text .*save it as UTF-8"),
        ("name: café".encode("latin-1"), r"case\.yaml is not UTF-8 text .*save it as UTF-8"),
        (b"model:\n\t_target_: mine.build\n", r"case\.yaml, line 2, column 1: a tab indents it"),
        (b"space: {a: [1, 2\n", r"case\.yaml, line \d, column \d: .*correct the YAML"),
    ],
)
def test_other_text_is_refused_by_file_and_place(tmp_path, content, said) -> None:
    (tmp_path / "case.yaml").write_bytes(content)
    with pytest.raises(HydraException, match=said):
        FileConfigSource("test", str(tmp_path)).load_config("case")


def test_first_trials_may_begin_with_a_byte_order_mark(tmp_path) -> None:
    (tmp_path / "first.json").write_text(json.dumps([{"a": 0.5}]), encoding="utf-8-sig")
    assert first_trials(str(tmp_path / "first.json"), {"a": FloatRange(0.0, 1.0, neutral=0.0)}) == [{"a": 0.5}]
