"""Animated GIF: the frames that were drawn, at the times that the delays give."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from PIL import Image

from stage1_extract.gifs import open_gif
from stage1_extract.sources import VideoError


def write_gif(path: Path, num_frames: int = 5, **options: Any) -> Path:
    """Write a white square that moves over grey; frame k is told by where it is."""
    pages = []
    for number in range(num_frames):
        page = np.full((32, 48), 100, np.uint8)
        page[8:16, 8 * number : 8 * number + 8] = 255
        pages.append(Image.fromarray(page))
    pages[0].save(path, save_all=True, append_images=pages[1:], **options)
    return path


def places(path: Path, numbers: list[int]) -> list[int]:
    with open_gif(path) as gif:
        frames = list(gif.frames(np.array(numbers)))
    return [int(np.flatnonzero(frame[10, :, 0] > 200)[0]) // 8 for frame in frames]


@pytest.mark.parametrize("options", [{}, {"optimize": True}, {"disposal": 1}, {"duration": 40}])
def test_frames_are_those_that_were_drawn(tmp_path: Path, options: dict[str, Any]) -> None:
    path = write_gif(tmp_path / "a.gif", **options)
    assert places(path, [0, 1, 2, 3, 4]) == [0, 1, 2, 3, 4]
    assert places(path, [1, 4]) == [1, 4]


@pytest.mark.parametrize(
    ("duration", "expected"),
    [
        ([50, 100, 30, 200, 40], [0, 0.05, 0.15, 0.18, 0.38]),
        (40, [0, 0.04, 0.08, 0.12, 0.16]),
        (0, [0, 0.1, 0.2, 0.3, 0.4]),  # as browsers do
        (10, [0, 0.1, 0.2, 0.3, 0.4]),
    ],
)
def test_times_are_those_of_the_delays(
    tmp_path: Path, duration: Any, expected: list[float]
) -> None:
    with open_gif(write_gif(tmp_path / "a.gif", duration=duration)) as gif:
        np.testing.assert_allclose(gif.index.times, expected)


def test_transparent_parts_are_black(tmp_path: Path) -> None:
    page = np.zeros((8, 8, 4), np.uint8)
    page[:, :4] = (255, 0, 0, 255)
    Image.fromarray(page).save(tmp_path / "a.gif")
    with open_gif(tmp_path / "a.gif") as gif:
        (frame,) = gif.frames(np.array([0]))
    assert frame[0, 0].tolist() == [0, 0, 255]  # blue, green, red
    assert frame[0, 7].tolist() == [0, 0, 0]


@pytest.mark.parametrize("tenth", range(1, 10))
def test_a_gif_cut_short_is_refused(tmp_path: Path, tenth: int) -> None:
    path = write_gif(tmp_path / "a.gif")
    path.write_bytes(path.read_bytes()[: path.stat().st_size * tenth // 10])
    with pytest.raises(VideoError, match="cut short"), open_gif(path):
        pass


def test_padding_behind_the_end_does_no_harm(tmp_path: Path) -> None:
    path = write_gif(tmp_path / "a.gif")
    path.write_bytes(path.read_bytes() + bytes(7))
    assert places(path, [0, 4]) == [0, 4]


def test_a_damaged_gif_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.gif").write_bytes(b"GIF89a" + bytes(range(256)) + b";")
    with (
        pytest.raises(VideoError, match="frame 0 of the GIF is damaged"),
        open_gif(tmp_path / "a.gif"),
    ):
        pass


def test_real_gifs_are_read_as_ffmpeg_reads_them(shared_data: Path) -> None:
    paths = sorted(shared_data.rglob("*.gif"))
    assert paths
    for path in paths:
        capture = cv2.VideoCapture(str(path))
        frames, times = [], []
        while True:
            done, frame = capture.read()
            if not done:
                break
            frames.append(frame)
            times.append(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000)
        with open_gif(path) as gif:
            found = list(gif.frames(np.arange(len(frames))))
            np.testing.assert_allclose(gif.index.times, times, atol=0.011)
        assert len(found) == len(frames)
        difference = [np.abs(a.astype(int) - b).mean() for a, b in zip(found, frames, strict=True)]
        assert max(difference) < 1, path
