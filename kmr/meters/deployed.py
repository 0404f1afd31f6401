"""Meters of the deployed model: the size of the file that a runtime loads, and the qualities of its outputs."""

from dataclasses import dataclass, field
from typing import ClassVar, final

from kmr.core import Cost, KMRError, Reading
from kmr.data import Inputs, Split
from kmr.meters.deployment import DeployedPredictions, Deployment
from kmr.meters.predictions import Predictions
from kmr.meters.wrapped import WrappedQuality
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
class Deployed(WrappedQuality):
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

    example_inputs: Inputs = field(repr=False, compare=False)
    calibration: Split | None = field(default=None, repr=False, compare=False)
    runtime: Runtime = field(default_factory=OnnxRuntime)
    threads: int = 1
    name: str = "deployed_accuracy"

    def __post_init__(self) -> None:
        self.runtime.require()
        super().__post_init__()

    def through(self, split: Split) -> Predictions:
        deployment = Deployment.of(self.runtime, self.example_inputs, self.calibration, self.threads)
        return DeployedPredictions.through(deployment, split)
