"""Runtimes that execute compressed models, behind one small interface.

A `Runtime` reports whether it is available (`probe`) and prepares a model (`prepare`): it exports, quantizes if asked
to, and loads it. The resulting `Session` runs batches and has the bytes of its file, so that sizes and times are those
of the same file. `kmr.meters.runtime_check` compares a session's outputs with the model's.
"""

from kmr.runtimes.eager import Eager
from kmr.runtimes.inductor import Inductor
from kmr.runtimes.onnxruntime import OnnxRuntime
from kmr.runtimes.openvino import OpenVino
from kmr.runtimes.runtime import Runtime, Session
from kmr.runtimes.tensorrt import TensorRT

__all__ = ["Eager", "Inductor", "OnnxRuntime", "OpenVino", "Runtime", "Session", "TensorRT"]
