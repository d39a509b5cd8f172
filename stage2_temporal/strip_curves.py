"""What a run's saved models predict after each frame of a few of its clips."""

import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage1_extract.interrupt import deferred_interrupt
from stage1_extract.keras_setup import load_keras
from stage2_temporal.features import FeatureScaler
from stage2_temporal.inputs import ClipInputs
from stage2_temporal.model_inputs import output_key, pad_sequences, padded_length
from stage2_temporal.safe_loading import load_model
from stage2_temporal.units import Unit

MAX_PREFIXES = 64
MAX_SECONDS = 10.0
"""For all clips together."""
MAX_FRAMES = 2000
"""Of a clip: a model that is called, not compiled, takes 2 to 3 ms a frame on TensorFlow."""
_MAX_VALUES = 2**24

Floats = NDArray[np.float64]


def prefix_lengths(num_frames: int) -> NDArray[np.int64]:
    """Return up to 64 rising numbers of frames, evenly spread, that end with all of them."""
    lengths = np.linspace(1, num_frames, min(num_frames, MAX_PREFIXES))
    return np.unique(lengths.round().astype(np.int64))


def predict_prefixes(
    folder: Path, inputs: ClipInputs, clips: Sequence[tuple[int, int]], num_members: Sequence[int]
) -> dict[int, list[Floats]]:
    """Return what the models of each clip's fold predict after each of its prefixes.

    Clips of more than `MAX_FRAMES` are left out, and those for which the time does not suffice, the
    last ones first.

    Args:
        folder: The unfinished run folder, with its models.
        inputs: What models read.
        clips: Fold and number of each clip.
        num_members: How many models, of which the mean counts, each fold has.

    Returns:
        By clip: one (P, k) array a target, probabilities or values, for `prefix_lengths`.
    """
    end = time.monotonic() + MAX_SECONDS
    lengths = inputs.store.lengths[inputs.positions]
    clips = [(fold, clip) for fold, clip in clips if lengths[clip] <= MAX_FRAMES]
    found: dict[int, list[Floats]] = {}
    for fold in dict.fromkeys(fold for fold, _ in clips):
        of_fold = [clip for other, clip in clips if other == fold]
        parts = _of_members(folder, inputs, fold, of_fold, range(num_members[fold]), end)
        for clip, predictions in parts.items():
            if len(predictions) == num_members[fold]:
                means = zip(*predictions, strict=True)
                found[clip] = [np.mean(of_target, axis=0) for of_target in means]
    return found


def _of_members(
    folder: Path, inputs: ClipInputs, fold: int, clips: Sequence[int], members: range, end: float
) -> dict[int, list[list[Floats]]]:
    """Return by clip the predictions of each model, as far as they were made in time."""
    found: dict[int, list[list[Floats]]] = {clip: [] for clip in clips}
    for member in members:
        if time.monotonic() > end:
            break
        suffix = f"-{Unit(fold, member, 0).name}"
        if not (folder / f"model{suffix}.keras").exists():
            suffix = ""  # the only training of a run
        model = load_model(folder / f"model{suffix}.keras")
        for clip in clips:
            if time.monotonic() < end:
                features = _features(folder / f"features{suffix}.json", inputs, clip)
                sequence = np.asarray(inputs.store.read(int(inputs.positions[clip])))
                with deferred_interrupt():
                    found[clip].append(_predict(model, sequence, features))
    return found


def _features(path: Path, inputs: ClipInputs, clip: int) -> NDArray[np.float32] | None:
    if inputs.features is None:
        return None
    scaler = FeatureScaler.from_dict(json.loads(path.read_text("utf-8")))
    return inputs.features.rows(np.array([clip]), scaler)


def _predict(
    model: Any, sequence: NDArray[Any], features: NDArray[np.float32] | None
) -> list[Floats]:
    """Return one (P, k) array a target.

    The model is called and not asked to `predict`: that would be compiled for every shape.
    """
    convert = load_keras().ops.convert_to_numpy
    parts = []
    for lengths in _blocks(prefix_lengths(len(sequence)), sequence.shape[1]):
        found = model(_batch(sequence, lengths, features), training=False)
        parts.append([convert(found[output_key(i)]) for i in range(len(found))])
    return [np.concatenate(of_target).astype(np.float64) for of_target in zip(*parts, strict=True)]


def _blocks(lengths: NDArray[np.int64], dim: int) -> Iterator[NDArray[np.int64]]:
    """Divide prefixes so that those of long sequences need no more memory than a usual batch."""
    size = max(1, _MAX_VALUES // (int(lengths[-1]) * dim))
    return (lengths[start : start + size] for start in range(0, len(lengths), size))


def _batch(
    sequence: NDArray[Any], lengths: NDArray[np.int64], features: NDArray[np.float32] | None
) -> dict[str, NDArray[Any]]:
    prefixes = [sequence[:length] for length in lengths.tolist()]
    batch = pad_sequences(prefixes, padded_length(len(prefixes[-1])))
    if features is not None:
        batch["features"] = np.repeat(features, len(lengths), axis=0)
    return batch
