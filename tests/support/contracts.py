"""What the contract tests share: two small models, and every rule, meter and policy of `conf/` made for them."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

import conf
import kmr
from kmr.core import Budget, Domain, Instantiation, Meter, NotHere, Policy, Rule, RuleWarning
from kmr.core.domain import rungs
from kmr.data import Split, forward
from kmr.finetune import FineTune
from kmr.meters import Predictions
from kmr.tasks import Embedding
from sweeps.errors import SweepError
from sweeps.experiment.instantiate import part

CONF = Path(conf.__file__).parent
RULES = sorted(path.stem for path in (CONF / "rule").glob("*.yaml"))
OF_OTHER_OUTPUTS = ("map", "wer", "cer")
"""Meters of boxes and of texts, whose contracts are checked in their own tests."""
METERS = sorted(path.stem for path in (CONF / "meter").glob("*.yaml") if path.stem not in OF_OTHER_OUTPUTS)
POLICIES = sorted(path.stem for path in (CONF / "policy").glob("*.yaml"))
IMAGES = torch.randn(24, 1, 8, 8, generator=torch.Generator().manual_seed(0))


class Residual(nn.Module):
    def __init__(self, width: int, inner: int) -> None:
        super().__init__()
        self.widen, self.back = nn.Conv2d(width, inner, 1), nn.Conv2d(inner, width, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(x + self.back(torch.relu(self.widen(x))))


class Shortcut(nn.Module):
    """A convolution with a shortcut around it, for the rules that leave out whole blocks."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + torch.relu(self.conv(x))


def cnn() -> nn.Module:
    with kmr.isolated_rng(0):
        return nn.Sequential(
            nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), Shortcut(8), nn.Conv2d(8, 12, 3, padding=1),
            nn.ReLU(), nn.Sequential(Residual(12, 6), Residual(12, 6)),
            nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(48, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(),
            nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4),
        ).eval()  # fmt: skip


class Patches(nn.Module):
    """Makes four patches of an image."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.unfold(2, 4, 4).unfold(3, 4, 4).reshape(len(x), 4, 16)


class Mean(nn.Module):
    """Averages over patches."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mean(1)


def transformer() -> nn.Module:
    def layers(count: int) -> nn.Module:
        each = (nn.TransformerEncoderLayer(16, 2, 24, dropout=0.0, batch_first=True) for _ in range(count))
        return nn.Sequential(*each)

    with kmr.isolated_rng(0):
        return nn.Sequential(Patches(), nn.Linear(16, 16), layers(3), layers(1), Mean(), nn.Linear(16, 4)).eval()


MODELS: dict[str, Callable[[], nn.Module]] = {"cnn": cnn, "transformer": transformer}


def rule(name: str, kind: str = "cnn") -> Rule:
    config = yaml.safe_load((CONF / "rule" / f"{name}.yaml").read_text())
    data = Split((IMAGES, torch.arange(24) % 4), 8)
    recipe = FineTune(data=data, steps=2)
    live = {"example_inputs": IMAGES[:2], "data": data, "original": MODELS[kind](), "finetune": recipe}
    made = part(f"rules.{name}", config, name=name, seed=0, **live)
    assert isinstance(made, Rule)
    return made


def meter(name: str) -> Meter:
    config = yaml.safe_load((CONF / "meter" / f"{name}.yaml").read_text())
    targets = torch.arange(24) % 4
    if name in ("r2", "mse", "mae"):
        targets = torch.nn.functional.one_hot(targets).float() + torch.arange(24)[:, None]
    task = Embedding() if name in ("cosine", "recall_at_k") else None
    split = Split((IMAGES, targets), 8, task=task, subgroups=torch.arange(24) // 12)
    live = {"data": Predictions(split), "original": cnn(), "example_inputs": IMAGES[:1], "calibration": split}
    try:
        made = part(f"meters.{name}", config, name=name, **live)
    except SweepError as error:
        if isinstance(error.__cause__, NotHere):
            pytest.skip(str(error))
        raise
    assert isinstance(made, Meter)
    return made


def instantiation() -> Instantiation:
    costs, qualities = [meter("weight_bytes")], [meter("agreement")]
    return Instantiation("two rules", (rule("structured"), rule("quantize")), costs, qualities)  # type: ignore[arg-type]


def policy(name: str) -> Callable[..., Policy]:
    config = yaml.safe_load((CONF / "policy" / f"{name}.yaml").read_text())

    def made(instantiation: Instantiation, budget: Budget, space: Mapping[str, Domain] | None) -> Policy:
        return part("policy", config, instantiation=instantiation, budget=budget, space=space, seed=0)  # type: ignore[no-any-return]

    return made


def turned(made: Rule, model: nn.Module, value: object = None) -> nn.Module:
    """Apply a rule at a value, by default the middle of its ladder; it may only warn in the way of rules."""
    knob = made.knobs[0]
    steps = rungs(knob.domain, 4)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", RuleWarning)
        return made(model, knob.name, steps[len(steps) // 2] if value is None else value)  # type: ignore[arg-type]


def output(model: nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return forward(model, IMAGES)


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)
