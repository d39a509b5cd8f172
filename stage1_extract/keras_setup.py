"""Importing Keras late, quietly, and on the backend that was asked for."""

import contextlib
import importlib
import logging
import os
import sys
from importlib.metadata import PackageNotFoundError, version
from types import ModuleType

from stage1_extract.quiet import silenced_stderr

BACKENDS = ("tensorflow", "jax", "torch")


def chosen_backend(backend: str | None = None) -> str:
    """Return the backend that `load_keras` would take, without importing anything."""
    if backend is None and "keras" in sys.modules:
        return str(sys.modules["keras"].backend.backend())
    return backend or os.environ.get("KERAS_BACKEND") or "tensorflow"


def load_keras(backend: str | None = None) -> ModuleType:
    """Import Keras and return it.

    Args:
        backend: tensorflow, jax or torch; None takes the one that runs already, or
            KERAS_BACKEND, or else TensorFlow.

    Raises:
        ValueError: The backend is unknown or not installed, or Keras already runs on another one.
    """
    wanted = chosen_backend(backend)
    if wanted not in BACKENDS:
        raise ValueError(f"backend {wanted!r} is unknown; expected one of {', '.join(BACKENDS)}")
    if "keras" not in sys.modules:
        os.environ["KERAS_BACKEND"] = wanted
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        # TensorFlow warns of every new shape; sequences come in several, and models one a fold.
        logging.getLogger("tensorflow").setLevel(logging.ERROR)
        with silenced_stderr():
            _import_backend(wanted)
    keras = importlib.import_module("keras")
    if keras.backend.backend() != wanted:
        raise ValueError(
            f"Keras already runs on {keras.backend.backend()} in this process; the backend "
            f"{wanted} must be chosen before Keras is imported (KERAS_BACKEND={wanted})"
        )
    return keras


def num_gpus() -> int:
    """Return how many GPUs the backend that runs can compute on."""
    backend = load_keras().backend.backend()
    module = importlib.import_module(backend)
    if backend == "tensorflow":
        return len(module.config.list_physical_devices("GPU"))
    if backend == "jax":
        return sum(device.platform != "cpu" for device in module.devices())
    return int(module.cuda.device_count())


def software_versions() -> dict[str, str]:
    """Return the versions that results depend on: Python, Keras, its backend, numpy, OpenCV, ..."""
    keras = load_keras()
    backend = keras.backend.backend()
    versions = {
        "python": ".".join(map(str, sys.version_info[:3])),
        "keras": keras.__version__,
        backend: importlib.import_module(backend).__version__,
    }
    for name in ("numpy", "cv2", "sklearn", "openvino"):
        if name in sys.modules:
            versions[name] = sys.modules[name].__version__
    with contextlib.suppress(PackageNotFoundError):
        versions["av"] = version("av")  # loaded by decoders alone
    return versions


def _import_backend(backend: str) -> None:
    try:
        importlib.import_module(backend)
    except ModuleNotFoundError as error:
        if error.name != backend:
            raise
        raise ValueError(
            f"the backend {backend} is not installed: pip install 'embed-then-sequence[{backend}]'"
            if backend != "tensorflow"
            else "TensorFlow is not installed: pip install tensorflow"
        ) from error
    importlib.import_module("keras")
