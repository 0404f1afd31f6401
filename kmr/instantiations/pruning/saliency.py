"""Saliency of single weights: the scores by which unstructured and N:M pruning rank.

A score is ≥ 0 and has the shape of its weight; the lowest are removed first. It is computed on a copy of the model
without masks and grids, and so belongs to the effective weights.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias, cast, final

import torch
from torch import Tensor, nn

from kmr.cache import derived
from kmr.core import KMRError, NotApplicable
from kmr.data import Inputs, Split, call
from kmr.recovery.patches import Product, as_matrix, count_places, inputs_at, is_product
from kmr.representation.weights import strip_all
from kmr.tasks import BoundLoss, TaskLoss, bound_loss

TensorBatch: TypeAlias = tuple[Inputs, Tensor]

_PLACES = 8192


@dataclass(frozen=True, kw_only=True)
class Saliency(ABC):
    """A score for each weight of some layers of a model."""

    @abstractmethod
    def score(self, model: nn.Module, paths: Sequence[str], batches: Sequence[TensorBatch]) -> dict[str, Tensor]:
        """Return the scores of the layers that can be scored, by path.

        Args:
            model: a plain copy in evaluation mode with gradients on, which may be changed.
            paths: the layers to score.
            batches: samples with targets; at least one batch if `needs_data`.
        """

    @property
    def needs_data(self) -> bool:
        """Tell whether the score needs batches."""
        return True


@final
@dataclass(frozen=True, kw_only=True)
class Magnitude(Saliency):
    """The magnitude |w| of a weight (Han et al. 2015)."""

    @property
    def needs_data(self) -> bool:
        return False

    def score(self, model: nn.Module, paths: Sequence[str], batches: Sequence[TensorBatch]) -> dict[str, Tensor]:
        return {path: _weight(model, path).detach().abs() for path in paths}


@final
@dataclass(frozen=True, kw_only=True)
class RandomSaliency(Saliency):
    """Random numbers by the rule's seed: the baseline for every other score."""

    @property
    def needs_data(self) -> bool:
        return False

    def score(self, model: nn.Module, paths: Sequence[str], batches: Sequence[TensorBatch]) -> dict[str, Tensor]:
        weights = {path: _weight(model, path) for path in paths}
        return {path: 1 - torch.rand(weight.shape).to(weight.device) for path, weight in weights.items()}


@final
@dataclass(frozen=True, kw_only=True)
class TaylorSaliency(Saliency):
    """The mean over batches of the absolute first-order change of the loss, E|g·w| (Molchanov et al. 2019).

    Args:
        loss: a function of (outputs, targets), a mean over the batch; by default the loss of the task.
    """

    loss: Any = field(default_factory=TaskLoss)

    def score(self, model: nn.Module, paths: Sequence[str], batches: Sequence[TensorBatch]) -> dict[str, Tensor]:
        total = dict.fromkeys(paths, cast(Tensor, 0))
        for gradients in _gradients(model, paths, batches, self.loss):
            total = {path: total[path] + (gradients[path] * _weight(model, path).detach()).abs() for path in paths}
        return {path: score / len(batches) for path, score in total.items()}


@final
@dataclass(frozen=True, kw_only=True)
class SNIP(Saliency):
    """The connection sensitivity |E[g]·w| as a share of its sum over all layers (Lee et al. 2019).

    Args:
        loss: a function of (outputs, targets), a mean over the batch; by default the loss of the task.
    """

    loss: Any = field(default_factory=TaskLoss)

    def score(self, model: nn.Module, paths: Sequence[str], batches: Sequence[TensorBatch]) -> dict[str, Tensor]:
        total = dict.fromkeys(paths, cast(Tensor, 0))
        for gradients in _gradients(model, paths, batches, self.loss):
            total = {path: total[path] + gradients[path] for path in paths}
        scores = {path: (total[path] * _weight(model, path).detach()).abs() for path in paths}
        whole = sum(float(score.sum()) for score in scores.values())
        return {path: score / whole for path, score in scores.items()} if whole > 0 else scores


@final
@dataclass(frozen=True, kw_only=True)
class Wanda(Saliency):
    """The magnitude of a weight times the norm of its input, |w|·‖x‖₂ (Sun et al. 2024).

    In a convolution the norm is that of an input channel at a kernel position. The paper ranks the weights of each
    output separately, which is the scope `output`.
    """

    def score(self, model: nn.Module, paths: Sequence[str], batches: Sequence[TensorBatch]) -> dict[str, Tensor]:
        squares: dict[str, Tensor] = {}
        counts: dict[str, int] = {}

        def see(path: str) -> Any:
            def hook(layer: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
                count = count_places(layer, output)
                places = torch.randperm(count)[:_PLACES].to(output.device)
                met = inputs_at(cast(Product, layer), args[0].detach(), places).square().mean(1).double()
                seen = counts.get(path, 0)
                squares[path] = (squares[path] * seen + met * count) / (seen + count) if seen else met
                counts[path] = seen + count

            return hook

        layers = {path: model.get_submodule(path) for path in paths}
        with torch.no_grad(), ExitStack() as stack:
            for path, layer in layers.items():
                if is_product(layer):
                    stack.callback(layer.register_forward_hook(see(path)).remove)
            for inputs, _ in batches:
                call(model, inputs)
        scores = {}
        for path, square in squares.items():
            weight = _weight(model, path).detach()
            norms = (square * counts[path]).sqrt().to(weight.dtype)
            scores[path] = (as_matrix(layers[path], weight).abs() * norms[:, None]).reshape(weight.shape)
        return scores


def saliency_of(
    model: nn.Module, paths: Sequence[str], saliency: Saliency, data: Split | None, samples: int, seed: int
) -> Mapping[str, Tensor]:
    """Score layers of a model on samples drawn by the seed; the model is not changed. Entries that are 0 score 0.

    Raises:
        KMRError: the score needs data and gets none, or its loss does not match the model and its targets.
        NotApplicable: a score is not finite, or none of the layers can be scored.
    """
    kind = type(saliency).__name__
    batches: list[TensorBatch] = []
    if saliency.needs_data:
        if data is None:
            raise KMRError(f"{kind} needs data to score weights: set the rule's data, or rank by Magnitude")
        size = min(samples, data.batch_size)
        for batch in replace(data, batch_size=size).batches(shuffle_seed=seed):
            if len(batches) * size < samples:
                batches.append(batch)
            else:
                break
    plain = strip_all(copy.deepcopy(model)).eval()
    for parameter in plain.parameters():
        parameter.requires_grad_(parameter.is_floating_point())

    loss = getattr(saliency, "loss", None)
    bound = saliency
    if loss is not None and data is not None:
        bound = replace(saliency, loss=bound_loss(loss, data, plain))  # type: ignore[call-arg]

    def computed() -> Mapping[str, Tensor]:
        with torch.enable_grad():
            return bound.score(plain, list(paths), batches)

    if saliency.needs_data:
        read = {"data": data, "samples": samples}
        found = derived("saliency", computed, seed, model=model, paths=list(paths), saliency=saliency, **read)
        scores = {path: score.to(_weight(plain, path).device) for path, score in found.items()}
    else:
        scores = dict(computed())
    if not scores:
        raise NotApplicable(f"{kind} can score none of the layers {', '.join(paths)}")
    for path, score in scores.items():
        if not bool(torch.isfinite(score).all()):
            raise NotApplicable(f"{kind} of {path} is not finite: the model has diverged on these data")
    return {path: torch.where(_weight(plain, path).detach() == 0, 0, score) for path, score in scores.items()}


def _gradients(
    model: nn.Module, paths: Sequence[str], batches: Sequence[TensorBatch], loss: Any
) -> Iterator[dict[str, Tensor]]:
    weights = [_weight(model, path) for path in paths]
    for inputs, targets in batches:
        how = loss if isinstance(loss, BoundLoss) else bound_loss(loss, Split((inputs, targets)), model)
        value = how(model, inputs, targets)
        found = torch.autograd.grad(value, weights, allow_unused=True)
        yield {
            path: torch.zeros_like(weight) if gradient is None else gradient
            for path, weight, gradient in zip(paths, weights, found, strict=True)
        }


def _weight(model: nn.Module, path: str) -> Tensor:
    return cast(Tensor, model.get_submodule(path).weight)
