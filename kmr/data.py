"""Data splits for meters and fine-tuning: batches of (inputs, targets) in a reproducible order."""

import hashlib
from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass, field
from typing import Any, TypeAlias, cast

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from kmr.core import KMRError

Inputs: TypeAlias = Any
"""A tensor, a tuple of tensors (positional arguments) or a dict of tensors (keyword arguments); batch first."""


@dataclass(frozen=True, eq=False)
class Split:
    """One split of a data set, re-iterable: the same seed gives the same batches.

    Args:
        source: a pair (inputs, targets) of tensors or arrays held in memory, or any map-style torch `Dataset` of
            (input, target) samples.
        batch_size: samples in a batch.
        rows: indices into the source of the split's samples, in its order; the whole source when None.

    Raises:
        KMRError: the source is of another kind or empty, its inputs and targets differ in length, or `batch_size` < 1.
    """

    source: Any
    batch_size: int = 256
    rows: Tensor | None = field(default=None, repr=False)
    _fingerprint: list[str] = field(default_factory=list, repr=False)

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise KMRError(f"batch_size must be at least 1, not {self.batch_size}")
        source = self.source
        if isinstance(source, tuple | list) and len(source) == 2:
            inputs, targets = (torch.as_tensor(part) for part in source)
            if len(inputs) != len(targets):
                raise KMRError(f"a split has {len(inputs)} inputs but {len(targets)} targets")
            object.__setattr__(self, "source", (inputs, targets))
        elif isinstance(source, str) or not (hasattr(source, "__getitem__") and hasattr(source, "__len__")):
            raise KMRError(f"a split must be (inputs, targets) or a Dataset with a length, not {type(source).__name__}")
        if len(self) == 0:
            raise KMRError("a split has no samples")

    def __len__(self) -> int:
        if self.rows is not None:
            return len(self.rows)
        if isinstance(self.source, tuple):
            return len(self.source[0])
        return len(cast(Sized, self.source))

    def batches(self, shuffle_seed: int | None = None) -> Iterator[tuple[Inputs, Tensor]]:
        """Yield (inputs, targets) batches, in order, or shuffled with `shuffle_seed`."""
        for _, inputs, targets in self.numbered_batches(shuffle_seed):
            yield inputs, targets

    def numbered_batches(self, shuffle_seed: int | None = None) -> Iterator[tuple[Tensor, Inputs, Tensor]]:
        """Yield (places, inputs, targets) batches; `places` holds the samples' positions in the unshuffled split."""
        generator = None if shuffle_seed is None else torch.Generator().manual_seed(shuffle_seed)
        places = torch.arange(len(self)) if generator is None else torch.randperm(len(self), generator=generator)
        chunks = torch.split(places, self.batch_size)
        if isinstance(self.source, tuple):
            inputs, targets = self.source
            for chunk in chunks:
                # Consecutive rows are a view, without a copy; any others must be gathered.
                rows: Any = self._rows(chunk)
                if generator is None and self.rows is None:
                    rows = slice(int(chunk[0]), int(chunk[-1]) + 1)
                yield chunk, inputs[rows], targets[rows]
            return
        dataset = cast("Dataset[Any]", self.source)
        # Without its own generator, a loader draws its base seed from the global one and so advances it.
        loader = DataLoader(
            dataset, batch_sampler=[self._rows(chunk).tolist() for chunk in chunks], generator=torch.Generator()
        )
        for chunk, batch in zip(chunks, loader, strict=True):
            yield chunk, batch[0], batch[1]

    def divide(self, share: float, seed: int = 0) -> tuple["Split", "Split"]:
        """Hold out a random share of the samples; return the rest and the held-out samples, without copying either.

        Args:
            share: the fraction to hold out, in (0, 1).
            seed: decides which samples are held out.

        Raises:
            KMRError: one of the two parts would be empty.
        """
        count = round(share * len(self))
        if not 0 < count < len(self):
            raise KMRError(
                f"cannot hold out a share of {share} of {len(self)} samples: one part would be empty; choose another"
            )
        order = torch.randperm(len(self), generator=torch.Generator().manual_seed(seed))
        parts = (order[count:].sort().values, order[:count].sort().values)
        rest, aside = (Split(self.source, self.batch_size, self._rows(part)) for part in parts)
        return rest, aside

    def _rows(self, places: Tensor) -> Tensor:
        return places if self.rows is None else self.rows[places]

    def first_inputs(self, count: int = 1) -> Inputs:
        """Return the inputs of the first `count` samples, at most one batch of them."""
        inputs, _ = next(self.batches())
        return map_tensors(lambda tensor: tensor[:count], inputs)

    def subset(self, count: int) -> "Split":
        """Return the first `count` samples as a split, or the whole split if it has no more."""
        if count >= len(self):
            return self
        if self.rows is not None:
            return Split(self.source, self.batch_size, self.rows[:count])
        if isinstance(self.source, tuple):
            return Split((self.source[0][:count], self.source[1][:count]), self.batch_size)
        return Split(torch.utils.data.Subset(self.source, range(count)), self.batch_size)

    def fingerprint(self) -> str:
        """Return a SHA-256 digest of all samples held in memory; of a `Dataset`, of its length and first batch."""
        if not self._fingerprint:
            digest = hashlib.sha256(str(len(self)).encode())
            if self.rows is not None:
                digest.update(self.rows.numpy().tobytes())
            batch = self.source if isinstance(self.source, tuple) else next(self.batches())
            for part in batch:
                map_tensors(lambda tensor: digest.update(tensor.contiguous().cpu().numpy().tobytes()), part)
            self._fingerprint.append(digest.hexdigest())
        return self._fingerprint[0]


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
            (inputs, targets) or a torch `Dataset`. A fourth key, preprocessing, may describe in JSON values how raw
            samples become inputs.
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
    made = {name: s if isinstance(s := splits[name], Split) else Split(s, batch_size) for name in names}
    return Data(**made, preprocessing=preprocessing)


def map_tensors(function: Any, inputs: Inputs) -> Inputs:
    """Apply a function to every tensor of nested tuples, lists and mappings."""
    match inputs:
        case Tensor():
            return function(inputs)
        case Mapping():
            return {key: map_tensors(function, value) for key, value in inputs.items()}
        case tuple() | list():
            return tuple(map_tensors(function, value) for value in inputs)
        case _:
            return inputs


def forward(model: nn.Module, inputs: Inputs) -> Tensor:
    """Call a model on a batch and return its output tensor, on the model's device.

    A tuple is passed as positional arguments and a mapping as keyword arguments. From a structured output, `forward`
    returns the `logits` or the first tensor of a tuple.

    Raises:
        KMRError: the output contains no such tensor.
    """
    device = next((p.device for p in model.parameters()), torch.device("cpu"))
    inputs = map_tensors(lambda tensor: tensor.to(device), inputs)
    match inputs:
        case Mapping():
            output = model(**inputs)
        case tuple():
            output = model(*inputs)
        case _:
            output = model(inputs)
    return output_tensor(output)


def output_tensor(output: Any) -> Tensor:
    """Return the tensor of a model's output: the output itself, its `logits`, or the first tensor of a tuple.

    Raises:
        KMRError: the output contains no such tensor.
    """
    output = getattr(output, "logits", output)
    if isinstance(output, tuple | list):
        output = output[0]
    if not isinstance(output, Tensor):
        raise KMRError(
            f"the model returned {type(output).__name__}: return a tensor, a tuple of tensors or an object with .logits"
        )
    return output
