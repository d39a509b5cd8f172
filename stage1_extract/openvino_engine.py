"""Computing embeddings with OpenVINO on the CPU, several frames at once."""

import importlib
import math
import tempfile
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage1_extract.cores import available_cores
from stage1_extract.keras_setup import load_keras
from stage1_extract.quiet import silenced_stderr

_HINTS = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
_CAPABILITIES = {"float32": "FP32", "bfloat16": "BF16", "float16": "FP16"}


class OpenVinoEngine:
    """An exported Keras model; every frame is a request of its own, on one thread.

    So a frame's embedding is the same bit for bit at any place of the batch, whatever its
    neighbours, the batch size and the number of cores. It is also the fastest: one frame's
    activations stay in a core's cache.

    The Keras model is not needed afterwards. Nothing is sent anywhere: OpenVINO reads the exported
    model itself, without `openvino.convert_model`, which reports its use to its makers.

    Args:
        model: Keras model (B, S, S, 3) uint8 -> (B, D), built in float32.
        batch_size: Frames of a `submit`.
        precision: float32, bfloat16 or float16.

    Raises:
        ValueError: OpenVINO is missing, Keras does not run on TensorFlow, or this CPU does not
            compute in that precision.
    """

    name = "openvino"

    def __init__(self, model: Any, *, batch_size: int, precision: str = "float32") -> None:
        check_openvino(precision)
        self.num_streams = available_cores()
        self.max_in_flight = max(2, 1 + math.ceil(2 * self.num_streams / batch_size))
        self._batch_size = batch_size
        self._compiled = _compile(model, precision, self.num_streams)
        self._idle: list[list[Any]] = []

    def submit(self, frames: NDArray[np.uint8]) -> "_InFlight":
        """Start embedding frames (batch_size, S, S, 3), which may not change until the result."""
        requests = self._idle.pop() if self._idle else self._new_requests()
        for request, frame in zip(requests, frames, strict=True):
            request.start_async(frame[np.newaxis], share_inputs=True)
        return _InFlight(requests, self._idle)

    def _new_requests(self) -> list[Any]:
        return [self._compiled.create_infer_request() for _ in range(self._batch_size)]


class _InFlight:
    """Embeddings on their way."""

    def __init__(self, requests: list[Any], idle: list[list[Any]]) -> None:
        self._requests = requests
        self._idle = idle
        self._embedding: NDArray[np.float32] | None = None

    def result(self) -> NDArray[np.float32]:
        """Wait for the embeddings (B, D) and return them."""
        if self._embedding is None:
            for request in self._requests:
                request.wait()
            rows = [request.get_output_tensor(0).data for request in self._requests]
            self._embedding = np.concatenate(rows, dtype=np.float32)
            self._idle.append(self._requests)
        return self._embedding


def check_openvino(precision: str = "float32") -> None:
    """Refuse what OpenVINO cannot do here, before a model is built.

    Raises:
        ValueError: OpenVINO is missing, Keras does not run on TensorFlow, or this CPU does not
            compute in that precision.
    """
    openvino = _import_openvino()
    backend = load_keras().backend.backend()
    if backend != "tensorflow":
        raise ValueError(
            f"the engine openvino takes the model from Keras on TensorFlow, but Keras runs on "
            f"{backend}; expected --backend tensorflow"
        )
    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if _CAPABILITIES[precision] not in capabilities:
        raise ValueError(
            f"OpenVINO does not compute in {precision} on this CPU, which offers "
            f"{', '.join(p for p in _HINTS if _CAPABILITIES[p] in capabilities)}"
        )


def _import_openvino() -> ModuleType:
    try:
        return importlib.import_module("openvino")
    except ModuleNotFoundError as error:
        if error.name != "openvino":
            raise
        raise ValueError(
            "the engine openvino is not installed: pip install 'embed-then-sequence[openvino]'"
        ) from error


def _compile(model: Any, precision: str, num_streams: int) -> Any:
    """Export the model for one frame and compile it for `num_streams` threads side by side."""
    core = _import_openvino().Core()
    options = {
        # Without it OpenVINO takes bfloat16 by itself on CPUs that have it.
        "INFERENCE_PRECISION_HINT": _HINTS[precision],
        "NUM_STREAMS": num_streams,
        "INFERENCE_NUM_THREADS": num_streams,
        "ENABLE_HYPER_THREADING": True,  # streams are counted by logical cores
        # Decoders share the cores; a pinned thread could not give way to them.
        "ENABLE_CPU_PINNING": False,
    }
    with tempfile.TemporaryDirectory() as folder:
        export_model(model, folder)
        compiled = core.compile_model(core.read_model(folder), "CPU", options)
    _check_compiled(compiled, precision)
    return compiled


def export_model(model: Any, folder: str) -> None:
    """Write a Keras model, for one frame at a time, as a SavedModel, which OpenVINO reads."""
    keras = load_keras()
    archive = keras.export.ExportArchive()
    archive.track(model)
    frame = keras.InputSpec(shape=(1, *model.input_shape[1:]), dtype="uint8")
    archive.add_endpoint("serve", lambda x: model(x, training=False), input_signature=[frame])
    with silenced_stderr():
        archive.write_out(folder, verbose=False)


def _check_compiled(compiled: Any, precision: str) -> None:
    """Refuse a compiled model that computes in another precision than was asked for."""
    operations = compiled.get_runtime_model().get_ops()
    used = {op.get_rt_info()["runtimePrecision"].astype(str) for op in operations}
    hint = _HINTS[precision]
    if used & {"bf16", "f16"} != {hint} - {"f32"}:
        raise ValueError(
            f"OpenVINO computes in {', '.join(sorted(used))} instead of {precision}, unasked; "
            "use --precision float32 or --engine keras"
        )
