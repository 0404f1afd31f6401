import importlib
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
from torch import nn

from kmr.cache import describe, modules
from kmr.cache.code import code_behind
from kmr.finetune import FineTune
from kmr.instantiations.lowrank import LowRank
from kmr.instantiations.pruning import StructuredPruning

Behind = Callable[[Mapping[str, str]], dict[str, str]]

MINE = """
import math
import torch.nn.functional as F
from mine_lib import shapes
from mine_lib.scaling import scale as scaled

WIDTH = 8
UNUSED = 1

def act(x):
    return F.relu(scaled(x))

class Net:
    def forward(self, x):
        return act(x) * shapes.area(WIDTH)

def plot(x):
    return math.pi

def target():
    return Net()

if __name__ == "__main__":
    print(target())
"""
FILES = {
    "mine.py": MINE,
    "mine_lib/__init__.py": "",
    "mine_lib/scaling.py": (
        "from ._deep import factor\n\ndef scale(x):\n    return x * factor()\n\ndef other():\n    return 1\n"
    ),
    "mine_lib/_deep.py": "SETTINGS = {'factor': 2}\n\ndef factor():\n    return SETTINGS['factor']\n",
    "mine_lib/shapes.py": "def area(x):\n    return x * x\n\ndef edge(x):\n    return x\n",
}


@pytest.fixture
def behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Behind:
    """Write modules afresh and return the code behind `mine.target`."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def read(files: Mapping[str, str]) -> dict[str, str]:
        for name, text in files.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_text(text)
        for name in [name for name in sys.modules if name.partition(".")[0] in ("mine", "mine_lib")]:
            monkeypatch.delitem(sys.modules, name)
        importlib.invalidate_caches()
        modules.home_of.cache_clear()
        return code_behind(importlib.import_module("mine").target).as_plain()

    return read


def test_code_is_followed_through_every_module_of_the_user(behind: Behind) -> None:
    assert set(behind(FILES)) == {
        "mine.target", "mine.Net", "mine.Net.forward", "mine.act", "mine.WIDTH", "mine_lib.scaling.scale",
        "mine_lib._deep.factor", "mine_lib._deep.SETTINGS", "mine_lib.shapes.area",
    }  # fmt: skip


CHANGES = [
    ("mine.py", "return Net()", "return [Net()]", "mine.target"),
    ("mine.py", "WIDTH = 8", "WIDTH = 9", "mine.WIDTH"),
    ("mine.py", "return act(x) *", "return act(x) +", "mine.Net.forward"),
    ("mine.py", "F.relu(", "F.gelu(", "mine.act"),
    ("mine.py", "torch.nn.functional as F", "torch.special as F", "mine.act"),
    ("mine_lib/scaling.py", "x * factor()", "x + factor()", "mine_lib.scaling.scale"),
    ("mine_lib/_deep.py", "'factor': 2", "'factor': 3", "mine_lib._deep.SETTINGS"),
    ("mine_lib/shapes.py", "x * x", "x ** 2", "mine_lib.shapes.area"),
]


@pytest.mark.parametrize(("file", "was", "now", "named"), CHANGES)
def test_a_change_is_known_by_the_name_of_what_changed(
    behind: Behind, file: str, was: str, now: str, named: str
) -> None:
    before = behind(FILES)
    after = behind({**FILES, file: FILES[file].replace(was, now)})
    assert [name for name in {**before, **after} if before.get(name) != after.get(name)] == [named]


SAME = [
    ("mine.py", "def act(x):\n", 'def act(x):\n    """Activate."""\n    # as before\n'),
    ("mine.py", "return F.relu(scaled(x))", "return F.relu(\n        scaled(x),\n    )"),
    ("mine_lib/shapes.py", "def area", '"""Shapes."""\n\ndef area'),
    ("mine.py", "import math\n", "import math, json\nimport mine_lib\n"),
    ("mine.py", "UNUSED = 1", "UNUSED = 2"),
    ("mine.py", "return math.pi", "return math.tau"),
    ("mine.py", "print(target())", "print(2)"),
    ("mine_lib/_deep.py", "'factor'", '"factor"'),
    ("mine_lib/scaling.py", "return 1", "return 2"),
    ("mine_lib/shapes.py", "def edge(x):\n    return x\n", ""),
]


@pytest.mark.parametrize(("file", "was", "now"), SAME)
def test_what_does_not_decide_the_result_changes_nothing(behind: Behind, file: str, was: str, now: str) -> None:
    assert was in FILES[file]
    assert behind(FILES) == behind({**FILES, file: FILES[file].replace(was, now)})


REACHED = [
    ("from helpers_lib import *", "step(x)"),
    ("import helpers_lib", "getattr(helpers_lib, 'st' + 'ep')(x)"),
    ("import importlib", "importlib.import_module('helpers_lib').step(x)"),
    ("from importlib import import_module", "import_module('helpers_lib').step(x)"),
    ("try:\n    from helpers_lib import step\nexcept ImportError:\n    step = None", "step(x)"),
    ("def late():\n    from helpers_lib import step\n    return step", "late()(x)"),
    ("import helpers_lib as h\nSTEPS = {'a': h.step}", "STEPS['a'](x)"),
    ("import helpers_lib as h\nSTEPS = dict(a=h.step)", "STEPS['a'](x)"),
    ("import helpers_lib as h\nclass Mine(h.Base):\n    pass", "Mine()(x)"),
    ("import helpers_lib as h\ndef _step(x):\n    return h.step(x)", "globals()['_step'](x)"),
    ("import helpers_lib as h\ndef mine(x, by=h.step):\n    return by(x)", "mine(x)"),
    ("from helpers_lib import wrap\n@wrap\ndef mine(x):\n    return x", "mine(x)"),
]


@pytest.mark.parametrize(("top", "call"), REACHED)
def test_a_helper_is_found_however_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, top: str, call: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    helper = (
        "def step(x):\n    return x + 1\ndef wrap(f):\n    return lambda x: step(f(x))\n"
        "class Base:\n    __call__ = lambda self, x: step(x)\n"
    )
    digests = []
    for text in (helper, helper.replace("x + 1", "x + 2")):
        (tmp_path / "helpers_lib.py").write_text(text)
        (tmp_path / "named_lib.py").write_text(f"{top}\ndef target(x):\n    return {call}\n")
        for name in ("helpers_lib", "named_lib"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        importlib.invalidate_caches()
        modules.home_of.cache_clear()
        digests.append(code_behind(importlib.import_module("named_lib").target).digest)
    assert digests[0] != digests[1]


def test_a_function_without_a_file_counts_by_its_instructions() -> None:
    def digest(number: int) -> str:
        text = (
            f"import sys\nfrom kmr.cache import describe\n\ndef helper(x):\n    return x + {number}\n\n"
            "class Mine:\n    def f(self, x):\n        return helper(x)\n\nprint(describe(Mine)['source'])\n"
        )
        return subprocess.run([sys.executable, "-"], input=text, capture_output=True, text=True, check=True).stdout

    assert digest(1) == digest(1) != digest(2)


def test_a_rule_of_this_project_counts_with_the_modules_it_imports() -> None:
    behind = code_behind(StructuredPruning)
    assert set(behind.as_plain()) == {"kmr", "torch_pruning", "numpy"}
    assert behind.digest != code_behind(LowRank).digest != code_behind(FineTune).digest
    assert "torch_pruning" not in code_behind(FineTune).as_plain()


def test_another_version_of_a_library_is_other_code(behind: Behind, monkeypatch: pytest.MonkeyPatch) -> None:
    using = {"mine.py": "import scipy.linalg\n\ndef target():\n    return scipy.linalg.svd\n"}
    assert behind(using)["scipy"] == modules.version_of("scipy")
    monkeypatch.setattr("kmr.cache.code.version_of", lambda name: "0.0")
    assert behind(using)["scipy"] == "0.0"
    assert describe(nn.Linear) == {"code": "torch.nn.modules.linear:Linear"}
