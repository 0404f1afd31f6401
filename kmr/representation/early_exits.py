"""Early exits: a model that easy samples leave before its end (BranchyNet, Teerapittayanon et al. 2016)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kmr.core import KMRError
from kmr.data import output_tensor


class _Everyone(Exception):
    """The signal that every sample has left."""


class Pooled(nn.Module):
    """Average pooling over positions: of (n, channels, positions…), or with three dimensions (n, length, channels)."""

    def forward(self, feature: Tensor) -> Tensor:
        """Return (n, channels)."""
        if feature.dim() <= 2:
            return feature
        return feature.mean(1) if feature.dim() == 3 else feature.flatten(2).mean(2)


class EarlyExits(nn.Module):
    """A classifier with intermediate heads: a sample leaves at the first head whose confidence exceeds the threshold.

    With gradients off and in evaluation mode, the layers after an exit do not compute samples that have left. With
    gradients on, or in training mode, every sample passes every head. The heads' logits are then part of the output's
    graph with weight 0, so that a graph traversal finds them.

    Args:
        body: the classifier; its output has shape (n, classes), and every tensor after an exit depends on the exit's
            feature alone.
        heads: one module for each exit, in the order of the exits.
        paths: paths of the modules in the body whose outputs the heads read.
        threshold: on the largest softmax probability, in [0, 1]; at 1 no sample leaves.
    """

    def __init__(self, body: nn.Module, heads: list[nn.Module], paths: list[str], threshold: float) -> None:
        super().__init__()
        self.body = body
        self.heads = nn.ModuleList(heads)
        self.paths = tuple(paths)
        self.threshold = threshold
        self.forced: int | None = None
        """The exit that all samples take while the cost of each exit is counted; the number of heads means the end."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return logits of shape (n, classes)."""
        return self.route(*args, **kwargs)[0]

    def route(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return the logits and each sample's exit number, (n,); the number of heads means the end.

        Raises:
            KMRError: the body's output does not have shape (n, classes).
        """
        leave = not self.training and not torch.is_grad_enabled()
        exits: list[tuple[Tensor, Tensor, int]] = []
        passed: list[Tensor] = []
        rows: list[Tensor] = []

        def at(place: int, feature: Tensor) -> Tensor | None:
            logits = self.heads[place](feature)
            if not leave:
                passed.append(logits)
                return None
            if not rows:
                rows.append(torch.arange(len(feature), device=feature.device))
            leaving = self._leaving(place, logits)
            exits.append((rows[0][leaving], logits[leaving], place))
            rows[0] = rows[0][~leaving]
            if not len(rows[0]):
                raise _Everyone
            return feature[~leaving]

        with self._watched(at):
            try:
                output = output_tensor(self.body(*args, **kwargs))
            except _Everyone:
                output = exits[-1][1][:0]
        if output.dim() != 2:
            raise KMRError(f"the model of early exits returned {tuple(output.shape)}: it must return (n, classes)")
        if not leave:
            for logits in passed:
                output = output + 0 * logits
            return output, torch.full((len(output),), len(self.heads), device=output.device)
        rest = rows[0] if rows else torch.arange(len(output), device=output.device)
        exits.append((rest, output, len(self.heads)))
        return _gathered(exits)

    def _leaving(self, place: int, logits: Tensor) -> Tensor:
        if self.forced is not None:
            return torch.full((len(logits),), place == self.forced, device=logits.device)
        if self.threshold >= 1:
            return torch.zeros(len(logits), dtype=torch.bool, device=logits.device)
        return logits.float().softmax(1).amax(1) > self.threshold

    @contextmanager
    def _watched(self, at: Any) -> Iterator[None]:
        handles = []
        try:
            for place, path in enumerate(self.paths):

                def hook(_module: nn.Module, _args: Any, feature: Any, place: int = place) -> Any:
                    return at(place, feature)

                handles.append(self.body.get_submodule(path).register_forward_hook(hook))
            yield
        finally:
            for handle in handles:
                handle.remove()


def _gathered(exits: list[tuple[Tensor, Tensor, int]]) -> tuple[Tensor, Tensor]:
    """Return the logits and exit numbers of all exits in the original order of the samples."""
    rows = torch.cat([rows for rows, _, _ in exits])
    order = rows.argsort()
    logits = torch.cat([logits for _, logits, _ in exits])
    taken = torch.cat([torch.full((len(rows),), place, device=rows.device) for rows, _, place in exits])
    return logits[order], taken[order]
