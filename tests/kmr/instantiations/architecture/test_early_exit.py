from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import kmr
from kmr.artifact.folder import Builder
from kmr.core import Budget, Instantiation, Move, NotApplicable, budgeted_kmr, measure
from kmr.data import Split
from kmr.finetune import FineTune
from kmr.instantiations.architecture import EarlyExit
from kmr.meters import ExpectedMACs, MACs
from kmr.representation.early_exits import EarlyExits, Pooled
from sweeps.examples.cifar import resnet


def scaled(factor: float) -> nn.Linear:
    layer = nn.Linear(2, 2, bias=False)
    layer.weight.data = factor * torch.eye(2)
    return layer


def chain(threshold: float) -> EarlyExits:
    """f(x) = 100·x in two layers; the exit after the first says x itself."""
    body = nn.Sequential(scaled(10.0), scaled(10.0))
    return EarlyExits(body, [scaled(0.1)], ["0"], threshold).eval()


# softmax(x, 0) is above 0.9 where x > log 9 ≈ 2.2.
EASY, HARD = [3.0, 0.0], [2.0, 0.0]


@torch.no_grad()
def test_confident_samples_leave_and_the_order_is_kept() -> None:
    x = torch.tensor([HARD, EASY, HARD, EASY])
    model = chain(0.9)
    assert torch.allclose(model(x), torch.tensor([[200.0, 0], [3, 0], [200, 0], [3, 0]]))
    assert model.route(x)[1].tolist() == [1, 0, 1, 0]
    seen = []
    model.body[1].register_forward_hook(lambda _m, args, _o: seen.append(len(args[0])))
    model(x)
    assert seen == [2], "what has left is not computed"
    assert torch.allclose(model(x[1::2]), x[1::2])
    assert seen == [2], "where everyone has left nothing more is computed"
    assert model.route(x[:1])[1].tolist() == [1]


def test_no_sample_leaves_at_one_in_training_or_with_gradients() -> None:
    x = torch.tensor([EASY, HARD])
    whole = 100 * x
    with torch.no_grad():
        assert torch.allclose(chain(1.0)(x), whole)
        assert torch.allclose(chain(0.9).train()(x), whole)
    model = chain(0.9)
    output = model(x)
    assert torch.allclose(output, whole)
    output.sum().backward()
    assert torch.equal(model.heads[0].weight.grad, torch.zeros(2, 2)), "heads are in the graph, with no weight"


def test_expected_macs_by_hand() -> None:
    # 4 for the first layer, 4 for the head, 4 for the second: an easy sample takes 8, a hard one 12.
    x = torch.tensor([EASY, HARD, HARD, HARD])
    meter = ExpectedMACs(data=Split((x, torch.zeros(4)), 3), example_inputs=x)
    reading = meter(chain(0.9))
    assert reading.value == 11
    assert reading.stderr == pytest.approx(2 / 2)
    assert meter(chain(1.0)).value == 12
    assert MACs(example_inputs=x)(chain(0.9)).value == 12
    plain = meter(nn.Sequential(scaled(1.0), scaled(1.0)))
    assert (plain.value, plain.stderr) == (8, None)


def test_the_rule_trains_heads_on_the_models_features_and_ships(tmp_path: Any) -> None:
    with kmr.isolated_rng(0):
        base = resnet(depth=14, width=4).eval()
    x = torch.randn(16, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    # Two kinds of images that any feature tells apart.
    y = torch.arange(16) % 2
    x += 4 * y[:, None, None, None]
    data = Split((x, y), 8)
    recipe = partial(FineTune, steps=80, optimizer=partial(torch.optim.Adam, lr=0.2))
    rule = EarlyExit(data=data, recipe=recipe, example_inputs=x[:2])
    model = rule(base, "exits.threshold", 0.6)
    assert model.paths == ("layer1", "layer2")
    assert all(torch.equal(p, q) for p, q in zip(model.body.parameters(), base.parameters(), strict=True))
    assert torch.equal(model.body.bn1.running_mean, base.bn1.running_mean)
    with torch.no_grad():
        logits, taken = model.route(x)
    assert (taken < 2).any()
    assert bool((logits.argmax(1)[taken < 2] == y[taken < 2]).float().mean() > 0.9)
    meter = ExpectedMACs(data=data, example_inputs=x[:1])
    assert meter(model).value < meter(rule(base, "exits.threshold", 0.9999)).value
    stricter = rule(model, "exits.threshold", 0.9999)
    assert torch.equal(stricter.heads[0][1].weight, model.heads[0][1].weight)
    moves = [Move("exits.threshold", 0.6)]
    saved = kmr.save(tmp_path / "exits", model, base=base, builder=Builder("a:b"), sequence=moves)
    loaded = kmr.load(saved, base=base)
    with torch.no_grad():
        assert torch.equal(loaded(x), logits)


def test_what_cannot_leave_is_not_applicable() -> None:
    class Holds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 3))

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.first(x) + x)

    x = torch.randn(8, 2)
    rule = EarlyExit(data=Split((x, torch.zeros(8, dtype=torch.long)), 4), example_inputs=x)
    with pytest.raises(NotApplicable, match="cannot leave at first"):
        rule(Holds().eval(), "exits.threshold", 0.5)
    with pytest.raises(NotApplicable, match="no stages"):
        rule(nn.Sequential(nn.Linear(2, 3)), "exits.threshold", 0.5)


def test_features_are_averaged_over_places() -> None:
    assert torch.equal(Pooled()(torch.arange(8.0).reshape(1, 2, 2, 2)), torch.tensor([[1.5, 5.5]]))
    assert torch.equal(Pooled()(torch.tensor([[[1.0, 2.0], [3.0, 6.0]]])), torch.tensor([[2.0, 4.0]]))
    assert torch.equal(Pooled()(torch.ones(2, 3)), torch.ones(2, 3))


def test_a_cost_that_training_raises_is_what_it_is_after_it() -> None:
    x = torch.tensor([EASY, HARD, HARD, HARD])
    cost = ExpectedMACs(data=Split((x, torch.zeros(4)), 4), example_inputs=x)

    class Threshold(EarlyExit):
        def apply(self, model: Any, knob: Any, value: Any) -> Any:
            model.threshold = value
            return model

    technique = Instantiation("exits", (Threshold(data=cost.data, example_inputs=x),), (cost,), ())

    class Once:
        def __call__(self, *_: Any) -> Move:
            return Move("exits.threshold", 0.5)

        def refuse(self, move: Move) -> None: ...

    base = chain(0.99)
    assert measure(base, [cost])["expected_macs"].value == 12
    run = budgeted_kmr(base, technique, Once(), Budget("expected_macs", 9.0, 3), finetune=lambda m: m)  # type: ignore[arg-type]
    assert run.trace.accepted[-1].costs["expected_macs"].value == 8
    run = budgeted_kmr(base, technique, Once(), Budget("expected_macs", 7.0, 1), finetune=_all_hard)  # type: ignore[arg-type]
    assert not run.trace.steps[-1].accepted
    assert run.trace.steps[-1].costs["expected_macs"].value == 12


def _all_hard(model: nn.Module) -> nn.Module:
    model.heads[0].weight.data.zero_()
    return model


class InOneRow(nn.Module):
    """A stem, blocks in one list, and a head, as transformers have them."""

    def __init__(self, count: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(2, 2), nn.ReLU()) for _ in range(count))
        self.head = nn.Sequential(nn.Linear(2, 2))

    def forward(self, x: Tensor) -> Tensor:
        """Return logits."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x)
        return logits


@pytest.mark.parametrize(
    ("count", "after"), [(2, ["blocks.0"]), (4, ["blocks.0", "blocks.1"]), (9, ["blocks.2", "blocks.5"])]
)
def test_samples_leave_a_row_of_blocks_after_its_thirds(count: int, after: list[str]) -> None:
    data = Split((torch.randn(8, 2), torch.zeros(8, dtype=torch.long)), 8)
    rule = EarlyExit(data=data, recipe=partial(FineTune, steps=1), example_inputs=data.first_inputs(2))
    made = rule(InOneRow(count), "exits.threshold", 0.9)
    assert isinstance(made, EarlyExits)
    assert list(made.paths) == after
