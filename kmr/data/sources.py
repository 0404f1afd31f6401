"""Where a split's samples come from: memory, a `Dataset`, an `IterableDataset` or a `DataLoader`."""

import itertools
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, default_collate

from kmr.core import KMRError, isolated_rng
from kmr.data.samples import separated
from kmr.data.structures import arguments, as_labels, as_tensors, joined, length_of, rows_of


class Source(ABC):
    """Samples in batches of (places, inputs, targets); `places` are positions in the source, or None if unknown."""

    indexed: bool = True
    """Whether samples can be read by their index."""

    @abstractmethod
    def __len__(self) -> int:
        """Return the number of samples."""

    @abstractmethod
    def batches(self, chunks: list[Tensor] | None, size: int, seed: int | None) -> Iterator[tuple[Any, Any, Any]]:
        """Yield batches.

        Args:
            chunks: the indices of each batch; None reads all samples in order, or in an order of the source's own.
            size: samples in a batch, where the source does not decide it.
            seed: seeds an order of the source's own; None reads in order.
        """


@dataclass(frozen=True, eq=False)
class Memory(Source):
    """Inputs and targets held in memory: tensors, or nested tuples and dicts of them."""

    inputs: Any
    targets: Any

    @classmethod
    def of(cls, source: Any) -> "Memory":
        inputs, targets = separated(source)
        inputs, targets = as_tensors(inputs), as_labels(as_tensors(targets)) if targets is not None else None
        if targets is not None and length_of(inputs) != length_of(targets):
            raise KMRError(f"a split has {length_of(inputs)} inputs but {length_of(targets)} targets")
        return cls(inputs, targets)

    def __len__(self) -> int:
        return length_of(self.inputs)

    def batches(self, chunks: list[Tensor] | None, size: int, seed: int | None) -> Iterator[tuple[Any, Any, Any]]:
        for chunk in chunks if chunks is not None else torch.split(torch.arange(len(self)), size):
            # Consecutive rows are a view, without a copy; any others must be gathered.
            rows: Any = chunk
            if len(chunk) == 1 or bool((chunk[1:] - chunk[:-1] == 1).all()):
                rows = slice(int(chunk[0]), int(chunk[-1]) + 1)
            yield chunk, rows_of(self.inputs, rows), None if self.targets is None else rows_of(self.targets, rows)


@dataclass(frozen=True, eq=False)
class Indexed(Source):
    """A map-style `Dataset`, with torch's default collate function unless it brings its own as `collate_fn`."""

    dataset: Any

    def __len__(self) -> int:
        return len(cast(Sized, self.dataset))

    def batches(self, chunks: list[Tensor] | None, size: int, seed: int | None) -> Iterator[tuple[Any, Any, Any]]:
        chunks = list(torch.split(torch.arange(len(self)), size)) if chunks is None else chunks
        # Without its own generator, a loader draws its base seed from the global one and so advances it.
        loader = DataLoader(
            cast("Dataset[Any]", self.dataset),
            batch_sampler=[chunk.tolist() for chunk in chunks],
            generator=torch.Generator(),
            collate_fn=getattr(self.dataset, "collate_fn", None),
        )
        for chunk, batch in zip(chunks, loader, strict=True):
            inputs, targets = separated(batch)
            if loader.collate_fn is default_collate:
                inputs = arguments(inputs)
            yield chunk, inputs, as_labels(targets)


@dataclass(frozen=True, eq=False)
class Stream(Source):
    """An `IterableDataset` with a length, or a `DataLoader` as it is: its batches, order, sampler and workers."""

    loader: Any
    length: int
    indexed = False

    @classmethod
    def of(cls, source: Any) -> "Stream":
        if isinstance(source, DataLoader):
            sampler = source.sampler if source.batch_size is not None else None
            counted: Any = sampler if isinstance(sampler, Sized) else source.dataset
        else:
            counted = source
        try:
            return cls(source, len(counted))
        except TypeError as error:
            raise KMRError(
                f"a {type(counted).__name__} has no length: give it a __len__ that returns the samples of a pass"
            ) from error

    def __len__(self) -> int:
        return self.length

    def batches(self, chunks: list[Tensor] | None, size: int, seed: int | None) -> Iterator[tuple[Any, Any, Any]]:
        loader = self.loader
        if not isinstance(loader, DataLoader):
            loader = DataLoader(loader, batch_size=size, collate_fn=getattr(loader, "collate_fn", None))
        iterator: Iterator[Any] | None = None
        for place in itertools.count():
            # A loader draws its order when it starts and its samples as it goes, both from the global generators.
            with isolated_rng(hash((0 if seed is None else seed + 1, place)) % 2**31):
                iterator = iter(loader) if iterator is None else iterator
                batch = next(iterator, None)
            if batch is None:
                return
            inputs, targets = separated(batch)
            if loader.collate_fn is default_collate:
                inputs = arguments(inputs)
            yield None, inputs, as_labels(targets)


def source_of(source: Any) -> Source:
    """Return the source of a user's data.

    Raises:
        KMRError: the data are of another kind; the message lists those that work.
    """
    match source:
        case DataLoader() | IterableDataset():
            return Stream.of(source)
        case Mapping() | tuple() | list() if not _is_samples(source):
            return Memory.of(source)
        case str():
            pass
        case _ if hasattr(source, "__getitem__") and hasattr(source, "__len__"):
            return Indexed(source)
    raise KMRError(
        "a split must be (inputs, targets), a dict of tensors with labels, a Dataset with a length or a DataLoader, "
        f"not {type(source).__name__}"
    )


def _is_samples(source: Any) -> bool:
    """Tell whether a list holds samples, as pairs or dicts, rather than inputs and targets."""
    return isinstance(source, list) and len(source) > 0 and isinstance(source[0], tuple | Mapping)


def first_samples(batches: Iterator[tuple[Any, Any]], count: int) -> tuple[Any, Any]:
    """Return the first `count` samples of a sequence of batches as one batch."""
    inputs, targets, seen = [], [], 0
    for some, aims in batches:
        here = length_of(aims if aims is not None else some)
        kept = slice(0, min(here, count - seen))
        inputs.append(rows_of(some, kept))
        targets.append(None if aims is None else rows_of(aims, kept))
        seen += here
        if seen >= count:
            break
    return joined(inputs), None if targets[0] is None else joined(targets)
