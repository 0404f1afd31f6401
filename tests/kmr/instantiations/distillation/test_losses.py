import math

import pytest
import torch
from torch.nn import functional as F

from kmr.core import KMRError
from kmr.instantiations.distillation.losses import (
    attention,
    attention_map,
    common_places,
    hint,
    hinton,
    paper,
    pooled,
    softened,
)

STUDENT, TEACHER = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(0)).double().unbind(0)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_both_forms_against_torch(temperature: float) -> None:
    ours, theirs = (F.log_softmax(logits / temperature, 1) for logits in (STUDENT, TEACHER))
    taught = softened({"teacher": TEACHER}, temperature, 1)
    expected = F.kl_div(ours, theirs, reduction="batchmean", log_target=True) * temperature**2
    assert hinton(STUDENT, taught, temperature, 1).mean().item() == pytest.approx(expected.item(), rel=1e-4)
    reverse = F.kl_div(theirs, ours, reduction="batchmean", log_target=True)
    assert paper(STUDENT, taught, temperature, 1).mean().item() == pytest.approx(reverse.item(), rel=1e-4)


def test_a_student_like_its_teacher_loses_nothing() -> None:
    taught = softened({"teacher": TEACHER}, 4.0, 1)
    for form in (hinton, paper):
        assert form(TEACHER, taught, 4.0, 1).abs().max().item() < 1e-5


def test_high_temperatures_match_centred_logits() -> None:
    # Hinton et al. (2015), section 2.1: T²·KL → ½·mean over classes of (z − v)², logits centred.
    centred = [logits - logits.mean(1, keepdim=True) for logits in (STUDENT, TEACHER)]
    expected = (centred[0] - centred[1]).square().mean(1) / 2
    found = hinton(STUDENT, softened({"teacher": TEACHER}, 300.0, 1), 300.0, 1)
    torch.testing.assert_close(found.double(), expected, rtol=0.03, atol=0.03)


def test_several_teachers_by_hand() -> None:
    # Probabilities (3/4, 1/4) and (1/4, 3/4) have the mean (1/2, 1/2).
    one, other = torch.tensor([[math.log(3), 0.0]]), torch.tensor([[0.0, math.log(3)]])
    torch.testing.assert_close(softened({"a": one, "b": other}, 1.0, 1).exp(), torch.full((1, 2), 0.5))


def test_a_hint_is_relative() -> None:
    teacher = torch.tensor([[3.0, 4.0]])
    assert hint(torch.zeros(1, 2), teacher).item() == pytest.approx(1.0)
    assert hint(10 * torch.tensor([[3.0, 3.0]]), 10 * teacher).item() == pytest.approx(1 / 25)


def test_attention_by_hand() -> None:
    # Two channels over two places: mean squares (1 + 9)/2 and (4 + 4)/2, divided by their norm.
    feature = torch.tensor([[[1.0, 2.0], [3.0, 2.0]]])
    norm = math.sqrt(5**2 + 4**2)
    torch.testing.assert_close(attention_map(feature), torch.tensor([[5 / norm, 4 / norm]]))
    assert attention(attention_map(feature), attention_map(7 * feature)).item() == pytest.approx(0, abs=1e-12)
    assert attention(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]])).item() == 1.0


def test_places_are_averaged_to_the_coarser() -> None:
    fine, coarse = torch.arange(16.0).reshape(1, 1, 4, 4), torch.zeros(1, 3, 2, 2)
    places = common_places(fine.shape, coarse.shape)
    torch.testing.assert_close(pooled(fine, places), F.avg_pool2d(fine, 2))
    assert pooled(coarse, places) is coarse
    torch.testing.assert_close(pooled(torch.arange(4.0).reshape(1, 1, 4), (2,)), torch.tensor([[[0.5, 2.5]]]))
    with pytest.raises(KMRError, match="compared"):
        common_places(fine.shape, torch.Size((1, 3)))
