"""Meters of the deployed model: the size of the file that a runtime loads, and the qualities of its outputs."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, final

from torch import Tensor, nn

from kmr.core import Cost, KMRError, Quality, Reading
from kmr.data import Inputs, Split
from kmr.meters.deployment import DeployedPredictions, Deployment
from kmr.meters.prediction import Accuracy, PredictionQuality
from kmr.meters.predictions import Predictions, SampleStatistics, ScoredBatch
from kmr.runtimes import OnnxRuntime, Runtime, Session


@final
@dataclass(frozen=True, kw_only=True)
class ArtifactBytes(Cost):
    """The exact size of the file from which a runtime loads the model.

    Unit: B. Range: [0, ∞). Direction: minimize.

    A format may encode small numbers in fewer bytes (zero points in ONNX), so training changes the size slightly.

    Args:
        example_inputs: a batch as the model takes it.
        calibration: data on which the runtime may measure activation ranges.
        runtime: a runtime that loads a file.
        threads: CPU threads.
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
        """The deployment that prepares the model."""
        return self._deployment  # type: ignore[attr-defined, no-any-return]

    def read(self, seen: Session) -> Reading:
        if seen.artifact is None:
            raise KMRError(f"{self.name}: {self.runtime.name} loads no file: use weight_bytes, the size in storage")
        return Reading(float(len(seen.artifact)))


@final
@dataclass(frozen=True, kw_only=True)
class Deployed(Quality):
    """A quality of the runtime's outputs, with its kernels and activation ranges, instead of the simulation's.

    Unit, range and direction are the wrapped quality's.

    Args:
        data: the split, or a view of it.
        example_inputs: a batch as the model takes it.
        calibration: data on which the runtime may measure activation ranges.
        original: the original model, for qualities that compare with it.
        runtime: the runtime to run the model in.
        quality: makes the quality from `data` (and `original`): a class of `kmr.meters`, or a partial of one.
        threads: CPU threads.
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
        """The deployed model's predictions."""
        return self._quality.view  # type: ignore[attr-defined, no-any-return]

    def statistics(self, batch: ScoredBatch) -> Tensor:
        """Return what the quality keeps of a batch."""
        return self._quality.statistics(batch)  # type: ignore[attr-defined, no-any-return]

    def read(self, seen: SampleStatistics) -> Reading:
        return self._quality.read(seen)  # type: ignore[attr-defined, no-any-return]

    def _made(self, view: Predictions) -> PredictionQuality:
        given: dict[str, object] = {"data": view}
        if "original" in inspect.signature(self.quality).parameters and self.original is not None:
            # The reference is the original in PyTorch, not in the runtime.
            given["original"] = self.original
        made = self.quality(**given)
        if not isinstance(made, PredictionQuality):
            raise KMRError(
                f"{self.name}: quality must make a kmr.meters.PredictionQuality, not a {type(made).__name__}"
            )
        return made
