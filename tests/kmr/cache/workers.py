"""What the worker processes of the tests do: `workers.py <what> <folder> …`, one line of JSON on standard output.

A worker says "ready" once everything is imported and waits for a line, so that several start at one time.
"""

import json
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from toy import Jitter, Numbers, Scale, toy

from kmr.cache import PrefixCache, Store, key_of
from kmr.core import (
    FineTuning,
    Instantiation,
    Move,
    Step,
    TransformationSequence,
    apply_move,
    measure,
)
from kmr.core.trace import Seconds

torch.set_num_threads(1)

SEQUENCE = (Move("scale.by", 0.5), Move("jitter.size", 0.25), Move("scale.by", 0.25))
LARGE = 300_000


def two_rules() -> Instantiation:
    return toy(Scale(), Jitter())


def follow(
    base: nn.Module,
    instantiation: Instantiation,
    moves: Sequence[Move],
    prefixes: PrefixCache,
    finetune: FineTuning | None = None,
    taken: Callable[[Move], Any] = lambda move: None,
) -> list[tuple[nn.Module, Step]]:
    """Take moves one after the other as the engine does, each through the cache."""
    reached: list[tuple[nn.Module, Step]] = []
    model = base
    for place, move in enumerate(moves):

        def take(model: nn.Module = model, move: Move = move, place: int = place) -> tuple[nn.Module, Step]:
            taken(move)
            moved, notes = apply_move(model, instantiation, move)
            moved = moved if finetune is None else finetune(moved)
            costs, qualities = measure(moved, instantiation.costs), measure(moved, instantiation.qualities)
            sequence = TransformationSequence(tuple(moves[: place + 1]))
            return moved, Step(move, sequence, costs, qualities, Seconds(rule=10.0, meter=1.0), notes=notes)

        model, step = prefixes.reach(base, instantiation, [step for _, step in reached], move, take)
        reached.append((model, step))
    return reached


def key(number: int) -> str:
    return key_of(number=number)


def large(number: int) -> dict[str, torch.Tensor]:
    return {"values": torch.full((LARGE,), float(number))}


def _compute(folder: str) -> Any:
    """Compute one key slowly; tell whether the function ran here."""
    ran: list[int] = []

    def function() -> Any:
        ran.append(1)
        time.sleep(0.5)
        return {"values": torch.arange(3.0)}, {"made": True}

    entry = Store(folder, 10**9).compute(key(0), function)
    return {"ran": len(ran), "values": entry.tensors["values"].tolist()}


def _put(folder: str, count: str) -> Any:
    """Write many large entries, saying so before each."""
    store = Store(folder, 10**9)
    for number in range(int(count)):
        print(number, flush=True)
        store.put(key(number), large(number), {"number": number})
    return "done"


def _hold(folder: str) -> Any:
    """Hold a lock until killed."""
    with Store(folder, 10**9).lock(key(0)):
        print("held", flush=True)
        sys.stdin.readline()


def _churn(folder: str, seed: str) -> Any:
    """Read and write a few keys at random in a store that has room for some of them."""
    store = Store(folder, 6 * 4 * LARGE)
    numbers = torch.randint(0, 12, (60,), generator=torch.Generator().manual_seed(int(seed))).tolist()
    wrong = 0
    for number in numbers:
        entry = store.compute(key(number), lambda number=number: (large(number), {"number": number}))  # type: ignore[misc]
        wrong += entry.metadata["number"] != number or not torch.equal(entry.tensors["values"], large(number)["values"])
    found = store.statistics()
    return {"wrong": wrong, "quarantined": found.quarantined, "lookups": found.hits + found.misses}


def _sequence(folder: str) -> Any:
    """Follow a sequence of slow moves; tell which were taken here and what was read."""
    taken: list[str] = []

    def slow(move: Move) -> None:
        taken.append(str(move))
        time.sleep(0.3)

    base = Numbers(8.0, 1.0)
    reached = follow(base, two_rules(), SEQUENCE, PrefixCache(Store(folder, 10**9), base, {}), taken=slow)
    return {
        "taken": taken,
        "values": [model.values.tolist() for model, _ in reached],  # type: ignore[union-attr, operator]
        "readings": [[reading.value for reading in step.readings.values()] for _, step in reached],
    }


if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.readline()
    what = {"compute": _compute, "put": _put, "hold": _hold, "churn": _churn, "sequence": _sequence}[sys.argv[1]]
    Path(sys.argv[2]).mkdir(exist_ok=True)
    print(json.dumps(what(*sys.argv[2:])), flush=True)
