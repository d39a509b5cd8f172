"""clips.csv: one row a clip of a run, with its place on a map of the mean embeddings."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from sklearn.decomposition import PCA

from stage1_extract.store import EmbeddingStore
from stage2_temporal.partition import TrainingData
from stage2_temporal.targets import Target

CLIPS_NAME = "clips.csv"
TARGET_COLUMN = "target_"
"""Before a target's name: the column of its texts, as predictions.csv has them."""

_MAX_FITTED = 20_000
_BLOCK = 4096
_DIGITS = "%.6g"

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Map:
    """Clips on a plane.

    Attributes:
        places: (N, 2) the first two principal components of the mean embeddings.
        variance: Share of the variance that each of the two shows.
    """

    places: Floats
    variance: tuple[float, float]


def clip_table(data: TrainingData, places: Floats) -> pd.DataFrame:
    """Return clips.csv: (N rows) in the order of split.csv.

    Args:
        data: The clips.
        places: (N, 2) where they are on the map.
    """
    clips = data.clips
    columns = {
        "video_id": clips.video_ids,
        "group": data.partition.group_names,
        "frames": data.store.lengths[clips.positions],
        "seconds": [_rounded(value) for value in seconds_shown(data.store, clips.positions)],
        "x": [_rounded(value) for value in places[:, 0]],
        "y": [_rounded(value) for value in places[:, 1]],
    }
    return pd.DataFrame(
        columns | {f"{TARGET_COLUMN}{target.name}": label_texts(target) for target in clips.targets}
    )


def label_texts(target: Target) -> NDArray[Any]:
    """Return (N,) a target as the tables have it: see `named`; blank where it is missing."""
    return np.where(target.present, named(target, target.numbers), "")


def named(target: Target, numbers: NDArray[Any]) -> NDArray[Any]:
    """Return class names; of several labels a text with + between them, blank for none."""
    if target.task == "regression":
        return numbers.astype(object)
    classes = np.array(target.classes, object)
    if target.task == "multilabel":
        return np.array(["+".join(classes[row > 0]) for row in numbers], object)
    found: NDArray[Any] = classes[numbers]
    return found


def _rounded(value: float) -> str:
    """Return a number in the digits that do not hang on the number of threads; NaN is blank."""
    return "" if np.isnan(value) else _DIGITS % value


def seconds_shown(store: EmbeddingStore, positions: NDArray[np.intp]) -> Floats:
    """Return (N,) the time from the first to the last frame of sequences; NaN where unknown."""
    first, last = store.time_spans(positions).T
    seconds: Floats = last - first
    return seconds


def principal_map(means: NDArray[np.float32], *, seed: int) -> Map:
    """Return the first two principal components of mean embeddings.

    They are fitted to at most 20,000 clips and applied a block of rows at a time, so that a million
    clips need no more memory than these. Each component points to where its largest weight is
    positive, so that equal data have equal maps.

    Args:
        means: (N, D) mean embeddings, perhaps mapped from a file.
        seed: Which clips are drawn, where there are more.
    """
    sample = _sample(means, seed)
    centre, unit = sample.mean(axis=0, dtype=np.float64), _size(sample)
    number = min(2, *sample.shape)
    places = np.zeros((len(means), 2))
    if not unit:  # all clips are alike
        return Map(places, (0.0, 0.0))
    sample -= centre.astype(np.float32)
    sample /= unit
    fitted = PCA(number, copy=False, random_state=seed).fit(sample)
    axes = fitted.components_
    largest = axes[np.arange(number), np.abs(axes).argmax(axis=1)]
    axes = axes * np.where(largest < 0, -1.0, 1.0)[:, None]
    for start in range(0, len(means), _BLOCK):
        rows = slice(start, start + _BLOCK)
        places[rows, :number] = (means[rows] - centre) @ axes.T
    shares = [*fitted.explained_variance_ratio_.tolist(), 0.0][:2]
    return Map(places, (float(shares[0]), float(shares[1])))


def _sample(means: NDArray[np.float32], seed: int) -> NDArray[np.float32]:
    if len(means) <= _MAX_FITTED:
        return np.array(means)
    rng = np.random.default_rng(seed)
    return np.array(means[np.sort(rng.choice(len(means), _MAX_FITTED, replace=False))])


def _size(sample: NDArray[np.float32]) -> np.float32:
    """Return the widest range: embeddings as small as 1e-20 have squares that vanish."""
    return np.float32(np.ptp(sample, axis=0).max())
