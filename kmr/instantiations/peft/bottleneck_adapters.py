"""Bottleneck adapters as a rule: far fewer trainable parameters at a slightly higher inference cost."""

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any, ClassVar, cast, final

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from kmr.core import Domain, FloatRange, Knob, NotApplicable, Trait, Value
from kmr.data import Inputs
from kmr.instantiations.architecture import find_blocks
from kmr.instantiations.attention import leave_fast_path
from kmr.instantiations.layer_rule import LayerRule, matches
from kmr.instantiations.peft.bottleneck import (
    Adapted,
    BottleneckAdapter,
    bottleneck_parameters,
    largest_width,
    narrow,
    places_of,
    strongest,
)
from kmr.instantiations.pruning.proof import brief, outputs_of
from kmr.instantiations.replace import replace_module


@final
@dataclass(frozen=True, kw_only=True)
class BottleneckAdapters(LayerRule):
    """A frozen model with trainable adapters after its blocks.

    The value is the largest share of the model's parameters that adapters, and the vectors and modules trained with
    them, may have; a common width follows from it. This lowers `trainable_parameters` and `optimizer_bytes`, the costs
    of adapting to and storing one more task. The nonlinearity prevents merging, so an adapter's parameters add to the
    cost of running and storing the model. (Adapters that can be merged are a fine-tuning recipe, `LowRankAdaptation`.)
    The model's outputs stay the same until it is trained. Turned again at a smaller value, the rule keeps the strongest
    units of the existing adapters.

    Args:
        example_inputs: a batch as `kmr.data.forward` takes it.
        after: patterns of the modules after which to add adapters; by default every residual block (in a transformer
            layer of torch, its last linear layer).
        vectors: also train biases and normalisations.
        also: patterns of further modules to train, such as the head.
    """

    lowers: ClassVar[str] = "trainable_parameters"
    raises: ClassVar[frozenset[str]] = frozenset({"parameters", "weight_bytes", "macs", "expected_macs"})
    name: str = "adapters"
    example_inputs: Inputs = field(repr=False, compare=False)
    after: tuple[str, ...] = ()
    vectors: bool = True
    also: tuple[str, ...] = ()
    setting: ClassVar[str] = "trainable"
    domain: ClassVar[Domain] = FloatRange(0.005, 1.0, neutral=1.0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("after", "also"):
            object.__setattr__(self, name, tuple(getattr(self, name)))

    @property
    def leaves(self) -> frozenset[Trait]:
        return frozenset({"structure"})

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        there = [m for path, m in model.named_modules() if isinstance(m, Adapted) and self.governs(knob, path)]
        own = {id(p) for m in model.modules() if isinstance(m, BottleneckAdapter) for p in m.parameters()}
        budget = int(float(value) * sum(p.numel() for p in model.parameters() if id(p) not in own))
        if there:
            return self._narrowed(model, [module.adapter for module in there], budget, knob)
        sites = self._sites(model, knob)
        channels = [size for _, size, _ in sites]
        flags = {p: p.requires_grad for p in model.parameters()}
        beside = self._beside(model, flags)
        width = largest_width(channels, budget - sum(p.numel() for p in beside))
        needed = sum(p.numel() for p in beside) + bottleneck_parameters(channels, max(1, width))
        before = sum(p.numel() for p, flag in flags.items() if flag)
        if not width:
            raise NotApplicable(
                f"{knob.name}={value}: {len(sites)} adapters of width 1, and what is trained with them, have {needed} "
                f"parameters: more than {budget}"
            )
        if needed >= before:
            raise NotApplicable(
                f"{knob.name}={value}: {needed} parameters would train, but only {before} without adapters"
            )
        for parameter in flags:
            parameter.requires_grad_(parameter in beside)
        generator = torch.Generator().manual_seed(self.seed)
        for path, size, places in sites:
            module = model.get_submodule(path)
            adapter = BottleneckAdapter(size, min(width, size), places, generator)
            like = next(p for p in module.parameters() if p.is_floating_point())
            adapted = Adapted(module, adapter.to(like)).train(module.training)
            model = replace_module(model, module, adapted)
        leave_fast_path(model)
        return model

    def _narrowed(self, model: nn.Module, adapters: list[BottleneckAdapter], budget: int, knob: Knob) -> nn.Module:
        if any(parametrize.is_parametrized(m) or not _plain(m) for adapter in adapters for m in adapter.children()):
            raise NotApplicable(f"{knob.name}: other rules have changed the existing adapters")
        channels = [int(cast(Tensor, adapter.up.bias).numel()) for adapter in adapters]
        others = sum(p.numel() for p in model.parameters() if p.requires_grad)
        others -= sum(p.numel() for adapter in adapters for p in adapter.parameters())
        width = largest_width(channels, budget - others)
        present = [len(cast(Tensor, adapter.down.weight)) for adapter in adapters]
        if not width or all(min(width, size) >= has for size, has in zip(channels, present, strict=True)):
            raise NotApplicable(
                f"{knob.name}: the existing adapters of width {max(present)} already fit {budget} parameters"
                if width
                else f"{knob.name}: not even adapters of width 1 fit {budget} parameters"
            )
        for adapter, has in zip(adapters, present, strict=True):
            if width < has:
                narrow(adapter, strongest(adapter, width))
        return model

    def _beside(self, model: nn.Module, flags: dict[nn.Parameter, bool]) -> set[nn.Parameter]:
        """Return the parameters of the model that stay trainable."""
        # The levels and scales of a frozen weight are frozen too.
        held = {id(p) for name, p in model.named_parameters() if "parametrizations." in name}
        kept = {p for p, flag in flags.items() if flag and self.vectors and p.dim() <= 1 and id(p) not in held}
        for path, module in model.named_modules():
            if any(matches(path, pattern) for pattern in self.also):
                kept |= {p for p in module.parameters() if flags[p]}
        return kept

    def _sites(self, model: nn.Module, knob: Knob) -> list[tuple[str, int, int | None]]:
        """Return path, channels and spatial dimensions of each module that can have an adapter; test each."""
        modes = [(module, module.training) for module in model.modules()]
        try:
            with torch.no_grad():
                model.eval()
                paths = self._paths(model)
                found, refused = self._tried(model, [path for path in paths if self.governs(knob, path)])
        except Exception as error:  # a user's forward pass may raise anything
            raise NotApplicable(f"{knob.name}: the model does not run: {brief(error)}") from error
        finally:
            for module, training in modes:
                module.training = training
        self.report(refused, "no adapter: the model does not run with one after it")
        if not found:
            raise NotApplicable(f"{knob.name}: no residual block to add an adapter after: name modules in `after`")
        return found

    def _paths(self, model: nn.Module) -> list[str]:
        if self.after:
            return [path for path, _ in model.named_modules() if any(fnmatchcase(path, one) for one in self.after)]
        paths = []
        for block in find_blocks(model, self.example_inputs):
            layer = isinstance(model.get_submodule(block.path), nn.TransformerEncoderLayer | nn.TransformerDecoderLayer)
            paths.append(f"{block.path}.linear2" if layer else block.path)
        return paths

    def _tried(self, model: nn.Module, paths: list[str]) -> tuple[list[tuple[str, int, int | None]], list[str]]:
        found, refused = [], []
        shapes = [output.shape for output in outputs_of(model, self.example_inputs)]
        for path in paths:
            probe = _Probe(model.get_submodule(path))
            parent, _, name = path.rpartition(".")
            holder = model.get_submodule(parent)
            holder._modules[name] = probe
            leave_fast_path(model)
            try:
                same = [output.shape for output in outputs_of(model, self.example_inputs)] == shapes
            except Exception:  # a user's forward pass may read a module's attributes
                same = False
            holder._modules[name] = probe.inner
            if same and probe.feature is not None:
                places = places_of(probe.inner, probe.feature)
                found.append((path, int(probe.feature.shape[-1 if places is None else 1]), places))
            else:
                refused.append(path)
        return found, refused


class _Probe(nn.Module):
    """A wrapper in place of a module that records its output."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner
        self.feature: Tensor | None = None

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = self.inner(*args, **kwargs)
        first = output[0] if isinstance(output, tuple) and output else output
        if isinstance(first, Tensor) and first.is_floating_point() and first.dim() >= 2:
            self.feature = first
        return output


def _plain(layer: nn.Module) -> bool:
    return type(layer) in (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
