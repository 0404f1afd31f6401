"""Whether what is shipped computes what was measured: an exported model held against the one it came from."""

from dataclasses import dataclass

import torch

from kmr.core import KMRError
from kmr.data import Split
from kmr.meters.prediction import Accuracy, Outputs
from kmr.runtimes.runtime import Session

TOLERANCE = 0.005
"""The share of samples by which the accuracies may differ where nothing else is asked for."""


@dataclass(frozen=True)
class Check:
    """How a model and its artifact do on the same samples.

    For class numbers as targets, `model` and `artifact` are top-1 accuracies, and `agreement` is the share of samples
    given the same class. For any other targets they are None, and `difference` is the relative error of the artifact's
    outputs, ‖a − m‖ / ‖m‖.
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
        model: the model as it was measured, in eager PyTorch.
        artifact: what was made of it.
        split: samples; validation data, say.
        tolerance: of the difference in top-1 accuracy, or of the relative error.
    """
    if not tolerance >= 0:
        raise KMRError(f"a tolerance is 0 or more, not {tolerance}")
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
