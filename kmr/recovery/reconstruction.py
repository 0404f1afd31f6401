"""Layer-wise least-squares reconstruction: the weights that are left take over the work of those that are gone.

Every linear and convolution layer, in the order of the forward pass, is fitted to give the original layer's outputs
from the inputs it gets in the compressed model (He et al. 2017, §3.1; AMC and OBSPA use the same step): errors made by
earlier layers are seen, and made up for, by later ones. Where a layer's output is added to a shortcut, the sum is
fitted, so that the branch makes up for what the shortcut lost as well (He et al. 2017, §3.3).

One pass over the original and one over the compressed model do all of it: in the second each layer is fitted the moment
before it runs, and every BatchNorm measures its statistics the moment before it is used.
"""

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor, nn

from kmr.core import KMRError, NotApplicable, isolated_rng
from kmr.data import Inputs, forward, map_tensors
from kmr.recovery.least_squares import refit
from kmr.recovery.matching import channels_by_outputs, rows_by_values
from kmr.recovery.passes import BatchNorm, Made, tracking
from kmr.recovery.patches import Product, as_matrix, count_places, groups_of, inputs_at, is_product, outputs_at
from kmr.recovery.statistics import inputs_of, moments, normalisations, set_statistics
from kmr.representation.weights import WeightState, read_weight, tied_layers, weight_layers, write_weight

_MOST_STORED = 2**28
"""Numbers of the original's outputs to keep at most (1 GiB in single precision): more layers see fewer places."""


@dataclass(frozen=True)
class Reconstruction:
    """What was done: the paths of the layers that were fitted, and why others were left as they are."""

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
) -> Reconstruction:
    """Fit a compressed model's weights to the original's activations, layer by layer, in place.

    Masks hold; layers on a grid, with shared weights or of other kinds stay as they are. BatchNorm statistics become
    those of the fitted model. No labels, no gradients.

    Args:
        model: cut, masked or factorised from `original`; changed in place.
        original: what to imitate; left as it is.
        batches: inputs as `kmr.data.forward` takes them, or a `kmr.data.Split`; run as one batch, so some hundred
            samples.
        kept: by layer path, the original's output channels that the layer still has; found by values, or else by
            activations, where not given.
        ridge: pull towards the present weights, as a share of the mean square of a layer's inputs; ≥ 0.
        places: outputs of a layer (sample × position) to fit at most.
        seed: of the choice of places.

    Raises:
        KMRError: no batches, or numbers out of range.
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
            targets = _record(original.eval(), sorted(set(pairs.values())), inputs, places, seed)
            fitting = _Fitting(model.eval(), pairs, targets, dict(kept or {}), ridge, left)
            fitting.run(inputs)
    finally:
        for module, mode in modes:
            module.training = mode
    if not fitting.fitted:
        raise NotApplicable(f"no layer can be fitted to the original's: {_reasons(left)}")
    return Reconstruction(tuple(fitting.fitted), left)


def _as_one(batches: Iterable[Inputs]) -> Inputs:
    parts = list(batches)
    if not parts:
        raise KMRError("reconstruction needs at least one batch of inputs")
    columns: list[list[Tensor]] = []
    for part in parts:
        columns.append([])
        map_tensors(columns[-1].append, part)
    try:
        joined = iter([torch.cat(column) for column in zip(*columns, strict=True)])
    except (RuntimeError, ValueError) as error:
        raise KMRError(f"the batches cannot be joined to one: {error}") from None
    return map_tensors(lambda _: next(joined), parts[0])


def _pairs(model: nn.Module, original: nn.Module) -> tuple[dict[str, str], dict[str, str]]:
    """Return the original's layer for each layer to fit, and why others are left.

    Where one layer became several in a row (low-rank factors), the last of them makes what the one made.
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
class _Target:
    """What an original layer puts out, at some places; with the shortcut it is added to, where there is one."""

    places: Tensor
    outputs: Tensor
    weight: Tensor
    sums: Tensor | None = None
    normalised: bool = False
    calls: int = 1


def _record(original: nn.Module, paths: list[str], inputs: Inputs, places: int, seed: int) -> dict[str, _Target]:
    layers = {path: original.get_submodule(path) for path in paths}
    channels = sum(int(cast(Tensor, layer.weight).shape[0]) for layer in layers.values())
    places = max(64, min(places, _MOST_STORED // max(1, 2 * channels)))
    targets: dict[str, _Target] = {}
    generator = torch.Generator().manual_seed(seed)

    def keep(path: str, layer: nn.Module, outputs: Tensor) -> None:
        if path in targets:
            targets[path].calls += 1
            return
        count = count_places(layer, outputs)
        chosen = torch.randperm(count, generator=generator)[:places].sort().values.to(outputs.device)
        weight = read_weight(layer).weight
        targets[path] = _Target(chosen, outputs_at(layer, outputs, chosen), weight)

    def join(candidates: list[tuple[Made, Tensor, Tensor]]) -> None:
        known = [c for c in candidates if c[0].path in targets and targets[c[0].path].sums is None]
        if known:
            made, mine, other = max(known, key=lambda c: targets[c[0].path].weight.numel())
            target = targets[made.path]
            target.sums = outputs_at(layers[made.path], mine + other, target.places)

    with tracking(original, layers, join) as made:
        made.after.update(dict.fromkeys(layers, keep))
        forward(original, inputs)
    for path in made.normalised.keys() & targets.keys():
        targets[path].normalised = True
    return targets


@dataclass
class _Fitting:
    """Runs the compressed model once and fits each layer as the pass comes to it."""

    model: nn.Module
    pairs: dict[str, str]
    targets: dict[str, _Target]
    kept: dict[str, Tensor]
    ridge: float
    left: dict[str, str]
    fitted: list[str] = field(default_factory=list)
    waiting: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    """By path, the inputs of a layer whose output is to be added to a shortcut: all, and the rows at its places."""
    rows: dict[str, Tensor] = field(default_factory=dict)

    def run(self, inputs: Inputs) -> None:
        """Fit all layers and measure all statistics."""
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
            forward(self.model, inputs)

    def _fit(self, path: str, layer: nn.Module, inputs: Tensor) -> None:
        target = self.targets[self.pairs[path]]
        product = cast(Product, layer)
        rows = inputs_at(product, inputs, target.places)
        kept = self._kept(path, product, rows, target)
        if kept is None:
            self.left[path] = "its outputs cannot be told among the original's"
            return
        self.rows[path] = kept
        _write(product, rows, target.outputs[:, kept], self.ridge, follows=target.normalised)
        self.fitted.append(path)
        if target.sums is not None:
            self.waiting[path] = inputs, rows

    def _kept(self, path: str, layer: Product, rows: Tensor, target: _Target) -> Tensor | None:
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
        """Fit a layer once more, now that the shortcut is known that its output is added to."""
        for made, mine, other in candidates:
            if made.path not in self.waiting:
                continue
            inputs, rows = self.waiting.pop(made.path)
            layer = cast(Product, self.model.get_submodule(made.path))
            target = self.targets[self.pairs[made.path]]
            assert target.sums is not None
            wanted = target.sums[:, self.rows[made.path]] - outputs_at(layer, other, target.places)
            _write(layer, rows, wanted, self.ridge, made.norm)
            # Past their hooks, which would fit and measure once more.
            outputs = layer.forward(inputs)
            mine.copy_(outputs if made.norm is None else made.norm.forward(outputs))
            return


def _measure(module: nn.Module, args: tuple[Any, ...]) -> None:
    set_statistics(cast(BatchNorm, module), *moments(args[0]))


def _write(
    layer: Product, rows: Tensor, wanted: Tensor, ridge: float, norm: BatchNorm | None = None, follows: bool = False
) -> None:
    """Fit a layer, seen through the BatchNorm after it where one is given, and write its weight and bias.

    Where a BatchNorm merely `follows`, which is to measure its statistics, a constant in the outputs does not matter.
    """
    state = read_weight(layer)
    groups = groups_of(layer)
    usable = torch.ones(len(state.weight), dtype=torch.bool, device=rows.device)
    if norm is not None:
        assert norm.running_mean is not None
        assert norm.running_var is not None
        deviation = (norm.running_var + norm.eps).sqrt()
        slope = (torch.ones_like(deviation) if norm.weight is None else norm.weight) / deviation
        # A channel that the normalisation closes cannot be opened from before it.
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
