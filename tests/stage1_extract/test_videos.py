"""Files to frames: what is no video is refused, what lies in its header is counted out."""

import os
import struct
import sys
from contextlib import closing
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from stage1_extract.clips import ClipDone, ClipJob, FrameRecipe, read_clip
from stage1_extract.sampling import parse_sampling
from stage1_extract.sources import Clip, FrameIndex, VideoError, check_file
from stage1_extract.videos import ConversionError, VideoFrames, open_video, scan_video
from tests.conftest import VideoFactory, numbers_shown
from tests.encode import encode


def wanted_frames(
    path: Path, numbers: list[int], *, to_the_end: bool = False
) -> tuple[list[int], NDArray[np.uint8]]:
    with open_video(path) as video:
        found = list(video.wanted(np.array(numbers, np.int64), to_the_end=to_the_end))
    return [number for number, _ in found], np.stack([frame for _, frame in found])


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
@pytest.mark.parametrize("numbers", [[0], [23], [0, 1, 2], [3, 9, 17, 22], list(range(24))])
def test_the_frames_asked_for_come(
    make_video: VideoFactory, suffix: str, numbers: list[int]
) -> None:
    found, frames = wanted_frames(make_video(f"v{suffix}", 24), numbers)
    assert found == numbers
    assert numbers_shown(frames) == numbers


def test_the_video_is_decoded_as_far_as_needed(make_video: VideoFactory) -> None:
    for to_the_end, expected in ((False, 5), (True, 24)):
        with open_video(make_video(f"{to_the_end}.avi", 24)) as video:
            list(video.wanted(np.array([4]), to_the_end=to_the_end))
            assert len(video.decoded_times) == expected


@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
@pytest.mark.parametrize("fps", [5, 12.5, 29.97, 60])
def test_scan_tells_number_rate_and_times(
    make_video: VideoFactory, suffix: str, fps: float
) -> None:
    index = scan_video(make_video(f"v{suffix}", 20, fps=fps))
    assert (index.num_frames, index.stated_frames) == (20, 20)
    assert index.fps == pytest.approx(fps, rel=1e-3)
    np.testing.assert_allclose(index.times, np.arange(20) / fps, atol=1e-3)


@pytest.mark.parametrize(
    "name",
    ["a b.mp4", "ünï 日本語 🎬.mp4", "%03d.mp4", "img%03d+.avi", "x+(44) [1] {2}.mp4", "a'b\"c.mp4",
     "file:x.mp4", "-x.mp4", "a|b.avi", "a,b;c#d?e&f.mp4"],
)  # fmt: skip
def test_any_file_name_is_read(make_video: VideoFactory, name: str) -> None:
    path = make_video(name, 3)
    check_file(path)
    assert scan_video(path).num_frames == 3
    assert numbers_shown(wanted_frames(path, [2])[1]) == [2]


def test_relative_paths_are_read(make_video: VideoFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(make_video("v.mp4", 3).parent)
    assert scan_video(Path("v.mp4")).num_frames == 3


@pytest.mark.parametrize("size", [(47, 33), (33, 47), (16, 2), (1280, 8)])
@pytest.mark.parametrize("suffix", [".mp4", ".avi"])
def test_odd_sizes_are_read(make_video: VideoFactory, size: tuple[int, int], suffix: str) -> None:
    _, frames = wanted_frames(make_video(f"v{suffix}", 2, size=size), [0, 1])
    assert abs(frames.shape[2] - size[0]) <= 1  # MPEG-4 rounds odd sides
    assert abs(frames.shape[1] - size[1]) <= 1


def test_grey_video_comes_with_three_channels(make_video: VideoFactory) -> None:
    _, frames = wanted_frames(make_video("v.avi", 5, is_color=False), [4])
    assert frames.shape == (1, 32, 48, 3)
    assert numbers_shown(frames) == [4]


def rotate_clockwise(path: Path) -> None:
    """Patch the track header's matrix (ISO 14496-12, 8.3.2) to a turn by 90 degrees."""
    content = bytearray(path.read_bytes())
    matrix = content.index(b"tkhd") + 44
    one, height = 0x10000, 32 << 16
    content[matrix : matrix + 36] = struct.pack(">9i", 0, one, 0, -one, 0, 0, height, 0, 0x40000000)
    path.write_bytes(content)


def test_orientation_of_the_file_is_applied(tmp_path: Path) -> None:
    path = tmp_path / "v.mp4"
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter.fourcc(*"mp4v"), 10, (48, 32))
    frame = np.zeros((32, 48, 3), np.uint8)
    frame[:, :24] = 250  # the left half is bright, so after a clockwise turn the upper half
    for _ in range(3):
        writer.write(frame)
    writer.release()
    rotate_clockwise(path)
    with open_video(path) as video:
        _, turned = next(video.wanted(np.array([0]), to_the_end=False))
        assert (video.width, video.height) == (32, 48)
    assert turned.shape == (48, 32, 3)
    assert turned[:20].mean() > 200
    assert turned[28:].mean() < 50


# no videos


def test_missing_empty_and_special_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty.mp4").touch()
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "dangling.mp4").symlink_to(tmp_path / "gone")
    for name, message in {
        "nothing.mp4": "no file at",
        "dangling.mp4": "no file at",
        "empty.mp4": "is empty",
        "pipe.mp4": "is not a file",
        ".": "is not a file",
    }.items():
        with pytest.raises(VideoError, match=message):
            check_file(tmp_path / name)


@pytest.mark.parametrize(
    "content",
    [b"This is no video.\n" * 100, b"\0" * 5000, b"#!/bin/sh\n", b"RIFF\0\0\0\0AVI ", b"x"],
)
def test_other_content_under_a_video_name_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "v.mp4"
    path.write_bytes(content)
    with pytest.raises(VideoError, match=r"v\.mp4 cannot be opened as a video"):
        scan_video(path)


def test_mp4_that_lost_its_tail_is_refused(make_video: VideoFactory) -> None:
    path = make_video("v.mp4", 20)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(VideoError, match="cut short"):
        scan_video(path)


def test_half_an_avi_yields_the_frames_that_are_left(make_video: VideoFactory) -> None:
    path = make_video("v.avi", 40)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    index = scan_video(path)
    assert index.stated_frames == 40
    assert 5 < index.num_frames < 35


def test_playlists_under_a_videos_name_are_refused(make_video: VideoFactory) -> None:
    folder = make_video("real.mp4", 3).parent
    playlists = {
        "hls.mp4": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nreal.mp4\n#EXT-X-ENDLIST\n",
        "concat.mp4": "ffconcat version 1.0\nfile real.mp4\n",
    }
    for name, text in playlists.items():
        (folder / name).write_text(text)
        with pytest.raises(VideoError, match="cannot be opened as a video"):
            scan_video(folder / name)


# FrameIndex.corrected


@pytest.mark.parametrize(
    ("decoded", "expected"),
    [
        ([0.1, 0.3], [0.1, 0.3]),  # rising: the decoder knows
        ([0.0, 0.4, 0.2], [0.0, 0.1, 0.2]),  # out of order: the scan's first
        ([0.0] * 5, [0.0, 0.1, 0.2, 0.3, 0.4]),  # more than scanned: the nominal rate
        ([], []),
    ],
)
def test_index_is_corrected_to_what_was_decoded(
    decoded: list[float], expected: list[float]
) -> None:
    index = FrameIndex(np.arange(4) / 10, 4, 10.0).corrected(np.array(decoded))
    np.testing.assert_allclose(index.times, expected)


# real files


@pytest.mark.parametrize(
    ("name", "stated", "decoded"), [("tree.avi", 444, 68), ("box.mp4", 456, 455)]
)
def test_decoder_is_followed_to_the_end_in_spite_of_headers(
    shared_data: Path, name: str, stated: int, decoded: int
) -> None:
    path = shared_data / "odd_files" / name
    index = scan_video(path)
    assert index.stated_frames == stated
    assert (np.diff(index.times) > 0).all()
    with open_video(path) as video:
        list(video.wanted(np.array([], np.int64), to_the_end=True))
        assert len(video.decoded_times) == decoded


@pytest.mark.parametrize("name", ["Reg_pat1Image_133043", "Reg_pat2Image_133824"])
def test_mpeg_frames_are_counted_and_timed(shared_data: Path, name: str) -> None:
    path = shared_data / "lung_ultrasound" / "clips" / "convex" / f"{name}.mpeg"
    capture = cv2.VideoCapture(str(path))
    count = 0
    while capture.read()[0]:
        count += 1
    index = scan_video(path)
    assert index.num_frames == count != index.stated_frames
    np.testing.assert_allclose(np.diff(index.times), 1 / index.fps, atol=2e-3)


class LyingCapture:
    """Returns memory that it never wrote, as OpenCV does where FFmpeg refuses a frame."""

    def __init__(self, speaker: str) -> None:
        self.speaker = speaker

    def grab(self) -> bool:
        return True

    def retrieve(self) -> tuple[bool, NDArray[np.uint8]]:
        os.write(2, f"[{self.speaker}] Slice 0 is invalid.\n more\n".encode())
        return True, np.empty((141, 148, 3), np.uint8)

    def get(self, _: int, /) -> float:
        return 0.0

    def set(self, *_: float) -> bool:
        return True


def test_frames_that_ffmpeg_did_not_convert_are_refused() -> None:
    with closing(VideoFrames(LyingCapture("swscaler @ 0x5650"))) as video:
        assert video.decode_next()
        with pytest.raises(ConversionError, match=r"frame 0 .* converted: Slice 0 is invalid$"):
            video.convert()


@pytest.mark.parametrize("speaker", ["", "h264 @ 0x5650"])
def test_other_complaints_are_no_reason_to_refuse(speaker: str) -> None:
    with closing(VideoFrames(LyingCapture(speaker))) as video:
        assert video.decode_next()
        assert video.convert().shape == (141, 148, 3)


def test_interlaced_video_without_pyav_is_refused_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"x264-params": "interlaced=1"}
    path = encode(tmp_path / "a.mp4", "libx264", 3, options=options)
    recipe = FrameRecipe(parse_sampling("all"), "squash", 8, 0.8)
    assert isinstance(list(read_clip(ClipJob(Clip("a", path)), recipe))[-1], ClipDone)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(VideoError, match=r"is interlaced.*embed-then-sequence\[av\]"):
        list(read_clip(ClipJob(Clip("a", path)), recipe))
