"""Arrays written by numpy: layouts, number types, what is refused, and memory."""

import pickle
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stage1_extract.arrays import open_npy, open_npz
from stage1_extract.scaling import ValueRange
from stage1_extract.sources import VideoError
from stage1_extract.stacks import StackOptions, stack_opener

RNG = np.random.default_rng(0)


def frames_of(path: Path, numbers: list[int] | None = None) -> NDArray[np.uint8]:
    """Return the wanted frames (n, H, W, 3), by default all."""
    opener = stack_opener(path)
    assert opener is not None
    with opener(path, StackOptions()) as stack:
        wanted = np.arange(stack.index.num_frames) if numbers is None else np.array(numbers)
        return np.stack(list(stack.frames(wanted)))


def saved(path: Path, array: NDArray[Any]) -> Path:
    """Save an array in the way that the suffix says."""
    if path.suffix == ".npy":
        np.save(path, array)
    else:
        np.savez_compressed(path, array)
    return path


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("channels", [(), (1,), (3,), (4,)])
def test_layouts_become_bgr_frames(
    tmp_path: Path, suffix: str, order: Any, channels: tuple[int, ...]
) -> None:
    array = RNG.integers(0, 256, (6, 5, 7, *channels), dtype=np.uint8)
    frames = frames_of(saved(tmp_path / f"a{suffix}", np.asarray(array, order=order)))
    colours = array.reshape(6, 5, 7, -1)
    red, green, blue = (0, 1, 2) if channels in ((3,), (4,)) else (0, 0, 0)
    np.testing.assert_array_equal(frames, colours[..., [blue, green, red]])


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_frames_are_read_by_number(tmp_path: Path, suffix: str) -> None:
    array = np.arange(40, dtype=np.uint8).repeat(10).reshape(40, 2, 5)
    path = saved(tmp_path / f"a{suffix}", array)
    assert frames_of(path, [0, 7, 8, 39])[:, 0, 0, 0].tolist() == [0, 7, 8, 39]
    opener = stack_opener(path)
    assert opener is not None
    with opener(path, StackOptions(assumed_fps=20)) as stack:
        for wanted in ([5, 30], [2, 3]):  # a second reading goes back
            again = [int(frame[0, 0, 0]) for frame in stack.frames(np.array(wanted))]
            assert again == wanted
        assert stack.index.times[[0, 1, 39]].tolist() == [0, 0.05, 1.95]
        assert (stack.index.stated_frames, stack.index.fps) == (40, 20)


@pytest.mark.parametrize(
    ("array", "expected"),
    [
        (np.array([0, 32768, 65535], ">u2"), [0, 128, 255]),
        (np.array([False, True, True]), [0, 255, 255]),
        (np.array([0, 0.2, 1], np.float16), [0, 51, 255]),
        (np.array([0, 0.2, 1]), [0, 51, 255]),
    ],
)
def test_number_types_are_scaled(tmp_path: Path, array: NDArray[Any], expected: list[int]) -> None:
    path = saved(tmp_path / "a.npy", array.reshape(3, 1, 1).repeat(5, axis=2))
    assert frames_of(path)[:, 0, 0, 1].tolist() == expected


def test_values_out_of_range_name_the_frame_and_the_remedy(tmp_path: Path) -> None:
    array = np.zeros((4, 5, 6), np.float32)
    array[2] = 7.5
    path = saved(tmp_path / "a.npy", array)
    with pytest.raises(VideoError, match=r"a\.npy: frame 2 has float32 values from 7\.5 to 7\.5"):
        frames_of(path)
    opener = stack_opener(path)
    assert opener is not None
    with opener(path, StackOptions(ValueRange((0, 15)))) as stack:
        assert next(stack.frames(np.array([2])))[0, 0].tolist() == [128, 128, 128]


def test_twelve_bits_in_words_of_sixteen_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.npz", RNG.integers(0, 4096, (20, 5, 6), dtype=np.uint16))
    with pytest.raises(VideoError, match=r"a\.npz has uint16.*--value-range 0:4095"):
        frames_of(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize(
    ("array", "message"),
    [
        (
            np.zeros((5, 3, 20, 30), np.uint8),
            r"\(5, 3, 20, 30\).*save array.transpose\(0, 2, 3, 1\)",
        ),
        (np.zeros((20, 30, 3), np.uint8), r"\(20, 30, 3\).*One image is no sequence"),
        (np.zeros((20, 30), np.uint8), r"shape \(20, 30\); expected \(frames, height, width\)"),
        (np.zeros((2, 5, 20, 30, 3), np.uint8), "shape"),
        (np.zeros((5, 20, 30, 2), np.uint8), r"with 1, 3 \(RGB\) or 4 \(RGBA\) channels"),
        (np.zeros((0, 20, 30), np.uint8), "none of them 0"),
        (np.zeros((5, 0, 30, 3), np.uint8), "none of them 0"),
        (np.zeros((5, 6, 7), np.complex64), "dtype complex64, expected integers"),
        (np.zeros((5, 6, 7), "U3"), "dtype <U3"),
        (np.zeros((5, 6, 7), "M8[s]"), "dtype datetime64"),
        (np.zeros((5, 6, 7), [("a", "u1"), ("b", "f4")]), "dtype .*'a'"),
        (np.full((5, 6, 7), None), "dtype object.*Python objects are never loaded"),
        (np.array(3.0), r"shape \(\)"),
    ],
)
def test_other_arrays_are_refused(
    tmp_path: Path, suffix: str, array: NDArray[Any], message: str
) -> None:
    with pytest.raises(VideoError, match=rf"a\{suffix}.*{message}"):
        frames_of(saved(tmp_path / f"a{suffix}", array))


class Trap:
    """Leaves a file behind when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


def test_pickles_are_never_opened(tmp_path: Path) -> None:
    array = np.empty((1, 1, 5), object)
    array[:] = Trap(tmp_path / "sprung")
    saved(tmp_path / "a.npy", array)
    (tmp_path / "b.npy").write_bytes(pickle.dumps(array))
    for name in ("a.npy", "b.npy"):
        with pytest.raises(VideoError, match=name):
            frames_of(tmp_path / name)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize("name", ["frames", "video"])
def test_array_of_several_is_found_by_name(tmp_path: Path, name: str) -> None:
    arrays: dict[str, Any] = {"labels": np.arange(3), name: np.full((3, 4, 5), 9, np.uint8)}
    np.savez(tmp_path / "a.npz", **arrays)
    assert (frames_of(tmp_path / "a.npz") == 9).all()


@pytest.mark.parametrize("names", [("left", "right"), ("frames", "video"), ()])
def test_choice_among_arrays_is_refused(tmp_path: Path, names: tuple[str, ...]) -> None:
    arrays: dict[str, Any] = {name: np.zeros((3, 4, 5), np.uint8) for name in names}
    np.savez(tmp_path / "a.npz", **arrays)
    expected = ", ".join(names) or r"\(none\)"
    with pytest.raises(VideoError, match=f"holds the arrays {expected}; expected one array"):
        frames_of(tmp_path / "a.npz")


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
@pytest.mark.parametrize("part", [0.001, 0.3, 0.99])
def test_files_cut_short_are_refused(tmp_path: Path, suffix: str, part: float) -> None:
    path = saved(tmp_path / f"a{suffix}", RNG.integers(0, 256, (9, 30, 40), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(VideoError, match=rf"a\{suffix} is (no numpy file|cut short|no )"):
        frames_of(path)


@pytest.mark.parametrize("suffix", [".npy", ".npz"])
def test_damaged_bytes_are_refused_or_read_as_they_are(tmp_path: Path, suffix: str) -> None:
    path = saved(tmp_path / f"a{suffix}", RNG.integers(0, 256, (3, 6, 7), dtype=np.uint8))
    whole = path.read_bytes()
    for position in range(0, len(whole), 3):
        path.write_bytes(whole[:position] + b"\xa5" + whole[position + 1 :])
        try:
            frames = frames_of(path)
        except VideoError as error:
            assert f"a{suffix}" in str(error)  # noqa: PT017 - either outcome is right
        else:
            assert frames.shape[-1] == 3


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
def test_other_content_under_the_name_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("frame,value\n1,2\n")
    with pytest.raises(VideoError, match=f"{name} is no numpy file"):
        frames_of(tmp_path / name)


def test_memory_grows_with_the_frame_not_with_the_file(tmp_path: Path) -> None:
    shape = (100, 1000, 2000)  # 200 MB
    array = np.lib.format.open_memmap(tmp_path / "a.npy", "w+", np.uint8, shape)
    array[:] = np.arange(len(array), dtype=np.uint8)[:, None, None]
    array.flush()
    with zipfile.ZipFile(tmp_path / "a.npz", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.write(tmp_path / "a.npy", "frames.npy")
    for opening in (open_npz(tmp_path / "a.npz"), open_npy(tmp_path / "a.npy")):
        tracemalloc.start()
        with opening as frames:
            shown = [int(f[5, 5, 0]) for f in frames.frames(np.arange(0, 100, 20))]
        peak_bytes = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert shown == [0, 20, 40, 60, 80]
        assert peak_bytes < 60e6  # zipfile skips in steps of 16 MB
