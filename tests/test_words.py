"""One vocabulary: words that were given up stay out of the product and of the manual (`docs/glossary.md`)."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ROOTS = ("README.md", "CONTRIBUTING.md", "docs", "kmr", "sweeps", "analysis", "conf", "benchmarks")
SUFFIXES = (".py", ".md", ".yaml", ".jinja", ".js", ".html")
WORDS = (
    (r"\bdear(er|est)?\b", "expensive", "the dearest move"),
    (r"\b(come|comes|came|coming) by\b", "obtained, found", "how they are come by"),
    (r"\b(come|comes|came) true\b", "predictions hold, fail", "what it expects does not come true"),
    (r"\b(come|comes|came) to it\b|\bnot come to\b|\bwhat \w+( \w+)? (came|comes) to\b", "result", "what it comes to"),
    (r"\btold of\b|\btells? of\b", "notified of, reports", "is told of every trial"),
    (r"\b(turn|turns|turned)[ _]down\b", "rejected, infeasible", "turned down before training"),
    (r"\btaken over\b|\btaken up again\b|\btakes a study up\b", "reused, resumed", "3 trials taken over"),
    (r"\b(bear|bears|bore)\b", "tolerates, loses", "what each layer bears"),
    (r"\bforetells?\b", "predicts", "a gate foretells"),
    (r"\bunheard\b", "rejected", "dropped unheard"),
    (r"\b(tried|try|tries) again\b", "retried", "the trial is tried again"),
    (r"\b(end|ends|ended) alike\b", "failed the same way", "5 trials ended alike"),
    (r"\bshuts? out\b", "dominates, excludes", "a model shuts out others"),
    (r"\bis at as well\b|\bthey are at\b|\bprocesses are at\b", "running", "other processes are at 3 trials"),
    (r"\bneg_\w+|\bNegative(CrossEntropy|MSE|MAE|KL|ECE)\b", "cross_entropy, mse, mae, kl, ece", "neg_kl"),
    (r"\bbound_margin\b", "nothing: it is gone", "bound_margin=0.02"),
    (r"[\"'`](pruned|halted)[\"'`]", "early-stopped", 'state == "pruned"'),
    (r"[\"'`]served[\"'`]", "duplicate", 'state == "served"'),
    (r"[\"'`]interrupted[\"'`]|\b(state|Ended)\b.*[\"'`]lost[\"'`]", "retried", 'state = "interrupted"'),
    (r"\bconstraints=\{|\bwithin_budget\b|\+budget\.|\bconfig\.budget\b", "limits", "+budget.weight_bytes=2"),
    (r"\bpowered by Hydra\b", "what the command does", "entry is powered by Hydra"),
)
"""A pattern, what to write instead, and words that it finds."""


def files() -> Iterator[Path]:
    """Yield every text that is held to the vocabulary; the tables `renamed_*.py` of old and new names are not."""
    for name in ROOTS:
        path = ROOT / name
        found = [path] if path.is_file() else sorted(path.rglob("*"))
        yield from (each for each in found if each.suffix in SUFFIXES and not each.name.startswith("renamed_"))


def hits(path: Path) -> list[str]:
    """Return the old words of a file, with their places and what to write instead."""
    return [
        f"{path.relative_to(ROOT)}:{number}: {found[0]!r}: write {better}"
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        for pattern, better, _ in WORDS
        for found in re.finditer(pattern, line, flags=re.IGNORECASE)
    ]


def test_old_words_stay_out() -> None:
    found = list(files())
    assert ROOT / "docs" / "glossary.md" in found
    assert [hit for path in found for hit in hits(path)] == []


@pytest.mark.parametrize(("pattern", "better", "words"), WORDS)
def test_a_pattern_finds_what_it_is_for_and_not_its_own_remedy(pattern, better, words) -> None:
    assert re.search(pattern, words, flags=re.IGNORECASE)
    assert re.search(pattern, better, flags=re.IGNORECASE) is None


def test_every_word_of_the_design_is_in_the_glossary() -> None:
    glossary = (ROOT / "docs" / "glossary.md").read_text()
    terms = (
        "trial", "point", "front", "limit", "trials", "budget", "infeasible", "early-stopped", "duplicate", "retried",
        "acquisition", "surrogate", "prefilter", "mutation", "worker", "executor", "driver", "study", "storage", "view",
    )  # fmt: skip
    missing = [word for word in terms if f"| {word} |" not in glossary]
    assert missing == []
