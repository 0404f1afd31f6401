"""Check of an exported model against the measured model."""

from dataclasses import dataclass

import torch

from kmr.core import KMRError
from kmr.data import Split
from kmr.meters.prediction import Accuracy, Outputs
from kmr.runtimes.runtime import Session

TOLERANCE = 0.005
"""The default tolerance: the difference that is allowed between the accuracies."""


@dataclass(frozen=True)
class Check:
    """A comparison of a model and its artifact on the same samples.

    With class numbers as targets, `model` and `artifact` are top-1 accuracies, `difference` is the second minus the
    first, and `agreement` is the share of samples with the same class. With other targets these are 0, and `difference`
    is the relative error of the artifact's outputs, ‖a − m‖ / ‖m‖.
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

    @property
    def passed(self) -> bool:
        """Whether the difference is within the tolerance."""
        return abs(self.difference) <= self.tolerance

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
    seen: tuple[list[torch.Tensor], list[torch.Tensor]] = ([], [])
    targets = []
    for inputs, wanted in split.batches():
        for session, outputs in zip((model, artifact), seen, strict=True):
            with session.pinned():
                outputs.append(session(inputs))
        targets.append(wanted.cpu())
    ours, theirs, aims = torch.cat(seen[0]), torch.cat(seen[1]), torch.cat(targets)
    if ours.shape != theirs.shape:
        raise KMRError(f"the artifact's outputs have shape {tuple(theirs.shape)}, the model's {tuple(ours.shape)}")
    if aims.is_floating_point() or ours.dim() < 2 or ours.shape[1] < 2:
        error = float((theirs - ours).double().norm() / ours.double().norm().clamp(min=1e-30))
        return Check(len(aims), 0.0, 0.0, 0.0, 0.0, 0.0, error, classes=False, tolerance=tolerance)
    meter = Accuracy(data=split)
    before, after = meter.read(Outputs(ours, aims)), meter.read(Outputs(theirs, aims))
    same = (ours.argmax(1) == theirs.argmax(1)).double().mean()
    return Check(
        len(aims), before.value, after.value, before.stderr or 0.0, after.stderr or 0.0, float(same),
        after.value - before.value, classes=True, tolerance=tolerance,
    )  # fmt: skip
