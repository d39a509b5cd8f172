"""Collecting embeddings, clip by clip, into shards; memory does not grow with their length."""

import os
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from stage1_extract import store
from stage1_extract.failures import FILE_NAME, Failure, append_failure

StoredHook = Callable[[Path, Sequence[store.SequenceRecord]], None]
"""Told of each shard that is on the disk."""
MAX_CAST_ERROR = 1e-3
_SPOOL_MEMORY_BYTES = 8 * 2**20
_COPY_BYTES = 16 * 2**20


class EmbeddingError(ValueError):
    """An embedding is not fit to be stored."""


def cast_guarded(embedding: NDArray[np.float32], dtype: str) -> NDArray[Any]:
    """Cast embeddings for storage, and refuse what storage would spoil.

    Args:
        embedding: (n, D) float32, one row a frame.
        dtype: float16 or float32.

    Returns:
        (n, D) in the asked dtype.

    Raises:
        EmbeddingError: NaN or infinity; or the cast overflows, or changes a frame's vector by more
            than 1e-3 of its length (relative L2 error: values flushed to zero show there too).
    """
    if not np.isfinite(embedding).all():
        bad = int((~np.isfinite(embedding)).any(axis=1).sum())
        raise EmbeddingError(
            f"{bad} of {len(embedding)} frames have NaN or infinite embeddings; "
            "check the weights file, and the frames"
        )
    with np.errstate(over="ignore", under="ignore"):
        stored = embedding.astype(dtype)
    if stored.dtype == embedding.dtype:
        return stored
    # float64: squares of values near 1e-30 would vanish in float32 and hide the loss.
    exact = embedding.astype(np.float64)
    with np.errstate(invalid="ignore"):
        change = np.linalg.norm(exact - stored.astype(np.float64), axis=1)
    allowed = MAX_CAST_ERROR * np.linalg.norm(exact, axis=1)
    if not (change <= allowed).all():
        peak, small = np.abs(exact).max(), np.abs(exact)[exact != 0].min(initial=np.inf)
        raise EmbeddingError(
            f"values between {small:.3g} and {peak:.3g} do not survive as {dtype}: a frame changes "
            f"by more than {MAX_CAST_ERROR:g} of its length; store them with --dtype float32"
        )
    return stored


class SequenceBuffer:
    """The embeddings of one clip in the making; beyond 8 MiB they wait on disk.

    Args:
        folder: Where to put what exceeds memory (an unnamed file, gone with the process).
        dtype: Storage dtype.
    """

    def __init__(self, folder: Path, dtype: str) -> None:
        self.dtype = dtype
        self._file: IO[bytes] = tempfile.SpooledTemporaryFile(_SPOOL_MEMORY_BYTES, dir=str(folder))  # noqa: SIM115
        self._hasher = store.embedding_hasher()
        self._times: list[NDArray[np.float64]] = []
        self._indices: list[NDArray[np.int64]] = []
        self.length = 0

    def append(
        self,
        embedding: NDArray[np.float32],
        time_seconds: NDArray[np.float64],
        source_index: NDArray[np.int64],
    ) -> None:
        """Add frames: embedding (n, D), times (n,), frame numbers (n,).

        Raises:
            EmbeddingError: The values cannot be stored faithfully.
        """
        content = np.ascontiguousarray(cast_guarded(embedding, self.dtype)).tobytes()
        self._file.write(content)
        self._hasher.update(content)
        self._times.append(time_seconds)
        self._indices.append(source_index)
        self.length += len(embedding)

    @property
    def checksum(self) -> str:
        """Hash of the embedding's bytes."""
        return self._hasher.hexdigest()

    @property
    def time_seconds(self) -> NDArray[np.float64]:
        """(T,) presentation times."""
        return np.concatenate(self._times)

    @property
    def source_index(self) -> NDArray[np.int64]:
        """(T,) frame numbers in the source."""
        return np.concatenate(self._indices)

    def read(self, embedding_dim: int) -> NDArray[Any]:
        """Return the embeddings (T, D) in the storage dtype."""
        self._file.seek(0)
        content = self._file.read()
        self._file.seek(0, os.SEEK_END)
        return np.frombuffer(content, self.dtype).reshape(-1, embedding_dim)

    def blocks(self, row_bytes: int) -> Iterator[bytes]:
        """Yield the content in pieces of whole rows."""
        self._file.seek(0)
        yield from _read_blocks(self._file, row_bytes)

    def close(self) -> None:
        """Free the memory or disk space."""
        self._file.close()


class _Added(NamedTuple):
    """A sequence that waits for its shard; its embeddings end before a row of the spool."""

    record: store.SequenceRecord
    time_seconds: NDArray[np.float64]
    source_index: NDArray[np.int64]
    end_row: int


class ShardWriter:
    """Gathers finished sequences and writes them as a shard when it is full or old enough.

    What was added is safe once `flush` has returned; a crash before loses only the shard in the
    making. Leaving the `with` block does not flush: only whole work is declared done.

    Args:
        folder: The store.
        provenance: What every shard says of its origin.
        dtype: Storage dtype.
        embedding_dim: D.
        shard_bytes: Size at which a shard is written.
        shard_seconds: Age at which it is written, so that a crash costs little.
        publish: Called with each shard that was written, and with failures.jsonl when it has grown.
            What it raises means that the shard is not stored, and nothing of it is left.
        on_stored: Called when a shard is where it belongs.
    """

    def __init__(
        self,
        folder: Path,
        provenance: store.Provenance,
        *,
        dtype: str,
        embedding_dim: int,
        shard_bytes: int,
        shard_seconds: float,
        publish: Callable[[Path], None] = lambda _: None,
        on_stored: StoredHook | None = None,
    ) -> None:
        self.folder = folder
        self.provenance = provenance
        self.dtype = dtype
        self.embedding_dim = embedding_dim
        self.shard_bytes = shard_bytes
        self.shard_seconds = shard_seconds
        self._publish = publish
        self._on_stored = on_stored
        self._spool: IO[bytes] = tempfile.TemporaryFile(dir=str(folder))  # noqa: SIM115
        self._start_shard()

    def _start_shard(self) -> None:
        # One list, changed in one step: Ctrl-C may come between any two, and `flush` after it.
        self._added: list[_Added] = []
        self._spool.truncate(0)
        self._started = time.monotonic()

    @property
    def _row_bytes(self) -> int:
        return self.embedding_dim * np.dtype(self.dtype).itemsize

    @property
    def _num_bytes(self) -> int:
        return self._added[-1].end_row * self._row_bytes if self._added else 0

    def add(
        self, video_id: str, view: int, sequence: SequenceBuffer, facts: store.SourceFacts
    ) -> None:
        """Take a finished sequence; writes the shard when that fills it."""
        self._spool.seek(self._num_bytes)  # an `add` or `flush` broken off left it elsewhere
        for block in sequence.blocks(self._row_bytes):
            self._spool.write(block)
        record = store.SequenceRecord(video_id, view, sequence.length, sequence.checksum, facts)
        if not self._added:
            self._started = time.monotonic()
        end_row = sequence.length + (self._added[-1].end_row if self._added else 0)
        self._added.append(_Added(record, sequence.time_seconds, sequence.source_index, end_row))
        if self._num_bytes >= self.shard_bytes:
            self.flush()
        self.flush_if_old()

    def fail(self, failure: Failure) -> None:
        """Record a clip that failed beside the shards."""
        append_failure(self.folder, failure)
        self._publish(self.folder / FILE_NAME)

    def flush_if_old(self) -> None:
        """Write what was added if the first of it has waited long enough; to be called often."""
        if self._added and time.monotonic() - self._started >= self.shard_seconds:
            self.flush()

    def flush(self) -> None:
        """Write what was added as a shard, synced to disk, and publish it.

        Raises:
            OSError: The disk is full or fails, or the shard could not be published; what was added
                stays and can be flushed again.
        """
        if self._added:
            try:
                shard = self._write_shard()
            except OSError as error:
                reason = os.strerror(error.errno) if error.errno else error
                raise OSError(
                    f"cannot write a shard into {self.folder}: {reason}. Finished shards are kept; "
                    "make space or mend the disk, and run the same command again"
                ) from error
            self._publish(shard)
            if self._on_stored is not None:
                self._on_stored(shard, [added.record for added in self._added])
        self._start_shard()

    def _write_shard(self) -> Path:
        shard = store.new_shard_path(self.folder)
        self._spool.truncate(self._num_bytes)
        self._spool.seek(0)
        blocks = _read_blocks(self._spool, self._row_bytes)
        store.write_shard(
            shard,
            self.provenance,
            [added.record for added in self._added],
            embedding_blocks=(self._as_rows(block) for block in blocks),
            embedding_dtype=self.dtype,
            embedding_dim=self.embedding_dim,
            time_seconds=np.concatenate([added.time_seconds for added in self._added]),
            source_index=np.concatenate([added.source_index for added in self._added]),
        )
        return shard

    def _as_rows(self, block: bytes) -> NDArray[Any]:
        return np.frombuffer(block, self.dtype).reshape(-1, self.embedding_dim)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._spool.close()


def _read_blocks(file: IO[bytes], row_bytes: int) -> Iterator[bytes]:
    size = max(1, _COPY_BYTES // row_bytes) * row_bytes
    while block := file.read(size):
        yield block
