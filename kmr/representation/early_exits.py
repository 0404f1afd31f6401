"""Early exits: a model whose easy samples leave before its end (BranchyNet, Teerapittayanon et al. 2016)."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from kmr.core import KMRError
from kmr.data import output_tensor


class _Everyone(Exception):
    """No sample is left to go on with."""


class Pooled(nn.Module):
    """Averages a feature over its places: (n, channels, places…), or (n, length, channels) of three dimensions."""

    def forward(self, feature: Tensor) -> Tensor:
        """Return (n, channels)."""
        if feature.dim() <= 2:
            return feature
        return feature.mean(1) if feature.dim() == 3 else feature.flatten(2).mean(2)


class EarlyExits(nn.Module):
    """A classifier with heads on the way: a sample leaves at the first whose confidence is above the threshold.

    With gradients off and in evaluation mode, a sample that leaves takes no part in what follows: less is computed.
    With gradients on, or in training mode, every sample goes through every head to the end; the heads' logits are then
    in the graph of the output, with no weight, so that whoever follows it finds them.

    Args:
        body: the classifier; its output has shape (n, classes), and every tensor after an exit follows from the
            exit's feature.
        heads: one for each exit, in the order in which they are reached.
        paths: of the modules of the body whose outputs the heads get.
        threshold: on the largest softmax probability; 1 lets no sample leave.
    """

    def __init__(self, body: nn.Module, heads: list[nn.Module], paths: list[str], threshold: float) -> None:
        super().__init__()
        self.body = body
        self.heads = nn.ModuleList(heads)
        self.paths = tuple(paths)
        self.threshold = threshold
        self.forced: int | None = None
        """The exit that all samples take, for counting what each costs; the number of heads stands for the end."""

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """Return logits of shape (n, classes)."""
        return self.route(*args, **kwargs)[0]

    def route(self, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Return the logits, and for each sample the number of the exit it took (that of heads: the end)."""
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
            raise KMRError(f"early exits need logits of shape (n, classes), not {tuple(output.shape)}")
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
    """Put what left at each exit back into the order of the samples."""
    rows = torch.cat([rows for rows, _, _ in exits])
    order = rows.argsort()
    logits = torch.cat([logits for _, logits, _ in exits])
    taken = torch.cat([torch.full((len(rows),), place, device=rows.device) for rows, _, place in exits])
    return logits[order], taken[order]
