"""Static costs: a knob vector's costs before training, and the key that vectors of the same model share.

The moves are applied to the base model without fine-tuning, and the meters that depend on structure and bits only are
read. Fine-tuning does not change these readings, except that a mask may gain weights that became zero, which lowers a
cost further. Common prefixes of vectors are computed once and cached in memory.
"""

import time
from collections import OrderedDict
from collections.abc import Collection, Hashable, Mapping
from dataclasses import dataclass

from torch import nn

from kmr.cache import Store, fingerprint, keeping
from kmr.core import Instantiation, Move, TransformationSequence, apply_move, measure
from sweeps.experiment.knob_space import to_sequence
from sweeps.search.problem import Params


@dataclass(frozen=True)
class _UntrainedModel:
    """A model after a sequence without training, its fingerprint, and its size in bytes."""

    model: nn.Module
    digest: str
    size: int


class Statics:
    """Cached static costs and keys of one model's vectors.

    Args:
        model: M₀.
        instantiation: the rules and the meters.
        wanted: names of the objectives and of the limited meters.
        store: caches the rules' intermediate results.
        most_bytes: memory for models that vectors with a common prefix share.
    """

    def __init__(
        self,
        model: nn.Module,
        instantiation: Instantiation,
        wanted: Collection[str],
        store: Store | None = None,
        most_bytes: int = 400_000_000,
    ) -> None:
        self._instantiation, self._store = instantiation, store
        meters = tuple(meter for meter in instantiation.costs if meter.static and meter.name in wanted)
        self._meters = Instantiation("static", (), meters, ())
        self._base = _made(model)
        self._most_bytes, self._bytes = most_bytes, 0
        self._kept: OrderedDict[TransformationSequence, _UntrainedModel] = OrderedDict()
        self._keys: dict[TransformationSequence, Hashable] = {}
        self._costs: dict[Hashable, dict[str, float]] = {}
        self._broken: set[Hashable] = set()
        self._read, self._spent = 0, 0.0

    @property
    def names(self) -> tuple[str, ...]:
        """The objectives and limited meters that can be read before training."""
        return tuple(meter.name for meter in self._meters.costs)

    @property
    def seconds(self) -> float:
        """The mean time for a new vector."""
        return self._spent / self._read if self._read else 0.0

    def costs(self, params: Params) -> Mapping[str, float]:
        """Return the static readings by name; none if a rule needs training first, or cannot be applied."""
        sequence = to_sequence(self._instantiation, params)
        key = self.key_of(sequence)
        if key not in self._costs:
            if key in self._broken or self._trains(sequence) or not self._meters.costs:
                return {}
            started = time.perf_counter()
            readings = measure(self._reach(self._without_recovery(sequence)).model, self._meters.costs)
            self._costs[key] = {name: reading.value for name, reading in readings.items()}
            self._spent += time.perf_counter() - started
        return self._costs[key]

    def key(self, params: Params) -> Hashable:
        """Return a key that is equal for vectors that lead to the same model."""
        return self.key_of(to_sequence(self._instantiation, params))

    def key_of(self, sequence: TransformationSequence) -> Hashable:
        """Return a key that is equal for sequences that lead to the same model.

        Two sequences are equal if, without training, they give the same structure, bits and values. Examples: a ratio
        that removes no further channel, a rank that rounds to the same number, a stage that changes nothing.
        """
        if sequence not in self._keys:
            started = time.perf_counter()
            self._keys[sequence] = self._find_key(sequence)
            self._read, self._spent = self._read + 1, self._spent + time.perf_counter() - started
        return self._keys[sequence]

    def least(self, name: str) -> float | None:
        """Return the smallest reading of a meter so far, or None."""
        seen = [costs[name] for costs in self._costs.values() if name in costs]
        return min(seen) if seen else None

    def remember(self, sequence: TransformationSequence, key: Hashable) -> None:
        """Reuse the key of a sequence from an earlier run, so that its model need not be rebuilt."""
        self._keys.setdefault(sequence, key)

    def _find_key(self, sequence: TransformationSequence) -> Hashable:
        if self._trains(sequence):
            return str(sequence)
        try:
            lasting = self._without_recovery(sequence)
            recovery = [str(move) for move in sequence if move not in lasting.moves]
            return " ".join([self._reach(lasting).digest, *recovery])
        except Exception:  # a rule may raise anything; the trial itself reports the error
            self._broken.add(str(sequence))
            return str(sequence)

    def _trains(self, sequence: TransformationSequence) -> bool:
        return any(self._instantiation.rule_of(move.knob).trains for move in sequence)

    def _without_recovery(self, sequence: TransformationSequence) -> TransformationSequence:
        rule_of = self._instantiation.rule_of
        return TransformationSequence(tuple(move for move in sequence if not rule_of(move.knob).recovers))

    def _reach(self, sequence: TransformationSequence) -> _UntrainedModel:
        moves = tuple(sequence)
        length = len(moves)
        while length and TransformationSequence(moves[:length]) not in self._kept:
            length -= 1
        beginning = TransformationSequence(moves[:length])
        made = self._base
        if length:
            self._kept.move_to_end(beginning)
            made = self._kept[beginning]
        for end in range(length, len(moves)):
            made = self._take(TransformationSequence(moves[: end + 1]), made, moves[end])
        return made

    def _take(self, sequence: TransformationSequence, here: _UntrainedModel, move: Move) -> _UntrainedModel:
        with keeping(self._store):
            made = _made(apply_move(here.model, self._instantiation, move, self._base.model)[0])
        if made.digest == here.digest:
            made = here  # the stage changed nothing, so the two share one model
        self._kept[sequence] = made
        self._bytes += made.size
        while self._bytes > self._most_bytes and len(self._kept) > 1:
            self._bytes -= self._kept.popitem(last=False)[1].size
        return made


def _made(model: nn.Module) -> _UntrainedModel:
    tensors = [*model.parameters(), *model.buffers()]
    return _UntrainedModel(model, fingerprint(model), sum(tensor.numel() * tensor.element_size() for tensor in tensors))
