"""Qualities on perturbed inputs against attacks written out by hand."""

from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kmr.core import KMRError, measure
from kmr.data import Split
from kmr.meters import Accuracy, Agreement, CrossEntropy, Perturbed
from kmr.meters.perturbations import FGSM, PGD, Blur, Contrast, GaussianNoise
from kmr.representation.weights import Grid, WeightState, write_weight

torch.set_num_threads(1)
CrossEntropyUnder = partial(Perturbed, quality=CrossEntropy)


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3)).eval()


@pytest.fixture
def data():
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(20, 2, 8, 8, generator=generator) * torch.tensor([1.0, 5.0])[:, None, None]
    return Split((images, torch.arange(20) % 3), batch_size=8)


def test_fgsm_is_one_step_of_the_sign_within_the_range_of_each_channel(model, data):
    images, targets = data.source
    low = images[:8].amin((0, 2, 3), keepdim=True)
    high = images[:8].amax((0, 2, 3), keepdim=True)
    leaf = images.clone().requires_grad_()
    (slope,) = torch.autograd.grad(F.cross_entropy(model(leaf), targets), leaf)
    moved = torch.clamp(images + 0.1 * (high - low) * slope.sign(), low, high)
    found = CrossEntropyUnder(data=data, perturbation=FGSM(epsilon=0.1))(model)
    with torch.no_grad():
        assert found.value == pytest.approx(float(F.cross_entropy(model(moved), targets)), rel=1e-5)
    assert found.stderr > 0
    assert all(parameter.grad is None for parameter in model.parameters())


def test_more_steps_find_more_and_none_finds_the_clean_quality(model, data):
    def under(perturbation):
        return CrossEntropyUnder(data=data, perturbation=perturbation)(model).value

    clean = CrossEntropy(data=data)(model).value
    bounds = (-20, 20)
    assert under(FGSM(epsilon=0, bounds=bounds)) == pytest.approx(clean)
    assert under(PGD(epsilon=0, bounds=bounds)) == pytest.approx(clean)
    assert clean < under(FGSM(epsilon=0.02)) <= under(PGD(epsilon=0.02, steps=20)) + 1e-3


def test_an_attack_stays_within_epsilon(model, data):
    images = data.source[0]
    seen = []
    model.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0].detach()))
    Perturbed(data=data, perturbation=PGD(epsilon=0.05, steps=3, bounds=(-4, 4)))(model)
    last = seen[-1]
    assert 0.2 < (last - images[-4:].clamp(-4, 4)).abs().max() <= 0.05 * 8 + 1e-6
    assert last.abs().max() <= 4


def test_corruptions(data):
    images = data.source[0]
    size = torch.ones(1)
    assert (GaussianNoise(sd=0.5).corrupt(images, size) - images).std() == pytest.approx(0.5, rel=0.1)
    flat = Contrast(kept=0.0).corrupt(images, size)
    assert flat == pytest.approx(images.mean((2, 3), keepdim=True).expand_as(images), abs=1e-6)
    even = torch.ones(1, 2, 8, 8)
    assert Blur(sigma=1.5).corrupt(even, size) == pytest.approx(even, abs=1e-5)
    assert Blur(sigma=1.5).corrupt(images, size).std() < 0.5 * images.std()


def test_all_models_see_the_same_noise_and_agreement_is_with_the_original_on_it(model, data):
    meter = Perturbed(data=data, perturbation=GaussianNoise(sd=0.3))
    assert meter(model) == meter(model)
    same = Perturbed(data=data, perturbation=GaussianNoise(sd=0.3), original=model, quality=Agreement, name="same")
    assert same(model).value == 1.0
    both = measure(model, [meter, Accuracy(data=data)])
    assert set(both) == {"perturbed_accuracy", "accuracy"}


def test_a_quantized_model_can_be_attacked(model, data):
    head = model[3]
    scale = head.weight.detach().abs().amax(1, keepdim=True) / 7
    write_weight(head, WeightState(head.weight.detach(), Grid(scale, torch.zeros_like(scale), 4), None))
    clean = CrossEntropy(data=data)(model).value
    assert CrossEntropyUnder(data=data, perturbation=FGSM(epsilon=0.02))(model).value > clean


def test_what_cannot_be_perturbed_is_refused(model, data):
    tokens = Split((torch.arange(12).reshape(4, 3), torch.arange(4) % 2))
    with pytest.raises(KMRError, match="no input is a floating-point tensor"):
        Perturbed(data=tokens)(nn.Sequential(nn.Embedding(12, 4), nn.Flatten(), nn.Linear(12, 2)))
    rows = Split((torch.randn(4, 3), torch.arange(4) % 3))
    with pytest.raises(KMRError, match=r"Blur takes images .*, not inputs of shape \(4, 3\)"):
        Perturbed(data=rows, perturbation=Blur())(nn.Linear(3, 3))


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (partial(FGSM, epsilon=-1), "epsilon must be at least 0, not -1"),
        (partial(PGD, steps=0), "steps must be at least 1, not 0"),
        (partial(GaussianNoise, sd=-0.1), "sd must be at least 0"),
        (partial(Contrast, kept=2), "kept must be between 0 and 1, not 2"),
        (partial(Blur, sigma=0), "sigma must be above 0, not 0"),
        (partial(FGSM, bounds=(1, 0)), "bounds must be two numbers, the lower first"),
    ],
)
def test_settings_out_of_range_are_refused(made, said):
    with pytest.raises(KMRError, match=said):
        made()
