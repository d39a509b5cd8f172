"""Models as SavedModel folders, which TensorFlow reads without Keras or this package."""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage1_extract.keras_setup import load_keras
from stage1_extract.quiet import silenced_stderr
from stage2_temporal.joined_model import JoinedModel

Arrays = Mapping[str, NDArray[Any]]

METADATA_FILE = Path("assets.extra") / "metadata.json"
"""Where TensorFlow leaves room for files that it does not read itself."""
_ENDPOINT = "serve"


def write_saved_model(joined: JoinedModel, path: Path, metadata: str) -> None:
    """Write the model, for any number of clips and frames.

    Args:
        joined: The function.
        path: Folder to make.
        metadata: JSON, kept in METADATA_FILE.

    Raises:
        OSError: The folder cannot be written.
    """
    archive = load_keras().export.ExportArchive()
    for part in joined.parts:
        archive.track(part)
    archive.add_endpoint(_ENDPOINT, joined.__call__, input_signature=[joined.inputs])
    with silenced_stderr():
        archive.write_out(str(path), verbose=False)
    (path / METADATA_FILE).parent.mkdir()
    (path / METADATA_FILE).write_text(metadata + "\n", "utf-8")


def read_saved_model(path: Path) -> Callable[[Arrays], dict[str, NDArray[Any]]]:
    """Return the function in a folder, as TensorFlow computes it."""
    tensorflow = importlib.import_module("tensorflow")
    function = tensorflow.saved_model.load(str(path)).signatures["serving_default"]

    def compute(inputs: Arrays) -> dict[str, NDArray[Any]]:
        tensors = {name: tensorflow.constant(values) for name, values in inputs.items()}
        return {name: np.asarray(value) for name, value in function(**tensors).items()}

    return compute
