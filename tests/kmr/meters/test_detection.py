"""Mean average precision by hand."""

import pytest
import torch
from torch import nn

from kmr.data import Split
from kmr.meters import MeanAveragePrecision
from kmr.tasks import Detection

BOX = [0.0, 0.0, 10.0, 10.0]


class Says(nn.Module):
    """Returns prepared detections, in order."""

    def __init__(self, found):
        super().__init__()
        self.found = found

    def forward(self, images):
        return [self.found[int(image.flatten()[0])] for image in images]


def boxes(*entries):
    rows = [(box, label, score) for box, label, score in entries]
    return {
        "boxes": torch.tensor([row[0] for row in rows]).reshape(-1, 4),
        "labels": torch.tensor([row[1] for row in rows], dtype=torch.long),
        "scores": torch.tensor([row[2] for row in rows], dtype=torch.float32),
    }


class Images(torch.utils.data.Dataset):
    def __init__(self, true):
        self.true = true

    def __len__(self):
        return len(self.true)

    def __getitem__(self, i):
        return torch.full((1, 2, 2), float(i)), self.true[i]

    @staticmethod
    def collate_fn(samples):
        return [image for image, _ in samples], [true for _, true in samples]


def read(found, true):
    aims = [{key: one[key] for key in ("boxes", "labels")} for one in true]
    return MeanAveragePrecision(data=Split(Images(aims), 2, task=Detection()))(Says(found)).value


def test_every_box_found_is_one_and_none_is_zero() -> None:
    true = [boxes((BOX, 1, 0)), boxes((BOX, 2, 0), ([20.0, 20, 30, 30], 1, 0))]
    sure = [{**one, "scores": torch.ones(len(one["labels"]))} for one in true]
    assert read(sure, true) == pytest.approx(1.0)
    assert read([boxes(), boxes()], true) == 0.0
    wrong = [{**one, "labels": one["labels"] + 5} for one in sure]
    assert read(wrong, true) == 0.0


def test_a_box_that_overlaps_by_six_tenths_counts_at_three_thresholds_of_ten() -> None:
    # 10 × 6 of 10 × 10: intersection over union 0.6, so it matches at 0.5, 0.55 and 0.6.
    assert read([boxes(([0.0, 0, 10, 6], 1, 0.9))], [boxes((BOX, 1, 0))]) == pytest.approx(0.3)


def test_a_false_alarm_above_a_hit_halves_the_precision() -> None:
    found = [boxes(([50.0, 50, 60, 60], 1, 0.9), (BOX, 1, 0.8))]
    assert read(found, [boxes((BOX, 1, 0))]) == pytest.approx(0.5)
    below = [boxes(([50.0, 50, 60, 60], 1, 0.1), (BOX, 1, 0.8))]
    assert read(below, [boxes((BOX, 1, 0))]) == pytest.approx(1.0)


def test_one_of_two_boxes_found_reaches_half_the_recall() -> None:
    # 51 of the 101 levels of recall are reached, at precision 1; a second detection of one box is a false alarm.
    true = [boxes((BOX, 1, 0), ([20.0, 20, 30, 30], 1, 0))]
    assert read([boxes((BOX, 1, 0.9), (BOX, 1, 0.8))], true) == pytest.approx(51 / 101)
