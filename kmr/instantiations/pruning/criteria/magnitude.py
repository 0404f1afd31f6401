"""Criteria from weights alone: their magnitude, the scale of normalisation, the distance between filters."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import torch
from torch import Tensor, nn

from kmr.data import Split
from kmr.instantiations.pruning.criteria.base import Criterion, mean_of, weight_rows
from kmr.instantiations.pruning.graph import ChannelGroup

_NORMALISATION = (nn.modules.batchnorm._NormBase, nn.GroupNorm, nn.LayerNorm)


@final
@dataclass(frozen=True, kw_only=True)
class L1(Criterion):
    """The sum of a channel's absolute weights, averaged over its group's layers (Li et al. 2017; Fang et al. 2023)."""

    def scores(self, model: nn.Module, groups: Sequence[ChannelGroup], data: Split | None) -> list[Tensor]:
        return [_power(model, group, 1) for group in groups]


@final
@dataclass(frozen=True, kw_only=True)
class L2(Criterion):
    """The sum of a channel's squared weights, averaged over the layers of its group (Fang et al. 2023)."""

    def scores(self, model: nn.Module, groups: Sequence[ChannelGroup], data: Split | None) -> list[Tensor]:
        return [_power(model, group, 2) for group in groups]


@final
@dataclass(frozen=True, kw_only=True)
class NormScale(Criterion):
    """The absolute scale γ of the normalisation after a channel (network slimming, Liu et al. 2017).

    Groups without a normalisation get no score and stay whole.
    """

    def scores(self, model: nn.Module, groups: Sequence[ChannelGroup], data: Split | None) -> list[Tensor]:
        return [
            mean_of([
                rows.summed(rows.matrix.abs().sum(1), group.size)
                for rows in weight_rows(model, group)
                if isinstance(rows.layer, _NORMALISATION)
            ])
            for group in groups
        ]  # fmt: skip


@final
@dataclass(frozen=True, kw_only=True)
class GeometricMedian(Criterion):
    """A filter's summed Euclidean distance to all others of its layer, low if replaceable (FPGM, He et al. 2019)."""

    def scores(self, model: nn.Module, groups: Sequence[ChannelGroup], data: Split | None) -> list[Tensor]:
        return [
            mean_of([
                rows.summed(torch.cdist(rows.matrix.double(), rows.matrix.double()).sum(1), group.size)
                for rows in weight_rows(model, group)
                if rows.part.makes and not isinstance(rows.layer, _NORMALISATION)
            ])
            for group in groups
        ]  # fmt: skip


@final
@dataclass(frozen=True, kw_only=True)
class Random(Criterion):
    """A random number for each channel by the rule's seed: the baseline for all other criteria."""

    def scores(self, model: nn.Module, groups: Sequence[ChannelGroup], data: Split | None) -> list[Tensor]:
        return [torch.rand(group.size, dtype=torch.float64) for group in groups]


def _power(model: nn.Module, group: ChannelGroup, power: int) -> Tensor:
    return mean_of([
        rows.summed(torch.linalg.vector_norm(rows.matrix, power, dim=1).double() ** power, group.size)
        for rows in weight_rows(model, group)
    ])  # fmt: skip
