"""Meters: what a compressed model costs and how good it still is.

Costs are those of things that exist: `WeightBytes` is the size of the file that `kmr.artifact.packing` writes,
`ArtifactBytes` that of the file a runtime loads, `Latency` the time of a run in it. `MACs` is counted on the dense
model that runs, so that sparsity the runtime cannot use is never shown as a gain; the theoretical counts are meters of
their own, `EffectiveMACs` without zero weights and `ExpectedMACs`, the mean over samples, without what gates close and
early exits spare. Qualities read predictions on a data split, those of the model or (`Deployed`) those of the file that
a runtime loaded; meters given the same split and runtime share one export and one pass over it.
"""

from kmr.meters.bops import BOPs
from kmr.meters.deployed import ArtifactBytes, Deployed
from kmr.meters.energy import Energy
from kmr.meters.expected_macs import ExpectedMACs
from kmr.meters.faithfulness import (
    AccuracyDegradationFactor,
    ChiSquaredP,
    ExpectedCalibrationError,
    KLDivergence,
    WorstClassAccuracy,
)
from kmr.meters.latency import Latency, SampleTime, time_sessions
from kmr.meters.macs import EffectiveMACs, MACs
from kmr.meters.memory import PeakMemory
from kmr.meters.optimizer import OptimizerBytes
from kmr.meters.prediction import Accuracy, Agreement, CrossEntropy, Outputs, Predictions
from kmr.meters.regression import R2, MeanAbsoluteError, MeanSquaredError
from kmr.meters.size import NonzeroParameters, Parameters, TrainableParameters, WeightBytes
from kmr.meters.timing import Timing, hardware

__all__ = [
    "Accuracy",
    "AccuracyDegradationFactor",
    "Agreement",
    "ArtifactBytes",
    "BOPs",
    "ChiSquaredP",
    "CrossEntropy",
    "Deployed",
    "EffectiveMACs",
    "Energy",
    "ExpectedCalibrationError",
    "ExpectedMACs",
    "KLDivergence",
    "Latency",
    "MACs",
    "MeanAbsoluteError",
    "MeanSquaredError",
    "NonzeroParameters",
    "OptimizerBytes",
    "Outputs",
    "Parameters",
    "PeakMemory",
    "Predictions",
    "R2",
    "SampleTime",
    "Timing",
    "TrainableParameters",
    "WeightBytes",
    "WorstClassAccuracy",
    "hardware",
    "time_sessions",
]
