"""What is shipped, measured: the size of the file a runtime loads, and qualities of what it computes with it."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, final

from torch import nn

from kmr.core import Cost, KMRError, Quality, Reading
from kmr.data import Inputs, Split
from kmr.meters.deployment import DeployedPredictions, Deployment
from kmr.meters.prediction import Accuracy, Outputs, Predictions, predict
from kmr.runtimes import OnnxRuntime, Runtime, Session


@final
@dataclass(frozen=True, kw_only=True)
class ArtifactBytes(Cost):
    """The size of the file that a runtime loads the model from, to the byte.

    Unit: B. Range: [0, ∞). Direction: minimize.

    A file may write small numbers in fewer bytes (zero points in ONNX), so that training changes it by a few.

    Args:
        example_inputs: a batch as the model takes it.
        calibration: data that the runtime may read ranges of activations on.
        runtime: one that loads a file.
    """

    trained: ClassVar[bool] = True
    example_inputs: Inputs = field(repr=False, compare=False)
    calibration: Split | None = field(default=None, repr=False, compare=False)
    runtime: Runtime = field(default_factory=OnnxRuntime)
    threads: int = 1
    name: str = "artifact_bytes"
    unit: str = field(init=False, default="B")

    def __post_init__(self) -> None:
        self.runtime.require()
        deployment = Deployment.of(self.runtime, self.example_inputs, self.calibration, self.threads)
        object.__setattr__(self, "_deployment", deployment)

    @property
    def view(self) -> Deployment:
        """The model as it runs."""
        return self._deployment  # type: ignore[attr-defined, no-any-return]

    def read(self, seen: Session) -> Reading:
        if seen.artifact is None:
            raise KMRError(f"{self.name}: {self.runtime.name} loads no file: weight_bytes is the size that is stored")
        return Reading(float(len(seen.artifact)))


@final
@dataclass(frozen=True, kw_only=True)
class Deployed(Quality):
    """A quality of what the runtime computes, kernels, activation ranges and all, rather than of its simulation.

    Unit, range and direction are those of the quality it reads.

    Args:
        data: the split, or a view of it.
        example_inputs: a batch as the model takes it.
        calibration: data that the runtime may read ranges of activations on.
        original: the original model, for qualities that compare with it.
        runtime: where it runs.
        quality: makes the quality from `data` (and `original`): a class of `kmr.meters`, or one with settings.
    """

    data: Split | Predictions = field(repr=False, compare=False)
    example_inputs: Inputs = field(repr=False, compare=False)
    calibration: Split | None = field(default=None, repr=False, compare=False)
    original: nn.Module | None = field(default=None, repr=False, compare=False)
    runtime: Runtime = field(default_factory=OnnxRuntime)
    quality: Callable[..., Quality] = Accuracy
    threads: int = 1
    name: str = "deployed_accuracy"
    unit: str = field(init=False, default="")

    def __post_init__(self) -> None:
        self.runtime.require()
        deployment = Deployment.of(self.runtime, self.example_inputs, self.calibration, self.threads)
        view = DeployedPredictions.through(deployment, Predictions.of(self.data).split)
        quality = self._made(view)
        object.__setattr__(self, "_quality", quality)
        object.__setattr__(self, "unit", quality.unit)
        object.__setattr__(self, "direction", quality.direction)

    @property
    def view(self) -> Predictions:
        """What the model predicts as it runs."""
        return self._quality.view  # type: ignore[attr-defined, no-any-return]

    def read(self, seen: Outputs) -> Reading:
        return self._quality.read(seen)  # type: ignore[attr-defined, no-any-return]

    def _made(self, view: Predictions) -> Quality:
        given: dict[str, object] = {"data": view}
        if "original" in inspect.signature(self.quality).parameters and self.original is not None:
            # The original as it is, not as the runtime would have it.
            given["original"] = predict(self.original, self.data)
        made = self.quality(**given)
        if not isinstance(made, Quality):
            raise KMRError(f"quality must make a Quality, not a {type(made).__name__}")
        return made
