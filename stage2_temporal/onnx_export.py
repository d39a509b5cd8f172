"""Models as ONNX files: written through tf2onnx, read by ONNX Runtime."""

import importlib
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage2_temporal.joined_model import JoinedModel

Arrays = Mapping[str, NDArray[Any]]

OPSET = 18
"""Read by ONNX Runtime from 1.14 on."""
METADATA_KEY = "embed-then-sequence"
_AXES = ("batch", "frames")
_MODULES = ("onnx", "onnxruntime", "tf2onnx")


def check_onnx() -> None:
    """Refuse to begin without the packages.

    Raises:
        ValueError: One is missing.
    """
    for name in _MODULES:
        _import(name)


def write_onnx(joined: JoinedModel, path: Path, metadata: str) -> None:
    """Write the model, for any number of clips and frames.

    Args:
        joined: The function.
        path: File to write; its folder is there.
        metadata: JSON, kept in the file's `metadata_props` under METADATA_KEY.

    Raises:
        ValueError: A package is missing, or a part of the model has no counterpart in ONNX.
        OSError: The file cannot be written.
    """
    onnx = _import("onnx")
    proto = _convert(joined)
    _name_axes(proto)
    onnx.helper.set_model_props(proto, {METADATA_KEY: metadata})
    try:
        onnx.checker.check_model(proto)
    except onnx.checker.ValidationError as error:
        raise ValueError(
            f"the model cannot be written as ONNX: {str(error).strip().splitlines()[0]}; use "
            "--format savedmodel"
        ) from error
    with path.open("xb") as file:
        file.write(proto.SerializeToString())
        file.flush()
        os.fsync(file.fileno())


def read_onnx(path: Path) -> Callable[[Arrays], dict[str, NDArray[Any]]]:
    """Return the function in a file, as ONNX Runtime computes it on the CPU."""
    runtime = _import("onnxruntime")
    session = runtime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]

    def compute(inputs: Arrays) -> dict[str, NDArray[Any]]:
        return dict(zip(names, session.run(names, dict(inputs)), strict=True))

    return compute


def _import(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name != name:
            raise
        raise ValueError(
            f"{name}, which ONNX files are made with, is not installed: pip install "
            "'embed-then-sequence[onnx]'"
        ) from error


def _convert(joined: JoinedModel) -> Any:
    """Return the ONNX model, whose outputs have the names of the function's."""
    convert = _import("tf2onnx").convert
    tensorflow = importlib.import_module("tensorflow")
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)  # the checker says it better
    names = list(joined.inputs)

    def function(*tensors: Any) -> dict[str, Any]:
        with _inlined(tensorflow):
            return joined(dict(zip(names, tensors, strict=True)))

    signature = [
        tensorflow.TensorSpec(spec.shape, spec.dtype, name=name)
        for name, spec in joined.inputs.items()
    ]
    traced = tensorflow.function(function, autograph=False)
    proto, _ = convert.from_function(traced, signature, opset=OPSET, custom_op_handlers=_handlers())
    _keep_constants(proto, traced.get_concrete_function(*signature))
    ordered = sorted(proto.graph.output, key=lambda value: joined.output_names.index(value.name))
    del proto.graph.output[:]
    proto.graph.output.extend(ordered)
    return proto


@contextmanager
def _inlined(tensorflow: Any) -> Iterator[None]:
    """Trace functions within functions as parts of the outer one.

    Keras compiles grouped convolutions (of ConvNeXt) by themselves, which tf2onnx does not look
    into.
    """
    before = tensorflow.config.functions_run_eagerly()
    tensorflow.config.run_functions_eagerly(True)
    try:
        yield
    finally:
        tensorflow.config.run_functions_eagerly(before)


def _keep_constants(proto: Any, function: Any) -> None:
    """Write tensors that the function took from outside, such as Keras' means of colours.

    They are no variables, so tf2onnx makes inputs of them.
    """
    to_tensor = _import("onnx").numpy_helper.from_array
    used = set(_names_used(proto.graph))
    for outer, inner in function.graph.captures:
        for value in [value for value in proto.graph.input if value.name == inner.name]:
            proto.graph.input.remove(value)
            if inner.name in used:
                proto.graph.initializer.append(to_tensor(outer.numpy(), inner.name))


def _names_used(graph: Any) -> Iterator[str]:
    """Yield the names of what nodes read, those in loops too."""
    for node in graph.node:
        yield from node.input
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _names_used(attribute.g)


def _handlers() -> dict[str, tuple[Callable[..., Any], list[Any]]]:
    """Return how operations are written that tf2onnx does not know, or not well enough."""
    return {"Erfc": (_erfc, []), "SelectV2": (_where, [])}


def _where(_: Any, node: Any, *__: Any) -> Any:
    """Write a choice as one: tf2onnx would multiply by 0 and 1, and 0 times NaN is NaN."""
    node.type = "Where"
    return node


def _erfc(graph: Any, node: Any, name: str, _: Any) -> Any:
    """Write erfc(x), which ONNX lacks, as 1 - erf(x).

    It is part of GELU, where it is multiplied by x: the digits that the subtraction costs, 6e-8,
    are far from what counts.
    """
    shapes, dtypes = node.output_shapes, node.output_dtypes
    erf = graph.make_node("Erf", [node.input[0]], shapes=shapes, dtypes=dtypes)
    one = graph.make_const(f"{name}_one", np.ones((), np.float32))
    graph.remove_node(name)
    ends = [one.output[0], erf.output[0]]
    return graph.make_node(
        "Sub", ends, name=name, outputs=node.output, shapes=shapes, dtypes=dtypes
    )


def _name_axes(proto: Any) -> None:
    """Name inputs' and outputs' free axes: batch and frames."""
    for value in [*proto.graph.input, *proto.graph.output]:
        for axis, size in zip(_AXES, value.type.tensor_type.shape.dim, strict=False):
            if not size.HasField("dim_value"):
                size.dim_param = axis
