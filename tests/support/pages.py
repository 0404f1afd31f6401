"""Pages of the manual as tests read them: their fenced blocks, their commands, and what stands before each."""

import importlib.util
import re
import shlex
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).parent.parent.parent
DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md")))
_BLOCK = re.compile(
    r"(?:<!-- (?P<mark>run|not run: [^>]+?) -->\n)?^```(?P<language>\w+)\n(?P<text>.*?)^```$", re.M | re.S
)
_COMMAND = re.compile(r"^(?:    |- |)(?:KMR_DATA=\S+ )?(python -m (?:sweeps|analysis)\S* ?.*)$", re.M)


@dataclass(frozen=True)
class Block:
    """A fenced block; `mark` is the comment before it: `run` for commands, or `not run: why` for code."""

    page: Path
    language: str
    text: str
    mark: str

    @property
    def commands(self) -> list[list[str]]:
        """The words of each command in it."""
        return [shlex.split(line, comments=True) for line in self.text.splitlines() if line.strip()]


def blocks(page: Path, language: str) -> list[Block]:
    """Return the blocks of a language, in order."""
    found = [Block(page, m["language"], m["text"], m["mark"] or "") for m in _BLOCK.finditer(page.read_text())]
    return [block for block in found if block.language == language]


def block(page: Path, language: str, holding: str) -> str:
    """Return the text of the first block of a language that holds some words."""
    return next(each.text for each in blocks(page, language) if holding in each.text)


def commands(page: Path) -> list[list[str]]:
    """Return the words of every `python -m sweeps…` line of a page, whether in a fence or indented."""
    return [shlex.split(words, comments=True) for words in _COMMAND.findall(page.read_text())]


def generator() -> ModuleType:
    """Return `docs/generate.py` as a module."""
    spec = importlib.util.spec_from_file_location("generate", DOCS / "generate.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
