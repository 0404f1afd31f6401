import copy
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kmr.core import KMRError, isolated_rng
from kmr.data import Split, forward
from kmr.finetune import Batch, FineTune, mean_squared_error
from kmr.instantiations.distillation import AttentionTransfer, Hints, Mutual, Response, SelfDistillation
from kmr.instantiations.distillation.losses import hinton, softened
from kmr.instantiations.teachers import Lessons
from kmr.representation.early_exits import EarlyExits, Pooled


class Stages(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.stage1 = nn.Sequential(nn.Conv2d(1, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(width, width, 3, stride=2, padding=1), nn.ReLU())
        self.head = nn.Linear(width, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.stage2(self.stage1(x)).mean((2, 3)))


def made(width: int, seed: int = 0) -> Stages:
    with isolated_rng(seed):
        return Stages(width)


def data(n: int = 12) -> Split:
    generator = torch.Generator().manual_seed(0)
    return Split((torch.randn(n, 1, 6, 6, generator=generator), torch.arange(n) % 3), 4)


def trained(guides: dict[str, Any], steps: int = 3, student: nn.Module | None = None, **more: Any) -> nn.Module:
    recipe = FineTune(
        data=data(), steps=steps, guides=guides, optimizer=partial(torch.optim.SGD, lr=0.1), schedule="constant",
        max_norm=None, **{"original": made(5, 9), **more},
    )  # fmt: skip
    return recipe(made(4) if student is None else student)


def test_the_loss_is_the_weighted_sum() -> None:
    losses: list[float] = []
    guide = Response(temperature=3.0, weight=0.7)
    trained({"answers": guide}, steps=1, progress=lambda _d, _t, loss: losses.append(loss))
    with isolated_rng(0):
        inputs, targets = next(data().batches(shuffle_seed=0))
    student, teacher = made(4).train(), made(5, 9).eval()
    with torch.no_grad():
        outputs, answers = student(inputs), teacher(inputs)
    expected = 0.3 * nn.functional.cross_entropy(outputs, targets)
    expected += 0.7 * hinton(outputs, softened({"t": answers}, 3.0, -1), 3.0, -1).mean()
    assert losses == pytest.approx([expected.item()], rel=1e-5)


@pytest.mark.parametrize("guide", [Response(), Hints(), AttentionTransfer(), Hints(count=1)])
def test_what_a_teacher_says_is_the_same_kept_or_not_and_no_trace_is_left(guide: Any) -> None:
    once = trained({"guide": guide})
    fields = {"weight": guide.weight, "cache_mb": 0.0}
    if isinstance(guide, Hints):
        fields["count"] = guide.count
    again = trained({"guide": type(guide)(**fields)})
    assert guide._lessons.kept
    for one, other in zip(once.parameters(), again.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert any(not torch.equal(a, b) for a, b in zip(once.parameters(), trained({}).parameters(), strict=True))
    assert not [m for m in once.modules() if m._forward_hooks]
    assert once.state_dict().keys() == made(4).state_dict().keys()


def test_a_teacher_is_left_as_it_is() -> None:
    teacher = made(5, 9).train()
    before = copy.deepcopy(teacher.state_dict())
    trained({"a": Response(), "b": Hints(), "c": AttentionTransfer()}, original=teacher)
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())
    assert teacher.training
    assert all(p.grad is None for p in teacher.parameters())


def test_a_student_learns_its_teachers_answers() -> None:
    teacher = made(5, 9)
    x = data().source[0]

    def distance(student: nn.Module) -> float:
        with torch.no_grad():
            outputs, answers = student.eval()(x), teacher.eval()(x)
        return float(hinton(outputs, softened({"t": answers}, 1.0, -1), 1.0, -1).mean())

    taught = trained({"answers": Response(weight=1.0, temperature=2.0)}, steps=60, original=teacher)
    assert distance(taught) < 0.2 * distance(made(4))


def test_hints_bring_features_together_and_projections_are_thrown_away() -> None:
    losses: list[float] = []
    guide = Hints(pairs={"stage1": "stage2"})
    trained(
        {"hints": guide}, steps=60, batch_loss=_zero, progress=lambda _d, _t, loss: losses.append(loss),
    )  # fmt: skip
    assert losses[-1] < 0.5 * losses[0]


def _zero(model: nn.Module, batch: Any) -> Tensor:
    return forward(model, batch[0]).sum() * 0


def test_several_teachers_and_a_named_one() -> None:
    one, other = made(5, 1), made(6, 2)
    both = trained({"answers": Response(teacher={"a": one, "b": other})}, original=None)
    alone = trained({"answers": Response(teacher=one)}, original=None)
    assert not torch.equal(both.head.weight, alone.head.weight)
    twice = trained({"answers": Response(teacher={"a": one, "b": copy.deepcopy(one)})})
    torch.testing.assert_close(twice.head.weight, alone.head.weight)
    with pytest.raises(KMRError, match="no teacher"):
        trained({"answers": Response()}, original=None)


def test_numbers_are_taught_by_their_squared_difference() -> None:
    x = torch.linspace(-1, 1, 32)[:, None]
    teacher = nn.Linear(1, 1)
    teacher.weight.data.fill_(2.0)
    teacher.bias.data.fill_(0.5)
    recipe = FineTune(
        data=Split((x, torch.zeros_like(x)), 8), loss=mean_squared_error, steps=200, schedule="constant",
        guides={"answers": Response(teacher=teacher, form="mse", weight=1.0)},
        optimizer=partial(torch.optim.SGD, lr=0.3),
    )  # fmt: skip
    student = recipe(nn.Linear(1, 1))
    assert student.weight.item() == pytest.approx(2.0, abs=1e-3)
    assert student.bias.item() == pytest.approx(0.5, abs=1e-3)


def test_predictions_without_a_target_are_not_taught() -> None:
    guide = Response(weight=1.0)
    outputs, answers = torch.randn(2, 3, 5).unbind(0)
    targets = torch.tensor([0, -100, 2])
    some = guide.distance(outputs, {"t": answers}, targets)
    rows = [0, 2]
    torch.testing.assert_close(some, guide.distance(outputs[rows], {"t": answers[rows]}, targets[rows]))
    with pytest.raises(KMRError, match="shape"):
        guide.distance(outputs, {"t": answers[:, :2]}, targets)


def test_lessons_are_computed_once_for_a_teacher_as_it_is() -> None:
    calls = []

    def says(teacher: nn.Module, inputs: Tensor) -> dict[str, Tensor]:
        calls.append(len(inputs))
        return {"answer": teacher(inputs).detach()}

    teacher, split, lessons = nn.Linear(2, 3), Split((torch.randn(6, 2), torch.zeros(6)), 4), Lessons(1e6)
    places = torch.tensor([5, 0])
    batch = Batch(places, split.source[0][places], torch.zeros(2), torch.zeros(2, 3))
    torch.testing.assert_close(lessons.of(teacher, split, batch, says)["answer"], teacher(batch.inputs))
    lessons.of(teacher, split, batch, says)
    assert calls == [1, 4, 2]
    with torch.no_grad():
        teacher.weight.zero_()
    torch.testing.assert_close(lessons.of(teacher, split, batch, says)["answer"], teacher.bias.expand(2, 3))
    assert calls == [1, 4, 2] * 2
    augmented = Batch(places, 2 * batch.inputs, batch.targets, batch.outputs, augmented=True)
    lessons.of(teacher, split, augmented, says)
    assert calls[-1] == 2


@pytest.mark.parametrize(
    "bad",
    [
        lambda: Response(temperature=0.0), lambda: Response(weight=1.1), lambda: Response(form="l1"),  # type: ignore[arg-type]
        lambda: Hints(weight=-1.0), lambda: AttentionTransfer(count=0),
    ],
)  # fmt: skip
def test_bad_settings_are_refused(bad: Any) -> None:
    with pytest.raises(KMRError):
        bad()


def test_features_that_cannot_be_found_are_named() -> None:
    with pytest.raises(KMRError, match="no module stage9"):
        trained({"hints": Hints(pairs={"stage9": "stage1"})})
    with pytest.raises(KMRError, match="head"):
        trained({"attention": AttentionTransfer(pairs={"head": "head"})})
    with pytest.raises(KMRError, match="match by name"):
        trained({"hints": Hints()}, original=nn.Sequential(nn.Flatten(), nn.Linear(36, 3)))


def exits(seed: int = 0) -> EarlyExits:
    body = made(4, seed)
    with isolated_rng(seed + 1):
        heads = [nn.Sequential(Pooled(), nn.Linear(4, 3)) for _ in range(2)]
    return EarlyExits(body, heads, ["stage1", "stage2"], 0.9)


def test_deeper_exits_teach_shallower_ones() -> None:
    losses: list[float] = []
    guide = SelfDistillation(temperature=2.0, weight=0.4, factor=0.5)
    trained({"exits": guide}, steps=1, student=exits(), progress=lambda _d, _t, loss: losses.append(loss))
    inputs, targets = next(data().batches(shuffle_seed=0))
    model = exits().train()
    with torch.no_grad():
        first = model.body.stage1(inputs)
        second = model.body.stage2(first)
        final = model.body.head(second.mean((2, 3)))
        logits = [head(feature) for head, feature in zip(model.heads, (first, second), strict=True)]
    task = nn.functional.cross_entropy
    expected = task(final, targets)
    for ours, deeper in ((logits[0], logits[1]), (logits[1], final)):
        taught = hinton(ours, softened({"deeper": deeper}, 2.0, 1), 2.0, 1).mean()
        expected += 0.5 * (0.6 * task(ours, targets) + 0.4 * taught) / 2
    assert losses == pytest.approx([expected.item()], rel=1e-5)
    learned = trained({"exits": guide}, student=exits())
    assert not torch.equal(learned.heads[0][1].weight, exits().heads[0][1].weight)
    plain = trained({"exits": guide})
    assert all(torch.equal(a, b) for a, b in zip(plain.parameters(), trained({}).parameters(), strict=True))


def test_a_cohort_teaches_each_other_without_gradients_to_the_teachers() -> None:
    # A peer alike in everything teaches nothing: what is left is the task, and the peer's own, which reaches it alone.
    alike = trained({"mutual": Mutual(spread=0.0)})
    for one, other in zip(alike.parameters(), trained({}).parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    losses: list[float] = []
    peer = made(6, 3)
    guide = Mutual(peer=partial(copy.deepcopy, peer), temperature=2.0, weight=0.5)
    trained({"mutual": guide}, steps=1, progress=lambda _d, _t, loss: losses.append(loss))
    inputs, targets = next(data().batches(shuffle_seed=0))
    with torch.no_grad():
        ours, theirs = made(4).train()(inputs), copy.deepcopy(peer).train()(inputs)
    expected = sum(nn.functional.cross_entropy(answer, targets) for answer in (ours, theirs))
    for answer, other in ((ours, theirs), (theirs, ours)):
        expected += 0.5 * hinton(answer, softened({"t": other}, 2.0, -1), 2.0, -1).mean()
    assert losses == pytest.approx([expected.item()], rel=1e-5)
    seeded = [trained({"mutual": Mutual(peers=2)}).head.weight for _ in range(2)]
    assert torch.equal(*seeded)


@pytest.mark.parametrize("bad", [partial(Mutual, peers=0), partial(SelfDistillation, weight=2.0)])
def test_bad_settings_of_cohorts_and_exits_are_refused(bad: Any) -> None:
    with pytest.raises(KMRError, match="needs"):
        bad()
