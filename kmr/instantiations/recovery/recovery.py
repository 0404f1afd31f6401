"""Recovery without training as a knob: none, BatchNorm statistics, or least-squares reconstruction."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, final

from torch import nn

from kmr.core import Choice, KMRError, Knob, NotApplicable, Rule, Value
from kmr.data import Inputs, Split
from kmr.instantiations.layer_rule import report
from kmr.recovery.reconstruction import reconstruct
from kmr.recovery.statistics import normalisations, recalibrate
from kmr.recovery.synthesis import synthetic_inputs

NONE, BN, RECONSTRUCT, BN_FREE, RECONSTRUCT_FREE = "none", "bn", "reconstruct", "bn_data_free", "reconstruct_data_free"


@final
@dataclass(frozen=True, kw_only=True)
class Recovery(Rule):
    """Recovery of a compressed model's quality from activations alone; no cost changes.

    The value `bn` re-estimates BatchNorm statistics; `reconstruct` also fits the remaining weights to the original's
    outputs, layer by layer. The `…_data_free` values do the same on synthetic inputs from the original's BatchNorm
    statistics, without data.

    Args:
        original: the model before compression.
        data: calibration samples, drawn in random order by the seed; labels are not read. `bn` and `reconstruct` need
            it.
        example_inputs: a batch that gives the shape of a sample; the `…_data_free` values need it.
        samples: number of calibration samples, run as one batch; at least 2.
        ridge: see `kmr.recovery.reconstruct`; at least 0.
        steps: see `kmr.recovery.synthetic_inputs`.
    """

    recovers: ClassVar[bool] = True
    name: str = "recover"
    original: nn.Module = field(repr=False, compare=False)
    data: Split | None = field(default=None, repr=False, compare=False)
    example_inputs: Inputs = field(default=None, repr=False, compare=False)
    samples: int = 512
    ridge: float = 1e-2
    steps: int = 60
    domain: ClassVar[Choice] = Choice((NONE, BN, RECONSTRUCT, BN_FREE, RECONSTRUCT_FREE), neutral=NONE)

    def __post_init__(self) -> None:
        if self.samples < 2 or self.ridge < 0:
            raise KMRError(f"{self.name} needs samples >= 2 and ridge >= 0, not {self.samples} and {self.ridge}")

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """The knob `name.by`."""
        return (Knob(f"{self.name}.by", self.domain),)

    def apply(self, model: nn.Module, knob: Knob, value: Value) -> nn.Module:
        if value in (BN, BN_FREE) and not normalisations(model):
            raise NotApplicable(f"{knob.name}={value}: the model has no BatchNorm statistics")
        batches = self._made() if value in (BN_FREE, RECONSTRUCT_FREE) else self._drawn(str(value))
        if value in (BN, BN_FREE):
            return recalibrate(model, batches)
        done = reconstruct(model, self.original, batches, ridge=self.ridge, seed=self.seed)
        for why in sorted(set(done.left.values())):
            report(self.name, (path for path, reason in done.left.items() if reason == why), f"left as they are: {why}")
        return model

    def _drawn(self, value: str) -> Sequence[Inputs]:
        if self.data is None:
            raise KMRError(f"{self.name}={value} needs calibration data: set data, or choose {value}_data_free")
        return calibration(self.data, self.samples, self.seed)

    def _made(self) -> Sequence[Inputs]:
        return [synthetic_inputs(self.original, self.example_inputs, self.samples, steps=self.steps, seed=self.seed)]


def calibration(data: Split, samples: int, seed: int) -> list[Inputs]:
    """Return the inputs of samples that the seed draws from a split, as one batch."""
    inputs, _ = data.sample(samples, seed)
    return [inputs]
