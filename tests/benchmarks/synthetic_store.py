"""Synthetic stores of any size, for measurements."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stage1_extract.store import (
    Provenance,
    SequenceRecord,
    SourceFacts,
    embedding_hasher,
    write_shard,
)

_SHARD_SEQUENCES = 100_000
_PIECE_SEQUENCES = 1000


def write_synthetic_store(
    folder: Path,
    num_sequences: int,
    *,
    num_steps: int,
    dim: int,
    same_length: bool = False,
    shard_sequences: int = _SHARD_SEQUENCES,
) -> Path:
    """Write a store of random float16 sequences of `num_steps`, or down to half of it."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    least = num_steps if same_length else num_steps // 2
    for start in range(0, num_sequences, shard_sequences):
        count = min(shard_sequences, num_sequences - start)
        lengths = rng.integers(least, num_steps + 1, count)
        num_frames = int(lengths.sum())
        blocks = _Blocks(lengths, dim, seed=start)
        write_shard(
            folder / f"shard-{start:08d}.h5",
            Provenance({"backbone": "synthetic"}, {}, {}),
            [
                _record(start + i, int(length), checksum)
                for i, (length, checksum) in enumerate(
                    zip(lengths, blocks.checksums(), strict=True)
                )
            ],
            embedding_blocks=blocks,
            embedding_dtype="float16",
            embedding_dim=dim,
            time_seconds=np.zeros(num_frames),
            source_index=np.zeros(num_frames, np.int64),
        )
    return folder


class _Blocks:
    """The frames of sequences in pieces; the same each time."""

    def __init__(self, lengths: NDArray[np.int64], dim: int, *, seed: int) -> None:
        self._lengths, self._dim, self._seed = lengths, dim, seed

    def __iter__(self) -> Iterator[NDArray[np.float16]]:
        rng = np.random.default_rng(self._seed)
        for start in range(0, len(self._lengths), _PIECE_SEQUENCES):
            size = int(self._lengths[start : start + _PIECE_SEQUENCES].sum())
            yield rng.standard_normal((size, self._dim), dtype=np.float32).astype(np.float16)

    def checksums(self) -> Iterator[str]:
        """Yield the checksum of each sequence."""
        lengths = iter(self._lengths.tolist())
        for block in self:
            end = 0
            while end < len(block):
                start, end = end, end + next(lengths)
                hasher = embedding_hasher()
                hasher.update(block[start:end].tobytes())
                yield hasher.hexdigest()


def clip_name(number: int) -> str:
    """Return the id of a sequence; twenty are one patient's."""
    return f"patient{number // 20:06d}/clip{number:08d}"


def _record(number: int, length: int, checksum: str) -> SequenceRecord:
    name = clip_name(number)
    facts = SourceFacts(
        source_path=f"/data/videos/{name}.mp4",
        source_size_bytes=1,
        source_modified_ns=1,
        source_hash=f"{number:032x}",
        source_width=8,
        source_height=8,
        source_fps=25.0,
        source_duration_seconds=1.0,
        source_frame_count=length,
        source_stated_frame_count=length,
        clip_start_seconds=np.nan,
        clip_end_seconds=np.nan,
    )
    return SequenceRecord(name, 0, length, checksum, facts)
