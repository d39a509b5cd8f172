"""The bytes behind a source: equal content is recognised, whatever its name."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from stage1_extract.content import hash_source, source_state
from tests.conftest import VideoFactory


def write_images(folder: Path, levels: dict[str, int]) -> Path:
    folder.mkdir()
    for name, level in levels.items():
        cv2.imwrite(str(folder / name), np.full((8, 8, 3), level, np.uint8))
    return folder


def test_equal_content_has_equal_hash(make_video: VideoFactory, tmp_path: Path) -> None:
    path = make_video("a.mp4", 5)
    copy = tmp_path / "b.mp4"
    copy.write_bytes(path.read_bytes())
    assert hash_source(copy) == hash_source(path)
    copy.write_bytes(path.read_bytes()[:-1] + b"\x7f")
    assert hash_source(copy) != hash_source(path)


def test_a_folder_is_its_images_by_name_and_content(tmp_path: Path) -> None:
    a = write_images(tmp_path / "a", {"1.png": 10, "2.png": 20})
    same = write_images(tmp_path / "b", {"1.png": 10, "2.png": 20})
    swapped = write_images(tmp_path / "c", {"1.png": 20, "2.png": 10})
    fewer = write_images(tmp_path / "d", {"1.png": 10})
    (same / "notes.txt").write_text("no image, so it does not count")
    assert hash_source(a) == hash_source(same)
    assert len({hash_source(folder) for folder in (a, swapped, fewer)}) == 3


def test_state_of_a_folder_sums_its_images(tmp_path: Path) -> None:
    folder = write_images(tmp_path / "a", {"1.png": 10, "2.png": 20})
    sizes = [path.stat().st_size for path in folder.iterdir()]
    os.utime(folder / "1.png", ns=(5, 2_000_000_000_000_000_000))
    state = source_state(folder)
    assert (state.size_bytes, state.modified_ns) == (sum(sizes), 2_000_000_000_000_000_000)


def test_long_files_show_that_work_goes_on(tmp_path: Path) -> None:
    (tmp_path / "a.mp4").write_bytes(bytes(9 * 2**20))
    beats = []
    hash_source(tmp_path / "a.mp4", lambda: beats.append(1))
    assert len(beats) == 1 + 3  # the file, and its blocks of 4 MiB


def test_missing_files_are_errors(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        source_state(tmp_path / "gone.mp4")
