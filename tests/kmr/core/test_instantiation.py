import pytest
from toy import Largest, Scale, Total, toy

from kmr.core import Instantiation, KMRError, compose


def test_composition_is_the_union_in_order_and_shares_equal_meters() -> None:
    first = Instantiation("a", (Scale(name="one"),), (Total(),), (Largest(),))
    second = Instantiation("b", (Scale(name="two", index=1),), (Total(),), (Largest(),))
    both = compose(first, second)
    assert [knob.name for knob in both.knobs] == ["one.by", "two.by"]
    assert (both.name, len(both.costs), len(both.qualities)) == ("a + b", 1, 1)
    assert both.rule_of("two.by").name == "two"


def test_a_knob_name_twice_is_refused_with_the_way_out() -> None:
    with pytest.raises(KMRError, match=r"duplicate knob scale\.by: give one of the rules another `name`"):
        compose(toy(Scale()), toy(Scale(index=1)))


def test_different_meters_of_one_name_are_refused() -> None:
    with pytest.raises(KMRError, match="duplicate meter total"):
        compose(toy(Scale()), Instantiation("b", (), (Total(name="total"),), (Largest(name="total"),)))


def test_an_unknown_knob_names_those_there_are() -> None:
    with pytest.raises(KMRError, match=r"unknown knob other: toy has scale\.by"):
        toy(Scale()).knob("other")
