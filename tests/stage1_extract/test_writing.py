"""Collecting embeddings: what float16 would spoil is refused, and nothing is lost or mixed up."""

import errno
import itertools
import sys
from contextlib import closing
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from stage1_extract import store
from stage1_extract.store import EmbeddingStore, Provenance, shard_paths
from stage1_extract.verifying import verify_store
from stage1_extract.writing import EmbeddingError, SequenceBuffer, ShardWriter, cast_guarded
from tests.conftest import facts_of


def frames_of(num_frames: int, dim: int = 4, *, value: float = 1.0) -> NDArray[np.float32]:
    return np.full((num_frames, dim), value, np.float32)


def writer_into(
    folder: Path, *, shard_bytes: int = 10**9, shard_seconds: float = 1e9
) -> ShardWriter:
    return ShardWriter(
        folder,
        Provenance({"a": 1}, {}, {}),
        dtype="float32",
        embedding_dim=4,
        shard_bytes=shard_bytes,
        shard_seconds=shard_seconds,
    )


def add(writer: ShardWriter, video_id: str, embedding: NDArray[np.float32]) -> None:
    buffer = SequenceBuffer(writer.folder, writer.dtype)
    count = len(embedding)
    with closing(buffer):
        buffer.append(embedding, np.arange(count) / 10, np.arange(count))
        writer.add(video_id, 0, buffer, facts_of(video_id))


# cast_guarded


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_no_numbers_are_refused(bad: float, dtype: str) -> None:
    embedding = frames_of(5)
    embedding[3, 1] = bad
    with pytest.raises(EmbeddingError, match="1 of 5 frames have NaN or infinite"):
        cast_guarded(embedding, dtype)


@pytest.mark.parametrize("value", [1e6, -1e6, 65520, 1e-12, 1e-30, 1e-7])
def test_one_frame_that_float16_spoils_is_refused_and_float32_keeps_it(value: float) -> None:
    embedding = frames_of(5)
    embedding[2] = value
    with pytest.raises(EmbeddingError, match="--dtype float32"):
        cast_guarded(embedding, "float16")
    np.testing.assert_array_equal(cast_guarded(embedding, "float32"), embedding)


def test_tiny_values_beside_ordinary_ones_are_no_error() -> None:
    embedding = np.random.default_rng(0).uniform(0, 6, (20, 64)).astype(np.float32)
    embedding[:, :8] = 1e-9
    stored = cast_guarded(embedding, "float16")
    assert stored.dtype == np.float16
    np.testing.assert_allclose(stored[:, 8:], embedding[:, 8:], rtol=2**-11)


def test_frames_of_zeros_are_kept() -> None:
    assert not cast_guarded(frames_of(3, value=0), "float16").any()


@given(
    hnp.arrays(
        np.float32,
        (3, 6),
        elements=st.floats(-(2.0**40), 2.0**40, width=32, allow_subnormal=True),
    )
)
def test_what_is_accepted_is_within_a_thousandth_of_each_frame(
    embedding: NDArray[np.float32],
) -> None:
    try:
        stored = cast_guarded(embedding, "float16").astype(np.longdouble)
    except EmbeddingError:
        return
    exact = embedding.astype(np.longdouble)
    error = np.sqrt(((stored - exact) ** 2).sum(axis=1))
    assert (error <= 1.0001e-3 * np.sqrt((exact**2).sum(axis=1))).all()


# SequenceBuffer


@pytest.mark.parametrize("num_frames", [1, 3, 5_000])  # the last is more than waits in memory
def test_buffer_gives_back_what_was_appended(tmp_path: Path, num_frames: int) -> None:
    rng = np.random.default_rng(0)
    parts = [rng.random((num_frames, 320), np.float32) for _ in range(3)]
    buffer = SequenceBuffer(tmp_path, "float32")
    for number, part in enumerate(parts):
        indices = np.arange(num_frames) + number * num_frames
        buffer.append(part, indices / 10, indices)
    assert b"".join(buffer.blocks(320 * 4)) == np.concatenate(parts).tobytes()
    assert buffer.length == 3 * num_frames
    np.testing.assert_array_equal(buffer.source_index, np.arange(3 * num_frames))
    np.testing.assert_array_equal(buffer.time_seconds, np.arange(3 * num_frames) / 10)
    buffer.close()
    assert not list(tmp_path.iterdir())


def test_checksum_depends_on_the_bytes_and_not_on_their_parts(tmp_path: Path) -> None:
    embedding = np.random.default_rng(0).random((6, 4), np.float32)
    checksums = []
    for cuts in ([6], [1, 6], [2, 4, 6]):
        buffer = SequenceBuffer(tmp_path, "float16")
        for start, end in zip([0, *cuts], cuts, strict=False):
            buffer.append(embedding[start:end], np.zeros(end - start), np.zeros(end - start, int))
        checksums.append(buffer.checksum)
        buffer.close()
    assert len(set(checksums)) == 1


def test_buffer_refuses_what_its_dtype_spoils(tmp_path: Path) -> None:
    buffer = SequenceBuffer(tmp_path, "float16")
    with pytest.raises(EmbeddingError, match="float32"):
        buffer.append(frames_of(1, value=1e-12), np.zeros(1), np.zeros(1, np.int64))
    buffer.close()


# ShardWriter


def test_nothing_is_written_before_a_shard_is_full(tmp_path: Path) -> None:
    with writer_into(tmp_path, shard_bytes=3 * 16) as writer:
        for i in range(7):
            add(writer, f"v{i}", frames_of(1, value=i))
            assert len(shard_paths(tmp_path)) == (i + 1) // 3
        writer.flush()
    result = EmbeddingStore(tmp_path)
    assert result.num_shards == 3
    assert [result.read(i)[0, 0] for i in range(7)] == list(range(7))


def test_old_shards_are_written_although_not_full(tmp_path: Path) -> None:
    with writer_into(tmp_path, shard_seconds=0) as writer:
        add(writer, "v", frames_of(2))
        assert len(shard_paths(tmp_path)) == 1


def test_leaving_without_flush_writes_nothing(tmp_path: Path) -> None:
    with writer_into(tmp_path) as writer:
        add(writer, "v", frames_of(2))
    assert not list(tmp_path.iterdir())


def test_flush_without_sequences_writes_nothing(tmp_path: Path) -> None:
    with writer_into(tmp_path) as writer:
        writer.flush()
    assert not list(tmp_path.iterdir())


def test_sequences_longer_than_a_copied_block_arrive_whole(tmp_path: Path) -> None:
    embedding = np.random.default_rng(0).random((1_200_000, 4), np.float32)  # 19 MB
    with writer_into(tmp_path) as writer:
        add(writer, "short", frames_of(3))
        add(writer, "long", embedding)
        writer.flush()
    result = EmbeddingStore(tmp_path)
    np.testing.assert_array_equal(result.read(result.find("long")), embedding)


def test_failed_flush_keeps_what_was_added_for_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with writer_into(tmp_path) as writer:
        add(writer, "a", frames_of(2, value=1))
        with monkeypatch.context() as patch:
            patch.setattr(store, "write_shard", full)
            with pytest.raises(OSError, match=r"No space left.*run the same command again"):
                writer.flush()
        add(writer, "b", frames_of(3, value=2))
        writer.flush()
    result = EmbeddingStore(tmp_path)
    assert [result.read(i).tolist() for i in range(2)] == [[[1.0] * 4] * 2, [[2.0] * 4] * 3]


def interrupt_at(line_number: int) -> Any:
    """Return a trace function that presses Ctrl-C before the n-th line run in stage1_extract."""
    remaining = itertools.count(line_number, -1)

    def trace(frame: FrameType, event: str, _: object) -> Any:
        if "stage1_extract" not in frame.f_code.co_filename:
            return None
        if event == "line" and next(remaining) == 0:
            raise KeyboardInterrupt
        return trace

    return trace


@pytest.mark.parametrize("step", [4, pytest.param(1, marks=pytest.mark.xslow)])
def test_ctrl_c_at_any_line_of_writing_loses_at_most_the_sequence_in_hand(
    tmp_path: Path, step: int
) -> None:
    for line_number in itertools.count(step=step):
        folder = tmp_path / str(line_number)
        folder.mkdir()
        interrupted = False
        with writer_into(folder, shard_bytes=3 * 16) as writer:
            add(writer, "a", frames_of(2, value=1))
            buffer = SequenceBuffer(folder, "float32")
            buffer.append(frames_of(3, value=2), np.zeros(3), np.zeros(3, np.int64))
            with closing(buffer):
                previous = sys.gettrace()
                sys.settrace(interrupt_at(line_number))
                try:
                    writer.add("b", 0, buffer, facts_of("b"))  # fills the shard
                except KeyboardInterrupt:
                    interrupted = True
                finally:
                    sys.settrace(previous)
            writer.flush()
        result = EmbeddingStore(folder)
        assert set(result.video_ids.tolist()) in ({"a"}, {"a", "b"})
        assert (result.read(result.find("a")) == 1).all()
        assert verify_store(folder).sound
        assert not list(folder.glob(".*"))
        if not interrupted:
            assert line_number > 50
            return


def test_full_disk_stops_the_writer_and_keeps_its_finished_shards(tiny_filesystem: Path) -> None:
    def fill() -> None:
        with writer_into(tiny_filesystem, shard_bytes=100_000) as writer:
            for i in range(100):
                add(writer, f"{i:03}", frames_of(2000, value=i))

    with pytest.raises(OSError, match="No space left"):
        fill()
    result = EmbeddingStore(tiny_filesystem)
    assert {p.suffix for p in tiny_filesystem.iterdir()} == {".h5"}
    assert 0 < result.num_sequences < 100
    assert all((result.read(i) == i).all() for i in range(result.num_sequences))
