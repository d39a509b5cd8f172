"""Loading a .keras file that may come from anywhere: nothing in it is executed."""

import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stage1_extract.interrupt import deferred_interrupt
from stage1_extract.keras_setup import load_keras

_MOST_CONFIG_BYTES = 64 * 2**20
_LAYERS = {
    *("InputLayer", "Activation", "Add", "BatchNormalization", "Concatenate", "Conv1D", "Dense"),
    *("Dropout", "GRU", "LSTM", "LayerNormalization", "MultiHeadAttention", "ReLU", "Rescaling"),
    *("EinsumDense", "Multiply", "Softmax", "SpatialDropout1D"),
}
"""Layers that heads are made of; some others run code or read files that their settings name."""
_HARMLESS = ("keras.initializers", "keras.regularizers", "keras.constraints", "keras.src.ops.")
_PLAIN = {
    *((None, f"__{name}__") for name in ("ellipsis", "keras_tensor", "numpy", "slice")),
    ("keras", "DTypePolicy"),
    ("keras", "DTypePolicyMap"),
    ("keras.src.models.functional", "Functional"),
}


def load_model(path: Path) -> Any:
    """Load a model, after checking that it is made of Keras' own plain layers alone.

    Raises:
        ValueError: It is no .keras file, damaged, or holds something else (a Lambda, a foreign
            class): what that is, is named, and none of it was executed.
    """
    foreign = sorted(
        {name for name in _classes(_read_config(path)) if not _is_known(*name)}, key=str
    )
    if foreign:
        names = ", ".join(f"{module}.{name}" if module else name for module, name in foreign[:5])
        raise ValueError(
            f"{path} holds {names}, which no model of `stage2-temporal train` has and which could "
            "run code of whoever made the file; it was not loaded. Train the model again"
        )
    try:
        with deferred_interrupt():  # which would pass for damage
            return load_keras().saving.load_model(path, compile=False, safe_mode=True)
    # Damage shows as any of these in Keras and h5py.
    except (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        raise _damaged(path, error) from error


def _read_config(path: Path) -> Any:
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo("config.json").file_size > _MOST_CONFIG_BYTES:
                raise _damaged(path, "its config.json is too large")
            return json.loads(archive.read("config.json"))
    except (zipfile.BadZipFile, KeyError, ValueError, RecursionError) as error:
        raise _damaged(path, error) from error


def _classes(config: Any) -> Iterator[tuple[str | None, str]]:
    """Yield module and name of every class that Keras would look up."""
    pending = [config]
    while pending:
        part = pending.pop()
        if isinstance(part, dict):
            if "class_name" in part:
                module = part.get("module")
                yield None if module is None else str(module), str(part["class_name"])
            pending += part.values()
        elif isinstance(part, list):
            pending += part


def _is_known(module: str | None, name: str) -> bool:
    if (module, name) in _PLAIN:
        return True
    if module == "keras.layers":
        return name in _LAYERS
    return module is not None and name != "function" and module.startswith(_HARMLESS)


def _damaged(path: Path, problem: object) -> ValueError:
    return ValueError(
        f"{path} cannot be read as a Keras model ({problem}); copy the run folder again, or train "
        "again"
    )
