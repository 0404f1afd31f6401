"""The training loop: it preserves masks and grids, is reproducible by its seed, and stops on divergence.

Masks and grids are parametrizations: the optimizer moves only the latent weights under them. The loop settles those at
its end (`kmr.representation.weights.settle`).
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn

from kmr.core import KMRError, NonFiniteReading, device_of, isolated_rng
from kmr.core.device import autocast
from kmr.data import Inputs, Split, length_of
from kmr.data.structures import moved
from kmr.finetune.batches import training_batches
from kmr.finetune.guides import Batch, Guide
from kmr.finetune.schedules import CURVES, Schedule, advance, make_scheduler, needs_validation
from kmr.finetune.selection import Selection
from kmr.representation.weights import settle
from kmr.tasks import BoundLoss, TaskLoss, bound_loss
from kmr.tasks.losses import prepared

ProgressCallback: TypeAlias = Callable[[int, int, float], None]
"""A callback after every step: gets (steps done, total steps, loss)."""

BatchLoss: TypeAlias = Callable[[nn.Module, tuple[Inputs, Tensor]], Tensor]
"""A loss of (model, batch): a scalar mean over the batch, which is (inputs, targets)."""

_PRECISIONS = {"fp32": None, "bf16": torch.bfloat16, "fp16": torch.float16}
_RENAMED = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
"""Names of precisions in version 0.1."""

_NO_KERNEL = ("primitive", "not implemented for", "'Half'", "'BFloat16'", "same dtype")
"""Parts of torch's messages about operations that a device lacks in a type."""


def _sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.02, momentum=0.9, nesterov=True, weight_decay=1e-4)


@dataclass(frozen=True, kw_only=True)
class FineTune:
    """A fine-tuning recipe that trains a model in place; the same model, data and seed give the same result.

    Args:
        data: the training split; reshuffled each epoch from `seed`.
        loss: a function of (outputs, targets), or a `kmr.tasks.TaskLoss`, by default the loss of the data's task.
        batch_loss: a function of (model, (inputs, targets)) in place of `loss`, for losses that need more than outputs
            and targets.
        epochs: passes over the data, possibly fractional; overridden by `steps`.
        steps: optimizer steps; None follows `epochs`.
        seconds: a time limit; training stops after the step that exceeds it, so the result depends on the machine.
        optimizer: makes the optimizer from the model's parameters.
        schedule: the learning rate falls along a half `cosine` or a line (`linear`) to 0, or stays `constant`; or a
            callable that makes any torch scheduler from the optimizer, stepped after each step (`ReduceLROnPlateau`:
            after each validation).
        warmup: steps over which the learning rate first rises; only for schedules by name.
        accumulate: batches whose gradients are averaged for each optimizer step.
        drop_last: leave out the last batch of an epoch if it is smaller. A last batch of one sample otherwise joins the
            batch before it, since batch normalisation cannot train on one sample.
        max_norm: the 2-norm to which gradients are clipped; None does not clip.
        precision: the type in which products are computed: that of the weights (`fp32`), or under autocast `bf16` or
            `fp16` (with loss scaling). Weights keep their type.
        augment: transforms a batch of inputs with torch's seeded random generator.
        validation: the samples whose loss decides `keep` and `patience`.
        holdout: the share of `data` held out for validation where `validation` is None, in [0, 1).
        keep: end with the `last` weights, or with the `best` by validation loss, the initial ones included.
        patience: stop after this many validations in a row without improvement; None never stops early.
        check_every: steps between validations; by default an epoch, or a tenth of the training if that is less.
        guides: additional training goals, by name; each adds to the loss of those before it.
        original: the uncompressed model, the teacher of guides that name none.
        seed: seeds the order of samples, dropout, augmentation and the choice of held-out samples.
        progress: called after every step.

    Raises:
        KMRError: a setting is out of range or contradicts another.
        NonFiniteReading: the loss or a weight became NaN or infinite.
    """

    data: Split = field(repr=False)
    loss: Any = field(default_factory=TaskLoss)
    batch_loss: BatchLoss | None = None
    epochs: float = 1.0
    steps: int | None = None
    seconds: float | None = None
    optimizer: Callable[[Any], torch.optim.Optimizer] = _sgd
    schedule: Schedule = "cosine"
    warmup: int = 0
    accumulate: int = 1
    drop_last: bool = False
    max_norm: float | None = 5.0
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    augment: Callable[[Inputs], Inputs] | None = None
    validation: Split | None = field(default=None, repr=False)
    holdout: float = 0.0
    keep: Literal["last", "best"] = "last"
    patience: int | None = None
    check_every: int | None = None
    guides: Mapping[str, Guide] = field(default_factory=dict)
    original: nn.Module | None = field(default=None, repr=False)
    seed: int = 0
    progress: ProgressCallback | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "loss", prepared(self.loss))
        if isinstance(self.schedule, str) and self.schedule not in CURVES:
            raise KMRError(
                f"FineTune: schedule must be one of {', '.join(CURVES)} or make a scheduler, not {self.schedule!r}"
            )
        object.__setattr__(self, "precision", _RENAMED.get(self.precision, self.precision))
        if self.precision not in _PRECISIONS:
            raise KMRError(f"FineTune: precision must be one of {', '.join(_PRECISIONS)}, not {self.precision!r}")
        if self.keep not in ("last", "best"):
            raise KMRError(f"FineTune: keep must be last or best, not {self.keep!r}")
        if not 0 <= self.holdout < 1:
            raise KMRError(f"FineTune: holdout must be a share of the data in [0, 1), not {self.holdout}")
        if self._selects and self.validation is None and self.holdout == 0:
            raise KMRError(
                "FineTune: keep=best, patience and ReduceLROnPlateau need validation samples: set holdout, e.g. to 0.1"
            )
        for name in ("patience", "check_every", "accumulate"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise KMRError(f"FineTune: {name} must be at least 1, not {value}")
        if self.seconds is not None and not self.seconds > 0:
            raise KMRError(f"FineTune: seconds must be above 0, not {self.seconds}")
        for name, guide in dict(self.guides or {}).items():
            if not isinstance(guide, Guide):
                raise KMRError(f"FineTune: guides.{name} must be a kmr.finetune.Guide, not a {type(guide).__name__}")
        object.__setattr__(self, "guides", dict(self.guides or {}))
        if self.total_steps < 0 or self.warmup < 0:
            raise KMRError(
                f"FineTune: epochs, steps and warmup must be at least 0, not {self.epochs}, {self.steps} and "
                f"{self.warmup}"
            )

    @property
    def total_steps(self) -> int:
        """The optimizer steps of one call, unless it stops early."""
        if self.steps is not None:
            return self.steps
        return round(self.epochs * self._epoch)

    def __call__(self, model: nn.Module) -> nn.Module:
        """Train the model in place and return it; every module keeps its train or eval mode."""
        total = self.total_steps
        if total == 0 or not any(p.requires_grad for p in model.parameters()):
            return model
        modes = [(module, module.training) for module in model.modules()]
        with isolated_rng(self.seed):
            self._train(model, total)
        settle(model)
        for module, training in modes:
            module.training = training
        return model

    @cached_property
    def _parts(self) -> tuple[Split, Split | None]:
        """The training split, and the validation split or None."""
        if not self._selects or self.validation is not None:
            return self.data, self.validation
        return self.data.divide(self.holdout, self.seed)

    @property
    def _selects(self) -> bool:
        return self.keep == "best" or self.patience is not None or needs_validation(self.schedule)

    @property
    def _epoch(self) -> int:
        """The optimizer steps of a pass over the data."""
        data = self._parts[0]
        batches = data.steps
        if batches > 1 and (remainder := len(data) % data.batch_size) and (self.drop_last or remainder == 1):
            batches -= 1
        return math.ceil(batches / self.accumulate)

    def _train(self, model: nn.Module, total: int) -> None:
        data, judged = self._parts
        started = time.monotonic()
        objective = BoundLoss(None, data.task)
        if self.batch_loss is None or self.guides:
            objective = bound_loss(self.loss, data, model)
        parameters = [p for p in model.parameters() if p.requires_grad]
        if self.precision == "fp16" and any(p.dtype == torch.float16 for p in parameters):
            raise KMRError(
                "FineTune: precision fp16 scales gradients, which torch cannot undo for weights in float16: "
                "set precision to fp32 or bf16, or make the weights float32"
            )
        every = self.check_every or max(1, min(self._epoch, math.ceil(total / 10)))
        with ExitStack() as stack:
            guidances = [
                stack.enter_context(guide.attach(model, data, self.original)) for guide in self.guides.values()
            ]
            extra = [p for guidance in guidances for p in guidance.parameters]
            optimizer = self.optimizer([{"params": parameters}, {"params": extra}] if extra else parameters)
            scheduler = make_scheduler(self.schedule, optimizer, total, self.warmup)
            seen: list[Tensor] = []
            if guidances:
                handle = model.register_forward_hook(lambda _m, _i, output: seen.append(objective.found_in(output)))
                stack.callback(handle.remove)
            selection = None
            if judged is not None and self._selects:
                score_of = partial(self._score, model, judged, objective)
                selection = Selection(model, score_of, self.patience, self.keep == "best")
                selection.check()
            scaler = torch.amp.GradScaler(device_of(model).type, enabled=self.precision == "fp16")
            model.train()
            for made, (places, inputs, targets) in enumerate(self._batches(data, total)):
                done, part = divmod(made, self.accumulate)
                if self.augment is not None:
                    inputs = self.augment(inputs)
                seen.clear()
                with self._autocast(model):
                    loss = self._loss(model, inputs, targets, objective)
                    for guidance in guidances:
                        batch = Batch(places, inputs, targets, seen[0], self.augment is not None)
                        loss = guidance(loss, batch)
                value = float(loss.detach())
                if not math.isfinite(value):
                    raise NonFiniteReading(f"the training loss became {value} at step {done}: lower the learning rate")
                if part == 0:
                    optimizer.zero_grad(set_to_none=True)
                scaler.scale(loss / self.accumulate).backward()  # type: ignore[no-untyped-call]
                if part + 1 < self.accumulate:
                    continue
                scaler.unscale_(optimizer)
                if self.max_norm is not None:
                    # Clipped separately, so that a guide's own parameters do not change how the model is clipped.
                    nn.utils.clip_grad_norm_(parameters, self.max_norm)
                    nn.utils.clip_grad_norm_(extra, self.max_norm)
                scale = scaler.get_scale()
                scaler.step(optimizer)
                scaler.update()
                # When half-precision gradients overflow, the scaler skips the step and lowers its scale.
                skipped = scaler.get_scale() < scale
                score = None
                if selection is not None and ((done + 1) % every == 0 or done + 1 == total):
                    score = selection.check()
                    model.train()
                if not skipped:
                    advance(scheduler, score)
                if self.progress is not None:
                    self.progress(done + 1, total, value)
                if selection is not None and selection.is_over:
                    break
                if self.seconds is not None and time.monotonic() - started > self.seconds:
                    break
            if selection is not None:
                selection.restore()
            optimizer.zero_grad(set_to_none=True)
        if not all(bool(torch.isfinite(p).all()) for p in parameters):
            raise NonFiniteReading("a weight became NaN or infinite in training: lower the learning rate")

    def _batches(self, data: Split, total: int) -> Iterator[tuple[Tensor | None, Inputs, Any]]:
        """Yield the batches of all steps, those of the next epoch in a new order."""
        done = 0
        for epoch in range(total * self.accumulate):
            for batch in training_batches(data, self.seed + epoch, self.drop_last):
                if done == total * self.accumulate:
                    return
                yield batch
                done += 1

    def _loss(self, model: nn.Module, inputs: Inputs, targets: Any, objective: BoundLoss) -> Tensor:
        try:
            if self.batch_loss is not None:
                return self.batch_loss(model, moved((inputs, targets), device_of(model)))
            return objective(model, inputs, targets)
        except RuntimeError as error:
            if self.precision == "fp32" or not any(sign in str(error) for sign in _NO_KERNEL):
                raise
            raise KMRError(
                f"FineTune: torch cannot train this model in precision {self.precision} on {device_of(model)}: "
                f"{str(error).splitlines()[0]}; set precision to fp32"
            ) from error

    def _score(self, model: nn.Module, judged: Split, objective: BoundLoss) -> float:
        """Return the mean validation loss of the model in eval mode."""
        model.eval()
        total = 0.0
        with torch.no_grad(), self._autocast(model):
            for inputs, targets in judged.batches():
                samples = length_of(inputs if targets is None else targets)
                total += float(self._loss(model, inputs, targets, objective)) * samples
        return total / len(judged)

    def _autocast(self, model: nn.Module) -> Any:
        return autocast(device_of(model), _PRECISIONS[self.precision])
