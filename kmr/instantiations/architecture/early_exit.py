"""Early exits as a rule (Algorithm 8, depth by sample): intermediate heads and a confidence threshold."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar, final

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kmr.core import FloatRange, KMRError, Knob, NotApplicable, Rule, Trait, Value
from kmr.data import Inputs, Split, forward
from kmr.finetune import FineTune
from kmr.representation.early_exits import EarlyExits, Pooled


@final
@dataclass(frozen=True, kw_only=True)
class EarlyExit(Rule):
    """Intermediate classifier heads through which confident samples leave early.

    The value is the softmax probability above which a sample leaves. A model without exits gets them: its own weights
    stay, and the heads (average pooling and a linear layer) are trained on its features. A model with exits gets the
    new threshold. The heads add parameters; they lower the mean multiply-accumulates of a sample
    (`kmr.meters.ExpectedMACs`). For rules over layers, the model's own layers are under `body`.

    Args:
        exits: paths of the modules after which to add a head, in order; by default after each stage but the last (a
            stage is a top-level module that contains others), or after thirds of the blocks if they form one chain.
        data: the training split.
        recipe: makes the fine-tuning of the heads, from data, seed and `loss`.
        example_inputs: a batch as `kmr.data.forward` takes it.
    """

    trains: ClassVar[bool] = True
    lowers: ClassVar[str] = "expected_macs"
    raises: ClassVar[frozenset[str]] = frozenset({"parameters", "trainable_parameters", "weight_bytes", "macs"})
    name: str = "exits"
    exits: tuple[str, ...] = ()
    data: Split = field(repr=False)
    recipe: Callable[..., FineTune] = FineTune
    example_inputs: Inputs = field(repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "exits", tuple(self.exits))

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """The knob `name.threshold`; at 1 no sample leaves."""
        return (Knob(f"{self.name}.threshold", FloatRange(0.3, 1.0, neutral=1.0)),)

    @property
    def leaves(self) -> frozenset[Trait]:
        return frozenset({"structure"})

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        if isinstance(model, EarlyExits):
            model.threshold = float(value)
            return model
        paths = list(self.exits or default_exits(model))
        if not paths:
            raise NotApplicable(f"{knob.name}: the model has no stages to add exits between: name modules in `exits`")
        try:
            heads = new_heads(model, paths, self.example_inputs)
        except KMRError as reason:
            raise NotApplicable(f"{knob.name}: {reason}") from reason
        training = model.training
        self.recipe(data=self.data, seed=self.seed, loss=_of_all_heads)(_HeadTraining(model, heads, paths))
        made = EarlyExits(model, heads, paths, float(value)).train(training)
        self._check(made, model, knob)
        return made

    def _check(self, made: EarlyExits, model: nn.Module, knob: Knob) -> None:
        """Raise `NotApplicable` unless samples that do not leave get the model's own output."""
        batch = self.data.first_inputs(8)
        modes = [(module, module.training) for module in made.modules()]
        try:
            made.eval()
            with torch.no_grad():
                whole = forward(model, batch)
                for place in range(len(made.heads) + 1):
                    made.forced = place
                    found = forward(made, batch)
                    if found.shape != whole.shape:
                        raise KMRError(f"an exit returns {tuple(found.shape)}, the model {tuple(whole.shape)}")
                if not torch.equal(found, whole):
                    raise KMRError("the model with exits has another output")
                made.forced = None
                # Every second sample leaves at each exit; the outputs of the others must not change.
                vars(made)["_leaving"] = lambda place, logits: torch.arange(len(logits), device=logits.device) % 2 == 1
                found = forward(made, batch)
                if not torch.allclose(found[0], whole[0], rtol=1e-3, atol=1e-4):
                    raise KMRError("a sample's output depends on which others leave")
        except Exception as error:  # the layers after an exit may rely on the whole batch
            raise NotApplicable(f"{knob.name}: samples cannot leave at {', '.join(made.paths)}: {error}") from error
        finally:
            made.forced = None
            vars(made).pop("_leaving", None)
            for module, mode in modes:
                module.training = mode


def default_exits(model: nn.Module) -> list[str]:
    """Return the top-level modules that contain others with weights, without the last of several.

    If several of them are chains of blocks, only chains count. A single chain of four or more blocks (or any in a
    `ModuleList`) gives the last blocks of its first two thirds instead.
    """
    stages = {name: child for name, child in model.named_children() if _holders(child)}
    rows = {name: child for name, child in stages.items() if _is_row(child)}
    if len(rows) == 1:
        name, row = next(iter(rows.items()))
        blocks = [f"{name}.{child}" for child, _ in row.named_children()]
        if len(blocks) > 3 or isinstance(row, nn.ModuleList):  # a list is not called, so it has no output
            return [blocks[place - 1] for place in sorted({max(1, len(blocks) * third // 3) for third in (1, 2)})]
    found = list(rows if len(rows) > 1 else stages)
    return found[:-1] if len(found) > 1 else found


def _holders(module: nn.Module) -> list[nn.Module]:
    """Return the children that have weights."""
    return [child for child in module.children() if any(True for _ in child.parameters())]


def _is_row(module: nn.Module) -> bool:
    """Tell whether a module is a list of several modules that themselves contain others."""
    blocks = list(module.children()) if isinstance(module, nn.Sequential | nn.ModuleList) else []
    return len(blocks) > 1 and all(map(_holders, blocks))


def new_heads(model: nn.Module, paths: list[str], inputs: Inputs) -> list[nn.Module]:
    """Return an untrained head for the feature at each path.

    Raises:
        KMRError: the model is not a classifier, or a module is missing, not reached in this order, or has no feature.
    """
    from kmr.instantiations.features import features_of
    from kmr.instantiations.teachers import teach

    features = features_of(model, paths, inputs)
    output = teach(model, inputs)
    if output.dim() != 2 or output.shape[1] < 2:
        raise KMRError(f"early exits need logits of shape (n, classes), not {tuple(output.shape)}")
    if list(features) != paths:
        raise KMRError(f"wrong order of exits {', '.join(paths)}: list them as {', '.join(features)}")
    heads: list[nn.Module] = []
    for path in paths:
        channels = Pooled()(features[path]).shape[1]
        layer = nn.Linear(channels, output.shape[1]).to(output.device, features[path].dtype)
        heads.append(nn.Sequential(Pooled(), layer))
    return heads


class _HeadTraining(nn.Module):
    """A module of the heads alone on features of a frozen model; returns logits (n, heads, classes)."""

    def __init__(self, body: nn.Module, heads: list[nn.Module], paths: list[str]) -> None:
        super().__init__()
        self.heads = nn.ModuleList(heads)
        self.paths = paths
        # The tuple hides the body from `modules()`, so that it is neither trained nor put in training mode.
        self._body = (body,)

    def forward(self, *args: Tensor, **kwargs: Tensor) -> Tensor:
        from kmr.instantiations.features import features_of

        features = features_of(self._body[0], self.paths, kwargs or (args[0] if len(args) == 1 else args))
        return torch.stack([head(features[path]) for head, path in zip(self.heads, self.paths, strict=True)], 1)


def _of_all_heads(outputs: Tensor, targets: Tensor) -> Tensor:
    return F.cross_entropy(outputs.flatten(0, 1), targets.repeat_interleave(outputs.shape[1]))
