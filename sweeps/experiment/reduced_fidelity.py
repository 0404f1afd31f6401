"""Low fidelity: a share of the fine-tuning steps, and meters that read a share of their data."""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import TypeVar

from kmr.core import Instantiation, Meter
from kmr.data import Split
from kmr.finetune import FineTune
from kmr.meters import Predictions
from sweeps.errors import SweepError

M = TypeVar("M", bound=Meter)


def at_share(instantiation: Instantiation, finetune: FineTune, share: float) -> tuple[Instantiation, FineTune]:
    """Scale the meters' data and the fine-tuning steps to a share of full fidelity.

    Args:
        instantiation: its meters read a model's outputs over a split, or do not depend on data.
        finetune: must have a number of steps, as kmr.finetune.FineTune has.
        share: in (0, 1); at least one step and 32 samples remain.

    Raises:
        SweepError: the fine-tuning has no number of steps.
    """
    if "steps" not in {entry.name for entry in fields(finetune)}:
        raise SweepError(
            f"halving needs a finetune with a number of steps, which {type(finetune).__name__} lacks: use another one, "
            "such as kmr.finetune.FineTune, or set halving=null"
        )
    few: dict[int, Predictions] = {}  # by split, so that meters of one split still share their predictions

    def few_of(split: Split) -> Predictions:
        if id(split) not in few:
            few[id(split)] = Predictions.of(split.subset(max(32, round(share * len(split)))))
        return few[id(split)]

    def reads_few(meters: Sequence[M]) -> tuple[M, ...]:
        return tuple(
            replace(meter, data=few_of(data.split))  # type: ignore[call-arg]
            if isinstance(data := getattr(meter, "data", None), Predictions) else meter
            for meter in meters
        )  # fmt: skip

    return (
        replace(instantiation, costs=reads_few(instantiation.costs), qualities=reads_few(instantiation.qualities)),
        replace(finetune, steps=max(1, round(share * finetune.total_steps))),
    )
