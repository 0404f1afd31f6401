import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from toy import Scale, toy

from kmr.core import Choice, FloatRange, Instantiation, IntRange, Move, TransformationSequence
from kmr.instantiations.quantization import WeightQuantization
from kmr.meters import WeightBytes
from sweeps.errors import SweepError
from sweeps.experiment.knob_space import parameter_space, search_space, to_params, to_sequence
from sweeps.search.space import distributions, grid


@pytest.fixture
def both():
    return toy(Scale(name="one"), Scale(name="two", index=1))


def test_a_knob_without_an_entry_is_searched_over_its_whole_domain(both) -> None:
    space = search_space(both, {"one": {"by": {"low": 0.0, "high": 0.5, "step": 0.25}}})
    assert space == {
        "one.by": FloatRange(0.0, 0.5, neutral=0.0, step=0.25),
        "two.by": FloatRange(-1.0, 1.0, neutral=0.0),
    }


def test_a_knob_can_be_fixed_listed_or_left_out(both) -> None:
    assert search_space(both, {"one": {"by": 0.5}, "two": {"by": None}}) == {"one.by": Choice((0.5,), neutral=0.0)}
    assert search_space(both, {"one": {"by": {"values": [0.0, 0.5]}}, "two.by": None}) == {
        "one.by": Choice((0.0, 0.5), neutral=0.0)
    }


def test_an_entry_of_a_setting_is_that_of_all_its_knobs() -> None:
    rule = WeightQuantization(name="quantize", layers=("early", "late"))
    instantiation = Instantiation("bits", (rule,), (WeightBytes(name="bytes"),), ())
    few, fewer = Choice((32, 8), neutral=32), Choice((32, 4), neutral=32)
    every = {"bits": {"values": [32, 8]}}
    assert search_space(instantiation, {"quantize": every}) == {"quantize.bits@early": few, "quantize.bits@late": few}
    one = {**every, "bits@late": {"values": [32, 4]}}
    assert search_space(instantiation, {"quantize": one}) == {"quantize.bits@early": few, "quantize.bits@late": fewer}
    assert list(search_space(instantiation, {"quantize": {**every, "bits@late": None}})) == ["quantize.bits@early"]


@pytest.mark.parametrize(
    ("config", "named"),
    [
        ({"three": {"by": 0.5}}, r"unknown knob three\.by: there are one\.by, two\.by"),
        ({"one": {"by": {"low": -2.0}}}, r"space\.one\.by cannot be -2\.0: choose \[-1\.0, 1\.0\]"),
        ({"one": {"by": {"values": [0.5, 3.0]}}}, r"space\.one\.by cannot be 3\.0"),
        ({"one": {"by": 4}}, r"space\.one\.by cannot be 4"),
        ({"one": {"by": {"low": 0.5, "high": 0.1}}}, r"space\.one\.by.*low=0\.5"),
        ({"one": {"by": {"low": 0.5, "hihg": 0.9}}}, "hihg"),
        ({"one": {"by": None}, "two": {"by": None}}, "empty"),
        ({"one": {"by": "much"}}, "much"),
        ({"three": {"by": 1}}, r"unknown knob three\.by: there are one\.by.*'~space'"),
    ],
)
def test_an_entry_that_fits_no_knob_is_refused_by_value(both, config, named) -> None:
    with pytest.raises(SweepError, match=named):
        search_space(both, config)


def test_each_domain_has_its_distribution_and_its_grid() -> None:
    space = {
        "a": FloatRange(0.0, 0.5, neutral=0.0, step=0.25),
        "b": IntRange(1, 8, neutral=1, log=True),
        "c": Choice((32, 8), neutral=32),
        "d": FloatRange(0.0, 1.0, neutral=0.0),
    }
    assert distributions(space) == {
        "a": FloatDistribution(0.0, 0.5, step=0.25),
        "b": IntDistribution(1, 8, log=True),
        "c": CategoricalDistribution((32, 8)),
        "d": FloatDistribution(0.0, 1.0),
    }
    assert grid(space) == {
        "a": [0.0, 0.25, 0.5],
        "b": [1, 2, 3, 4, 5, 6, 7, 8],
        "c": [32, 8],
        "d": [0.0, 0.25, 0.5, 0.75, 1.0],
    }


def test_a_vector_becomes_moves_in_the_order_of_the_rules_and_back(both) -> None:
    space = search_space(both, {})
    sequence = to_sequence(both, {"two.by": 0.30000000000000004, "one.by": 0.0})
    assert sequence == TransformationSequence((Move("two.by", 0.3),))
    assert to_params(both, space, sequence) == {"one.by": 0.0, "two.by": 0.3}


def test_moves_no_vector_stands_for_have_no_params(both) -> None:
    space = search_space(both, {"one": {"by": {"low": 0.5, "high": 0.9}}})
    swapped = TransformationSequence((Move("two.by", 0.5), Move("one.by", 0.5)))
    twice = TransformationSequence((Move("one.by", 0.5), Move("one.by", 0.6)))
    assert to_params(both, space, swapped) is None
    assert to_params(both, space, twice) is None
    assert to_params(both, space, TransformationSequence((Move("two.by", 0.5),))) is None, "one.by cannot stay neutral"


def test_a_policys_parameters_are_ints_floats_or_choices() -> None:
    config = {"budget": {"low": 0.1, "high": 0.8}, "levels": {"low": 2, "high": 5}, "x": {"values": [True]}}
    assert parameter_space(config) == {
        "budget": FloatRange(0.1, 0.8, neutral=0.1),
        "levels": IntRange(2, 5, neutral=2),
        "x": Choice((True,), neutral=True),
    }  # fmt: skip
    for bad in ({"budget": 0.5}, {"budget": {"low": 0.1}}, {"levels": {"values": []}}):
        with pytest.raises(SweepError, match="policy_space"):
            parameter_space(bad)


def test_a_policys_order_may_be_any_legal_one(both) -> None:
    found = parameter_space({"order": {"values": "legal"}}, both.rules)
    assert found == {"order": Choice(("one > two", "two > one"), neutral="one > two")}
