"""Which sources are opened in which way, and what all of them have in common."""

import os
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image
from pydicom.data import get_testdata_file

from stage1_extract.scaling import ValueRange
from stage1_extract.sources import VideoError
from stage1_extract.stacks import StackOptions, source_files, stack_opener

LEVELS = (0, 50, 100, 250)
KINDS = (".npy", ".npz", ".tif", "")
"""Suffixes; none is a folder of images."""


def write_source(path: Path) -> Path:
    """Write four evenly grey frames of 10x8 pixels, of the kind that the suffix says."""
    frames = [np.full((8, 10), level, np.uint8) for level in LEVELS]
    if path.suffix == ".npy":
        np.save(path, np.stack(frames))
    elif path.suffix == ".npz":
        np.savez_compressed(path, np.stack(frames))
    elif path.suffix == ".tif":
        cv2.imwritemulti(str(path), frames)
    else:
        path.mkdir()
        for number, frame in enumerate(frames):
            cv2.imwrite(str(path / f"{number}.png"), frame)
    return path


def levels_of(path: Path, options: StackOptions | None = None) -> list[int]:
    """Return the grey level of every frame, after checking the frames' form."""
    opener = stack_opener(path)
    assert opener is not None
    with opener(path, options or StackOptions()) as stack:
        frames = list(stack.frames(np.arange(stack.index.num_frames)))
    assert {(frame.shape, frame.dtype.name) for frame in frames} == {((8, 10, 3), "uint8")}
    assert all((frame == frame[0, 0, 0]).all() for frame in frames)
    return [int(frame[0, 0, 0]) for frame in frames]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_has_its_frames_in_order(tmp_path: Path, kind: str) -> None:
    path = write_source(tmp_path / f"source{kind}")
    assert levels_of(path) == list(LEVELS)
    assert levels_of(path, StackOptions(ValueRange((50, 100)))) == [0, 0, 255, 255]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("fps", "times"), [(None, [np.nan] * 4), (4.0, [0, 0.25, 0.5, 0.75])], ids=["none", "assumed"]
)
def test_times_are_those_of_the_assumed_rate(
    tmp_path: Path, kind: str, fps: float | None, times: list[float]
) -> None:
    path = write_source(tmp_path / f"source{kind}")
    opener = stack_opener(path)
    assert opener is not None
    with opener(path, StackOptions(assumed_fps=fps)) as stack:
        np.testing.assert_array_equal(stack.index.times, times)
        assert (stack.index.stated_frames, stack.index.fps) == (4, fps or 0)


@pytest.mark.parametrize("kind", [".npy", ".tif"])
@pytest.mark.parametrize("suffix", ["", ".mp4", ".dcm", ".raw"])
def test_content_decides_where_the_suffix_misleads(tmp_path: Path, kind: str, suffix: str) -> None:
    path = write_source(tmp_path / f"source{kind}").rename(tmp_path / f"renamed{suffix}")
    assert levels_of(path) == list(LEVELS)


@pytest.mark.parametrize("suffix", ["", ".dcm", ".DCM", ".dicom", ".avi", ".npy"])
def test_dicom_is_known_by_its_letters(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"IM000001{suffix}"
    shutil.copy(str(get_testdata_file("examples_ybr_color.dcm", download=False)), path)
    opener = stack_opener(path)
    assert opener is not None
    with opener(path, StackOptions()) as stack:
        assert stack.index.num_frames == 30
        assert stack.index.fps == pytest.approx(30, abs=0.01)


def test_what_is_no_stack_is_left_to_the_video_reader(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 10), np.uint8)).save(tmp_path / "a.png")
    (tmp_path / "a.mp4").write_bytes(b"\0\0\0\x20ftypisom")
    (tmp_path / "empty").touch()
    os.mkfifo(tmp_path / "pipe.npy")
    for name in ("a.png", "a.mp4", "empty", "pipe.npy", "missing.npy"):
        assert stack_opener(tmp_path / name) is None


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".tif", ".dcm", ".dicom"])
def test_suffix_decides_where_the_content_says_nothing(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    path.touch()
    with pytest.raises(VideoError, match=r"is empty \(0 bytes\)"):
        levels_of(path)
    path.write_text("something else")
    with pytest.raises(VideoError, match=rf"a\{suffix} is no "):
        levels_of(path)


@pytest.mark.parametrize("kind", ["", ".tif"])
def test_twelve_bits_in_words_of_sixteen_are_refused(tmp_path: Path, kind: str) -> None:
    path = tmp_path / f"source{kind}"
    pages = [np.full((8, 10), level, np.uint16) for level in (100, 4000)]
    if kind:
        cv2.imwritemulti(str(path), pages)
    else:
        path.mkdir()
        for number, page in enumerate(pages):
            cv2.imwrite(str(path / f"{number}.png"), page)
    with pytest.raises(VideoError, match=r"source.* none above 4000 .*--value-range 0:4095"):
        levels_of(path)
    assert levels_of(path, StackOptions(ValueRange((0, 4000)))) == [6, 255]


def test_source_is_its_file_or_its_images_in_order(tmp_path: Path) -> None:
    folder = write_source(tmp_path / "folder")
    (folder / "3.png").rename(folder / "10.png")
    (folder / "notes.txt").touch()
    assert [path.name for path in source_files(folder)] == ["0.png", "1.png", "2.png", "10.png"]
    assert source_files(tmp_path / "any.npy") == [tmp_path / "any.npy"]
    (tmp_path / "bare").mkdir()
    with pytest.raises(VideoError, match="folder without images"):
        source_files(tmp_path / "bare")
