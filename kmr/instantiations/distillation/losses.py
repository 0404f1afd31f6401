"""Distillation losses of tensors: on a teacher's distribution, features and attention maps."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from kmr.core import KMRError

Divergence: TypeAlias = Callable[[Tensor, Tensor, float, int], Tensor]
"""A loss of (student logits, teacher log-probabilities at the temperature, temperature, dim), reduced over `dim`."""


def softened(teachers: Mapping[str, Tensor], temperature: float, dim: int) -> Tensor:
    """Return the logarithm of the teachers' mean softmax(logits / temperature) (You et al. 2017 for several)."""
    logs = torch.stack([F.log_softmax(logits.float() / temperature, dim) for logits in teachers.values()])
    return torch.logsumexp(logs, 0) - torch.log(torch.tensor(float(len(teachers))))


def hinton(student: Tensor, teacher: Tensor, temperature: float, dim: int) -> Tensor:
    """Return T²·KL(teacher ‖ student) of the softened distributions (Hinton et al. 2015)."""
    ours = F.log_softmax(student.float() / temperature, dim)
    return temperature**2 * (teacher.exp() * (teacher - ours)).sum(dim)


def paper(student: Tensor, teacher: Tensor, temperature: float, dim: int) -> Tensor:
    """Return KL(student ‖ teacher) of the softened distributions without the factor T², as in Algorithm 7."""
    ours = F.log_softmax(student.float() / temperature, dim)
    return (ours.exp() * (ours - teacher)).sum(dim)


DIVERGENCES: Mapping[str, Divergence] = MappingProxyType({"hinton": hinton, "paper": paper})


def hint(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of two features, as a share of the teacher's mean square (FitNets)."""
    return F.mse_loss(student.float(), teacher.float()) / teacher.float().square().mean().clamp(min=1e-12)


def attention_map(feature: Tensor) -> Tensor:
    """Return the attention map of a feature (n, channels, …): its mean square over channels, (n, places), of norm 1.

    This is the activation-based map with p = 2 of Zagoruyko & Komodakis (2017).
    """
    return F.normalize(feature.float().square().mean(1).flatten(1), dim=1)


def attention(student: Tensor, teacher: Tensor) -> Tensor:
    """Return the mean squared difference of two attention maps, of shape (n, places)."""
    return (student - teacher.float()).square().mean()


def common_places(student: torch.Size, teacher: torch.Size) -> tuple[int, ...]:
    """Return the lower resolution, along each dimension, of two features (n, channels, places…).

    Raises:
        KMRError: the features differ in their number of dimensions.
    """
    if len(student) != len(teacher) or len(student) < 2:
        raise KMRError(f"features of shape {tuple(student)} and {tuple(teacher)} cannot be compared: name other pairs")
    return tuple(min(one, other) for one, other in zip(student[2:], teacher[2:], strict=True))


def pooled(feature: Tensor, places: tuple[int, ...] | None) -> Tensor:
    """Average a feature (n, channels, places…) down to this resolution; None keeps its own."""
    if places is None or tuple(feature.shape[2:]) == places:
        return feature
    pool: Any = (F.adaptive_avg_pool1d, F.adaptive_avg_pool2d, F.adaptive_avg_pool3d)[len(places) - 1]
    coarser: Tensor = pool(feature, places)
    return coarser
