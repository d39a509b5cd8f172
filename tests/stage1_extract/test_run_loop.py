"""From frames to shards: views kept apart, and finished clips safe while others take long."""

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from stage1_extract.clips import ClipDone, ClipJob, FrameChunk, Restart
from stage1_extract.config import ExtractSettings
from stage1_extract.decoding import ClipEvent
from stage1_extract.progress import Progress
from stage1_extract.run_loop import EmbeddingRun, RunResult
from stage1_extract.sources import Clip, VideoError
from stage1_extract.store import EmbeddingStore, Provenance, shard_paths
from stage1_extract.writing import ShardWriter
from tests.conftest import facts_of

A, B = Clip("a", Path("a.mp4")), Clip("b", Path("b.mp4"))


def mean_colour(frames: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return np.asarray(frames.reshape(len(frames), -1, 3).mean(axis=1), np.float32)


EMBEDDER: Any = SimpleNamespace(
    embedding_dim=3, batch_size=8, input_size=4, max_in_flight=2, submit=mean_colour
)


def chunk(levels: list[int], view: int = 0) -> FrameChunk:
    frames = np.stack([np.full((4, 4, 3), level, np.uint8) for level in levels])
    return FrameChunk(frames, np.arange(len(levels)) / 10, np.arange(len(levels)), view)


class Decoders:
    """Stands in for the decoders: yields what a test wants to happen."""

    def __init__(self, events: Sequence[ClipEvent], after: Callable[[], bool] = lambda: True):
        self._events = events
        self._after = after

    def decode(
        self, jobs: Sequence[ClipJob], *, while_waiting: Callable[[], None]
    ) -> Iterator[ClipEvent]:
        yield from self._events
        while not self._after():
            while_waiting()
            time.sleep(0.01)


def run(folder: Path, decoders: Any, **settings: Any) -> RunResult:
    chosen = ExtractSettings(dtype="float32", **settings)
    writer = ShardWriter(
        folder,
        Provenance({"backbone": "mean"}, {}, {}),
        dtype="float32",
        embedding_dim=3,
        shard_bytes=10**6,
        shard_seconds=chosen.shard_seconds,
    )
    embedding_run = EmbeddingRun(writer, EMBEDDER, chosen, Progress(2, show=False))
    embedding_run.embed_all([ClipJob(A), ClipJob(B)], decoders)
    return embedding_run.result


def levels_of(folder: Path, video_id: str, view: int = 0) -> list[float]:
    store = EmbeddingStore(folder)
    levels: list[float] = store.read(store.find(video_id, view))[:, 0].tolist()
    return levels


def test_clips_and_views_that_come_interleaved_are_kept_apart(tmp_path: Path) -> None:
    events = [
        ClipEvent(A, chunk([1, 2, 3])),
        ClipEvent(B, chunk([100, 101])),
        ClipEvent(A, chunk([11, 12, 13], view=1)),
        ClipEvent(A, chunk([4])),
        ClipEvent(A, chunk([14], view=1)),
        ClipEvent(B, ClipDone(facts_of("b"))),
        ClipEvent(A, ClipDone(facts_of("a"), ("odd",), sought=True)),
    ]
    result = run(tmp_path, Decoders(events))
    assert levels_of(tmp_path, "a") == [1, 2, 3, 4]
    assert levels_of(tmp_path, "a", 1) == [11, 12, 13, 14]
    assert levels_of(tmp_path, "b") == [100, 101]
    assert (result.num_stored, result.num_frames, result.num_sought) == (2, 10, 1)
    assert result.notes == ["a: odd"]


def test_what_came_before_a_restart_is_void(tmp_path: Path) -> None:
    events = [
        ClipEvent(A, Restart()),  # also with nothing before
        ClipEvent(A, chunk([1, 2, 3, 4, 5, 6, 7, 8, 9])),
        ClipEvent(A, Restart()),
        ClipEvent(A, chunk([21, 22])),
        ClipEvent(A, ClipDone(facts_of("a"))),
    ]
    run(tmp_path, Decoders(events))
    assert levels_of(tmp_path, "a") == [21, 22]


def test_a_clip_that_fails_midway_leaves_nothing(tmp_path: Path) -> None:
    events = [
        ClipEvent(A, chunk([1, 2, 3])),
        ClipEvent(B, chunk([100])),
        ClipEvent(A, VideoError("damaged")),
        ClipEvent(B, ClipDone(facts_of("b"))),
    ]
    result = run(tmp_path, Decoders(events))
    assert EmbeddingStore(tmp_path).video_ids.tolist() == ["b"]
    assert [failure.reason for failure in result.failures] == ["damaged"]


@pytest.mark.parametrize("shard_seconds", [0.0, 0.5])
def test_finished_clips_are_stored_while_decoding_takes_long(
    tmp_path: Path, shard_seconds: float
) -> None:
    # Three frames do not fill the batch of eight, and nothing follows them.
    events = [ClipEvent(A, chunk([1, 2, 3])), ClipEvent(A, ClipDone(facts_of("a")))]
    deadline = time.monotonic() + 120

    def stored() -> bool:
        return bool(shard_paths(tmp_path)) or time.monotonic() > deadline

    run(tmp_path, Decoders(events, after=stored), shard_seconds=shard_seconds)
    assert time.monotonic() < deadline
    assert levels_of(tmp_path, "a") == [1, 2, 3]
