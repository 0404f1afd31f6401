"""One pass of a model over a split, in which every quality keeps statistics per sample and nothing else."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar
from weakref import WeakKeyDictionary, WeakValueDictionary

import torch
from torch import Tensor, nn

from kmr.core import KMRError, Meter, SharedView, Task
from kmr.core.device import has_double
from kmr.data import Split, call
from kmr.representation.weights import computed_once
from kmr.tasks import Scores, quiet, task_before_call, task_of

if TYPE_CHECKING:
    from numpy.random import Generator


@dataclass(frozen=True, eq=False)
class ScoredBatch:
    """One batch of predictions.

    Args:
        number: the place of the batch in the split, from 0.
        scores: predictions and targets, as the split's task pairs them.
        inputs: the model's inputs.
        targets: the targets, as the task prepared them.
        task: the split's task.
        references: other models' predictions on the batch, by the model's id, so that meters share them.
        subgroups: the subgroup of each sample, (samples,), or None if the split has none.
    """

    number: int
    scores: Scores
    inputs: Any
    targets: Any
    task: Task
    references: dict[int, Scores] = field(default_factory=dict)
    subgroups: Tensor | None = None


@dataclass(frozen=True, eq=False)
class SampleStatistics:
    """What a quality keeps of a pass: one row for each sample.

    Args:
        rows: (samples, k), in double precision on the CPU.
        groups: the group of each sample, (samples,), or None if samples are independent.
    """

    rows: Tensor
    groups: Tensor | None = None

    @property
    def units(self) -> int:
        """The number of independent samples or groups."""
        return len(self.rows) if self.groups is None else len(torch.unique(self.groups))

    def resampled(self, random: "Generator") -> "SampleStatistics":
        """Return a bootstrap sample of the samples, or of the groups with all of their samples."""
        if self.groups is None:
            return SampleStatistics(self.rows[torch.from_numpy(random.integers(len(self.rows), size=len(self.rows)))])
        places = torch.unique(self.groups, return_inverse=True)[1]
        drawn = random.integers(self.units, size=self.units)
        taken = [torch.nonzero(places == int(unit)).flatten() for unit in drawn]
        numbers = torch.arange(len(taken)).repeat_interleave(torch.tensor([len(part) for part in taken]))
        return SampleStatistics(self.rows[torch.cat(taken)], numbers)


@dataclass(frozen=True, eq=False)
class Predictions(SharedView):
    """A view of a model: its outputs over one split. Meters with the same object share one pass.

    Args:
        split: the split to predict.
    """

    split: Split
    _live: ClassVar["WeakValueDictionary[int, Predictions]"] = WeakValueDictionary()

    @classmethod
    def of(cls, source: "Split | Predictions") -> "Predictions":
        """Return the predictions over a split: the same object for the same split while a reference to it exists."""
        if isinstance(source, Predictions):
            return source
        if not isinstance(source, Split):
            raise KMRError(f"a meter reads a Split or Predictions, not {type(source).__name__}")
        # Predictions hold their split, so that its id stays unique while the entry lives.
        found = cls._live.get(id(source))
        if found is None:
            found = cls._live[id(source)] = cls(source)
        return found

    @property
    def selected(self) -> bool:
        """Whether `returned` yields the task's output, rather than what the model returns."""
        return False

    @cached_property
    def _references(
        self,
    ) -> "WeakKeyDictionary[nn.Module, tuple[tuple[int, ...], dict[tuple[int, torch.device], Scores]]]":
        # By the model itself: the id of one that is gone may be another's.
        return WeakKeyDictionary()

    def references(self, original: nn.Module) -> dict[tuple[int, torch.device], Scores]:
        """Return an original's kept predictions by batch and device, as long as its tensors do not change."""
        versions = tuple(tensor._version for tensor in (*original.parameters(), *original.buffers()))
        known = self._references.get(original)
        if known is None or known[0] != versions:
            known = self._references[original] = (versions, {})
        return known[1]

    def __call__(self, model: nn.Module) -> Iterator[ScoredBatch]:
        """Yield the batches of predictions of a model, in its current mode; its buffers do not change."""
        return self._batches(model, ())

    def _batches(self, model: nn.Module, fits: Sequence[type[Task]]) -> Iterator[ScoredBatch]:
        with torch.no_grad(), _kept_buffers(model):
            yield from scored(self.split, self.returned(model), model, fits, selected=self.selected)

    def returned(self, model: nn.Module) -> Iterator[tuple[Any, Any, Any]]:
        """Yield (inputs, targets, what the model returns) for each batch."""
        with computed_once(model):
            for inputs, targets in self.split.batches():
                task = self.split.task or task_before_call(targets)
                yield inputs, targets, call(model, inputs) if task is None else task.call(model, inputs)

    def fold(self, model: nn.Module, meters: Sequence[Meter]) -> Mapping[str, Any]:
        """Run the model over the split and return the statistics of each meter, by its name."""
        parts: dict[str, list[Tensor]] = {meter.name: [] for meter in meters}
        fits = [kind for meter in meters for kind in getattr(meter, "fits", ())]
        for batch in self._batches(model, fits):
            for meter in meters:
                rows = meter.statistics(batch)  # type: ignore[attr-defined]
                parts[meter.name].append(rows.detach().to("cpu", torch.float64))
        return {name: SampleStatistics(_stacked(rows), self._groups(rows)) for name, rows in parts.items()}

    def _groups(self, rows: list[Tensor]) -> Tensor | None:
        """Return the groups of the samples that were seen (a loader may drop the last ones)."""
        return None if self.split.groups is None else self.split.groups[: sum(map(len, rows))]


def scored(
    split: Split,
    returned: Iterator[tuple[Any, Any, Any]],
    model: nn.Module | None,
    fits: Sequence[type[Task]] = (),
    *,
    selected: bool = False,
) -> Iterator[ScoredBatch]:
    """Yield batches of predictions from what a model or a runtime returned.

    Args:
        split: the split; its task has prepared the batches.
        returned: inputs, targets and what was returned, of each batch.
        model: the model, which may show the task.
        fits: the tasks of the meters.
        selected: whether the task's output was selected already.
    """
    task, start = split.task, 0
    for number, (inputs, targets, output) in enumerate(returned):
        if split.task is None:
            task = task or task_of(split, output, inputs, targets, model, fits)
            inputs, targets = task.prepare(inputs, targets)
        assert task is not None
        outputs = output if selected else task.outputs(output)
        if isinstance(outputs, Tensor) and not has_double(outputs.device):
            outputs = outputs.cpu()
        scores = task.scores(outputs, targets)
        subgroups = None if split.subgroups is None else split.subgroups[start : start + scores.samples]
        start += scores.samples
        yield ScoredBatch(number, scores, inputs, targets, task, subgroups=subgroups)


def statistics_of(model: nn.Module, meters: Sequence[Meter]) -> dict[str, SampleStatistics]:
    """Return what qualities of predictions keep of a model, in evaluation mode; meters of one view share a pass."""
    found: dict[str, SampleStatistics] = {}
    with quiet(model):
        for view in dict.fromkeys(meter.view for meter in meters):
            assert isinstance(view, Predictions)
            found |= view.fold(model, [meter for meter in meters if meter.view == view])
    return found


def _stacked(rows: list[Tensor]) -> Tensor:
    """Concatenate rows; those of fewer columns are filled up with zeros."""
    width = max((part.shape[1] for part in rows), default=0)
    return torch.cat([torch.nn.functional.pad(part, (0, width - part.shape[1])) for part in rows])


@contextmanager
def _kept_buffers(model: nn.Module) -> Iterator[None]:
    """Restore the buffers after forward passes that change or replace them."""
    before = [
        (module, name, buffer, buffer.clone())
        for module in model.modules()
        for name, buffer in module._buffers.items()
        if buffer is not None
    ]
    try:
        yield
    finally:
        for module, name, buffer, value in before:
            module._buffers[name] = buffer.copy_(value)
