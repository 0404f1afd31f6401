"""Contract of a meter: finite readings, equal for equal models, without side effects."""

import copy
import dataclasses

from torch import nn

from kmr.core import Cost, Meter, Quality, isolated_rng, measure
from kmr.testing.claim import Claim
from kmr.testing.snapshot import changes, snapshot


def check_meter(meter: Meter, model: nn.Module, *, repeatable: bool = True) -> None:
    """Check that a meter keeps its contract on a model.

    The meter has a name that can be changed, a unit and a direction. Its reading is finite, and not negative if it is a
    cost. Reading changes neither the model (tensors, gradients, train and eval modes, hooks) nor the process (random
    states, threads, torch's switches). Equal models have equal readings, whatever their mode and the random state.

    Args:
        meter: the meter to check.
        model: the model to measure; it is not changed.
        repeatable: False for a meter that reads a clock or an energy counter, which differs on every read.

    Raises:
        AssertionError: names the meter and the violation.
    """
    claim = Claim(f"meter {meter.name}")
    claim.check(isinstance(meter, Cost | Quality), f"{type(meter).__name__} is neither a Cost nor a Quality")
    claim.check(meter.name, "it has no name")
    claim.check(meter.unit, "it has no unit; '1' is that of a plain number")
    claim.check(meter.direction in ("minimize", "maximize"), f"its direction is {meter.direction!r}")
    claim.check(not isinstance(meter, Cost) or meter.direction == "minimize", "it is a cost that is maximised")
    before = snapshot(model)
    with claim.runs("reading"):
        reading = meter(model)
    claim.check_none(changes(before, snapshot(model)), "reading changes the model or the process")
    claim.check(reading.stderr is None or reading.stderr >= 0, f"its standard error is {reading.stderr}")
    with claim.runs("reading under another name"):
        named = list(measure(copy.deepcopy(model), [dataclasses.replace(meter, name="renamed")]))
    claim.check(named == ["renamed"], "it cannot be given another name")
    if not repeatable:
        return
    with claim.runs("reading again"), isolated_rng(7):
        again = {"the same model": meter(model), "a copy of it": meter(copy.deepcopy(model))}
        again["the model in training mode"] = meter(copy.deepcopy(model).train())
        again["the model in evaluation mode"] = meter(copy.deepcopy(model).eval())
    for what, other in again.items():
        claim.check(
            other == reading, f"{what} reads {other.value:g} ± {other.stderr}, not {reading.value:g} ± {reading.stderr}"
        )
