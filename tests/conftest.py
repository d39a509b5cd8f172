"""Fixtures of both stages: tiny videos whose frames tell their number, shards, the real clips."""

import os
import signal
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import cv2
import numpy as np
import pytest
from hypothesis import settings as hypothesis_settings
from numpy.typing import NDArray

from stage1_extract.store import Provenance, SequenceRecord, SourceFacts, write_shard

# No deadline and no drawing by chance: a busy machine and an odd example fail nobody's run.
hypothesis_settings.load_profile("ci")

LEVEL_PERIOD = 24
"""Frame k has grey level 10 + 10 * (k mod 24): far enough apart to survive compression."""
_CODECS = {".mp4": "mp4v", ".avi": "MJPG"}


class VideoFactory(Protocol):
    """Writes a tiny video whose frame k is evenly grey, of a level that tells k mod 24."""

    def __call__(
        self,
        name: str,
        num_frames: int,
        *,
        fps: float = 10.0,
        size: tuple[int, int] = (48, 32),
        is_color: bool = True,
    ) -> Path: ...


class ShardFactory(Protocol):
    """Writes a shard that holds the given embeddings by (video_id, view)."""

    def __call__(
        self,
        path: Path,
        sequences: Mapping[tuple[str, int], NDArray[Any]],
        *,
        settings: Mapping[str, Any] | None = None,
    ) -> Path: ...


def frame_level(number: int) -> int:
    """Return the grey level of frame `number`."""
    return 10 + 10 * (number % LEVEL_PERIOD)


def numbers_shown(frames: NDArray[Any]) -> list[int]:
    """Return the frame numbers, modulo the period, that frames (n, H, W, 3) show."""
    levels = frames.reshape(len(frames), -1).mean(axis=1)
    return [int(number) for number in np.rint((levels - 10) / 10)]


def facts_of(video_id: str) -> SourceFacts:
    """Return plausible facts of a source."""
    return SourceFacts(
        source_path=f"/videos/{video_id[:40]}.mp4",
        source_size_bytes=1000,
        source_modified_ns=1,
        source_hash="0" * 32,
        source_width=48,
        source_height=32,
        source_fps=10.0,
        source_duration_seconds=2.0,
        source_frame_count=20,
        source_stated_frame_count=20,
        clip_start_seconds=float("nan"),
        clip_end_seconds=float("nan"),
    )


@pytest.fixture
def make_video(tmp_path: Path) -> VideoFactory:
    """A factory of tiny videos in the test's folder; .avi is Motion JPEG, .mp4 MPEG-4."""

    def make(
        name: str,
        num_frames: int,
        *,
        fps: float = 10.0,
        size: tuple[int, int] = (48, 32),
        is_color: bool = True,
    ) -> Path:
        path = tmp_path / name
        # Written under a plain name: OpenCV takes %03d in an output name for a pattern.
        plain = tmp_path / f"being-written{path.suffix}"
        code = cv2.VideoWriter.fourcc(*_CODECS[path.suffix])
        writer = cv2.VideoWriter(str(plain), cv2.CAP_FFMPEG, code, fps, size, is_color)
        shape = (size[1], size[0], 3) if is_color else (size[1], size[0])
        for number in range(num_frames):
            writer.write(np.full(shape, frame_level(number), np.uint8))
        writer.release()
        return plain.rename(path)

    return make


@pytest.fixture(scope="session")
def make_shard() -> ShardFactory:
    """A factory of shards; embeddings decide dtype and dimension, checksums are computed here."""
    import hashlib

    def make(
        path: Path,
        sequences: Mapping[tuple[str, int], NDArray[Any]],
        *,
        settings: Mapping[str, Any] | None = None,
    ) -> Path:
        records = [
            SequenceRecord(
                video_id,
                view,
                len(embedding),
                hashlib.blake2b(embedding.tobytes(), digest_size=16).hexdigest(),
                facts_of(video_id),
            )
            for (video_id, view), embedding in sequences.items()
        ]
        lengths = [len(embedding) for embedding in sequences.values()]
        first = next(iter(sequences.values()))
        path.parent.mkdir(parents=True, exist_ok=True)
        write_shard(
            path,
            Provenance(settings or {"backbone": "MobileNet"}, {"python": "3"}, {"batch_size": 2}),
            records,
            embedding_blocks=sequences.values(),
            embedding_dtype=first.dtype.name,
            embedding_dim=first.shape[1],
            time_seconds=np.concatenate([np.arange(n) / 10 for n in lengths]),
            source_index=np.concatenate([np.arange(n) * 3 for n in lengths]),
        )
        return path

    return make


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real clips, which lies beside the repository and is not part of it."""
    folder = Path(__file__).parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip(f"the real clips are not on this machine: no folder {folder}")
    return folder


@pytest.fixture
def tiny_filesystem(tmp_path: Path) -> Iterator[Path]:
    """A folder on a filesystem of one megabyte, to be filled up."""
    import subprocess

    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("mounting a tiny filesystem takes root and the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def ctrl_c_raises() -> Iterator[None]:
    """Start from Python's own handler: a job in a shell's background has Ctrl-C ignored."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)
