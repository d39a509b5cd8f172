"""Synthetic stores of any size, for measurements."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stage1_extract.store import Provenance, SequenceRecord, SourceFacts, write_shard

_SHARD_SEQUENCES = 100_000


def write_synthetic_store(
    folder: Path,
    num_sequences: int,
    *,
    num_steps: int,
    dim: int,
    same_length: bool = False,
) -> Path:
    """Write a store of random float16 sequences of `num_steps`, or down to half of it."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    least = num_steps if same_length else num_steps // 2
    for start in range(0, num_sequences, _SHARD_SEQUENCES):
        count = min(_SHARD_SEQUENCES, num_sequences - start)
        lengths = rng.integers(least, num_steps + 1, count)
        num_frames = int(lengths.sum())
        write_shard(
            folder / f"shard-{start:08d}.h5",
            Provenance({"backbone": "synthetic"}, {}, {}),
            [_record(start + i, int(length)) for i, length in enumerate(lengths)],
            embedding_blocks=_blocks(num_frames, dim, rng),
            embedding_dtype="float16",
            embedding_dim=dim,
            time_seconds=np.zeros(num_frames),
            source_index=np.zeros(num_frames, np.int64),
        )
    return folder


def _blocks(num_frames: int, dim: int, rng: np.random.Generator) -> Iterator[NDArray[np.float16]]:
    for start in range(0, num_frames, 65536):
        size = min(65536, num_frames - start)
        yield rng.standard_normal((size, dim), dtype=np.float32).astype(np.float16)


def _record(number: int, length: int) -> SequenceRecord:
    name = f"clip{number:08d}"
    facts = SourceFacts(
        source_path=f"{name}.mp4",
        source_size_bytes=1,
        source_modified_ns=1,
        source_hash=name,
        source_width=8,
        source_height=8,
        source_fps=25.0,
        source_duration_seconds=1.0,
        source_frame_count=length,
        source_stated_frame_count=length,
        clip_start_seconds=np.nan,
        clip_end_seconds=np.nan,
    )
    return SequenceRecord(name, 0, length, name, facts)
