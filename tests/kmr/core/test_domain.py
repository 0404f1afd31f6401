import pytest

from kmr.core import Choice, FloatRange, IntRange, KMRError, Knob


@pytest.mark.parametrize(
    ("domain", "inside", "outside"),
    [
        (FloatRange(0.1, 0.9, neutral=0.0), [0.0, 0.1, 0.5, 0.9], [0.05, 0.91, float("nan"), "0.5", True]),
        (FloatRange(0.0, 0.8, neutral=0.0, step=0.05), [0.3, 0.15000000000000002, 0.8], [0.31, 0.85]),
        (IntRange(2, 8, neutral=0, step=2), [0, 2, 8, 4.0], [3, 9, 2.5]),
        (Choice((8, 4), neutral=32), [8, 4, 32], [16, "8"]),
    ],
)
def test_a_domain_holds_its_values_and_its_neutral_one(domain, inside, outside) -> None:
    assert [value for value in inside if value not in domain] == []
    assert [value for value in outside if value in domain] == []


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: FloatRange(1.0, 0.0, neutral=0.0), "low=1.0"),
        (lambda: FloatRange(0.0, float("inf"), neutral=0.0), "inf"),
        (lambda: FloatRange(0.0, 1.0, neutral=0.0, step=0.0), "step"),
        (lambda: IntRange(0, 4, neutral=0, log=True), "above 0"),
        (lambda: Choice((), neutral=1), "at least one"),
        (lambda: Choice((1, 1), neutral=1), "repeats"),
        (lambda: Knob("", Choice((1,), neutral=1)), "name"),
    ],
)
def test_an_impossible_domain_is_refused_with_its_value(make, named) -> None:
    with pytest.raises(KMRError, match=named):
        make()


def test_a_knob_of_some_layers_governs_those_its_pattern_matches() -> None:
    knob = Knob("prune.sparsity@layer3.*", FloatRange(0, 1, neutral=0))
    assert [knob.governs(path) for path in ("layer3.conv1", "layer3.0.conv2", "layer2.conv1", "layer3")] == [
        True, True, False, False,
    ]  # fmt: skip
    assert Knob("prune.sparsity", FloatRange(0, 1, neutral=0)).governs("anything")


def test_a_value_outside_the_domain_names_the_knob_the_value_and_the_choices() -> None:
    with pytest.raises(KMRError, match=r"quantize.bits cannot be 7: choose one of 8, 4"):
        Knob("quantize.bits", Choice((8, 4), neutral=32)).check(7)
