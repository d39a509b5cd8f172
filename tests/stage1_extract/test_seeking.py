"""Seeking: the very frames that decoding from the start yields, or an error; never others."""

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pytest
from numpy.typing import NDArray

from stage1_extract.clips import ClipDone, ClipJob, FrameChunk, FrameRecipe, Restart, read_clip
from stage1_extract.sampling import parse_sampling, spread_evenly
from stage1_extract.seeking import SeekError, sought, worth_seeking
from stage1_extract.sources import Clip, FrameIndex
from stage1_extract.videos import open_video, scan_video
from tests.encode import encode

NUM_FRAMES = 400
SOUND = {
    "h264.mp4": ("libx264", {"b_frames": 3}),
    "h264.mkv": ("libx264", {"b_frames": 3}),
    "h264.mov": ("libx264", {"b_frames": 0}),
    "h264_varying.mp4": ("libx264", {"b_frames": 3, "varying": True}),
    "hevc.mp4": ("libx265", {"b_frames": 3, "options": {"x265-params": "log-level=none"}}),
    "mpeg4.mp4": ("mpeg4", {}),
    "mjpeg.avi": ("mjpeg", {"pixel_format": "yuvj420p"}),
    "wmv.wmv": ("wmv2", {}),
}
# H.264's recovery points: FFmpeg calls them keyframes, but the picture comes back bit by bit.
WITHOUT_KEYFRAMES = {
    f"{kind}.{suffix}": ("libx264", {"options": {"x264-params": parameters}})
    for kind, parameters in (("refresh", "intra-refresh=1"), ("open", "open-gop=1:bframes=3"))
    for suffix in ("mp4", "mkv", "ts")
}
# OpenCV reports other times for their frames than their packets have.
UNSOUND = {
    "mpeg4_b.avi": ("mpeg4", {"b_frames": 2}),
}


class Written(Protocol):
    """Returns the path of a video that is encoded once for all tests."""

    def __call__(self, name: str) -> Path: ...


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Written:
    folder = tmp_path_factory.mktemp("encoded")

    def path_of(name: str) -> Path:
        codec, options = (SOUND | UNSOUND | WITHOUT_KEYFRAMES)[name]
        if not (folder / name).exists():
            encode(folder / name, codec, NUM_FRAMES, **options)  # type: ignore[arg-type]
        return folder / name

    return path_of


def in_sequence(path: Path, wanted: NDArray[np.int64]) -> list[tuple[int, NDArray[Any]]]:
    with open_video(path) as video:
        return [(n, frame.copy()) for n, frame in video.wanted(wanted, to_the_end=True)]


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize(
    "wanted",
    [[200], [5, 100, 101, 399], [398], [0, 24, 47, 48, 300], spread_evenly(NUM_FRAMES, 4).tolist()],
)
def test_sought_frames_are_those_of_sequential_decoding(
    written: Written, name: str, wanted: list[int]
) -> None:
    path, numbers = written(name), np.array(wanted, np.int64)
    index = scan_video(path)
    with open_video(path) as video:
        found = [(n, frame.copy()) for n, frame in sought(video, index, numbers)]
        assert len(video.decoded_times) < 0.7 * NUM_FRAMES
    for (n, frame), (m, expected) in zip(found, in_sequence(path, numbers), strict=True):
        assert n == m
        np.testing.assert_array_equal(frame, expected)


@pytest.mark.parametrize("name", WITHOUT_KEYFRAMES)
def test_recovery_points_are_no_keyframes(written: Written, name: str) -> None:
    index = scan_video(written(name))
    assert index.num_frames == NUM_FRAMES
    assert index.keyframes.tolist() == [0]
    assert not worth_seeking(index, np.array([NUM_FRAMES - 1]), to_the_end=False)


@pytest.mark.parametrize("name", UNSOUND)
def test_a_file_whose_times_do_not_fit_is_not_sought_in(written: Written, name: str) -> None:
    path = written(name)
    with open_video(path) as video, pytest.raises(SeekError, match="another time than"):
        list(sought(video, scan_video(path), np.array([300])))


@pytest.mark.parametrize("name", UNSOUND)
def test_such_a_file_is_read_from_its_start_and_that_is_reported(
    written: Written, name: str
) -> None:
    path = written(name)
    recipe = FrameRecipe(parse_sampling("uniform:3"), "squash", 32, 0.8)
    *events, done = read_clip(ClipJob(Clip("v", path)), recipe)
    assert isinstance(done, ClipDone)
    assert any(isinstance(event, Restart) for event in events)
    assert "decoded from its start, without seeking" in done.notes[0]
    chunk = events[-1]
    assert isinstance(chunk, FrameChunk)
    assert chunk.source_index.tolist() == [66, 200, 333]


def test_seeks_that_lie_are_found_out(written: Written, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written("mpeg4.mp4")
    index = scan_video(path)
    with open_video(path) as video:
        convert, calls = video.convert, []

        def damaged() -> NDArray[np.uint8]:
            calls.append(1)
            return convert() if len(calls) < 3 else convert() // 2

        monkeypatch.setattr(video, "convert", damaged)
        with pytest.raises(SeekError, match="differs from the same frame in sequence"):
            list(sought(video, index, np.array([300])))


def index(num_frames: int, gop: int) -> FrameIndex:
    return FrameIndex(
        np.arange(num_frames) / 25, num_frames, 25.0, np.arange(0, num_frames, gop, dtype=np.int64)
    )


@pytest.mark.parametrize(
    ("num_frames", "gop", "wanted", "expected"),
    [
        (15_000, 50, spread_evenly(15_000, 16), True),
        (15_000, 50, np.arange(0, 15_000, 5), False),
        (15_000, 50, np.arange(14_000, 14_500), True),  # a clip late in a long file
        (15_000, 50, np.arange(200), False),
        (100, 50, spread_evenly(100, 2), False),
        (15_000, 15_000, spread_evenly(15_000, 16), False),  # one keyframe
    ],
)
def test_seeking_is_chosen_where_it_saves_half(
    num_frames: int, gop: int, wanted: NDArray[np.int64], expected: bool
) -> None:
    assert worth_seeking(index(num_frames, gop), wanted, to_the_end=False) is expected
