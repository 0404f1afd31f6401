"""Error rates of texts against counts by hand, and the task that makes texts of logits."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kmr.core import KMRError
from kmr.data import Split
from kmr.meters import CharacterErrorRate, WordErrorRate
from kmr.meters.transcripts import edits
from kmr.tasks import CTC
from kmr.testing import check_meter

torch.set_num_threads(1)

SYMBOLS = ("_", " ", "a", "b", "c")


class Shows(nn.Module):
    def forward(self, x):
        return x


def spoken(*texts, time=12):
    """Return logits that say texts, each symbol twice with a blank between equal ones."""
    rows = []
    for text in texts:
        row = [symbol for letter in text for symbol in (SYMBOLS.index(letter), SYMBOLS.index(letter), 0)]
        rows.append([*row, *[0] * (time - len(row))][:time])
    return F.one_hot(torch.tensor(rows), len(SYMBOLS)).float() * 5


def written(*texts, length=6):
    numbers = [[SYMBOLS.index(letter) for letter in text] for text in texts]
    return torch.tensor([[*row, *[-100] * (length - len(row))] for row in numbers])


@pytest.mark.parametrize(
    ("text", "true", "expected"),
    [("", "", 0), ("abc", "", 3), ("", "ab", 2), ("kitten", "sitting", 3), ("flaw", "lawn", 2), ("aa", "a", 1)],
)
def test_edits(text, true, expected):
    assert edits(text, true) == edits(true, text) == expected


def test_error_rates_are_edits_over_the_length_of_the_true_texts():
    data = Split((spoken("ab", "a b", "c"), written("ab", "a c", "b c")), batch_size=2, task=CTC(symbols=SYMBOLS))
    words = WordErrorRate(data=data)(Shows())
    assert words.value == pytest.approx((0 + 1 + 1) / (1 + 2 + 2))
    assert words.stderr > 0
    letters = CharacterErrorRate(data=data)
    assert letters(Shows()).value == pytest.approx((0 + 1 + 2) / (2 + 3 + 3))
    assert letters.direction == "minimize"


def test_without_symbols_a_word_is_a_number():
    data = Split((spoken("ab", "bb"), written("ab", "ab")), task=CTC())
    assert WordErrorRate(data=data)(Shows()).value == pytest.approx(1 / 4)


def test_the_loss_is_torchs():
    logits, targets = torch.randn(3, 12, 5), written("ab", "c", "abc")
    logs = logits.log_softmax(-1).transpose(0, 1)
    expected = F.ctc_loss(logs, targets.clamp(min=0), torch.tensor([12] * 3), torch.tensor([2, 1, 3]))
    assert CTC().loss(logits, targets) == pytest.approx(float(expected), rel=1e-5)
    other = CTC(class_axis=1).loss(logits.transpose(1, 2), targets)
    assert other == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize(
    ("settings", "targets", "said"),
    [
        ({}, torch.zeros(1, 3), r"float32 of shape \(1, 3\), outputs have shape \(1, 12, 5\): CTC takes logits"),
        ({"symbols": "ab"}, written("ab"), "symbols has 2 texts, the model 5 outputs"),
        ({"blank": 9}, written("ab"), "blank must be a symbol from 0 to 4, not 9"),
        ({}, torch.tensor([[1, 0, 2]]), "targets contain 0; .* set task.ignore_index=0"),
        ({}, torch.tensor([[1, -100, 2]]), "targets go on after -100"),
    ],
)
def test_what_does_not_fit_is_refused(settings, targets, said):
    with pytest.raises(KMRError, match=said):
        CTC(**settings).scores(spoken("ab"), targets)


def test_error_rates_read_texts_alone():
    with pytest.raises(KMRError, match="meter wer does not fit Classification"):
        WordErrorRate(data=Split((torch.randn(4, 3), torch.zeros(4, dtype=torch.long))))(Shows())


@pytest.mark.parametrize("kind", [WordErrorRate, CharacterErrorRate])
def test_an_error_rate_keeps_the_contract_of_meters(kind):
    torch.manual_seed(0)
    data = Split((spoken("ab", "a b", "c"), written("ab", "a c", "b c")), batch_size=2, task=CTC(symbols=SYMBOLS))
    model = nn.Sequential(nn.Linear(5, 8), nn.Dropout(0.5), nn.Linear(8, 5))
    check_meter(kind(data=data), model)
    assert 0 <= kind(data=data)(model).value <= 5
