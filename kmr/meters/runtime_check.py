"""Check of an exported model against the measured model."""

import math
from dataclasses import dataclass

import torch

from kmr.core import KMRError
from kmr.data import Split
from kmr.meters.statistics import ratio
from kmr.runtimes.runtime import Session
from kmr.tasks import ClassScores, task_of

TOLERANCE = 0.005
"""The default tolerance: the difference that is allowed between the accuracies."""

_ROUNDING = 1e-5
"""The relative change of outputs that another order of additions causes in single precision."""


@dataclass(frozen=True)
class Check:
    """A comparison of a model and its artifact on the same samples.

    With class numbers as targets, `model` and `artifact` are top-1 accuracies, `difference` is the second minus the
    first, and `agreement` is the share of samples with the same class. With other targets these are 0, and `difference`
    is the relative error of the artifact's outputs, ‖a − m‖ / ‖m‖, which `change` is in any case.
    """

    samples: int
    model: float
    artifact: float
    model_stderr: float
    artifact_stderr: float
    agreement: float
    difference: float
    classes: bool
    tolerance: float
    change: float = math.nan

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance, or no more than a rounding that decides between ties."""
        return abs(self.difference) <= self.tolerance or self.change <= _ROUNDING

    def __str__(self) -> str:
        verdict = "within" if self.passed else "outside"
        if self.classes:
            return (
                f"top-1 {self.artifact:.4f} ± {self.artifact_stderr:.4f}, the model's {self.model:.4f} "
                f"({self.difference:+.4f}, {verdict} the tolerance of {self.tolerance:g}); same class for "
                f"{self.agreement:.2%} of {self.samples} samples"
            )
        return (
            f"outputs differ by {self.difference:.2e} of their norm ({verdict} the tolerance of {self.tolerance:g}), "
            f"{self.samples} samples"
        )


def check(model: Session, artifact: Session, split: Split, *, tolerance: float = TOLERANCE) -> Check:
    """Run a split through a model and its artifact and compare.

    Args:
        model: the session of the measured model, in eager PyTorch.
        artifact: the session of the exported model.
        split: the samples, such as validation data.
        tolerance: the largest allowed difference in top-1 accuracy, or relative error.
    """
    if not tolerance >= 0:
        raise KMRError(f"tolerance must be 0 or more, not {tolerance}")
    hits: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    same, entries, samples = 0.0, 0, 0
    changed = size = torch.zeros((), dtype=torch.float64)
    task = split.task
    for inputs, wanted in split.batches():
        with model.pinned():
            ours = model(inputs)
        with artifact.pinned():
            theirs = artifact(inputs)
        if ours.shape != theirs.shape:
            raise KMRError(f"the artifact's outputs have shape {tuple(theirs.shape)}, the model's {tuple(ours.shape)}")
        if split.task is None:
            task = task or task_of(split, ours, inputs, wanted)
            inputs, wanted = task.prepare(inputs, wanted)
        assert task is not None
        before, after = (task.scores(outputs, wanted) for outputs in (ours, theirs))
        samples += before.samples
        if isinstance(before, ClassScores) and isinstance(after, ClassScores):
            for scores, kept in zip((before, after), hits, strict=True):
                kept.append(scores.per_sample(scores.each(lambda logits, aims: logits.argmax(1) == aims)))
            same += float(before.each(lambda one, _, two: one.argmax(1) == two.argmax(1), after).sum())
            entries += len(before.targets)
        changed = changed + (theirs - ours).double().square().sum()
        size = size + ours.double().square().sum()
    error = float((changed / size.clamp(min=1e-60)).sqrt())
    if not entries:
        return Check(samples, 0.0, 0.0, 0.0, 0.0, 0.0, error, classes=False, tolerance=tolerance)
    (one, doubt), (other, other_doubt) = (ratio(torch.cat(kept), split.groups) for kept in hits)
    return Check(
        samples,
        one,
        other,
        doubt,
        other_doubt,
        same / entries,
        other - one,
        classes=True,
        tolerance=tolerance,
        change=error,
    )
