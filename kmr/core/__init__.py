"""The engine's vocabulary: knobs, meters, rules, policies and instantiations, and Algorithms 1 and 10 over them."""

from kmr.core.aggregate import WeightedCost, WeightedQuality
from kmr.core.device import choose_device, device_of
from kmr.core.domain import Choice, Domain, FloatRange, IntRange, Value
from kmr.core.engine import Budget, OnStep, Outcome, Run, budgeted_kmr, run_sequence
from kmr.core.errors import CostRose, KMRError, NonFiniteReading, NotApplicable, NotHere, RuleWarning
from kmr.core.instantiation import Instantiation, compose
from kmr.core.knob import Knob
from kmr.core.meter import Cost, Direction, Kind, Meter, Quality, Reading, Readings, SharedView, measure
from kmr.core.policy import Policy
from kmr.core.rule import Rule, Trait
from kmr.core.seeding import isolated_rng
from kmr.core.step import FineTuning, Prefixes, apply_move, measure_base
from kmr.core.task import Task
from kmr.core.trace import Move, Seconds, Step, Trace, TransformationSequence

__all__ = [
    "Budget",
    "Choice",
    "Cost",
    "CostRose",
    "Direction",
    "Domain",
    "FineTuning",
    "FloatRange",
    "Instantiation",
    "IntRange",
    "KMRError",
    "Kind",
    "Knob",
    "Meter",
    "Move",
    "NonFiniteReading",
    "NotApplicable",
    "NotHere",
    "OnStep",
    "Outcome",
    "Policy",
    "Prefixes",
    "Quality",
    "Reading",
    "Readings",
    "Rule",
    "RuleWarning",
    "Run",
    "Seconds",
    "SharedView",
    "Step",
    "Task",
    "Trace",
    "Trait",
    "TransformationSequence",
    "Value",
    "WeightedCost",
    "WeightedQuality",
    "apply_move",
    "budgeted_kmr",
    "choose_device",
    "compose",
    "device_of",
    "isolated_rng",
    "measure",
    "measure_base",
    "run_sequence",
]
