"""Stores and manifests made from arrays, without a video: what is planted in them is known."""

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stage1_extract.store import (
    EmbeddingStore,
    Provenance,
    SequenceRecord,
    SourceFacts,
    embedding_hasher,
    write_shard,
)
from stage2_temporal.config import TrainSettings

Sequences = Mapping[str, NDArray[Any]]


def facts(source: str, start: float = np.nan, end: float = np.nan) -> SourceFacts:
    return SourceFacts(
        source_path=f"{source}.mp4",
        source_size_bytes=1,
        source_modified_ns=1,
        source_hash=hashlib.sha256(source.encode()).hexdigest()[:32],
        source_width=8,
        source_height=8,
        source_fps=25.0,
        source_duration_seconds=1.0,
        source_frame_count=25,
        source_stated_frame_count=25,
        clip_start_seconds=start,
        clip_end_seconds=end,
    )


def write_store(
    folder: Path,
    sequences: Sequences,
    *,
    dtype: str = "float32",
    sources: Mapping[str, str] | None = None,
    ranges: Mapping[str, tuple[float, float]] | None = None,
    view: int = 0,
    shard: str = "a.h5",
) -> EmbeddingStore:
    """Write one shard with the sequences, and open the store.

    `sources` names the file that a sequence was cut from; by default each has its own. `ranges`
    says from when to when, in seconds.
    """
    folder.mkdir(parents=True, exist_ok=True)
    blocks = [np.asarray(frames, dtype) for frames in sequences.values()]
    records = []
    for video_id, block in zip(sequences, blocks, strict=True):
        hasher = embedding_hasher()
        hasher.update(block.tobytes())
        source = (sources or {}).get(video_id, video_id)
        part = (ranges or {}).get(video_id, (np.nan, np.nan))
        records.append(
            SequenceRecord(video_id, view, len(block), hasher.hexdigest(), facts(source, *part))
        )
    num_frames = sum(map(len, blocks))
    write_shard(
        folder / shard,
        Provenance({"backbone": "synthetic"}, {}, {}),
        records,
        embedding_blocks=blocks,
        embedding_dtype=dtype,
        embedding_dim=blocks[0].shape[1],
        time_seconds=np.arange(num_frames) / 25,
        source_index=np.arange(num_frames),
    )
    return EmbeddingStore(folder)


def write_views(
    folder: Path, views: Mapping[int, Sequences], *, dtype: str = "float32"
) -> EmbeddingStore:
    """Write one shard for each view of sequences, and open the store."""
    for view, sequences in views.items():
        write_store(folder, sequences, dtype=dtype, view=view, shard=f"view{view}.h5")
    return EmbeddingStore(folder)


def write_manifest(path: Path, ids: Sequence[str], **columns: Any) -> Path:
    """Write a manifest with columns path, video_id and what is given: CSV, or Parquet by name."""
    table = pd.DataFrame({"path": [f"{i}.mp4" for i in ids], "video_id": list(ids), **columns})
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".parquet":
        table.to_parquet(path)
    else:
        table.to_csv(path, index=False)
    return path


def planted(lengths: Sequence[int], dim: int = 3) -> dict[str, NDArray[np.float32]]:
    """Sequences `v000`, `v001`, ... whose first feature is their number, on every frame."""
    rng = np.random.default_rng(0)
    out = {}
    for number, length in enumerate(lengths):
        frames = rng.normal(size=(length, dim)).astype(np.float32)
        frames[:, 0] = number
        out[f"v{number:03d}"] = frames
    return out


def ordered(
    num_clips: int, *, seed: int = 0, lengths: tuple[int, int] = (9, 15), dim: int = 3
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.int64]]:
    """Sequences that rise (class 1) or fall (class 0) in their first feature.

    A falling clip has the values of a rising one in reverse, so that the class is in the order
    alone: averages, of any power, say nothing.
    """
    rng = np.random.default_rng(seed)
    classes = np.arange(num_clips) % 2
    sequences = {}
    for number, label in enumerate(classes):
        length = int(rng.integers(lengths[0], lengths[1] + 1))
        frames = rng.normal(size=(length, dim)).astype(np.float32)
        frames[:, 0] = np.linspace(-1, 1, length) * (1 if label else -1)
        sequences[f"clip{number:03d}"] = frames
    return sequences, classes


def quick(target: str = "label", **changes: Any) -> TrainSettings:
    """Settings of a run of seconds."""
    small: dict[str, Any] = {"units": 4, "epochs": 2, "batch_size": 8, "resamples": 20}
    return TrainSettings(target, **{**small, **changes})
