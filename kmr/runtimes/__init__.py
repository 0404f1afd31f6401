"""Where a compressed model runs: one small interface, and what is behind it.

A `Runtime` says whether it is here (`probe`), and makes a model ready (`prepare`): exported, quantized where that is
asked for, loaded. The `Session` it gives runs batches and holds the bytes of the file it was loaded from, so that sizes
are read off a file and times off a run of it. `check` holds what a session computes against the model it came from.
"""

from kmr.runtimes.eager import Eager
from kmr.runtimes.inductor import Inductor
from kmr.runtimes.onnxruntime import OnnxRuntime
from kmr.runtimes.openvino import OpenVino
from kmr.runtimes.runtime import Runtime, Session
from kmr.runtimes.tensorrt import TensorRT

__all__ = ["Eager", "Inductor", "OnnxRuntime", "OpenVino", "Runtime", "Session", "TensorRT"]
