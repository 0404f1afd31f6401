"""Data as people bring them, in batches of (inputs, targets), and the call of a model on a batch."""

from kmr.data.forward import call, call_with, fit_inputs, forward, output_tensor
from kmr.data.split import Data, Split, as_data
from kmr.data.structures import Inputs, length_of, map_tensors

__all__ = [
    "Data",
    "Inputs",
    "Split",
    "as_data",
    "call",
    "call_with",
    "fit_inputs",
    "forward",
    "length_of",
    "map_tensors",
    "output_tensor",
]
