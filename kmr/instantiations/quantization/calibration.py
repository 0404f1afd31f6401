"""Calibration: statistics of layers' inputs and outputs over some data."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from kmr.core import KMRError, NotApplicable
from kmr.data import Inputs, Split, call, map_tensors
from kmr.instantiations.quantization.ranges import BINS, TensorStatistics
from kmr.representation.weights import WEIGHT_LAYERS


def calibration_batches(data: Split | None, samples: int, rule: str) -> list[Inputs]:
    """Return the inputs of the first samples of a split, in its batches.

    Raises:
        KMRError: there is no data, or `samples` < 1.
    """
    if data is None:
        raise KMRError(f"{rule} needs calibration data: set data to a kmr.data.Split of training samples")
    if samples < 1:
        raise KMRError(f"samples of {rule} must be at least 1, not {samples}")
    return [inputs for inputs, _ in data.subset(samples).batches()]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Run the body with the model in evaluation mode and without gradients, then restore the modes."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


@dataclass(eq=False)
class _Extremes:
    lows: list[Tensor] = field(default_factory=list)
    highs: list[Tensor] = field(default_factory=list)
    histogram: Tensor = field(default_factory=lambda: torch.zeros(BINS, dtype=torch.float64))

    def seen(self) -> TensorStatistics:
        return TensorStatistics(torch.stack(self.lows).double(), torch.stack(self.highs).double(), self.histogram)


def observe(
    model: nn.Module, inputs_of: Mapping[str, nn.Module], outputs_of: Mapping[str, nn.Module], batches: list[Inputs]
) -> tuple[dict[str, TensorStatistics], dict[str, TensorStatistics]]:
    """Return statistics of layers' inputs and outputs over the batches, by path.

    Layers that are not called, or not with a tensor, are missing.

    Raises:
        NotApplicable: an activation is not finite.
    """
    into: dict[str, _Extremes] = {}
    out: dict[str, _Extremes] = {}

    def extremes(store: dict[str, _Extremes], path: str, tensor: Tensor) -> None:
        low, high = tensor.detach().float().aminmax()
        if not bool(torch.isfinite(low) & torch.isfinite(high)):
            raise NotApplicable(
                f"the activations at {path or 'the model itself'} are not finite for the calibration data"
            )
        entry = store.setdefault(path, _Extremes())
        entry.lows.append(low.cpu())
        entry.highs.append(high.cpu())

    def count(store: dict[str, _Extremes], path: str, tensor: Tensor) -> None:
        entry = store[path]
        low, high = float(torch.stack(entry.lows).min()), float(torch.stack(entry.highs).max())
        if high > low:
            entry.histogram += torch.histc(tensor.detach().float(), BINS, low, high).cpu().double()

    for look in (extremes, count):
        with evaluating(model), _watching(inputs_of, outputs_of, look, into, out):
            for inputs in batches:
                call(model, inputs)
    return {path: entry.seen() for path, entry in into.items()}, {path: entry.seen() for path, entry in out.items()}


@contextmanager
def _watching(
    inputs_of: Mapping[str, nn.Module],
    outputs_of: Mapping[str, nn.Module],
    look: Callable[[dict[str, _Extremes], str, Tensor], None],
    into: dict[str, _Extremes],
    out: dict[str, _Extremes],
) -> Iterator[None]:
    def before(path: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_: nn.Module, args: tuple[Any, ...]) -> None:
            if args and isinstance(args[0], Tensor) and args[0].is_floating_point():
                look(into, path, args[0])

        return hook

    def after(path: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            if isinstance(output, Tensor) and output.is_floating_point():
                look(out, path, output)

        return hook

    handles = [layer.register_forward_pre_hook(before(path)) for path, layer in inputs_of.items()]
    handles += [layer.register_forward_hook(after(path)) for path, layer in outputs_of.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class Uses(TorchFunctionMode):
    """A record of which functions and modules use which modules' outputs in a forward pass.

    Args:
        model: the model to run; hooks watch its modules until `close`.
        through_relu: also count the output of a ReLU as the output of the module before it.
    """

    def __init__(self, model: nn.Module, *, through_relu: bool = False) -> None:
        super().__init__()
        self._through_relu = through_relu
        self.readers: dict[str, list[str]] = {}
        """The readers of each innermost module's output, by its path: paths of modules and names of functions."""
        self._made: dict[int, tuple[Tensor, list[str]]] = {}
        self._inside = 0
        self._handles: list[Any] = []
        for path, module in model.named_modules():
            if isinstance(module, WEIGHT_LAYERS) or not any(True for _ in module.children()):
                self._handles.append(module.register_forward_pre_hook(self._enter(path), with_kwargs=True))
                self._handles.append(module.register_forward_hook(self._leave(path)))
            else:
                self._handles.append(module.register_forward_hook(self._leave_container(path)))

    def close(self) -> None:
        """Remove the hooks."""
        for handle in self._handles:
            handle.remove()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", str(func))
        if not self._inside and name not in _SILENT:
            self._read(name, (*args, *(kwargs or {}).values()))
            if self._through_relu and name in ("relu", "relu_"):
                output = func(*args, **(kwargs or {}))
                self._pass_on(args[0], output)
                return output
        return func(*args, **(kwargs or {}))

    def _read(self, reader: str, values: Iterable[Any]) -> None:
        for value in values:
            if isinstance(value, Tensor):
                for path in self._made.get(id(value), (None, []))[1]:
                    self.readers[path].append(reader)
            elif isinstance(value, tuple | list):
                self._read(reader, value)

    def _enter(self, path: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self._read(path, (*args, *kwargs.values()))
            self._inside += 1

        return hook

    def _leave(self, path: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
            self._inside -= 1
            self.readers.setdefault(path, [])
            if self._through_relu and isinstance(module, nn.ReLU) and args:
                self._pass_on(args[0], output)
            else:
                self._register(path, output)

        return hook

    def _leave_container(self, path: str) -> Callable[..., None]:
        def hook(_: nn.Module, __: tuple[Any, ...], output: Any) -> None:
            if path == "":
                map_tensors(lambda tensor: self._read("output", [tensor]), output)

        return hook

    def _pass_on(self, given: Any, output: Any) -> None:
        for path in list(self._made.get(id(given), (None, []))[1]):
            if output is not given:
                self._register(path, output)

    def _register(self, path: str, output: Any) -> None:
        if isinstance(output, Tensor):
            # A reference to the tensor keeps its id from being reused.
            makers = self._made.setdefault(id(output), (output, []))[1]
            makers.append(path)


_SILENT = frozenset({"__get__", "size", "dim", "numel", "shape", "stride", "is_floating_point", "element_size", "type"})
"""Functions that do not read a tensor's values."""


def uses(model: nn.Module, inputs: Inputs, *, through_relu: bool = False) -> dict[str, list[str]]:
    """Run a model once; return the readers of each innermost module's output (paths, function names), by its path."""
    watch = Uses(model, through_relu=through_relu)
    try:
        with evaluating(model), watch:
            call(model, inputs)
    finally:
        watch.close()
    return watch.readers


def one_batch(batches: list[Inputs]) -> Inputs:
    """Concatenate batches of the same form; if their samples differ in shape, return the first batch."""
    parts = list(islice(batches, len(batches)))
    try:
        return _joined(parts)
    except (RuntimeError, TypeError, KeyError):
        return parts[0]


def _joined(parts: list[Any]) -> Any:
    first = parts[0]
    match first:
        case Tensor():
            return torch.cat(parts)
        case Mapping():
            return {key: _joined([part[key] for part in parts]) for key in first}
        case tuple() | list():
            return tuple(_joined([part[place] for part in parts]) for place in range(len(first)))
        case _:
            return first
