"""Clips: the frames that plain decoding of the whole file yields at the places that were asked."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from stage1_extract.clips import (
    ClipDone,
    ClipJob,
    FrameChunk,
    FrameRecipe,
    Restart,
    covered_part,
    read_clip,
)
from stage1_extract.sampling import parse_sampling
from stage1_extract.sources import Clip, FrameIndex, VideoError
from stage1_extract.stacks import StackOptions
from stage1_extract.store import SourceFacts
from tests.conftest import VideoFactory, numbers_shown

SIZE = 32
EDIT_LISTS = [f"Cov_denault_proposedUS_vid{n}.mov" for n in (1, 5, 13)]
WRONG_HEADERS = ["Reg_pat1Image_133043.mpeg", "Reg_pat2Image_133824.mpeg"]


def recipe(sampling: str = "all", *, min_coverage: float = 0.8) -> FrameRecipe:
    return FrameRecipe(parse_sampling(sampling), "squash", SIZE, min_coverage)


def read(clip: Clip, how: FrameRecipe) -> tuple[FrameChunk, SourceFacts]:
    """Return what a consumer is left with: chunks since the last Restart, joined, and the facts."""
    chunks: list[FrameChunk] = []
    *events, done = read_clip(ClipJob(clip), how)
    assert isinstance(done, ClipDone)
    for event in events:
        if isinstance(event, Restart):
            chunks = []
        else:
            assert isinstance(event, FrameChunk)
            chunks.append(event)
    assert [len(chunk.frames) for chunk in chunks[:-1]] == [32] * (len(chunks) - 1)
    joined = FrameChunk(
        np.concatenate([chunk.frames for chunk in chunks]),
        np.concatenate([chunk.time_seconds for chunk in chunks]),
        np.concatenate([chunk.source_index for chunk in chunks]),
    )
    return joined, done.facts


def plainly_decoded(path: Path) -> tuple[list[NDArray[np.uint8]], NDArray[np.float64]]:
    """Return all frames, as small RGB squares, and OpenCV's times, by plain reading."""
    capture = cv2.VideoCapture(str(path))
    frames: list[NDArray[np.uint8]] = []
    times: list[float] = []
    while True:
        done, frame = capture.read()
        if not done:
            return frames, np.array(times)
        small = cv2.resize(frame, (SIZE, SIZE), interpolation=cv2.INTER_AREA)
        frames.append(np.asarray(small[..., ::-1], np.uint8))
        times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)


def middles(count: int, wanted: int) -> list[int]:
    return [int((k + 0.5) * count / wanted) for k in range(wanted)]


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
@pytest.mark.parametrize(
    ("sampling", "expected"),
    [
        ("all", list(range(24))),
        ("uniform:3", [4, 12, 20]),
        ("stride:7", [0, 7, 14, 21]),
        ("fps:2", [0, 5, 10, 15, 20]),
        ("uniform:100", list(range(24))),
    ],
)
def test_chosen_frames_are_those_that_come(
    make_video: VideoFactory, suffix: str, sampling: str, expected: list[int]
) -> None:
    chunk, _ = read(Clip("v", make_video(f"v{suffix}", 24)), recipe(sampling))
    assert chunk.source_index.tolist() == numbers_shown(chunk.frames) == expected
    np.testing.assert_allclose(chunk.time_seconds, np.array(expected) / 10, atol=1e-6)
    assert chunk.frames.shape[1:] == (SIZE, SIZE, 3)


@pytest.mark.parametrize("fps", [10, 24, 30])
@pytest.mark.parametrize(("first", "last"), [(0, 4), (3, 7), (7, 8), (20, 24)])
def test_clip_by_time_holds_its_frames_alone(
    make_video: VideoFactory, fps: float, first: int, last: int
) -> None:
    path = make_video("v.mp4", 24, fps=fps)
    chunk, facts = read(Clip("v", path, first / fps, last / fps), recipe())
    assert numbers_shown(chunk.frames) == chunk.source_index.tolist() == list(range(first, last))
    assert (facts.clip_start_seconds, facts.clip_end_seconds) == (first / fps, last / fps)


@pytest.mark.parametrize(("start", "end"), [(None, 1.0), (1.0, None)])
def test_clip_may_be_open_at_one_end(
    make_video: VideoFactory, start: float | None, end: float | None
) -> None:
    chunk, facts = read(Clip("v", make_video("v.mp4", 24), start, end), recipe())
    assert numbers_shown(chunk.frames) == list(range(10) if start is None else range(10, 24))
    assert np.isnan([facts.clip_start_seconds, facts.clip_end_seconds]).sum() == 1


@pytest.mark.parametrize(("start", "end"), [(9.0, None), (9.0, 10.0), (0.51, 0.52), (None, 0.0)])
def test_clip_without_a_frame_is_an_error(
    make_video: VideoFactory, start: float | None, end: float | None
) -> None:
    with pytest.raises(
        VideoError, match=r"v\.mp4 has no frame from .* last frame is shown at 2\.3"
    ):
        read(Clip("v", make_video("v.mp4", 24), start, end), recipe())


def test_facts_describe_the_file(make_video: VideoFactory) -> None:
    path = make_video("v.avi", 24, size=(40, 24))
    _, facts = read(Clip("v", path), recipe("uniform:2"))
    assert (facts.source_width, facts.source_height) == (40, 24)
    assert (facts.source_frame_count, facts.source_stated_frame_count) == (24, 24)
    assert facts.source_duration_seconds == pytest.approx(2.4)
    assert facts.source_size_bytes == path.stat().st_size
    assert facts.source_path == str(path)


def test_channels_are_red_green_blue(tmp_path: Path) -> None:
    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.VideoWriter.fourcc(*"MJPG"), 10, (48, 32))
    writer.write(np.full((32, 48, 3), (0, 0, 250), np.uint8))  # OpenCV's order: red
    writer.release()
    chunk, _ = read(Clip("v", tmp_path / "v.avi"), recipe())
    assert chunk.frames[0, 16, 16].argmax() == 0
    assert chunk.source_index.tolist() == [0]


def test_long_video_comes_in_chunks(make_video: VideoFactory) -> None:
    chunk, _ = read(Clip("v", make_video("v.avi", 100)), recipe())
    assert numbers_shown(chunk.frames) == [number % 24 for number in range(100)]


def test_video_cut_short_is_refused_unless_that_is_accepted(make_video: VideoFactory) -> None:
    path = make_video("v.avi", 40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VideoError, match=r"states 40 frames, but only \d+ .*--min-coverage 0"):
        read(Clip("v", path), recipe("uniform:4"))
    chunk, facts = read(Clip("v", path), recipe(min_coverage=0))
    assert numbers_shown(chunk.frames) == [n % 24 for n in range(facts.source_frame_count)]


def test_damage_in_the_middle_costs_some_frames_at_most(make_video: VideoFactory) -> None:
    path = make_video("v.mp4", 24)
    content = bytearray(path.read_bytes())
    middle = len(content) // 3
    content[middle : middle + 150] = b"\xff" * 150
    path.write_bytes(content)
    chunk, facts = read(Clip("v", path), recipe(min_coverage=0))
    assert 1 <= len(chunk.frames) == facts.source_frame_count <= 24
    assert numbers_shown(chunk.frames[:1]) == [0]


@pytest.mark.parametrize(
    ("times", "stated", "fps", "expected"),
    [
        ([0, 0.1, 0.2, 0.3], 4, 10, 1.0),
        ([0, 0.1], 4, 10, 0.5),
        ([0, 0.3], 4, 10, 1.0),  # dropped frames, but the whole time
        ([0, 0.1], 0, 10, 1.0),  # nothing is stated
        ([np.nan, np.nan], 4, 0, 0.5),
    ],
)
def test_coverage_is_by_frames_or_time(
    times: list[float], stated: int, fps: float, expected: float
) -> None:
    assert covered_part(FrameIndex(np.array(times), stated, fps)) == pytest.approx(expected)


# real files


@pytest.mark.parametrize("sampling", ["uniform:8", "stride:50"])
@pytest.mark.parametrize("name", ["tree.avi", "box.mp4", *EDIT_LISTS, *WRONG_HEADERS])
def test_frames_of_lying_files_are_those_of_plain_decoding(
    shared_data: Path, name: str, sampling: str
) -> None:
    path = next(shared_data.rglob(name))
    frames, _ = plainly_decoded(path)
    chunk, facts = read(Clip("v", path), recipe(sampling))
    count = len(frames)
    wanted = middles(count, 8) if sampling == "uniform:8" else list(range(0, count, 50))
    assert chunk.source_index.tolist() == wanted
    assert facts.source_frame_count == count
    assert (np.diff(chunk.time_seconds) > 0).all()
    np.testing.assert_array_equal(chunk.frames, np.stack([frames[k] for k in wanted]))


@pytest.mark.parametrize("name", EDIT_LISTS)
@pytest.mark.parametrize(("start", "end"), [(1.0, 2.0), (None, 1.0), (1.5, None)])
def test_clips_of_files_with_edit_lists_hold_the_frames_of_that_time(
    shared_data: Path, name: str, start: float | None, end: float | None
) -> None:
    path = next(shared_data.rglob(name))
    frames, times = plainly_decoded(path)
    lower, upper = -np.inf if start is None else start, np.inf if end is None else end
    expected = np.flatnonzero((times >= lower - 5e-4) & (times < upper - 5e-4))
    chunk, _ = read(Clip("v", path, start, end), recipe())
    np.testing.assert_array_equal(chunk.source_index, expected)
    np.testing.assert_allclose(chunk.time_seconds, times[expected], atol=1e-3)
    np.testing.assert_array_equal(chunk.frames, np.stack([frames[k] for k in expected]))


def test_restart_follows_chunks_only(shared_data: Path) -> None:
    path = next(shared_data.rglob("Cov_denault_proposedUS_vid5.mov"))  # 210 packets, 192 frames
    chunk, _ = read(Clip("v", path, start_seconds=3.18), recipe("uniform:1"))
    assert chunk.time_seconds[0] >= 3.18 - 1e-3
    assert chunk.source_index[0] < 192


@pytest.mark.xslow
def test_lung_clips_are_read_as_plain_decoding_does(shared_data: Path) -> None:
    clips = sorted((shared_data / "lung_ultrasound" / "clips").glob("*/*"))
    for path in clips[::3]:
        frames, _ = plainly_decoded(path)
        chunk, _ = read(Clip("v", path), recipe("uniform:5"))
        assert chunk.source_index.tolist() == middles(len(frames), 5), path
        expected = np.stack([frames[k] for k in chunk.source_index])
        # Frames smaller than the square on one side are resized in another way.
        assert np.abs(chunk.frames.astype(int) - expected).mean() < 1, path


@pytest.mark.parametrize(("end", "expected"), [(None, 0), (2.0, 0), (3.2, 0), (9.0, 1)])
def test_an_end_far_behind_the_sources_is_remarked_on(
    make_video: VideoFactory, tmp_path: Path, end: float | None, expected: int
) -> None:
    video = make_video("v.mp4", 24)  # 2.4 s, the last frame at 2.3 s
    np.save(tmp_path / "a.npy", np.zeros((24, 8, 8), np.uint8))
    ten_a_second = dataclasses.replace(recipe(), stack_options=StackOptions(assumed_fps=10.0))
    for path in (video, tmp_path / "a.npy"):
        *_, done = read_clip(ClipJob(Clip("v", path, 0.5, end)), ten_a_second)
        assert isinstance(done, ClipDone)
        assert len(done.notes) == expected
        if expected:
            assert done.notes[0] == ("end_seconds is 9, but its last frame is shown at 2.300 s")
