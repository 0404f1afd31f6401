"""Layer-wise least-squares reconstruction: the remaining weights compensate for the removed ones.

Every linear and convolution layer, in the order of the forward pass, is fitted to produce the original layer's outputs
from its inputs in the compressed model (He et al. 2017, §3.1; AMC and OBSPA use the same step). Later layers thus
compensate for errors of earlier ones. Where a layer's output is added to a shortcut, the sum is fitted, so that the
branch also compensates for errors of the shortcut (He et al. 2017, §3.3).

Two passes suffice: one over the original, and one over the compressed model. In the second, each layer is fitted just
before it runs, and each BatchNorm estimates its statistics just before it is used.
"""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any, cast

import torch
from torch import Tensor, nn

from kmr.core import KMRError, NotApplicable, device_of, isolated_rng
from kmr.data import Inputs, call, map_tensors
from kmr.recovery.least_squares import refit
from kmr.recovery.matching import channels_by_outputs, rows_by_values
from kmr.recovery.passes import BatchNorm, Made, tracking
from kmr.recovery.patches import Product, as_matrix, count_places, groups_of, inputs_at, is_product, outputs_at
from kmr.recovery.statistics import inputs_of, moments, normalisations, set_statistics
from kmr.representation.weights import WeightState, read_weight, tied_layers, weight_layers, write_weight

_MOST_STORED = 2**28
"""The maximum of stored values of the original's outputs (1 GiB in float32): with more layers, fewer places each."""


@dataclass(frozen=True)
class ReconstructionResult:
    """The result of a reconstruction: the paths of the fitted layers, and for the others (`left`) the reason."""

    fitted: tuple[str, ...]
    left: Mapping[str, str]


def reconstruct(
    model: nn.Module,
    original: nn.Module,
    batches: Iterable[Inputs],
    *,
    kept: Mapping[str, Tensor] | None = None,
    ridge: float = 1e-3,
    places: int = 16_384,
    seed: int = 0,
) -> ReconstructionResult:
    """Fit a compressed model's weights to the original's activations, layer by layer, in place.

    Masks hold; layers on a grid, with shared weights or of other kinds stay unchanged. BatchNorm statistics are
    re-estimated. Labels and gradients are not needed.

    Args:
        model: cut, masked or factorised from `original`; changed in place.
        original: the target model; not changed.
        batches: inputs as `kmr.data.forward` takes them, or a `kmr.data.Split`; they run as one batch, so a few
            hundred samples.
        kept: the original's output channels that a layer still has, by layer path; by default found by weight values,
            or else by activations.
        ridge: penalty on changes of the weights, as a share of the mean square of a layer's inputs; ≥ 0.
        places: maximum number of outputs (sample × position) to fit per layer.
        seed: seeds the choice of places.

    Raises:
        KMRError: there is no batch, the batches differ in form, or a number is out of range.
        NotApplicable: no layer of the model can be fitted.
    """
    if ridge < 0 or places < 1:
        raise KMRError(f"reconstruction needs ridge >= 0 and places >= 1, not {ridge} and {places}")
    inputs = _as_one(inputs_of(batches))
    pairs, left = _pairs(model, original)
    if not pairs:
        raise NotApplicable(f"no layer can be fitted to the original's: {_reasons(left)}")
    modes = [(module, module.training) for whole in (model, original) for module in whole.modules()]
    try:
        with torch.no_grad(), isolated_rng(seed):
            found = _record(original.eval(), sorted(set(pairs.values())), inputs, places, seed)
            targets = {path: target.to(device_of(model)) for path, target in found.items()}
            fitting = _Fitting(model.eval(), pairs, targets, dict(kept or {}), ridge, left)
            fitting.run(inputs)
    finally:
        for module, mode in modes:
            module.training = mode
    if not fitting.fitted:
        raise NotApplicable(f"no layer can be fitted to the original's: {_reasons(left)}")
    return ReconstructionResult(tuple(fitting.fitted), left)


def _as_one(batches: Iterable[Inputs]) -> Inputs:
    parts = list(batches)
    if not parts:
        raise KMRError("reconstruction got no inputs: give at least one batch")
    columns: list[list[Tensor]] = []
    for part in parts:
        columns.append([])
        map_tensors(columns[-1].append, part)
    try:
        joined = iter([torch.cat(column) for column in zip(*columns, strict=True)])
    except (RuntimeError, ValueError) as error:
        raise KMRError(f"the batches cannot be concatenated: {error}") from None
    return map_tensors(lambda _: next(joined), parts[0])


def _pairs(model: nn.Module, original: nn.Module) -> tuple[dict[str, str], dict[str, str]]:
    """Return the original's layer for each layer to fit, and the reasons for skipping others.

    Where one layer became several in sequence (low-rank factors), the last of them corresponds to it.
    """
    theirs = {path for path, layer in weight_layers(original) if is_product(layer)}
    tied = tied_layers(model)
    pairs: dict[str, str] = {}
    left: dict[str, str] = {}
    for path, layer in weight_layers(model):
        around = path
        while around and around not in theirs:
            around = around.rpartition(".")[0]
        if around not in theirs:
            left[path] = "the original has no such layer"
        elif not is_product(layer):
            left[path] = "neither a linear layer nor a convolution"
        elif path in tied:
            left[path] = "its weight is shared with another module"
        elif read_weight(layer).grid is not None:
            left[path] = "its weight lies on a grid"
        else:
            for other in [p for p, partner in pairs.items() if partner == around]:
                del pairs[other]
            pairs[path] = around
    return pairs, left


@dataclass
class _FitTarget:
    """The outputs of an original layer at some places, and their sums with the shortcut if there is one."""

    places: Tensor
    outputs: Tensor
    weight: Tensor
    sums: Tensor | None = None
    normalised: bool = False
    calls: int = 1

    def to(self, device: torch.device) -> "_FitTarget":
        """Return the target with its tensors on a device."""
        moved: dict[str, Any] = {n: value.to(device) for n, value in vars(self).items() if isinstance(value, Tensor)}
        return replace(self, **moved)


def _record(original: nn.Module, paths: list[str], inputs: Inputs, places: int, seed: int) -> dict[str, _FitTarget]:
    layers = {path: original.get_submodule(path) for path in paths}
    channels = sum(int(cast(Tensor, layer.weight).shape[0]) for layer in layers.values())
    places = max(64, min(places, _MOST_STORED // max(1, 2 * channels)))
    targets: dict[str, _FitTarget] = {}
    generator = torch.Generator().manual_seed(seed)

    def keep(path: str, layer: nn.Module, outputs: Tensor) -> None:
        if path in targets:
            targets[path].calls += 1
            return
        count = count_places(layer, outputs)
        chosen = torch.randperm(count, generator=generator)[:places].sort().values.to(outputs.device)
        weight = read_weight(layer).weight
        targets[path] = _FitTarget(chosen, outputs_at(layer, outputs, chosen), weight)

    def join(candidates: list[tuple[Made, Tensor, Tensor]]) -> None:
        known = [c for c in candidates if c[0].path in targets and targets[c[0].path].sums is None]
        if known:
            made, mine, other = max(known, key=lambda c: targets[c[0].path].weight.numel())
            target = targets[made.path]
            target.sums = outputs_at(layers[made.path], mine + other, target.places)

    with tracking(original, layers, join) as made:
        made.after.update(dict.fromkeys(layers, keep))
        call(original, inputs)
    for path in made.normalised.keys() & targets.keys():
        targets[path].normalised = True
    return targets


@dataclass
class _Fitting:
    """One pass over the compressed model that fits each layer just before it runs."""

    model: nn.Module
    pairs: dict[str, str]
    targets: dict[str, _FitTarget]
    kept: dict[str, Tensor]
    ridge: float
    left: dict[str, str]
    fitted: list[str] = field(default_factory=list)
    waiting: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """By path, the inputs of a layer whose output will be added to a shortcut: all of them, and those at its places."""
    rows: dict[str, Tensor] = field(default_factory=dict)

    def run(self, inputs: Inputs) -> None:
        """Fit all layers and estimate all statistics."""
        layers = {path: self.model.get_submodule(path) for path in self.pairs}
        for path, partner in self.pairs.items():
            if partner not in self.targets:
                self.left[path] = "it is not called in the forward pass"
            elif self.targets[partner].calls > 1:
                self.left[path] = "it runs more than once in a forward pass"
        with ExitStack() as stack:
            for layer in normalisations(self.model).values():
                stack.callback(layer.register_forward_pre_hook(_measure).remove)
            made = stack.enter_context(tracking(self.model, layers, self._join))
            for path in layers:
                if path not in self.left:
                    made.before[path] = self._fit
            call(self.model, inputs)

    def _fit(self, path: str, layer: nn.Module, inputs: Tensor) -> None:
        target = self.targets[self.pairs[path]]
        product = cast(Product, layer)
        rows = inputs_at(product, inputs, target.places)
        kept = self._kept(path, product, rows, target)
        if kept is None:
            self.left[path] = "its outputs cannot be matched to the original's"
            return
        self.rows[path] = kept
        _write(product, rows, target.outputs[:, kept], self.ridge, follows=target.normalised)
        self.fitted.append(path)
        if target.sums is not None:
            self.waiting[path] = inputs, rows

    def _kept(self, path: str, layer: Product, rows: Tensor, target: _FitTarget) -> Tensor | None:
        if path in self.kept:
            return self.kept[path].to(rows.device)
        weight = read_weight(layer).weight
        count, channels = len(weight), target.outputs.shape[1]
        if count > channels:
            return None
        if path == self.pairs[path] or count == channels:
            found = rows_by_values(weight, target.weight)
            if found is not None:
                return found.to(rows.device)
        matrix = as_matrix(layer, weight)
        outputs = (rows @ matrix.mT).movedim(0, 1).flatten(1)
        return channels_by_outputs(outputs, target.outputs).to(rows.device)

    def _join(self, candidates: list[tuple[Made, Tensor, Tensor]]) -> None:
        """Fit a layer again when the shortcut that is added to its output is known."""
        for made, mine, other in candidates:
            if made.path not in self.waiting:
                continue
            inputs, rows = self.waiting.pop(made.path)
            layer = cast(Product, self.model.get_submodule(made.path))
            target = self.targets[self.pairs[made.path]]
            assert target.sums is not None
            wanted = target.sums[:, self.rows[made.path]] - outputs_at(layer, other, target.places)
            _write(layer, rows, wanted, self.ridge, made.norm)
            # `forward` bypasses the hooks, which would fit and estimate again.
            outputs = layer.forward(inputs)
            mine.copy_(outputs if made.norm is None else made.norm.forward(outputs))
            return


def _measure(module: nn.Module, args: tuple[Any, ...]) -> None:
    set_statistics(cast(BatchNorm, module), *moments(args[0]))


def _write(
    layer: Product, rows: Tensor, wanted: Tensor, ridge: float, norm: BatchNorm | None = None, follows: bool = False
) -> None:
    """Fit a layer, through the BatchNorm after it if one is given, and write its weight and bias.

    If a BatchNorm only `follows` and will estimate its statistics later, a constant offset of the outputs is free.
    """
    state = read_weight(layer)
    groups = groups_of(layer)
    usable = torch.ones(len(state.weight), dtype=torch.bool, device=rows.device)
    if norm is not None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        deviation = (norm.running_var + norm.eps).sqrt()
        slope = (torch.ones_like(deviation) if norm.weight is None else norm.weight) / deviation
        # Weights cannot reopen a channel that the normalisation after them closes.
        usable = slope.abs() > 1e-3 * slope.abs().max()
        offset = (0 if norm.bias is None else norm.bias) - norm.running_mean * slope
        wanted = (wanted - offset) / torch.where(usable, slope, torch.ones_like(slope))
    keep = None if state.keep is None else as_matrix(layer, state.keep.expand(state.weight.shape))
    targets = wanted.reshape(len(wanted), groups, -1).movedim(1, 0)
    free = layer.bias is not None or norm is not None or follows
    weight, shift = refit(as_matrix(layer, state.weight), rows, targets, keep=keep, ridge=ridge, intercept=free)
    usable_rows = usable.reshape(-1, *[1] * (state.weight.dim() - 1))
    fitted = torch.where(usable_rows, weight.reshape(state.weight.shape), state.weight)
    write_weight(layer, WeightState(fitted, None, state.keep))
    shift = shift.reshape(-1)
    if layer.bias is not None:
        layer.bias.data = torch.where(usable, shift, layer.bias.data)
    elif norm is not None and norm.running_mean is not None:
        norm.running_mean -= torch.where(usable, shift, torch.zeros_like(shift))


def _reasons(left: Mapping[str, str]) -> str:
    return "; ".join(f"{path or 'the model itself'}: {why}" for path, why in sorted(left.items())) or "it has none"
