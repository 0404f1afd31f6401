"""Prefix cache: intermediate models of a sequence of moves, reused by later runs with the same beginning.

A model's key combines its parent's key, the rule that made it (its code and settings) and the move. The chain starts
at the base model's weights and code and the fixed context. A rule's code is its source with all that it calls, and the
versions of the libraries. Readings are stored separately, under the meters and the machine: a new meter, or another
host's clock, needs no new training.
"""

import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from threading import Lock
from typing import Any, final

import torch
from torch import nn

from kmr.artifact import packing, structure
from kmr.cache.identity import describe, fingerprint
from kmr.cache.keys import key_of
from kmr.cache.models import NotStorable, from_content, to_content
from kmr.cache.statistics import Statistics, warn
from kmr.cache.steps import canonical, made_as_json, meters_of, readings_as_json, readings_of, stage_of, step_of
from kmr.cache.store import Store
from kmr.core import Instantiation, KMRError, Move, Step, measure

FORMAT = 2
"""The version of an entry's content; increased when the content changes. Others are ignored."""


@final
class PrefixCache:
    """A cache of the models and steps that prefixes of a sequence led to.

    Args:
        store: the store; any number of processes may share it.
        base: M₀, the same object as in the runs; it must not change.
        context: everything else that models depend on, by name, such as the fine-tuning recipe and the data; any type
            that `kmr.cache.describe` takes. The version of torch is added.
        worth: minimum seconds of computation for a model to be stored; recalling faster ones would save nothing.

    Raises:
        KMRError: a part of the context cannot be described.
    """

    def __init__(self, store: Store, base: nn.Module, context: Mapping[str, Any], *, worth: float = 0.0) -> None:
        self.store = store
        self._worth = worth
        self._base = base
        devices = sorted({str(tensor.device) for tensor in (*base.parameters(), *base.buffers())})
        self._root = key_of(
            format=[FORMAT, packing.FORMAT, structure.FORMAT],
            base=fingerprint(base),
            context=describe(context),
            torch=torch.__version__,
            devices=devices,
        )
        self._machine = [platform.node(), platform.machine(), torch.get_num_threads(), *devices]
        self._described: dict[int, tuple[object, Any]] = {}
        self._counts = Statistics()
        self._guard = Lock()

    def reach(
        self,
        base: nn.Module,
        instantiation: Instantiation,
        steps: Sequence[Step],
        move: Move,
        take: Callable[[], tuple[nn.Module, Step]],
    ) -> tuple[nn.Module, Step]:
        """Return the model and step that one more move leads to; take the move only if it is not cached.

        If another process is computing the same model, wait for it. An exception of `take` is passed on, and nothing is
        stored.

        Args:
            base: M₀.
            instantiation: the rules and meters.
            steps: the accepted steps so far, without the base model's.
            move: the next move, not neutral.
            take: applies the move to the model of the last step and measures the result.

        Raises:
            KMRError: the base is not that of this cache.
        """
        self._check(base)
        moves = [*(step.move for step in steps if step.move is not None), move]
        keys = self._keys(instantiation, moves)
        if len(keys) < len(moves):
            self._count(misses=1)
            return take()
        try:
            known = self._recall(instantiation, moves, keys[-1])
            if known is None:
                with self.store.lock(keys[-1]):
                    known = self._recall(instantiation, moves, keys[-1], steps)
                    if known is None:
                        self._count(misses=1)
                        started = time.perf_counter()
                        model, step = take()
                        if time.perf_counter() - started >= self._worth:
                            self._keep(instantiation, keys[-1], model, (*steps, step))
                        return model, step
            return known
        finally:
            self._touch(instantiation, keys)

    @property
    def counts(self) -> Statistics:
        """The cache's statistics for this process: `hits` are moves recalled, `misses` moves taken.

        `seconds_saved` is the time that the recalled moves once took, minus the time to recall them.
        """
        with self._guard:
            return self._counts

    def _check(self, base: nn.Module) -> None:
        if base is not self._base:
            raise KMRError("this prefix cache belongs to another base model: make one for this model")

    def _keys(self, instantiation: Instantiation, moves: Sequence[Move]) -> list[str]:
        """Return the keys of the prefixes of these moves, up to the first rule that cannot be described."""
        keys: list[str] = []
        if self._describe(instantiation, meters_of) is None:
            return keys
        parent = self._root
        for move in moves:
            stage = self._describe(instantiation.rule_of(move.knob), stage_of)
            if stage is None:
                break
            knob = instantiation.knob(move.knob)
            parent = key_of(parent=parent, **stage, knob=knob.name, value=canonical(knob, move.value))
            keys.append(parent)
        return keys

    def _describe(self, part: Any, how: Callable[[Any], Any]) -> Any:
        """Describe a part once; return None, with one warning, if it cannot be described."""
        if id(part) not in self._described:
            try:
                description = how(part)
            except KMRError as error:
                warn(f"models of {part.name} are not cached: {error}")
                description = None
            # A reference to the part keeps its id from being reused.
            self._described[id(part)] = (part, description)
        return self._described[id(part)][1]

    def _readings_key(self, instantiation: Instantiation, key: str) -> str:
        return key_of(model=key, meters=self._describe(instantiation, meters_of), machine=self._machine)

    def _recall(
        self, instantiation: Instantiation, moves: Sequence[Move], key: str, before: Sequence[Step] | None = None
    ) -> tuple[nn.Module, Step] | None:
        """Return a cached model and its step; measure it if its readings are missing and `before` is given."""
        started = time.perf_counter()
        readings_key = self._readings_key(instantiation, key)
        if key not in self.store or (before is None and readings_key not in self.store):
            return None
        entry, readings = self.store.get(key), self.store.get(readings_key)
        if entry is None or (before is None and readings is None):
            return None
        try:
            model = from_content(self._base, (entry.tensors, entry.metadata["model"]))
        except KMRError as error:
            warn(str(error))
            self.store.remove(key)
            return None
        made = entry.metadata["steps"][-1]
        if readings is not None:
            step = step_of(moves, made, *readings_of(readings.metadata["steps"][-1]))
        else:
            assert before is not None
            measuring = time.perf_counter()
            step = step_of(moves, made, measure(model, instantiation.costs), measure(model, instantiation.qualities))
            step = replace(step, seconds=replace(step.seconds, meter=time.perf_counter() - measuring))
            self._keep_readings(instantiation, key, (*before, step))
        self._count(hits=1, saved=sum(asdict(step.seconds).values()) - (time.perf_counter() - started))
        return model, step

    def _keep(self, instantiation: Instantiation, key: str, model: nn.Module, steps: Sequence[Step]) -> None:
        """Keep a model and the steps that led to it; warn where it would not come back exactly as it is."""
        try:
            tensors, described = to_content(self._base, model)
            spent = steps[-1].seconds
            metadata = {"model": described, "steps": made_as_json(steps)}
            self.store.put(key, tensors, metadata, spent.rule + spent.finetune + spent.other)
            self._keep_readings(instantiation, key, steps)
        except NotStorable as reason:
            warn(str(reason))

    def _keep_readings(self, instantiation: Instantiation, key: str, steps: Sequence[Step]) -> None:
        seconds = sum(step.seconds.meter for step in steps)
        self.store.put(self._readings_key(instantiation, key), {}, {"steps": readings_as_json(steps)}, seconds)

    def _touch(self, instantiation: Instantiation, keys: Sequence[str]) -> None:
        # The shortest prefix last, as the most recent: many sequences share it, and longer ones need it.
        for key in reversed(keys):
            self.store.touch(self._readings_key(instantiation, key))
            self.store.touch(key)

    def _count(self, *, hits: int = 0, misses: int = 0, saved: float = 0.0) -> None:
        with self._guard:
            had = self._counts
            self._counts = replace(
                had, hits=had.hits + hits, misses=had.misses + misses, seconds_saved=had.seconds_saved + saved
            )
