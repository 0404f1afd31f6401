import math

import pytest
import torch

from kmr.core import KMRError
from kmr.finetune import next_token_cross_entropy, token_cross_entropy


def test_tokens_by_hand() -> None:
    # Two positions of logits (log 3, 0): the probabilities are 3/4 and 1/4.
    logits = torch.tensor([[[math.log(3), 0.0], [math.log(3), 0.0]]])
    assert token_cross_entropy(logits, torch.tensor([[0, 1]])).item() == pytest.approx(
        -(math.log(0.75) + math.log(0.25)) / 2
    )
    assert token_cross_entropy(logits, torch.tensor([[-100, 1]])).item() == pytest.approx(-math.log(0.25))
    assert next_token_cross_entropy(logits, torch.tensor([[0, 1]])).item() == pytest.approx(-math.log(0.25))


def test_other_shapes_are_refused() -> None:
    with pytest.raises(KMRError, match="vocabulary"):
        token_cross_entropy(torch.zeros(2, 5, 3), torch.zeros(2, 3, dtype=torch.long))
