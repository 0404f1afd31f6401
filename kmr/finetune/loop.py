"""The training loop: masks and grids hold, the same seed gives the same model, and what diverges ends.

What a rule fixed stays fixed: masks and grids are parametrizations, the optimizer moves only the latent weights under
them, and the loop settles those at its end (`kmr.representation.weights.settle`).
"""

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kmr.core import KMRError, NonFiniteReading, isolated_rng
from kmr.data import Inputs, Split, forward, output_tensor
from kmr.finetune.guides import Batch, Guide
from kmr.finetune.losses import Loss
from kmr.finetune.schedules import CURVES, Schedule, advance, make_scheduler, needs_validation
from kmr.finetune.selection import Selection
from kmr.representation.weights import settle

Progress: TypeAlias = Callable[[int, int, float], None]
"""Told (steps done, steps in all, loss) after every step."""

BatchLoss: TypeAlias = Callable[[nn.Module, tuple[Inputs, Tensor]], Tensor]
"""Of (model, batch), a scalar mean over the batch; the batch is (inputs, targets)."""

_PRECISIONS = {"float32": None, "bfloat16": torch.bfloat16, "float16": torch.float16}


def _sgd(parameters: Any) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=0.02, momentum=0.9, nesterov=True, weight_decay=1e-4)


@dataclass(frozen=True, kw_only=True)
class FineTune:
    """Train a model in place for a number of steps; the same model, data and seed give the same result.

    Args:
        data: the training split; reshuffled each epoch from `seed`.
        loss: of (outputs, targets).
        batch_loss: of (model, (inputs, targets)), in place of `loss`, for what outputs and targets cannot say.
        epochs: passes over the data, a fraction allowed; `steps` takes its place when given.
        steps: optimizer steps.
        seconds: the training stops at the step that passes this time. What it gives then depends on the machine.
        optimizer: makes the optimizer from the model's parameters.
        schedule: the learning rate falls along a half `cosine` or a line (`linear`) to 0, or stays `constant`; or what
            makes any scheduler of torch from the optimizer, stepped after each step (`ReduceLROnPlateau`: after each
            reading of the validation loss).
        warmup: steps over which the learning rate first rises, with a schedule by name.
        max_norm: gradients are clipped to this 2-norm; None leaves them.
        precision: of activations and gradients, `float32`, or under autocast `bfloat16` or `float16` (with its loss
            scaled). Weights stay as they are.
        augment: changes a batch of inputs, drawing from torch's seeded generator.
        validation: the samples that `keep` and `patience` are judged by, with the loss.
        holdout: share of `data` kept aside for that where no validation is given.
        keep: end with the `last` weights, or with the `best` by validation loss, the first ones among them.
        patience: stop after this many readings of the validation loss in a row without a better one.
        check_every: steps between those readings; by default an epoch, or a tenth of the training if that is less.
        guides: what else the model is to learn, by name; each adds to the loss of those before it.
        original: the model before it was compressed: the teacher of guides that name none.
        seed: of the order of samples, of dropout, of augmentation and of the samples kept aside.
        progress: told of every step.

    Raises:
        NonFiniteReading: the loss or a weight became NaN or infinite.
    """

    data: Split = field(repr=False)
    loss: Loss = F.cross_entropy
    batch_loss: BatchLoss | None = None
    epochs: float = 1.0
    steps: int | None = None
    seconds: float | None = None
    optimizer: Callable[[Any], torch.optim.Optimizer] = _sgd
    schedule: Schedule = "cosine"
    warmup: int = 0
    max_norm: float | None = 5.0
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    augment: Callable[[Inputs], Inputs] | None = None
    validation: Split | None = field(default=None, repr=False)
    holdout: float = 0.0
    keep: Literal["last", "best"] = "last"
    patience: int | None = None
    check_every: int | None = None
    guides: Mapping[str, Guide] = field(default_factory=dict)
    original: nn.Module | None = field(default=None, repr=False)
    seed: int = 0
    progress: Progress | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if isinstance(self.schedule, str) and self.schedule not in CURVES:
            raise KMRError(
                f"the schedule of fine-tuning must be {', '.join(CURVES)} or make a scheduler, not {self.schedule!r}"
            )
        if self.precision not in _PRECISIONS:
            raise KMRError(f"the precision of fine-tuning must be {', '.join(_PRECISIONS)}, not {self.precision!r}")
        if self.keep not in ("last", "best"):
            raise KMRError(f"fine-tuning must keep the last or the best weights, not {self.keep!r}")
        if not 0 <= self.holdout < 1:
            raise KMRError(f"the holdout of fine-tuning is a share of the data in [0, 1), not {self.holdout}")
        if self._selects and self.validation is None and self.holdout == 0:
            raise KMRError(
                "the best weights, patience and plateaus need samples that are not trained on: set holdout (0.1, say)"
            )
        for name in ("patience", "check_every"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise KMRError(f"{name} of fine-tuning must be at least 1, not {value}")
        if self.seconds is not None and not self.seconds > 0:
            raise KMRError(f"the time limit of fine-tuning must be more than 0 seconds, not {self.seconds}")
        for name, guide in dict(self.guides or {}).items():
            if not isinstance(guide, Guide):
                raise KMRError(f"the guide {name} of fine-tuning is a {type(guide).__name__}, not a kmr.finetune.Guide")
        object.__setattr__(self, "guides", dict(self.guides or {}))
        if self.total_steps < 0 or self.warmup < 0:
            raise KMRError(
                f"fine-tuning needs epochs >= 0, steps >= 0 and warmup >= 0, not {self.epochs}, {self.steps} and "
                f"{self.warmup}"
            )

    @property
    def total_steps(self) -> int:
        """The optimizer steps one call takes, where nothing stops it before."""
        if self.steps is not None:
            return self.steps
        return round(self.epochs * self._epoch)

    def __call__(self, model: nn.Module) -> nn.Module:
        """Train the model in place and return it, in the train or eval mode it was in."""
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
        """What is trained on, and what it is judged by."""
        if not self._selects or self.validation is not None:
            return self.data, self.validation
        return self.data.divide(self.holdout, self.seed)

    @property
    def _selects(self) -> bool:
        return self.keep == "best" or self.patience is not None or needs_validation(self.schedule)

    @property
    def _epoch(self) -> int:
        return math.ceil(len(self._parts[0]) / self._parts[0].batch_size)

    def _train(self, model: nn.Module, total: int) -> None:
        data, judged = self._parts
        started = time.monotonic()
        parameters = [p for p in model.parameters() if p.requires_grad]
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
                handle = model.register_forward_hook(lambda _m, _i, output: seen.append(output_tensor(output)))
                stack.callback(handle.remove)
            selection = None
            if judged is not None and self._selects:
                selection = Selection(model, lambda: self._score(model, judged), self.patience, self.keep == "best")
                selection.check()
            scaler = torch.amp.GradScaler(_device(model).type, enabled=self.precision == "float16")
            model.train()
            for done, (places, inputs, targets) in enumerate(self._batches(data, total)):
                if self.augment is not None:
                    inputs = self.augment(inputs)
                seen.clear()
                with self._autocast(model):
                    loss = self._loss(model, inputs, targets)
                    for guidance in guidances:
                        batch = Batch(places, inputs, targets, seen[0], self.augment is not None)
                        loss = guidance(loss, batch)
                value = float(loss.detach())
                if not math.isfinite(value):
                    raise NonFiniteReading(f"the training loss became {value} at step {done}: lower the learning rate")
                optimizer.zero_grad(set_to_none=True)
                scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
                scaler.unscale_(optimizer)
                if self.max_norm is not None:
                    # Apart, so that what a guide trains for itself changes nothing in how the model is clipped.
                    nn.utils.clip_grad_norm_(parameters, self.max_norm)
                    nn.utils.clip_grad_norm_(extra, self.max_norm)
                scale = scaler.get_scale()
                scaler.step(optimizer)
                scaler.update()
                # Where half-precision gradients overflow, the step is left out and the scale comes down.
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

    def _batches(self, data: Split, total: int) -> Iterator[tuple[Tensor, Inputs, Tensor]]:
        done = 0
        for epoch in range(total):
            for batch in data.numbered_batches(shuffle_seed=self.seed + epoch):
                if done == total:
                    return
                yield batch
                done += 1

    def _loss(self, model: nn.Module, inputs: Inputs, targets: Tensor) -> Tensor:
        if self.batch_loss is not None:
            return self.batch_loss(model, (inputs, targets))
        outputs = forward(model, inputs)
        return self.loss(outputs, targets.to(outputs.device))

    def _score(self, model: nn.Module, judged: Split) -> float:
        """Return the mean loss over the samples kept aside, of the model as it would be used."""
        model.eval()
        total = 0.0
        with torch.no_grad(), self._autocast(model):
            for inputs, targets in judged.batches():
                total += float(self._loss(model, inputs, targets)) * len(targets)
        return total / len(judged)

    def _autocast(self, model: nn.Module) -> Any:
        dtype = _PRECISIONS[self.precision]
        return torch.autocast(_device(model).type, dtype=dtype, enabled=dtype is not None)


def _device(model: nn.Module) -> torch.device:
    return next((p.device for p in model.parameters()), torch.device("cpu"))
