"""Models on the way of a sequence, kept so that the next run which begins alike starts where this one went.

A model's key is made of its parent's key, the rule that made it (class, version, settings) and the move; the chain
starts at the base model's weights and code and at whatever else is fixed. What meters read of a model is kept apart,
under the meters and the machine: another meter, or another host's clock, is no reason to train again.
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
"""Raised with what an entry holds, and where a rule comes to make other models: older ones are not recalled."""


@final
class PrefixCache:
    """Recalls the models and steps that beginnings of a sequence led to, and keeps new ones.

    Args:
        store: where; any number of processes may share it.
        base: M₀, as runs are given it; it must not change.
        context: everything else that is fixed and that a model depends on, by name: the fine-tuning recipe, data, or
            anything that `kmr.cache.describe` takes. The version of torch is added to it.
        worth: seconds; what was made in less is not kept, since recalling it would take as long.

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
        """Return the model and step that one more move leads to, taking the move only where nobody has.

        A process that asks for what another is just computing waits for it. What `take` raises is raised, and nothing
        is kept.

        Args:
            base: M₀.
            instantiation: the rules and meters.
            steps: the accepted steps so far, without the base model's.
            move: the next one, not neutral.
            take: applies it to the model of the last step and measures the result.
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
        """What runs of this process had from the cache: `hits` are moves recalled, `misses` moves taken.

        Seconds saved are those that the recalled moves took, less those spent on recalling them.
        """
        with self._guard:
            return self._counts

    def _check(self, base: nn.Module) -> None:
        if base is not self._base:
            raise KMRError("a prefix cache serves runs from one base model: make another for this one")

    def _keys(self, instantiation: Instantiation, moves: Sequence[Move]) -> list[str]:
        """Return the keys of the beginnings of these moves, up to the first whose rule cannot be described."""
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
        """Describe a part once; None, and one warning, where it cannot be."""
        if id(part) not in self._described:
            try:
                description = how(part)
            except KMRError as error:
                warn(f"models of {part.name} are not cached: {error}")
                description = None
            # The part is kept as well, so that its id stands for no other.
            self._described[id(part)] = (part, description)
        return self._described[id(part)][1]

    def _readings_key(self, instantiation: Instantiation, key: str) -> str:
        return key_of(model=key, meters=self._describe(instantiation, meters_of), machine=self._machine)

    def _recall(
        self, instantiation: Instantiation, moves: Sequence[Move], key: str, before: Sequence[Step] | None = None
    ) -> tuple[nn.Module, Step] | None:
        """Return a known model and its step; one never measured so is measured where the steps before it are given."""
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
        # The shortest last: many sequences begin with it, and what follows from it is of little use without it.
        for key in reversed(keys):
            self.store.touch(self._readings_key(instantiation, key))
            self.store.touch(key)

    def _count(self, *, hits: int = 0, misses: int = 0, saved: float = 0.0) -> None:
        with self._guard:
            had = self._counts
            self._counts = replace(
                had, hits=had.hits + hits, misses=had.misses + misses, seconds_saved=had.seconds_saved + saved
            )
