"""Batches of one shape: every frame embedded once, in order, for its own clip."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from stage1_extract.batching import BatchFiller, EmbeddedPart
from stage1_extract.clips import FrameChunk

SIZE = 2


def chunk(values: list[int]) -> FrameChunk:
    """Frames whose pixels all hold the value; so do times and numbers."""
    frames = np.array(values, np.uint8)[:, None, None, None] * np.ones((SIZE, SIZE, 3), np.uint8)
    return FrameChunk(frames, np.array(values, np.float64), np.array(values, np.int64))


class Recorder:
    """An `embed` that returns each frame's mean and remembers the batches."""

    def __init__(self) -> None:
        self.batches: list[NDArray[np.uint8]] = []

    def __call__(self, frames: NDArray[np.uint8]) -> NDArray[np.float32]:
        self.batches.append(frames.copy())
        return np.asarray(frames.mean(axis=(1, 2, 3))[:, None], np.float32)


class Later:
    """A `submit` whose results may be asked for once, in the order of submission."""

    def __init__(self) -> None:
        self.submitted = 0
        self.handed_back = 0
        self.most_in_flight = 0

    def __call__(self, frames: NDArray[np.uint8]) -> "PendingMean":
        self.submitted += 1
        self.most_in_flight = max(self.most_in_flight, self.submitted - self.handed_back)
        return PendingMean(self, self.submitted, frames)


class PendingMean:
    """Reads the frames only when it is asked, so that frames changed in flight show."""

    def __init__(self, submit: Later, number: int, frames: NDArray[np.uint8]) -> None:
        self.submit, self.number, self.frames = submit, number, frames

    def result(self) -> NDArray[np.float32]:
        self.submit.handed_back += 1
        assert self.submit.handed_back == self.number
        return np.asarray(self.frames.mean(axis=(1, 2, 3))[:, None], np.float32)


def collect(parts: list[EmbeddedPart[str]]) -> dict[str, list[int]]:
    """Return the values by owner, after checking that embedding, time and number agree."""
    values: dict[str, list[int]] = {}
    for part in parts:
        assert part.embedding[:, 0].tolist() == part.time_seconds.tolist()
        assert part.time_seconds.tolist() == part.source_index.tolist()
        values.setdefault(part.owner, []).extend(part.source_index.tolist())
    return values


ADDED = st.lists(
    st.tuples(st.sampled_from("abc"), st.lists(st.integers(0, 255), max_size=9)), max_size=12
)


@given(ADDED, st.integers(1, 7))
@settings(deadline=None)
def test_every_frame_returns_once_in_order_to_its_owner(
    added: list[tuple[str, list[int]]], batch_size: int
) -> None:
    embed = Recorder()
    filler: BatchFiller[str] = BatchFiller(embed, batch_size=batch_size, input_size=SIZE)
    parts = [part for owner, values in added for part in filler.add(owner, chunk(values))]
    parts += filler.flush()
    expected: dict[str, list[int]] = {}
    for owner, values in added:
        if values:
            expected.setdefault(owner, []).extend(values)
    assert collect(parts) == expected
    assert {batch.shape for batch in embed.batches} <= {(batch_size, SIZE, SIZE, 3)}
    assert len(embed.batches) == -(-sum(len(values) for _, values in added) // batch_size)


def parts_of(
    added: list[tuple[str, list[int]]], batch_size: int, max_in_flight: int
) -> tuple[list[tuple[str, list[float]]], Later]:
    submit = Later()
    filler: BatchFiller[str] = BatchFiller(
        submit, batch_size=batch_size, input_size=SIZE, max_in_flight=max_in_flight
    )
    parts = [part for owner, values in added for part in filler.add(owner, chunk(values))]
    parts += filler.flush()
    collect(parts)
    return [(part.owner, part.embedding[:, 0].tolist()) for part in parts], submit


@given(ADDED, st.integers(1, 7), st.integers(1, 5))
@settings(deadline=None)
def test_parts_are_the_same_however_many_batches_are_in_flight(
    added: list[tuple[str, list[int]]], batch_size: int, max_in_flight: int
) -> None:
    parts, submit = parts_of(added, batch_size, max_in_flight)
    assert parts == parts_of(added, batch_size, 1)[0]
    assert submit.submitted == submit.handed_back
    assert submit.most_in_flight == min(max_in_flight, submit.submitted)


def test_a_batch_is_submitted_before_the_one_ahead_is_waited_for() -> None:
    submit = Later()
    filler: BatchFiller[str] = BatchFiller(submit, batch_size=2, input_size=SIZE, max_in_flight=2)
    assert not list(filler.add("a", chunk([1, 2])))
    assert (submit.submitted, submit.handed_back) == (1, 0)
    (part,) = filler.add("b", chunk([3, 4]))
    assert part.owner == "a"
    assert (submit.submitted, submit.handed_back) == (2, 1)


def test_no_batch_in_flight_is_refused() -> None:
    with pytest.raises(ValueError, match="max_in_flight is 0; expected 1 or more"):
        BatchFiller(Recorder(), batch_size=2, input_size=SIZE, max_in_flight=0)


def test_the_last_batch_is_padded_with_black() -> None:
    embed = Recorder()
    filler: BatchFiller[str] = BatchFiller(embed, batch_size=4, input_size=SIZE)
    list(filler.add("a", chunk([9, 9, 9, 9, 9])))
    list(filler.flush())
    assert embed.batches[1].max(axis=(1, 2, 3)).tolist() == [9, 0, 0, 0]


def test_flush_of_nothing_computes_nothing() -> None:
    embed = Recorder()
    filler: BatchFiller[str] = BatchFiller(embed, batch_size=4, input_size=SIZE)
    assert not list(filler.flush())
    list(filler.add("a", chunk([1, 2, 3, 4])))
    assert not list(filler.flush())
    assert len(embed.batches) == 1


def test_error_of_the_backbone_is_not_swallowed() -> None:
    def fail(_: NDArray[np.uint8]) -> NDArray[np.float32]:
        raise RuntimeError("out of device memory")

    filler: BatchFiller[str] = BatchFiller(fail, batch_size=2, input_size=SIZE)
    with pytest.raises(RuntimeError, match="device memory"):
        list(filler.add("a", chunk([1, 2])))
