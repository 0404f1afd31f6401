"""Compact ONNX graphs: exported, with folded normalisations and short names.

Exporters and quantizers add stack traces, long names and shape notes to every node. Running the graph needs none of
them, and in a small int8 model they take a tenth of the weights' bytes. The measured and exported file has none.
"""

import copy
import json
import logging
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from kmr.cache.identity import fingerprint
from kmr.core import KMRError
from kmr.data import Inputs
from kmr.representation.weights import strip_all
from kmr.runtimes.program import Signature, to_program
from kmr.runtimes.runtime import missing

OUTPUT = "output"
BATCH = "batch"
_PREFIX = "kmr."


def why_not() -> str | None:
    """Return what is missing to make and run ONNX graphs, or None."""
    return missing("onnx", "onnxscript", "onnxruntime", extra="onnx")


def to_onnx(model: nn.Module, example_inputs: Inputs) -> tuple[Any, Signature]:
    """Export a model as an ONNX graph with a dynamic batch size.

    Returns:
        The `onnx.ModelProto`, and the signature of its inputs.

    Raises:
        KMRError: the model cannot be traced, or uses an operation that ONNX lacks.
    """
    plain = strip_all(on_cpu(model)).eval()
    key = _key(plain, example_inputs)
    if key in _RECENT:
        return _copied(_RECENT[key]), Signature.of(example_inputs)
    program, signature, samples = to_program(plain, example_inputs)
    try:
        with warnings.catch_warnings(), quiet():
            warnings.simplefilter("ignore")
            exported = torch.onnx.export(
                program, samples, dynamo=True, verbose=False, external_data=False,
                input_names=list(signature.names), output_names=[OUTPUT],
            )  # fmt: skip
    except Exception as error:  # the exporter raises whatever its passes do
        why = " ".join(str(error).split())[:300] or type(error).__name__
        raise KMRError(f"cannot export this model to ONNX: {why}") from error
    assert exported is not None
    graph = exported.model_proto
    if key is not None:
        _RECENT[key] = _copied(graph)
        while len(_RECENT) > _KEPT:
            _RECENT.pop(next(iter(_RECENT)))
    return graph, signature


def on_cpu(model: nn.Module) -> nn.Module:
    """Return a copy on the CPU, in float32 where ONNX Runtime has no kernels for the weights' type."""
    plain = copy.deepcopy(model).cpu()
    return plain.float() if any(p.dtype in (torch.bfloat16, torch.float64) for p in plain.parameters()) else plain


_KEPT = 2
_RECENT: dict[str | None, Any] = {}
"""The most recently exported graphs, by model and inputs, so that another precision needs no new trace."""


def _key(plain: nn.Module, example_inputs: Inputs) -> str | None:
    signature = Signature.of(example_inputs)
    shapes = [f"{tuple(tensor.shape[1:])} {tensor.dtype}" for tensor in signature.flatten(example_inputs)]
    try:
        return f"{fingerprint(plain)} {signature} {shapes}"
    except KMRError:  # a part of the model has no digest
        return None


def _copied(graph: Any) -> Any:
    copied = type(graph)()
    copied.CopyFrom(graph)
    return copied


def folded(graph: Any) -> Any:
    """Return the graph with constants folded and normalisations merged into the convolutions before them."""
    import onnx
    import onnxruntime

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "folded.onnx"
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
        options.optimized_model_filepath = str(path)
        options.log_severity_level = 3
        onnxruntime.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
        merged = onnx.load(path)
    # The optimizer's rewriting invalidates its shape notes; they can be inferred again.
    del merged.graph.value_info[:]
    return merged


def slim(graph: Any) -> Any:
    """Return the graph with short names and without notes, with the same function, inputs and outputs."""
    slimmed = _copied(graph)
    body = slimmed.graph
    if any(attribute.HasField("g") or attribute.graphs for node in body.node for attribute in node.attribute):
        return slimmed  # names inside subgraphs refer to those outside
    slimmed.doc_string = body.doc_string = ""
    del body.value_info[:]
    del body.metadata_props[:]
    del body.quantization_annotation[:]
    zeros = _merge_zero_points(body)
    names: dict[str, str] = {value.name: value.name for value in (*body.input, *body.output)}
    names[""] = ""

    def short(name: str) -> str:
        name = zeros.get(name, name)
        if name not in names:
            names[name] = f"{len(names):x}"
            while names[name] in taken:
                names[name] = f"_{names[name]}"
        return names[name]

    taken = set(names)
    for initializer in body.initializer:
        initializer.name = short(initializer.name)
        initializer.doc_string = ""
        del initializer.metadata_props[:]
    for node in body.node:
        node.name = node.doc_string = ""
        del node.metadata_props[:]
        node.input[:] = [short(name) for name in node.input]
        node.output[:] = [short(name) for name in node.output]
    for value in (*body.input, *body.output):
        value.doc_string = ""
        del value.metadata_props[:]
        for dimension in value.type.tensor_type.shape.dim:
            if dimension.dim_param:
                dimension.dim_param = BATCH
    used = {node.domain for node in body.node}
    for index in reversed(range(len(slimmed.opset_import))):
        if slimmed.opset_import[index].domain and slimmed.opset_import[index].domain not in used:
            del slimmed.opset_import[index]
    if not {function.domain for function in slimmed.functions} & used:
        del slimmed.functions[:]
    return slimmed


def _merge_zero_points(body: Any) -> dict[str, str]:
    """Merge equal zero points of symmetric per-channel grids; return {removed name: remaining name}.

    Other equal values stay separate: they are equal by chance, and the file size must not depend on chance.
    """
    import numpy as np
    from onnx import numpy_helper

    grids = (node for node in body.node if node.op_type in ("QuantizeLinear", "DequantizeLinear"))
    zero_points = {node.input[2] for node in grids if len(node.input) > 2}
    first: dict[Any, str] = {}
    became: dict[str, str] = {}
    for index in reversed(range(len(body.initializer))):
        initializer = body.initializer[index]
        if initializer.name not in zero_points or len(initializer.dims) != 1:
            continue
        if np.any(numpy_helper.to_array(initializer)):
            continue
        key = (initializer.data_type, tuple(initializer.dims))
        if key in first:
            became[initializer.name] = first[key]
            del body.initializer[index]
        else:
            first[key] = initializer.name
    return became


@contextmanager
def quiet() -> Iterator[None]:
    """Suppress the log messages of exporters and quantizers, which advise steps that are already taken."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def annotate(graph: Any, metadata: Mapping[str, Any]) -> Any:
    """Add JSON values to the graph's metadata under names with the prefix `kmr.`, in place; return the graph."""
    kept = {entry.key: entry.value for entry in graph.metadata_props if entry.key.startswith(_PREFIX)}
    kept |= {f"{_PREFIX}{key}": json.dumps(value, ensure_ascii=False) for key, value in metadata.items()}
    del graph.metadata_props[:]
    for key, value in kept.items():
        graph.metadata_props.add(key=key, value=value)
    return graph


def annotations(graph: Any) -> dict[str, Any]:
    """Return the JSON values that `annotate` wrote."""
    return {
        entry.key.removeprefix(_PREFIX): json.loads(entry.value)
        for entry in graph.metadata_props
        if entry.key.startswith(_PREFIX)
    }
