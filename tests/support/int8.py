"""What an int8 graph computes, also on processors whose int8 products saturate.

Without VNNI, x86 adds pairs of products of unsigned and signed bytes in 16 bits, which overflow: ONNX Runtime's kernels
are then off by more than rounding. The graph itself is right, as ONNX's own reference evaluator shows.
"""

from typing import Any

import onnx
import torch
from onnx.reference import ReferenceEvaluator
from torch import Tensor

from kmr.meters.timing import instructions

SATURATES = not instructions() & {"avx512_vnni", "avx_vnni", "amx_int8", "asimddp"}
"""Whether this processor's int8 kernels may overflow."""


def computed(session: Any, inputs: Any) -> Tensor:
    """Return the outputs of a session's graph, from the session where its kernels are exact enough."""
    if not SATURATES:
        return session(inputs)
    graph = onnx.load_from_string(session.artifact)
    names = [given.name for given in graph.graph.input]
    values = inputs.values() if isinstance(inputs, dict) else (inputs,)
    feeds = {name: value.numpy() for name, value in zip(names, values, strict=True)}
    return torch.from_numpy(ReferenceEvaluator(graph).run(None, feeds)[0])
