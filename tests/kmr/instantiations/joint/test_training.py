import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import nn

from kmr.core import KMRError, NotApplicable
from kmr.data import Split
from kmr.finetune import FineTune
from kmr.instantiations.distillation import Response
from kmr.instantiations.joint import JointTraining, Ramp
from kmr.instantiations.pruning import UnstructuredPruning
from kmr.instantiations.quantization import WeightQuantization
from kmr.meters import WeightBytes
from kmr.representation.weights import read_weight, weight_layers

INPUTS = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))
DATA = Split((INPUTS, (INPUTS[:, 0] > 0).long() + 2 * (INPUTS[:, 1] > 0).long()), 8)
KNOB = "joint.target"


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 20), nn.ReLU(), nn.Linear(20, 4)).eval()


def joint(steps: int = 20, **settings: Any) -> JointTraining:
    recipe = settings.pop("recipe", partial(FineTune, steps=steps))
    return JointTraining(**{"data": DATA, "original": model(), "recipe": recipe, **settings})


def zeros(made: nn.Module) -> float:
    weights = [read_weight(layer).weight for _, layer in weight_layers(made)]
    return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


def weights(made: nn.Module) -> list[torch.Tensor]:
    return [read_weight(layer).weight for _, layer in weight_layers(made)]


@pytest.mark.parametrize(("target", "sparsity", "bits"), [("0.5/4", 0.5, 4), ("0.9/2", 0.9, 2), ("0.8/8", 0.8, 8)])
def test_the_target_is_reached_and_held(target: str, sparsity: float, bits: int) -> None:
    made = joint()(model(), KNOB, target)
    assert zeros(made) >= sparsity - 1e-9
    for _, layer in weight_layers(made):
        state = read_weight(layer)
        assert state.grid is not None
        assert state.keep is not None
        assert state.grid.bits == bits
        assert torch.equal(layer.parametrizations.weight.original, state.weight), "the latent weights are settled"
        assert max(len(row.unique()) for row in state.weight) <= 2**bits
    trained = FineTune(data=DATA, steps=5)(copy.deepcopy(made))
    assert zeros(trained) >= zeros(made)


def test_without_steps_it_is_pruning_and_then_quantization() -> None:
    both = WeightQuantization()(
        UnstructuredPruning()(model(), "prune.sparsity", 0.7), "quantize.bits", 3
    )  # fmt: skip
    made = joint(0)(model(), KNOB, "0.7/3")
    assert all(torch.equal(one, other) for one, other in zip(weights(made), weights(both), strict=True))


def test_without_masks_and_on_fine_grids_it_is_plain_training_with_the_teacher() -> None:
    rule = joint(12, sparsities=(0.0,), bits=(16,), start_bits=16, ramp=1.0, weight=0.5)
    guides = {"answers": Response(temperature=4.0, weight=0.5)}
    plain = FineTune(data=DATA, steps=12, original=model(), guides=guides)(model())
    for one, other in zip(weights(rule(model(), KNOB, "0/16")), weights(plain), strict=True):
        assert one.numpy() == pytest.approx(other.numpy(), abs=1e-3)


def test_sparsity_and_bits_follow_their_curves() -> None:
    ramped = model()
    ramp = Ramp(dict(weight_layers(ramped)), 0.8, 4)
    grids = [read_weight(layer).grid for _, layer in weight_layers(ramped)]
    seen = []
    for share in (0.25, 0.5, 0.75, 0.5, 1.0):
        ramp.to(share)
        masked = [~read_weight(layer).keep for _, layer in weight_layers(ramped)]
        count = sum(mask.numel() for mask in masked)
        seen.append((round(sum(int(mask.sum()) for mask in masked) / count, 3), {grid.bits for grid in grids}))
    cubic = [0.8 * (1 - (1 - t) ** 3) for t in (0.25, 0.5, 0.75, 0.75, 1.0)]
    assert [sparsity for sparsity, _ in seen] == pytest.approx(cubic, abs=1 / 200)
    assert [bits for _, bits in seen] == [{7}, {6}, {5}, {5}, {4}]


def test_the_ramp_tightens_while_training_and_others_are_told_of_the_steps() -> None:
    told: list[tuple[int, int]] = []
    recipe = partial(FineTune, steps=10, progress=lambda done, total, loss: told.append((done, total)))
    joint(recipe=recipe)(model(), KNOB, "0.5/4")
    assert told == [(step, 10) for step in range(1, 11)]


def test_what_was_compressed_before_stays_so() -> None:
    before = UnstructuredPruning()(model(), "prune.sparsity", 0.9)
    made = joint()(WeightQuantization()(before, "quantize.bits", 2), KNOB, "0.5/4")
    for (_, old), (_, new) in zip(weight_layers(before), weight_layers(made), strict=True):
        kept, now = read_weight(old).keep, read_weight(new)
        assert kept is not None
        assert now.keep is not None
        assert not (now.keep & ~kept).any()
        assert now.grid is not None
        assert now.grid.bits == 2


def test_targets_are_ordered_by_the_bits_they_leave_and_cost_less_and_less() -> None:
    rule = joint(sparsities=(0.5, 0.9), bits=(8, 4))
    assert rule.knobs[0].domain.values == ("0.5/8", "0.5/4", "0.9/8", "0.9/4")
    sizes = [WeightBytes()(rule(model(), KNOB, target)).value for target in ("0/32", *rule.knobs[0].domain.values)]
    assert sizes == sorted(sizes, reverse=True)


def test_scales_may_be_learned() -> None:
    made = joint(learned=True)(model(), KNOB, "0.5/3")
    assert all(read_weight(layer).grid.learned for _, layer in weight_layers(made))  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sparsities": (1.0,)}, "sparsities"),
        ({"bits": (20,)}, "bits"),
        ({"ramp": 0.0}, "ramp"),
        ({"updates": 0}, "updates"),
        ({"original": None}, "no teacher"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(KMRError, match=message):
        joint(**settings)


def test_a_recipe_that_keeps_the_best_weights_is_refused_and_so_is_no_data() -> None:
    best = joint(recipe=partial(FineTune, steps=4, keep="best", holdout=0.2))
    with pytest.raises(KMRError, match="must have keep=last"):
        best(model(), KNOB, "0.5/4")
    with pytest.raises(NotApplicable, match="no data"):
        joint(data=None)(model(), KNOB, "0.5/4")


class Tokens(nn.Module):
    """A classifier of six numbers, one token each."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(1, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.embed(x[..., None])).mean(1))


def test_the_projections_of_attention_reach_the_target_too() -> None:
    torch.manual_seed(0)
    original = Tokens().eval()
    made = joint(original=original)(original, KNOB, "0.5/4")
    states = {path: read_weight(layer) for path, layer in weight_layers(made)}
    assert len(states) > len(list(weight_layers(original))), "the packed projections are layers of their own"
    assert {state.grid.bits for state in states.values() if state.grid is not None} == {4}
    assert zeros(made) >= 0.5
    with torch.no_grad():
        assert torch.isfinite(made(INPUTS)).all()
