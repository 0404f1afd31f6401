"""Qualities read through another view of the data: in a runtime, or on perturbed inputs."""

import inspect
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor, nn

from kmr.core import KMRError, Quality, Reading
from kmr.data import Split
from kmr.meters.prediction import Accuracy, PredictionQuality
from kmr.meters.predictions import Predictions, SampleStatistics, ScoredBatch


@dataclass(frozen=True, kw_only=True)
class WrappedQuality(Quality):
    """A quality of the predictions that another view gives.

    Args:
        data: the split, or a view of it.
        original: the original model, for qualities that compare with it.
        quality: makes the quality from `data` (and `original`): a class of `kmr.meters`, or a partial of one.
    """

    data: Split | Predictions = field(repr=False, compare=False)
    original: nn.Module | None = field(default=None, repr=False, compare=False)
    quality: Callable[..., Quality] = Accuracy
    unit: str = field(init=False, default="")

    def __post_init__(self) -> None:
        quality = self._made(self.through(Predictions.of(self.data).split))
        object.__setattr__(self, "_quality", quality)
        object.__setattr__(self, "unit", quality.unit)
        object.__setattr__(self, "direction", quality.direction)

    @abstractmethod
    def through(self, split: Split) -> Predictions:
        """Return the view of a split: the same object for the same split and settings."""

    @property
    def view(self) -> Predictions:
        """The predictions that the quality reads."""
        return self._quality.view  # type: ignore[attr-defined, no-any-return]

    def statistics(self, batch: ScoredBatch) -> Tensor:
        """Return what the quality keeps of a batch."""
        return self._quality.statistics(batch)  # type: ignore[attr-defined, no-any-return]

    def read(self, seen: SampleStatistics) -> Reading:
        return self._quality.read(seen)  # type: ignore[attr-defined, no-any-return]

    def _made(self, view: Predictions) -> PredictionQuality:
        given: dict[str, object] = {"data": view}
        if "original" in inspect.signature(self.quality).parameters and self.original is not None:
            # The reference is the original as it is, in PyTorch.
            given["original"] = self.original
        made = self.quality(**given)
        if not isinstance(made, PredictionQuality):
            raise KMRError(
                f"{self.name}: quality must make a kmr.meters.PredictionQuality, not a {type(made).__name__}"
            )
        return made
