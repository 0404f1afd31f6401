"""Hits, targets and predictions of each class or label, counted for each sample."""

import torch
from torch import Tensor

from kmr.core import KMRError
from kmr.tasks import ClassScores, LabelScores

MOST_CLASSES = 2000
"""The largest number of classes that are counted for samples of several entries."""


def class_counts(seen: ClassScores | LabelScores) -> Tensor:
    """Return the statistics from which `counted` takes hits, targets and predictions of each class.

    A sample with one class keeps (classes, target, prediction); any other keeps the counts of each class.

    Raises:
        KMRError: samples have several entries and more than `MOST_CLASSES` classes.
    """
    if isinstance(seen, LabelScores):
        guess, true = (seen.logits > 0) & seen.counted, (seen.targets == 1) & seen.counted
        counts = torch.cat([guess & true, true, guess], 1).double().cpu()
        return torch.cat([torch.full((len(counts), 1), float(seen.logits.shape[1]), dtype=torch.float64), counts], 1)
    classes, targets, sample = seen.classes, seen.targets.cpu(), seen.sample.cpu()
    guess = seen.each(lambda logits, _: logits.argmax(1)).cpu()
    if len(sample) == seen.samples and bool((sample == torch.arange(seen.samples)).all()):
        return torch.stack([torch.full_like(targets, classes), targets, guess], 1).double()
    if classes > MOST_CLASSES:
        raise KMRError(f"counts of each class are kept for at most {MOST_CLASSES} classes, not {classes}")
    rows = torch.zeros(seen.samples, 1 + 3 * classes, dtype=torch.float64)
    rows[:, 0] = classes
    for start, kept, columns in (
        (1, guess == targets, targets),
        (1 + classes, None, targets),
        (1 + 2 * classes, None, guess),
    ):
        chosen = torch.ones_like(targets, dtype=torch.bool) if kept is None else kept
        places = (sample[chosen], columns[chosen] + start)
        rows.index_put_(places, torch.ones(int(chosen.sum()), dtype=torch.float64), accumulate=True)
    return rows


def counted(rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return hits, targets and predictions of each class, (classes,) each."""
    classes = int(rows[0, 0]) if len(rows) else 0
    if rows.shape[1] != 3:
        hits, targets, guesses = torch.split(rows[:, 1 : 1 + 3 * classes].sum(0), classes)
        return hits, targets, guesses
    targets, guesses = rows[:, 1].long(), rows[:, 2].long()
    parts = (targets[targets == guesses], targets, guesses)
    hits, aims, guessed = (torch.bincount(part, minlength=classes).double() for part in parts)
    return hits, aims, guessed
