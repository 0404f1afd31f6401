import copy
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import kmr
from kmr.artifact.folder import Builder
from kmr.core import KMRError, Move, NotApplicable, RuleWarning
from kmr.data import Split
from kmr.finetune import FineTune
from kmr.instantiations.joint import BudgetedTraining, budgeted
from kmr.instantiations.joint.squeeze import Squeeze
from kmr.instantiations.joint.units import find_groups, find_units
from kmr.instantiations.pruning import StructuredPruning, UnstructuredPruning
from kmr.instantiations.pruning.graph import Graph
from kmr.instantiations.pruning.proof import CutFailed
from kmr.instantiations.quantization import StaticQuantization, WeightClustering, WeightQuantization
from kmr.meters import BOPs, MACs, WeightBytes
from kmr.meters.bops import layer_bits
from kmr.representation.weights import Grid, read_weight, weight_layers

IMAGES = torch.randn(64, 2, 6, 6, generator=torch.Generator().manual_seed(1))
DATA = Split((IMAGES, (IMAGES[:, 0].mean((1, 2)) > 0).long()), 16)
KNOB = "geta.bops"


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 12, 3, padding=1, bias=False), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 16, 3, padding=1),
        nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10), nn.ReLU(), nn.Linear(10, 2),
    ).eval()  # fmt: skip


def geta(steps: int = 12, **settings: Any) -> BudgetedTraining:
    recipe = settings.pop("recipe", partial(FineTune, steps=steps))
    return BudgetedTraining(
        **{"data": DATA, "original": model(), "recipe": recipe, "example_inputs": IMAGES[:2], "updates": 6, **settings}
    )


def bops(made: nn.Module) -> float:
    return BOPs(example_inputs=IMAGES[:1])(made).value


def channels(made: nn.Module) -> list[int]:
    return [len(layer.weight) for _, layer in weight_layers(made)]


@pytest.mark.parametrize("share", [0.25, 0.12, 0.05, 0.02])
@pytest.mark.parametrize("steps", [0, 12])
def test_the_budget_is_met_and_nearly_used_up(share: float, steps: int) -> None:
    base = model()
    made = geta(steps)(base, KNOB, share)
    assert bops(made) <= share * bops(base)
    assert bops(made) >= 0.85 * share * bops(base), "one bit of the largest layer is a tenth of it"
    for _, layer in weight_layers(made):
        state = read_weight(layer)
        assert isinstance(state.grid, Grid)
        assert state.keep is None
        assert 2 <= state.grid.bits <= 8
        assert torch.equal(layer.parametrizations.weight.original, state.weight), "the latent weights are settled"
        assert torch.equal(state.grid.values(state.grid.codes(state.weight)), state.weight)
    assert torch.isfinite(made(IMAGES)).all()


def test_channels_are_gone_and_layers_have_bits_of_their_own() -> None:
    base, made = model(), geta()(model(), KNOB, 0.04)
    assert sum(channels(made)) < sum(channels(base))
    assert channels(made)[-1] == 2
    assert len({bits for bits, _ in layer_bits(made).values()}) > 1
    for meter in (WeightBytes(), MACs(example_inputs=IMAGES[:1])):
        assert meter(made).value < meter(base).value


def test_it_is_pure_deterministic_and_the_neutral_value_an_identity() -> None:
    base = model()
    before = copy.deepcopy(base.state_dict())
    first, second = geta()(base, KNOB, 0.05), geta()(base, KNOB, 0.05)
    assert all(torch.equal(before[name], tensor) for name, tensor in base.state_dict().items())
    assert first.state_dict().keys() == second.state_dict().keys()
    assert all(torch.equal(first.state_dict()[name], tensor) for name, tensor in second.state_dict().items())
    neutral = geta()(base, KNOB, 1.0)
    assert all(torch.equal(before[name], tensor) for name, tensor in neutral.state_dict().items())


def test_the_artifact_loads_back_exactly_and_trains_on_under_its_grids(tmp_path: Path) -> None:
    base = model()
    made = geta(learned=True)(base, KNOB, 0.05)
    saved = kmr.save(
        tmp_path / "made", made, base=base, builder=Builder("torch.nn.Sequential"), sequence=(Move(KNOB, 0.05),)
    )
    loaded = kmr.load(saved, base=base)
    with torch.no_grad():
        assert torch.equal(loaded(IMAGES), made(IMAGES))
    assert bops(loaded) == bops(made)
    trained = [FineTune(data=DATA, steps=3)(copy.deepcopy(one)) for one in (made, loaded)]
    with torch.no_grad():
        assert torch.equal(trained[0](IMAGES), trained[1](IMAGES))
    assert bops(trained[0]) == bops(made)


def test_steps_and_ranges_learn_and_a_width_moves_with_them() -> None:
    trained = model()
    groups, _ = find_groups(trained, IMAGES[:1], lambda _: True)
    layers = dict(weight_layers(trained))
    squeeze = Squeeze(trained, layers, find_units(trained, groups), IMAGES[:1], (2, 8), 0.1)
    squeeze.to(0.5, 0.1 * squeeze.start)
    before = squeeze.widths
    told: list[int] = []

    def progress(done: int, total: int, loss: float) -> None:
        squeeze.see()
        told.append(done)

    FineTune(data=DATA, steps=4, progress=progress)(trained)
    assert told == [1, 2, 3, 4]
    assert squeeze.widths.keys() == before.keys()
    moved = [path for path, width in squeeze.widths.items() if width != before[path]]
    assert len(moved) >= 2
    assert all(2 - 1e-4 <= width <= 8 + 1e-4 for width in squeeze.widths.values())


def test_units_and_rounding_are_judged_by_their_first_order_change() -> None:
    trained = model()
    groups, _ = find_groups(trained, IMAGES[:1], lambda _: True)
    units = find_units(trained, groups)
    squeeze = Squeeze(trained, dict(weight_layers(trained)), units, IMAGES[:1], (2, 8), 0.1)
    nn.functional.cross_entropy(trained(IMAGES), DATA.source[1]).backward()  # type: ignore[no-untyped-call]
    squeeze.see()
    place = next(place for place, group in enumerate(units.groups) if group.makers == ("3",))
    reader: Any = trained[7]
    gradient = reader.parametrizations.weight.original.grad
    expected = (gradient * reader.weight.detach()).sum(0).square()
    found = squeeze._units_lost[units.sets == place]
    assert found.tolist() == pytest.approx(expected.tolist(), rel=1e-5)
    quantizer = reader.parametrizations.weight[0]
    noise = (gradient * quantizer.factor.detach() * quantizer.step.detach()).square().sum() / 12
    assert float(squeeze._noise()[2]) == pytest.approx(float(noise), rel=1e-5)


def test_the_budget_is_a_share_of_the_originals() -> None:
    base = model()
    narrow = StructuredPruning(example_inputs=IMAGES[:2])(base, "structured.ratio", 0.5)
    made = geta(original=base)(narrow, KNOB, 0.05)
    assert 0.93 * 0.05 * bops(base) <= bops(made) <= 0.05 * bops(base)
    of_its_own = geta(original=None, weight=0.0)(narrow, KNOB, 0.05)
    assert bops(of_its_own) <= 0.05 * bops(narrow)
    with pytest.warns(RuleWarning, match="already"):
        same = geta(original=base)(made, KNOB, 0.1)
    assert all(torch.equal(made.state_dict()[name], tensor) for name, tensor in same.state_dict().items())


def test_what_was_compressed_before_stays_so() -> None:
    before = UnstructuredPruning()(model(), "prune.sparsity", 0.6)
    before = WeightQuantization()(before, "quantize.bits", 4)
    made = geta()(before, KNOB, 0.04)
    assert max(bits for bits, _ in layer_bits(made).values()) <= 4
    for _, layer in weight_layers(made):
        state = read_weight(layer)
        assert state.keep is not None
        assert not state.weight[~state.keep].any()
    clustered = WeightClustering(layers=("0",))(model(), "cluster.bits@0", 3)
    made = geta()(clustered, KNOB, 0.06)
    assert bops(made) <= 0.06 * bops(model())
    assert {path: bits for path, (bits, _) in layer_bits(made).items()}["0"] == 3


def test_activations_on_grids_count_at_their_bits() -> None:
    quantized = StaticQuantization(data=DATA)(model(), "static.bits", 8)
    made = geta()(quantized, KNOB, 0.02)
    assert {inputs for _, inputs in layer_bits(made).values()} == {8}
    assert 0.9 * 0.02 * bops(model()) <= bops(made) <= 0.02 * bops(model())


def test_excluded_layers_keep_their_weights_and_channels() -> None:
    made = geta(exclude=("7", "9"))(model(), KNOB, 0.06)
    bits = layer_bits(made)
    assert {bits[path][0] for path in ("7", "9")} == {32}
    assert channels(made)[2:] == [10, 2]
    assert bops(made) <= 0.06 * bops(model())


def test_where_channels_cannot_go_in_the_end_bits_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise CutFailed("not today")

    rule = geta()
    monkeypatch.setattr(budgeted, "cut", fail)
    with pytest.warns(RuleWarning, match="not today"):
        made = rule(model(), KNOB, 0.08)
    assert channels(made) == channels(model())
    assert bops(made) <= 0.08 * bops(model())
    with pytest.warns(RuleWarning), pytest.raises(NotApplicable, match="cannot be met"):
        rule(model(), KNOB, 0.03)


def test_channels_may_stay_and_a_budget_out_of_reach_is_refused_before_training() -> None:
    told: list[int] = []
    recipe = partial(FineTune, steps=4, progress=lambda done, *_: told.append(done))
    with pytest.raises(NotApplicable, match=r"0\.03 of the bit operations cannot be met"):
        geta(stay=1.0, recipe=recipe)(model(), KNOB, 0.03)
    assert told == []
    made = geta(stay=1.0, recipe=recipe)(model(), KNOB, 0.1)
    assert channels(made) == channels(model())
    assert told == [1, 2, 3, 4]


def test_a_time_limit_does_not_keep_it_from_the_budget() -> None:
    made = geta(recipe=partial(FineTune, steps=1000, seconds=1e-6))(model(), KNOB, 0.05)
    assert bops(made) <= 0.05 * bops(model())


class Tokens(nn.Module):
    """A classifier of six tokens with two heads of attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Linear(12, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True)
        self.head = nn.Linear(8, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.layer(self.embed(x.flatten(2).transpose(1, 2).reshape(-1, 6, 12))).mean(1))


def test_attention_takes_part() -> None:
    torch.manual_seed(0)
    base = Tokens().eval()
    rule = geta(original=base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuleWarning)
        made = rule(base, KNOB, 0.2)
    assert bops(made) <= 0.2 * bops(base)
    assert len(list(weight_layers(made))) > len(list(weight_layers(base)))
    assert torch.isfinite(made(IMAGES)).all()
    assert Graph(base, IMAGES[:2]).groups


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"bits": (1, 8)}, "bits of geta"),
        ({"bits": (8, 8)}, "bits of geta"),
        ({"stay": 0.0}, "stay of geta must be a share"),
        ({"layers": ("0",)}, "exclude"),
        ({"ramp": 0.0}, "ramp"),
        ({"original": None}, "no teacher"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(KMRError, match=message):
        geta(**settings)


def test_a_recipe_that_keeps_the_best_weights_is_refused_and_so_is_no_data() -> None:
    with pytest.raises(KMRError, match="must have keep=last"):
        geta(recipe=partial(FineTune, steps=4, keep="best", holdout=0.2))(model(), KNOB, 0.1)
    with pytest.raises(NotApplicable, match="no data"):
        geta(data=None)(model(), KNOB, 0.1)
