import itertools
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from toy import Scale, toy

from kmr.core import Budget, KMRError
from kmr.data import Split
from kmr.instantiations.distillation import Distillation
from kmr.instantiations.lowrank import LowRank
from kmr.instantiations.pruning import Gradual, StructuredPruning, UnstructuredPruning
from kmr.instantiations.quantization import StaticQuantization, WeightQuantization
from kmr.policies import Scheduled, legal_orders

DATA = Split((torch.zeros(4, 2), torch.zeros(4, dtype=torch.long)), 4)


@dataclass(frozen=True, kw_only=True)
class Traits(Scale):
    gives: Any = frozenset()
    wants: Any = frozenset()

    @property
    def leaves(self):
        return self.gives

    @property
    def precedes(self):
        return self.wants


def test_rules_without_needs_come_in_every_order_and_the_one_given_is_neutral() -> None:
    rules = [Scale(name=name) for name in "abc"]
    found = legal_orders(rules)
    assert set(found.values) == {" > ".join(order) for order in itertools.permutations("abc")}
    assert len(found.values) == 6
    assert found.neutral == "a > b > c"


def test_nothing_structural_follows_calibrated_ranges_and_nothing_factored_a_mask() -> None:
    rules = [
        StructuredPruning(example_inputs=torch.zeros(1, 2)), UnstructuredPruning(), LowRank(),
        StaticQuantization(data=DATA),
    ]  # fmt: skip
    orders = {tuple(order.split(" > ")) for order in legal_orders(rules).values}
    expected = {
        order
        for order in itertools.permutations(("structured", "prune", "lowrank", "static"))
        if order.index("static") > max(order.index("structured"), order.index("lowrank"))
        and order.index("prune") > order.index("lowrank")
    }
    assert orders == expected
    assert len(orders) == 5


def test_a_student_built_anew_comes_first_and_a_wrapped_rule_needs_what_it_wraps() -> None:
    student = Distillation(
        turn=("width",), student=lambda width=4: torch.nn.Linear(2, width), widths=(2,), example_inputs=None
    )
    assert legal_orders([WeightQuantization(), student]).values == ("distil > quantize",)
    gradual = Gradual(finetune=lambda model: model)
    assert (gradual.leaves, gradual.precedes) == (UnstructuredPruning().leaves, frozenset())
    assert legal_orders([gradual, LowRank()]).values == ("lowrank > gradual",)


def test_orders_that_cannot_be_or_cannot_be_listed_are_refused() -> None:
    one = Traits(name="one", gives=frozenset({"masks"}), wants=frozenset({"structure"}))
    two = Traits(name="two", gives=frozenset({"structure"}), wants=frozenset({"masks"}))
    with pytest.raises(KMRError, match="one must precede structure, which two leaves; two must precede masks"):
        legal_orders([one, two])
    with pytest.raises(KMRError, match="8 rules have more than 5040 orders"):
        legal_orders([Scale(name=name) for name in "abcdefgh"])


def test_a_schedule_follows_an_order_of_rules() -> None:
    both = toy(Scale(name="one"), Scale(name="two", index=1))
    budget = Budget("total", 0.0, 9)

    def moves(order: Any) -> list[str]:
        policy = Scheduled(both, budget, levels=1, order=order)
        return [str(policy(torch.nn.Identity(), {}, {})) for _ in range(2)]

    assert moves("two > one") == moves(["two", "one.by"]) == ["two.by=1", "one.by=1"]
    assert moves("one > two") == moves(None) == ["one.by=1", "two.by=1"]
    with pytest.raises(KMRError, match="unknown knobs three"):
        moves("one > three")
