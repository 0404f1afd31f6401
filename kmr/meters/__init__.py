"""Meters: what a compressed model costs and how good it still is.

Costs are those of things that exist: `WeightBytes` is the size of the file that `kmr.packing` writes, `Latency` is the
time of a run. `MACs` is counted on the dense model that runs, so that sparsity the runtime cannot use is never shown as
a gain; the theoretical counts are meters of their own, `EffectiveMACs` without zero weights and `ExpectedMACs` without
the channels that gates close. Qualities read predictions on a data split; meters given the same split, or the same
`Predictions`, share one pass over it.
"""

from kmr.meters.expected_macs import ExpectedMACs
from kmr.meters.latency import Latency, Timing, time_model
from kmr.meters.macs import EffectiveMACs, MACs
from kmr.meters.prediction import R2, Accuracy, Agreement, NegativeCrossEntropy, NegativeMSE, Outputs, Predictions
from kmr.meters.size import NonzeroParameters, Parameters, WeightBytes

__all__ = [
    "Accuracy",
    "Agreement",
    "EffectiveMACs",
    "ExpectedMACs",
    "Latency",
    "MACs",
    "NegativeCrossEntropy",
    "NegativeMSE",
    "NonzeroParameters",
    "Outputs",
    "Parameters",
    "Predictions",
    "R2",
    "Timing",
    "WeightBytes",
    "time_model",
]
