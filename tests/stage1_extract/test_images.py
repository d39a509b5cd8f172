"""Folders of images and TIFF files, written by OpenCV and Pillow."""

import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from stage1_extract import images
from stage1_extract.images import image_paths
from stage1_extract.scaling import ValueRange
from stage1_extract.sources import VideoError
from stage1_extract.stacks import StackOptions, stack_opener

RNG = np.random.default_rng(0)
COLOURS = RNG.integers(0, 256, (6, 8, 3), dtype=np.uint8)
"""(H, W, 3) BGR."""


def frames_of(
    path: Path, numbers: Sequence[int] | None = None, bounds: tuple[float, float] | None = None
) -> NDArray[np.uint8]:
    """Return the wanted frames (n, H, W, 3), by default all."""
    opener = stack_opener(path)
    assert opener is not None
    with opener(path, StackOptions(ValueRange(bounds))) as stack:
        wanted = np.arange(stack.index.num_frames) if numbers is None else np.array(numbers)
        return np.stack(list(stack.frames(wanted)))


def write_grey(path: Path, level: int, size: tuple[int, int] = (8, 6)) -> None:
    """Write an evenly grey image of (width, height)."""
    cv2.imwrite(str(path), np.full(size[::-1], level, np.uint8))


def test_images_are_read_in_natural_order(tmp_path: Path) -> None:
    names = ["a.png", "Frame1.png", "frame2.png", "frame010.png", "frame10b.png", "frame11.png"]
    for level, name in enumerate(names):
        write_grey(tmp_path / name, 10 * level)
    for other in (".frame3.png", "._frame2.png", "notes.txt", "Thumbs.db"):
        (tmp_path / other).write_text("no image")
    (tmp_path / "frame5.png").mkdir()
    expected = ["a.png", "Frame1.png", "frame2.png", "frame010.png", "frame10b.png", "frame11.png"]
    assert [path.name for path in image_paths(tmp_path)] == expected
    assert frames_of(tmp_path)[:, 0, 0, 0].tolist() == [0, 10, 20, 30, 40, 50]
    assert frames_of(tmp_path, [2, 4])[:, 5, 7, 2].tolist() == [20, 40]


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif", "tiff", "PNG", "jpg", "jpeg", "webp"])
def test_colours_keep_their_places(tmp_path: Path, suffix: str) -> None:
    flat = np.full((16, 16, 3), (200, 100, 30), np.uint8)  # blue, green, red
    Image.fromarray(flat[..., ::-1]).save(tmp_path / f"1.{suffix}", quality=95)
    assert np.abs(frames_of(tmp_path)[0].astype(int) - flat).max() <= 3


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK"])
def test_every_mode_has_three_channels(tmp_path: Path, mode: str) -> None:
    image = Image.fromarray(COLOURS[..., ::-1]).convert(mode)
    image.save(tmp_path / "1.tif")
    expected = np.asarray(image.convert("RGB"))[..., ::-1]
    tolerance = 1 if mode == "CMYK" else 0
    assert np.abs(frames_of(tmp_path)[0].astype(int) - expected).max() <= tolerance


def test_sixteen_bits_are_kept_until_they_are_scaled(tmp_path: Path) -> None:
    grey = np.array([[0, 128, 129, 65535]], np.uint16)
    cv2.imwrite(str(tmp_path / "1.png"), grey)
    assert frames_of(tmp_path)[0, 0, :, 1].tolist() == [0, 0, 1, 255]
    assert frames_of(tmp_path, bounds=(100, 151))[0, 0, :, 1].tolist() == [0, 140, 145, 255]


def test_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.fromarray(np.zeros((6, 8), np.uint8))
    exif = image.getexif()
    exif[0x112] = 6  # turned by a quarter
    image.save(tmp_path / "1.jpg", exif=exif)
    assert frames_of(tmp_path).shape == (1, 8, 6, 3)


def test_names_may_have_any_letters(tmp_path: Path) -> None:
    folder = tmp_path / "käse 心臓 %03d"
    folder.mkdir()
    write_grey(folder / "bïld№1.png", 70)
    pages = Image.fromarray(np.full((4, 4), 90, np.uint8))
    pages.save(folder / "心.tif.data", "TIFF", save_all=True, append_images=[pages])
    assert frames_of(folder)[0, 0, 0].tolist() == [70, 70, 70]
    assert frames_of(folder / "心.tif.data")[1, 0, 0].tolist() == [90, 90, 90]


def test_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "clip.mp4").touch()
    with pytest.raises(VideoError, match=r"is a folder without images \(\.png, .*\.tiff\)"):
        frames_of(tmp_path)


def test_images_of_other_sizes_are_refused(tmp_path: Path) -> None:
    for number in range(4):
        write_grey(tmp_path / f"{number}.png", 9, (8, 6) if number < 2 else (9, 6))
    with pytest.raises(VideoError, match=r"2\.png is 9x6 pixels, but 0\.png is 8x6"):
        frames_of(tmp_path)


@pytest.mark.parametrize("suffix", ["png", "jpg", "bmp", "webp", "tif"])
@pytest.mark.parametrize("part", [0.0, 0.6, 0.95])
def test_damaged_image_is_named(tmp_path: Path, suffix: str, part: float) -> None:
    write_grey(tmp_path / f"1.{suffix}", 9)
    image = RNG.integers(0, 256, (60, 80, 3), dtype=np.uint8)
    broken = tmp_path / f"2.{suffix}"
    cv2.imwrite(str(broken), image)
    broken.write_bytes(broken.read_bytes()[: int(broken.stat().st_size * part)])
    with pytest.raises(VideoError, match=rf"2\.{suffix}.* (cannot be read|cut short|no TIFF file)"):
        frames_of(tmp_path)


def test_several_pages_are_no_single_image(tmp_path: Path) -> None:
    cv2.imwritemulti(str(tmp_path / "1.tif"), [COLOURS, COLOURS])
    with pytest.raises(VideoError, match=r"1\.tif has several pages, expected one"):
        frames_of(tmp_path)


# TIFF files


@pytest.fixture(params=["near", "distant"])
def reach(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Pages through memory, or as in files too large for that."""
    if request.param == "distant":
        monkeypatch.setattr(images, "_LARGEST_BUFFER", 0)
    return str(request.param)


@pytest.mark.usefixtures("reach")
@pytest.mark.parametrize("channels", [(), (3,)])
@pytest.mark.parametrize(("dtype", "white"), [("uint8", 255), ("uint16", 65535), ("float32", 1)])
def test_pages_are_frames(
    tmp_path: Path, dtype: str, white: float, channels: tuple[int, ...]
) -> None:
    levels = RNG.integers(0, 256, (7, 5, 6, *channels))
    plain = [cv2.IMWRITE_TIFF_COMPRESSION, 1]  # OpenCV's own choice for colours in float is lossy
    cv2.imwritemulti(str(tmp_path / "a.tif"), list((levels / 255 * white).astype(dtype)), plain)
    expected = levels if channels else levels[..., None].repeat(3, axis=3)
    np.testing.assert_array_equal(frames_of(tmp_path / "a.tif"), expected)
    np.testing.assert_array_equal(frames_of(tmp_path / "a.tif", [1, 5]), expected[[1, 5]])


@pytest.mark.parametrize("dtype", ["int16", "int32", "float32", "float64"])
def test_other_number_types_need_bounds(tmp_path: Path, dtype: str) -> None:
    page = np.array([[0, 500, 1000]], dtype)
    cv2.imwritemulti(str(tmp_path / "a.tif"), [page, page])
    with pytest.raises(VideoError, match=rf"a\.tif: frame 0 has {dtype} .*--value-range LOW:HIGH"):
        frames_of(tmp_path / "a.tif")
    shown = frames_of(tmp_path / "a.tif", bounds=(0, 1000))
    assert shown[1, 0, :, 0].tolist() == [0, 128, 255]


@pytest.mark.parametrize("options", [{}, {"compression": "tiff_lzw"}, {"big_tiff": True}])
def test_files_of_pillow_are_read(tmp_path: Path, options: dict[str, Any]) -> None:
    pages = [Image.fromarray(RNG.integers(0, 256, (5, 6, 3), dtype=np.uint8)) for _ in range(4)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:], **options)
    expected = np.stack([np.asarray(page)[..., ::-1] for page in pages])
    np.testing.assert_array_equal(frames_of(tmp_path / "a.tif"), expected)


def test_source_is_left_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    cv2.imwritemulti(str(path), [COLOURS] * 3)
    before = path.read_bytes()
    path.chmod(0o400)
    frames_of(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("part", [0.0005, 0.5, 0.99])
def test_lost_pages_are_missed(tmp_path: Path, part: float) -> None:
    path = tmp_path / "a.tif"
    noise = RNG.integers(0, 256, (20, 40, 50), dtype=np.uint8)
    cv2.imwritemulti(str(path), list(noise))
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * part)])
    with pytest.raises(VideoError, match=r"(cut short or damaged: page|cannot be read)"):
        frames_of(path)


def test_pages_in_a_circle_end(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    cv2.imwritemulti(str(path), [COLOURS] * 2)
    content = bytearray(path.read_bytes())
    first = struct.unpack_from("<I", content, 4)[0]
    entries = struct.unpack_from("<H", content, first)[0]
    struct.pack_into("<I", content, first + 2 + 12 * entries, first)
    path.write_bytes(content)
    with pytest.raises(VideoError, match="chain of pages runs in a circle"):
        frames_of(path)


@pytest.mark.parametrize("name", ["a.tif", "a.tiff"])
def test_other_content_under_the_name_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"\x89PNG no TIFF")
    with pytest.raises(VideoError, match=rf"{name} is no TIFF file: it starts with b'\\x89PNG'"):
        frames_of(tmp_path / name)


@pytest.mark.parametrize(
    ("description", "message"),
    [
        ("ImageJ=1.53t\nimages=4\nslices=4\nloop=false\n", None),
        ("ImageJ=1.53t\nimages=4\nframes=4\n", None),
        ("images=500, says somebody", None),
        ("ImageJ=1.53t\nimages=500\nframes=500\n", "of 500 images, of which only 4 can be found"),
        ("ImageJ=1.53t\nimages=4\nchannels=2\nframes=2\n", "of 2 channels, 2 frames"),
        ("ImageJ=1.53t\nimages=4\nchannels=4\n", "of 4 channels; its pages are no sequence"),
        ("ImageJ=1.53t\nimages=4\nslices=2\nframes=2\n", "of 2 slices, 2 frames"),
    ],
)
def test_stacks_of_imagej_are_understood(
    tmp_path: Path, description: str, message: str | None
) -> None:
    page = Image.fromarray(np.full((4, 5), 40, np.uint8))
    pages = [page.copy() for _ in range(3)]
    page.save(tmp_path / "a.tif", save_all=True, append_images=pages, tiffinfo={270: description})
    if message is None:
        assert len(frames_of(tmp_path / "a.tif")) == 4
        return
    with pytest.raises(VideoError, match=rf"a\.tif is an ImageJ stack {message}"):
        frames_of(tmp_path / "a.tif")
