"""Expected multiply-accumulates of networks whose computation depends on the input: the mean over data."""

import copy
import math
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from kmr.core import Cost, KMRError, Reading
from kmr.data import Inputs, Split, call_with, fit_inputs
from kmr.meters.macs import LayerMACs, count_macs
from kmr.meters.predictions import Predictions
from kmr.representation.early_exits import EarlyExits
from kmr.representation.gating import GatedLayer


@dataclass(frozen=True, kw_only=True)
class ExpectedMACs(Cost):
    """The mean multiply-accumulates per sample of a split: up to the sample's exit, and without its closed channels.

    Unit: MAC (expected). Range: [0, ∞). Direction: minimize.

    The cost up to each early exit is counted once, and a run over the data tells which exit each sample takes. A gated
    layer counts in proportion to the channels that are open for a sample; the gates and all other layers count in full.
    Dense kernels compute closed channels too, which `MACs` counts. The standard error is over samples. Without exits
    and gates, the reading equals that of `MACs`. Exits and gates are learned, so training may raise the reading.

    Args:
        data: the split, or a view of it.
        example_inputs: a batch as the model takes it; the meter uses the first sample.
    """

    data: Split | Predictions = field(repr=False, compare=False)
    example_inputs: Inputs = field(repr=False, compare=False)
    name: str = "expected_macs"
    unit: str = field(init=False, default="MAC (expected)")
    trained: ClassVar[bool] = True

    def read(self, seen: nn.Module) -> Reading:
        if isinstance(seen, EarlyExits):
            each = exit_macs(seen, self.example_inputs, Predictions.of(self.data).split)
            return Reading(float(each.mean()), float(each.std() / len(each) ** 0.5) if len(each) > 1 else None)
        total, layers = count_macs(seen, self.example_inputs)
        gated = {path: module for path, module in seen.named_modules() if isinstance(module, GatedLayer)}
        if not gated:
            return Reading(float(total))
        open_shares: dict[str, list[Tensor]] = {path: [] for path in gated}

        def hook(path: str) -> Any:
            return lambda _, __, is_open: open_shares[path].append(is_open.double().mean(1).cpu())

        with ExitStack() as stack:
            for path, module in gated.items():
                stack.callback(module.gate.register_forward_hook(hook(path)).remove)
            samples = sum(batch.scores.samples for batch in Predictions.of(self.data)(seen))
        saved = torch.zeros(samples, dtype=torch.float64)
        for path, shares in open_shares.items():
            found = torch.cat(shares) if shares else torch.ones(samples, dtype=torch.float64)
            if len(found) != samples:
                raise KMRError(f"cannot count the gated layer {path}: it does not run exactly once for each sample")
            saved += _of_channels(path, layers) * (1 - found)
        stderr = float(saved.std() / math.sqrt(samples)) if samples > 1 else None
        return Reading(total - float(saved.mean()), stderr)


def _of_channels(path: str, layers: dict[str, LayerMACs]) -> int:
    """Return the multiply-accumulates of the layer that computes a gated layer's channels: the last one inside it."""
    inside = [layer.macs for name, layer in layers.items() if name.startswith(f"{path}.layer".lstrip("."))]
    return inside[-1] if inside else 0


def exit_macs(model: EarlyExits, example_inputs: Inputs, data: Split) -> Tensor:
    """Return each sample's multiply-accumulates up to its exit, (n,)."""
    costs = []
    forced = copy.deepcopy(model)
    for place in range(len(model.heads) + 1):
        forced.forced = place
        costs.append(count_macs(forced, example_inputs)[0])
    return torch.tensor(costs, dtype=torch.float64)[exits_taken(model, data)]


def exits_taken(model: EarlyExits, data: Split) -> torch.Tensor:
    """Return the number of each sample's exit, (n,)."""
    with torch.no_grad():
        taken = [call_with(model.route, fit_inputs(model, inputs))[1] for inputs, _ in data.batches()]
    return torch.cat(taken).cpu()
