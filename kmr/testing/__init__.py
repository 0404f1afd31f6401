"""Contract tests of rules, meters and policies, for this project's parts and for your own.

    from kmr.testing import check_meter, check_policy, check_rule

    def test_my_rule() -> None:
        check_rule(MyRule(), my_model(), inputs=torch.randn(4, 3, 32, 32))

They need torch and no test framework. A part that breaks its contract raises an `AssertionError` that names the part,
the knob, the value and what was violated.
"""

from kmr.testing.meter import check_meter
from kmr.testing.policy import check_policy
from kmr.testing.rule import check_rule

__all__ = ["check_meter", "check_policy", "check_rule"]
