"""Self-distillation (Zhang et al. 2019, "Be Your Own Teacher"): deeper exits of a model teach shallower ones."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, final

from torch import Tensor, nn

from kmr.core import KMRError
from kmr.data import Split
from kmr.finetune import Batch, Guidance, Guide
from kmr.instantiations.distillation.losses import hinton, softened
from kmr.instantiations.features import tapped
from kmr.representation.early_exits import EarlyExits
from kmr.tasks import BoundLoss, TaskLoss, bound_loss


@final
@dataclass(frozen=True, kw_only=True, eq=False)
class SelfDistillation(Guide):
    """An added loss: the mean over exits of (1 − weight)·loss(exit) + weight·T²·KL(next deeper exit ‖ exit).

    The model's own output teaches the last exit. Targets are detached, so that no gradient reaches the deeper exit.
    Without exits this guide has no effect.

    Args:
        temperature: T, above 0.
        weight: weight of the deeper exit against the labels, 0 to 1.
        loss: a function of (an exit's logits, targets).
        factor: factor of the added loss, at least 0.
    """

    temperature: float = 3.0
    weight: float = 0.5
    loss: Any = field(default_factory=TaskLoss)
    factor: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0 or not 0 <= self.weight <= 1 or self.factor < 0:
            raise KMRError(
                f"self-distillation needs temperature > 0, weight in [0, 1] and factor >= 0, not {self.temperature}, "
                f"{self.weight} and {self.factor}"
            )

    @contextmanager
    def attach(self, model: nn.Module, data: Split, original: nn.Module | None) -> Iterator[Guidance]:
        """Return the guidance of one training."""
        heads = [f"heads.{place}" for place in range(len(model.heads))] if isinstance(model, EarlyExits) else []
        with tapped(model, heads) as seen:
            objective = bound_loss(self.loss, data, model) if heads else None
            yield _Exits(self, heads, seen, objective)


@dataclass(eq=False)
class _Exits(Guidance):
    settings: SelfDistillation
    heads: list[str]
    seen: Mapping[str, Tensor]
    objective: BoundLoss | None

    def __call__(self, loss: Tensor, batch: Batch) -> Tensor:
        """Return the loss plus the loss of the exits."""
        how, deeper = self.settings, batch.outputs
        exits = [self.seen[head] for head in self.heads]
        for logits in reversed(exits):
            assert self.objective is not None
            taught = softened({"deeper": deeper.detach()}, how.temperature, 1)
            distance = hinton(logits, taught, how.temperature, 1).mean()
            own = (1 - how.weight) * self.objective.of(logits, batch.targets) + how.weight * distance
            loss = loss + how.factor * own / len(exits)
            deeper = logits
        return loss
