"""Frames of folders of images and of multi-page TIFF files, read one at a time."""

import dataclasses
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from stage1_extract.folders import natural_key
from stage1_extract.scaling import to_bgr
from stage1_extract.sources import Beat, VideoError
from stage1_extract.tiff import PageDirectories, imagej_sizes, read_directories

TIFF_SUFFIXES = (".tif", ".tiff")
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", *TIFF_SUFFIXES)
# Orientation is applied; 16 bits, floating-point numbers and grey are kept.
_READ_FLAGS = cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH
_LARGEST_BUFFER = 2**31 - 1
"""Bytes; OpenCV counts those of a buffer in an int."""


@dataclasses.dataclass(frozen=True)
class FolderFrames:
    """The images of a folder as frames.

    Attributes:
        num_frames: Images in the folder.
    """

    num_frames: int
    _paths: list[Path]
    _shape: tuple[int, ...]

    def frames(self, numbers: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
        """Yield the (H, W, 3) BGR frames of the rising numbers, in the images' own number type."""
        for number in numbers.tolist():
            path = self._paths[number]
            yield _same_size(_read_image(path), self._shape, f"{path}", self._paths[0].name)


@dataclasses.dataclass(frozen=True)
class TiffFrames:
    """The pages of a TIFF file as frames.

    Attributes:
        num_frames: Pages in the file.
    """

    num_frames: int
    _path: Path
    _pages: PageDirectories
    _shape: tuple[int, ...]

    def frames(self, numbers: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
        """Yield the (H, W, 3) BGR frames of the rising numbers, in the file's own number type."""
        for number in numbers.tolist():
            page = _read_page(self._path, self._pages, number)
            yield _same_size(page, self._shape, f"{self._path}, page {number}", "page 0")


def image_paths(folder: Path, beat: Beat = lambda: None) -> list[Path]:
    """Return a folder's images in natural order: frame2.png before frame10.png.

    Hidden files, files of other kinds and subfolders are passed over.

    Raises:
        VideoError: There is none.
        OSError: The folder cannot be read.
    """
    paths = []
    for path in folder.iterdir():
        beat()  # a folder of 100,000 images takes a while on a network's disk
        if path.suffix.lower() in IMAGE_SUFFIXES and path.name[0] != "." and path.is_file():
            paths.append(path)
    if not paths:
        raise VideoError(f"{folder} is a folder without images ({', '.join(IMAGE_SUFFIXES)})")
    return sorted(paths, key=lambda path: natural_key(Path(path.name)))


@contextmanager
def open_folder(folder: Path) -> Iterator[FolderFrames]:
    """Open a folder of images of one size.

    Raises:
        VideoError: No images, or the first cannot be read.
        OSError: The folder or an image cannot be read.
    """
    paths = image_paths(folder)
    yield FolderFrames(len(paths), paths, _read_image(paths[0]).shape)


@contextmanager
def open_tiff(path: Path) -> Iterator[TiffFrames]:
    """Open a TIFF file whose pages are the frames.

    Raises:
        VideoError: No TIFF file, damaged, of a kind that OpenCV does not read, or a stack of ImageJ
            that cannot be read page by page.
        OSError: The file cannot be read.
    """
    pages = read_directories(path)
    _check_imagej(path, pages)
    yield TiffFrames(len(pages.offsets), path, pages, _read_page(path, pages, 0).shape)


def _read_image(path: Path) -> NDArray[Any]:
    # Decoded from memory: OpenCV opens no path outside of the system's character set.
    if path.suffix.lower() in TIFF_SUFFIXES and len(read_directories(path).offsets) > 1:
        raise VideoError(f"{path} has several pages, expected one; name it as a source of its own")
    return _decode(np.fromfile(path, np.uint8), str(path))


def _read_page(path: Path, pages: PageDirectories, number: int) -> NDArray[Any]:
    name = f"{path}, page {number}"
    if path.stat().st_size > _LARGEST_BUFFER:
        return _read_distant_page(path, number, name)
    # OpenCV passes through all earlier pages to reach one, so it is shown a file that starts with
    # this one. The change stays in memory ("c").
    buffer = np.memmap(path, np.uint8, "c")
    pages.point_to(buffer, number)
    return _decode(buffer, name)


def _read_distant_page(path: Path, number: int, name: str) -> NDArray[Any]:
    try:
        done, read = cv2.imreadmulti(str(path), number, 1, flags=_READ_FLAGS)
    except cv2.error as error:
        raise VideoError(f"{name} cannot be read ({error.err})") from error
    if not done:
        raise VideoError(f"{name} cannot be read: damaged, or of a kind that OpenCV does not know")
    return to_bgr(read[0], rgb=False)


def _decode(content: NDArray[np.uint8], name: str) -> NDArray[Any]:
    try:
        image = cv2.imdecode(content, _READ_FLAGS) if len(content) else None
    except cv2.error as error:
        raise VideoError(f"{name} cannot be read ({error.err})") from error
    if image is None:
        raise VideoError(f"{name} cannot be read: damaged, or of a kind that OpenCV does not know")
    return to_bgr(image, rgb=False)


def _same_size(frame: NDArray[Any], shape: tuple[int, ...], name: str, first: str) -> NDArray[Any]:
    if frame.shape != shape:
        raise VideoError(
            f"{name} is {frame.shape[1]}x{frame.shape[0]} pixels, but {first} is "
            f"{shape[1]}x{shape[0]}; expected frames of one size"
        )
    return frame


def _check_imagej(path: Path, pages: PageDirectories) -> None:
    sizes = imagej_sizes(pages.description)
    if sizes.get("images", 1) > len(pages.offsets):
        raise VideoError(
            f"{path} is an ImageJ stack of {sizes['images']} images, of which only "
            f"{len(pages.offsets)} can be found (ImageJ saves stacks over 4 GB so); save it in "
            "parts, as BigTIFF, as a folder of images or as .npy"
        )
    axes = [name for name in ("channels", "slices", "frames") if sizes.get(name, 1) > 1]
    if len(axes) > 1 or axes == ["channels"]:
        found = ", ".join(f"{sizes[name]} {name}" for name in axes)
        raise VideoError(
            f"{path} is an ImageJ stack of {found}; its pages are no sequence of frames. Save one "
            "channel and one slice, or RGB frames, and name that file"
        )
