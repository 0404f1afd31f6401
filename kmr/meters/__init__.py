"""Meters of costs and qualities of a compressed model.

Costs are measured on what is deployed. `WeightBytes` is the size of the file that `kmr.artifact.packing` writes,
`ArtifactBytes` the size of the file that a runtime loads, and `Latency` the time of a forward pass in that runtime.
`MACs` counts the dense model that runs, so that sparsity which the runtime cannot use is never shown as a gain.
Theoretical counts are separate meters: `EffectiveMACs` omits zero weights, and `ExpectedMACs` averages over samples
and omits what gates and early exits skip.

Qualities read predictions on a data split: the model's own, or with `Deployed` those of the file that a runtime
loaded. Meters with the same split and runtime share one export and one pass over the data.
"""

from kmr.meters.bops import BOPs
from kmr.meters.classification import F1, IoU, Precision, Recall
from kmr.meters.deployed import ArtifactBytes, Deployed
from kmr.meters.detection import MeanAveragePrecision
from kmr.meters.energy import Energy
from kmr.meters.expected_macs import ExpectedMACs
from kmr.meters.faithfulness import (
    AccuracyDegradationFactor,
    ChiSquaredP,
    ExpectedCalibrationError,
    WorstClassAccuracy,
    WorstGroupAccuracy,
)
from kmr.meters.latency import Latency, SampleTime, time_sessions
from kmr.meters.macs import EffectiveMACs, MACs
from kmr.meters.memory import PeakMemory
from kmr.meters.optimizer import OptimizerBytes
from kmr.meters.original import Agreement, CosineSimilarity, KLDivergence
from kmr.meters.perturbed import Perturbed
from kmr.meters.prediction import Accuracy, BitsPerByte, CrossEntropy, Perplexity, PredictionQuality
from kmr.meters.predictions import Predictions, SampleStatistics, ScoredBatch
from kmr.meters.ranking import AUROC, RecallAtK
from kmr.meters.regression import R2, MeanAbsoluteError, MeanSquaredError
from kmr.meters.size import NonzeroParameters, Parameters, TrainableParameters, WeightBytes
from kmr.meters.timing import Timing, hardware
from kmr.meters.transcripts import CharacterErrorRate, WordErrorRate

__all__ = [
    "AUROC",
    "Accuracy",
    "AccuracyDegradationFactor",
    "Agreement",
    "ArtifactBytes",
    "BOPs",
    "BitsPerByte",
    "CharacterErrorRate",
    "ChiSquaredP",
    "CosineSimilarity",
    "CrossEntropy",
    "Deployed",
    "EffectiveMACs",
    "Energy",
    "ExpectedCalibrationError",
    "ExpectedMACs",
    "F1",
    "IoU",
    "KLDivergence",
    "Latency",
    "MACs",
    "MeanAbsoluteError",
    "MeanAveragePrecision",
    "MeanSquaredError",
    "NonzeroParameters",
    "OptimizerBytes",
    "Parameters",
    "PeakMemory",
    "Perplexity",
    "Perturbed",
    "Precision",
    "PredictionQuality",
    "Predictions",
    "R2",
    "Recall",
    "RecallAtK",
    "SampleStatistics",
    "SampleTime",
    "ScoredBatch",
    "Timing",
    "TrainableParameters",
    "WeightBytes",
    "WordErrorRate",
    "WorstClassAccuracy",
    "WorstGroupAccuracy",
    "hardware",
    "time_sessions",
]
