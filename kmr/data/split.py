"""Data splits for meters and fine-tuning: batches of (inputs, targets) in a reproducible order."""

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from kmr.core import KMRError
from kmr.core.task import Task
from kmr.data.labels import numbered
from kmr.data.sources import Memory, Source, first_samples, source_of
from kmr.data.structures import Inputs, length_of, map_tensors, rows_of


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a data set, re-iterable: the same seed gives the same batches.

    Args:
        source: a pair (inputs, targets) of tensors or arrays held in memory, either of them possibly a tuple or dict of
            tensors; a dict of tensors with the targets in `labels`; a torch `Dataset` or `IterableDataset` with a
            length, whose samples are such pairs or dicts; or a `DataLoader`, used as it is.
        batch_size: samples in a batch; a `DataLoader` has its own.
        rows: indices into the source of the split's samples, in its order; the whole source when None.
        task: what a batch means; None leaves it to the first outputs (see `kmr.tasks.task_of`).
        groups: a number for each sample, (n,): samples of one group (sentences of a document, say) are not independent,
            so that standard errors are computed over groups.
        subgroups: a number for each sample, (n,): the part of the population that it belongs to, of which
            `kmr.meters.WorstGroupAccuracy` reads the worst.

    Raises:
        KMRError: the source is of another kind or empty, its inputs and targets differ in length, or `batch_size` < 1.
    """

    source: Any
    batch_size: int = 256
    rows: Tensor | None = field(default=None, repr=False)
    task: Task | None = None
    groups: Tensor | None = field(default=None, repr=False)
    subgroups: Tensor | None = field(default=None, repr=False)
    _fingerprint: list[str] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise KMRError(f"batch_size must be at least 1, not {self.batch_size}")
        if isinstance(made := self._from, Memory):
            object.__setattr__(self, "source", (made.inputs, made.targets))
        if len(self) == 0:
            raise KMRError("a split has no samples")
        for name in ("groups", "subgroups"):
            if getattr(self, name) is None:
                continue
            numbers = torch.as_tensor(getattr(self, name))
            object.__setattr__(self, name, numbers)
            if numbers.shape != (len(self),):
                raise KMRError(
                    f"{name} must have one number for each of {len(self)} samples, not {tuple(numbers.shape)}"
                )

    @cached_property
    def _from(self) -> Source:
        return source_of(self.source)

    def __len__(self) -> int:
        return len(self._from) if self.rows is None else len(self.rows)

    @property
    def steps(self) -> int:
        """The number of batches."""
        loader = getattr(self._from, "loader", None)
        if loader is not None and hasattr(loader, "batch_size"):
            return len(loader)
        return -(-len(self) // self.batch_size)

    @property
    def in_memory(self) -> bool:
        """Whether all samples are held in memory."""
        return isinstance(self._from, Memory)

    def batches(self, shuffle_seed: int | None = None) -> Iterator[tuple[Inputs, Any]]:
        """Yield (inputs, targets) batches, in order, or shuffled with `shuffle_seed`."""
        for _, inputs, targets in self.numbered_batches(shuffle_seed):
            yield inputs, targets

    def numbered_batches(self, shuffle_seed: int | None = None) -> Iterator[tuple[Tensor | None, Inputs, Any]]:
        """Yield (places, inputs, targets) batches; `places` holds the samples' positions in the unshuffled split.

        Places are None for a `DataLoader` and an `IterableDataset`, whose order is their own.
        """
        if not self._from.indexed:
            for _, inputs, targets in self._from.batches(None, self.batch_size, shuffle_seed):
                yield (None, *self._prepared(inputs, targets))
            return
        places = torch.arange(len(self))
        if shuffle_seed is not None:
            places = torch.randperm(len(self), generator=torch.Generator().manual_seed(shuffle_seed))
        chunks = list(torch.split(places, self.batch_size))
        rows = [self._rows(chunk) for chunk in chunks]
        for chunk, (_, inputs, targets) in zip(chunks, self._from.batches(rows, self.batch_size, None), strict=True):
            yield (chunk, *self._prepared(inputs, targets))

    def _prepared(self, inputs: Any, targets: Any) -> tuple[Any, Any]:
        return (inputs, targets) if self.task is None else self.task.prepare(inputs, targets)

    def divide(self, share: float, seed: int = 0) -> tuple["Split", "Split"]:
        """Hold out a random share of the samples; return the rest and the held-out samples, without copying either.

        Args:
            share: the fraction to hold out, in (0, 1).
            seed: decides which samples are held out.

        Raises:
            KMRError: one of the two parts would be empty, or the samples cannot be read by index.
        """
        count = round(share * len(self))
        if not 0 < count < len(self):
            raise KMRError(
                f"cannot hold out a share of {share} of {len(self)} samples: one part would be empty; choose another"
            )
        if not self._from.indexed:
            raise KMRError(
                f"cannot hold out a share of a {type(self.source).__name__}, whose samples have no index: give a "
                "Dataset, or set the validation samples yourself"
            )
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        rest, aside = (self._at(part.sort().values) for part in (order[count:], order[:count]))
        return rest, aside

    def _at(self, places: Tensor) -> "Split":
        return replace(self, rows=self._rows(places), _fingerprint=[], **self._numbers_of(places))

    def _numbers_of(self, places: Tensor | slice) -> dict[str, Any]:
        """Return the groups and the subgroups of some samples."""
        both = {"groups": self.groups, "subgroups": self.subgroups}
        return {name: None if numbers is None else numbers[places] for name, numbers in both.items()}

    def _rows(self, places: Tensor) -> Tensor:
        return places if self.rows is None else self.rows[places]

    def first_inputs(self, count: int = 1) -> Inputs:
        """Return the inputs of the first `count` samples, at most one batch of them."""
        inputs, targets = next(self.batches())
        return rows_of(inputs, slice(0, count)) if length_of(inputs if targets is None else targets) > count else inputs

    def subset(self, count: int) -> "Split":
        """Return the first `count` samples as a split, or the whole split if it has no more."""
        if count >= len(self):
            return self
        numbers = self._numbers_of(slice(0, count))
        if self.rows is not None:
            return replace(self, rows=self.rows[:count], **numbers, _fingerprint=[])
        if not self._from.indexed:
            # The new split prepares them for its task.
            return self._gathered(replace(self, task=None).batches(), count)
        if isinstance(self._from, Memory):
            kept = rows_of(self.source, slice(0, count)) if self.source[1] is not None else None
            source = kept if kept is not None else (rows_of(self.source[0], slice(0, count)), None)
            return replace(self, source=source, **numbers, _fingerprint=[])
        return replace(self, rows=torch.arange(count), **numbers, _fingerprint=[])

    def sample(self, count: int, seed: int) -> tuple[Inputs, Any]:
        """Return one batch of `count` samples (or all, if there are fewer) drawn by a seed: (inputs, targets)."""
        if self._from.indexed:
            return next(replace(self, batch_size=count).batches(shuffle_seed=seed))
        return first_samples(self.batches(shuffle_seed=seed), count)

    def _gathered(self, batches: Iterator[tuple[Any, Any]], count: int) -> "Split":
        """Return samples of a source without an index as a split held in memory."""
        return replace(self, source=first_samples(batches, count), groups=None, subgroups=None, _fingerprint=[])

    def fingerprint(self) -> str:
        """Return a SHA-256 digest of all samples held in memory; of other sources, of their length and first batch."""
        if not self._fingerprint:
            digest = hashlib.sha256(str(len(self)).encode())
            if self.rows is not None:
                digest.update(self.rows.numpy().tobytes())
            if self.subgroups is not None:
                digest.update(_bytes(self.subgroups))
            batch = self.source if self.in_memory else next(self.batches())
            for part in batch:
                map_tensors(lambda tensor: digest.update(_bytes(tensor)), part)
            self._fingerprint.append(digest.hexdigest())
        return self._fingerprint[0]


def _bytes(tensor: Tensor) -> bytes:
    plain = tensor.detach().contiguous().cpu()
    return plain.reshape(-1).view(torch.uint8).numpy().tobytes()


@dataclass(frozen=True, eq=False)
class Data:
    """The three splits of a sweep: train for fine-tuning, validation to rank trials, test for the final report.

    `preprocessing` describes, in JSON values, how raw samples become inputs; it is stored with every saved model.
    """

    train: Split
    validation: Split
    test: Split
    preprocessing: Mapping[str, Any] = field(default_factory=dict)

    def fingerprint(self) -> str:
        """Return one digest of the three splits."""
        return hashlib.sha256(
            "".join(split.fingerprint() for split in (self.train, self.validation, self.test)).encode()
        ).hexdigest()


def as_data(splits: object, batch_size: int) -> Data:
    """Convert the return value of a user's data function to `Data`.

    Args:
        splits: a `Data`, or a mapping with the keys train, validation and test; each value a `Split`, a pair
            (inputs, targets), a dict of tensors with labels, a torch `Dataset` or a `DataLoader`. Further keys:
            preprocessing may describe in JSON values how raw samples become inputs; groups and subgroups may
            hold a number for each sample of a split (`Split`).
        batch_size: samples in a batch, for values that are not a `Split` already.

    Raises:
        KMRError: a split is missing, empty or of another kind.
    """
    if isinstance(splits, Data):
        return splits
    names = ("train", "validation", "test")
    if not isinstance(splits, Mapping) or any(name not in splits for name in names):
        given = ", ".join(map(str, splits)) if isinstance(splits, Mapping) else type(splits).__name__
        raise KMRError(f"data must be a dict with the keys {', '.join(names)}; it has {given}")
    preprocessing = splits.get("preprocessing") or {}
    if not isinstance(preprocessing, Mapping):
        raise KMRError(f"preprocessing must be a dict of JSON values, not {type(preprocessing).__name__}")
    sources, labels = numbered({name: splits[name] for name in names})
    if labels:
        print(f"labels: {', '.join(f'{n} {text}' for n, text in enumerate(labels))}")
    numbers = {key: splits.get(key) or {} for key in ("groups", "subgroups")}
    for key, by_split in numbers.items():
        if unknown := set(by_split) - set(names):
            raise KMRError(f"{key} has {', '.join(map(str, unknown))}; its keys are {', '.join(names)}")
    made = {}
    for name in names:
        try:
            of_name: dict[str, Any] = {key: by_split.get(name) for key, by_split in numbers.items()}
            given = sources[name]
            made[name] = given if isinstance(given, Split) else Split(given, batch_size, **of_name)
        except KMRError as error:
            raise KMRError(f"{name}: {error}") from error
    return Data(**made, preprocessing=preprocessing)
