"""The store's file format (version 1): names, columns, and the files of a store's folder.

A store is a folder of immutable HDF5 shards, or one shard file. A shard is complete or it does not
exist: it is written under a hidden temporary name, synced to disk, and renamed. The layout is
described in data/README.md.
"""

import dataclasses
import hashlib
import os
import secrets
import tempfile
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from stage1_extract.provenance import StoreError

FORMAT = "embed-then-sequence store"
FORMAT_VERSION = 1
SHARD_SUFFIX = ".h5"
PARTIAL_SUFFIX = ".partial"
EMBEDDING_DTYPES = ("float16", "float32")
TOLD = ("settings", "software", "execution")
"""Fields of `Provenance`, attributes of a shard, in JSON."""
ID_COLUMNS = {"video_id": "S", "view": "u", "start": "i", "length": "i"}
"""Columns of /sequences that opening reads, and numpy's kind of each."""
FRAME_COLUMNS = {"time_seconds": np.float64, "source_index": np.int64}
"""Columns of /frames beside the embeddings."""
BLOCK_BYTES = 4 * 2**20
"""Read at once of what is copied or checked."""
STALE_SECONDS = 3600


@dataclasses.dataclass(frozen=True)
class SourceFacts:
    """What was found in the source of a sequence; stored beside it, one column a field."""

    source_path: str
    source_size_bytes: int
    source_modified_ns: int
    source_hash: str
    """blake2b-128 of the file's bytes, hexadecimal: equal content under two names is recognised."""
    source_width: int
    source_height: int
    source_fps: float
    source_duration_seconds: float
    source_frame_count: int
    """Frames that were found; the whole file, also where the sequence is a clip of it."""
    source_stated_frame_count: int
    """Frames that the file's header claims; 0 where it claims nothing."""
    clip_start_seconds: float
    """NaN where the sequence starts with the file."""
    clip_end_seconds: float
    """NaN where the sequence ends with the file."""


@dataclasses.dataclass(frozen=True)
class SequenceRecord:
    """One sequence of a shard, without its frames."""

    video_id: str
    view: int
    length: int
    checksum: str
    facts: SourceFacts


_STORED_AS: dict[Any, Any] = {str: str, int: np.int64, float: np.float64}
FACTS = {field.name: _STORED_AS[field.type] for field in dataclasses.fields(SourceFacts)}
"""Columns of /sequences that say what was found in the source: texts, int64 or float64."""


def embedding_hasher() -> "hashlib.blake2b":
    """Return the hasher of a sequence's checksum, fed with the embedding's bytes as stored."""
    return hashlib.blake2b(digest_size=16)


def new_shard_path(folder: Path) -> Path:
    """Return a shard name that no other run uses; names sort by time."""
    moment = datetime.now(UTC).strftime("%Y%m%dT%H%M%S%f")
    return folder / f"shard-{moment}-{secrets.token_hex(4)}{SHARD_SUFFIX}"


def shard_paths(path: Path) -> list[Path]:
    """Return the shards of a store, which is a folder or one file, in reading order."""
    if path.is_dir():
        return sorted(p for p in path.glob(f"*{SHARD_SUFFIX}") if not p.name.startswith("."))
    return [path] if path.exists() else []


def remove_stale_partials(folder: Path) -> None:
    """Remove unfinished files of killed runs; readers never look at them.

    Only those untouched for an hour: another run may be writing a younger one, which takes seconds.
    The hour is the folder's own, as its file server's clock may be another than this machine's.
    """
    partials = list(folder.glob(f".*{PARTIAL_SUFFIX}"))
    if not partials:
        return
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".now-") as file:
        now = os.fstat(file.fileno()).st_mtime
    for partial in partials:
        with suppress(FileNotFoundError):  # it was finished, and has its name now
            if now - partial.stat().st_mtime > STALE_SECONDS:
                partial.unlink()


def sync(path: Path) -> None:
    """Return when a file's content, or a folder's entries, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def damaged(path: Path, what: str) -> StoreError:
    """Return the error that says what is wrong with a shard, and what helps."""
    return StoreError(
        f"{path} is damaged: {what}; run `stage1-extract verify --repair`, then "
        "`stage1-extract run` again"
    )
