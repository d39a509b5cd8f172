"""Sources of frames that are no video files: what they offer, and which of them a path is."""

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from stage1_extract.arrays import open_npy, open_npz
from stage1_extract.dicom import open_dicom
from stage1_extract.gifs import open_gif
from stage1_extract.images import TIFF_SUFFIXES, image_paths, open_folder, open_tiff
from stage1_extract.scaling import (
    ScalingError,
    ValueRange,
    check_brightness,
    probe_numbers,
    to_uint8,
)
from stage1_extract.sources import Beat, FrameIndex, VideoError, check_file, nominal_times
from stage1_extract.tiff import TIFF_MAGICS

_GIF_MAGIC = b"GIF8"
_NUMPY_MAGIC = b"\x93NUMPY"
_DICOM_MAGIC, _DICOM_MAGIC_AT = b"DICM", 128


class FrameStack(Protocol):
    """Frames that can be counted exactly and read by number.

    Attributes:
        index: Their times, NaN where neither the source nor the options know them; `stated_frames`
            is their number, `fps` 0 where unknown.
    """

    index: FrameIndex

    def frames(self, numbers: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
        """Yield the (H, W, 3) uint8 BGR frames of the rising numbers, one at a time.

        Raises:
            VideoError: A frame cannot be read, or its values do not suit the value range.
            OSError: The source cannot be read.
        """


@dataclasses.dataclass(frozen=True)
class StackOptions:
    """What the user says of sources that do not say it themselves."""

    value_range: ValueRange = dataclasses.field(default_factory=ValueRange)
    assumed_fps: float | None = None


StackOpener = Callable[[Path, StackOptions], AbstractContextManager[FrameStack]]


def stack_opener(path: Path) -> StackOpener | None:
    """Return what opens a folder, array, GIF, TIFF or DICOM; None: it is to be opened as a video.

    The file's first bytes decide, and where they are none of these kinds', its suffix.

    Raises:
        OSError: The file cannot be read.
    """
    if path.is_dir():
        return _scaled(open_folder)
    if not path.is_file():
        return None
    with path.open("rb") as file:
        head = file.read(_DICOM_MAGIC_AT + len(_DICOM_MAGIC))
    if head[_DICOM_MAGIC_AT:] == _DICOM_MAGIC:
        return _open_dicom
    if head.startswith(_GIF_MAGIC):
        return _open_gif
    if head.startswith(_NUMPY_MAGIC):
        return _scaled(open_npy)
    if head.startswith(TIFF_MAGICS):
        return _scaled(open_tiff)
    return _BY_SUFFIX.get(path.suffix.lower())


def source_files(path: Path, beat: Beat = lambda: None) -> list[Path]:
    """Return the files whose bytes make up a source: itself, or a folder's images in their order.

    Raises:
        VideoError: A folder without images.
        OSError: The folder cannot be read.
    """
    return image_paths(path, beat) if path.is_dir() else [path]


class _RawFrames(Protocol):
    @property
    def num_frames(self) -> int: ...

    def frames(self, numbers: NDArray[np.int64]) -> Iterator[NDArray[Any]]: ...


class _ScaledFrames:
    """Frames of any number type, brought to 0..255 as they are read."""

    def __init__(self, path: Path, raw: _RawFrames, options: StackOptions) -> None:
        fps = options.assumed_fps or 0.0
        self.index = FrameIndex(nominal_times(raw.num_frames, fps), raw.num_frames, fps)
        self._path = path
        self._raw = raw
        self._value_range = options.value_range
        if options.value_range == ValueRange():
            self._check_brightness()

    def frames(self, numbers: NDArray[np.int64]) -> Iterator[NDArray[np.uint8]]:
        for number, frame in zip(numbers.tolist(), self._raw.frames(numbers), strict=True):
            try:
                scaled = to_uint8(frame, self._value_range)
            except ScalingError as error:
                raise VideoError(f"{self._path}: frame {number} {error}") from error
            yield scaled

    def _check_brightness(self) -> None:
        try:
            check_brightness(self._raw.frames(probe_numbers(self._raw.num_frames)))
        except ScalingError as error:
            raise VideoError(f"{self._path} {error}") from error


def _scaled(open_raw: Callable[[Path], AbstractContextManager[_RawFrames]]) -> StackOpener:
    @contextmanager
    def open_stack(path: Path, options: StackOptions) -> Iterator[FrameStack]:
        if not path.is_dir():
            check_file(path)
        with open_raw(path) as raw:
            yield _ScaledFrames(path, raw, options)

    return open_stack


@contextmanager
def _open_dicom(path: Path, options: StackOptions) -> Iterator[FrameStack]:
    check_file(path)
    with open_dicom(path, options.value_range, assumed_fps=options.assumed_fps) as frames:
        yield frames


@contextmanager
def _open_gif(path: Path, _: StackOptions) -> Iterator[FrameStack]:
    with open_gif(path) as frames:
        yield frames


_BY_SUFFIX: dict[str, StackOpener] = {
    ".npy": _scaled(open_npy),
    ".npz": _scaled(open_npz),
    ".dcm": _open_dicom,
    ".dicom": _open_dicom,
    **dict.fromkeys(TIFF_SUFFIXES, _scaled(open_tiff)),
}
