"""Frames of .npy and .npz files, read one at a time."""

import dataclasses
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from stage1_extract.scaling import to_bgr
from stage1_extract.sources import VideoError

_ARRAY_NAMES = ("frames", "video")
_CHANNELS = (1, 3, 4)
_LAYOUT = (
    "expected (frames, height, width) or (frames, height, width, channels) with 1, 3 (RGB) or 4 "
    "(RGBA) channels"
)
_DAMAGE = (
    *(ValueError, TypeError, EOFError, RuntimeError, SyntaxError, OverflowError),
    *(tokenize.TokenError, zipfile.BadZipFile, zlib.error),
)
"""What numpy and zipfile raise on damaged, foreign or encrypted files."""


@dataclasses.dataclass(frozen=True)
class ArrayFrames:
    """The frames of an opened array.

    Attributes:
        num_frames: Frames in the array.
    """

    num_frames: int
    _name: str
    _file: IO[bytes]
    _start: int
    _shape: tuple[int, ...]
    _dtype: np.dtype[Any]
    _loaded: NDArray[Any] | None

    def frames(self, numbers: NDArray[np.int64]) -> Iterator[NDArray[Any]]:
        """Yield the (H, W, 3) BGR frames of the rising numbers, in the array's own number type."""
        for number in numbers.tolist():
            frame = self._read(number) if self._loaded is None else self._loaded[number]
            yield to_bgr(frame, rgb=True)

    def _read(self, number: int) -> NDArray[Any]:
        # Read instead of mapped: a file cut short meanwhile is an error here, there the end of all.
        length = math.prod(self._shape) * self._dtype.itemsize
        with _damage_named(self._name):
            self._file.seek(self._start + number * length)
            content = self._file.read(length)
        if len(content) < length:
            raise VideoError(
                f"{self._name} is cut short: frame {number} has {len(content)} of {length} bytes"
            )
        return np.frombuffer(content, self._dtype).reshape(self._shape)


@contextmanager
def open_npy(path: Path) -> Iterator[ArrayFrames]:
    """Open the frames of a .npy file.

    Raises:
        VideoError: No .npy file, cut short, or not laid out as frames.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        yield _array_frames(file, str(path), path.stat().st_size)


@contextmanager
def open_npz(path: Path) -> Iterator[ArrayFrames]:
    """Open the frames of a .npz file: of its only array, or of that named frames or video.

    Raises:
        VideoError: No .npz file, several arrays and none of these names, or not laid out as frames.
        OSError: The file cannot be read.
    """
    with ExitStack() as stack:
        with _damage_named(str(path)):
            archive = stack.enter_context(zipfile.ZipFile(path))
        member = _member(path, archive)
        name = f"{path}, array {member.filename[:-4]}"
        with _damage_named(name):
            file = stack.enter_context(archive.open(member))
        yield _array_frames(file, name, member.file_size)


@contextmanager
def _damage_named(name: str) -> Iterator[None]:
    try:
        yield
    except _DAMAGE as error:
        raise VideoError(f"{name} is no numpy file, or damaged ({error})") from error


def _member(path: Path, archive: zipfile.ZipFile) -> zipfile.ZipInfo:
    members = {
        info.filename[:-4]: info for info in archive.infolist() if info.filename.endswith(".npy")
    }
    named = [members[name] for name in _ARRAY_NAMES if name in members] or list(members.values())
    if len(named) != 1:
        raise VideoError(
            f"{path} holds the arrays {', '.join(members) or '(none)'}; expected one array, or one "
            f"of them named {' or '.join(_ARRAY_NAMES)}"
        )
    if named[0].header_offset < 0:
        raise VideoError(f"{path} is no numpy file, or damaged (no file at its list's offsets)")
    return named[0]


def _array_frames(file: IO[bytes], name: str, size_bytes: int) -> ArrayFrames:
    shape, by_columns, dtype = _header(file, name)
    _check_layout(name, shape, dtype)
    start = file.tell()
    length = math.prod(shape) * dtype.itemsize
    if size_bytes - start < length:
        raise VideoError(
            f"{name} is cut short: its {shape} array of {dtype} takes {length} bytes, found "
            f"{size_bytes - start}"
        )
    # Stored by columns, a frame is scattered over the whole file.
    loaded = _load(file, name, shape, dtype) if by_columns else None
    return ArrayFrames(shape[0], name, file, start, shape[1:], dtype, loaded)


def _header(file: IO[bytes], name: str) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    with _damage_named(name):
        if np.lib.format.read_magic(file) == (1, 0):
            return np.lib.format.read_array_header_1_0(file)
        return np.lib.format.read_array_header_2_0(file)


def _load(file: IO[bytes], name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    with _damage_named(name):
        content = file.read(math.prod(shape) * dtype.itemsize)
        return np.frombuffer(content, dtype).reshape(shape, order="F")


def _check_layout(name: str, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    if dtype.kind not in "buif":
        raise VideoError(
            f"{name} has dtype {dtype}, expected integers, floating-point numbers or bool; arrays "
            "of Python objects are never loaded"
        )
    found = f"{name} has the shape {shape}; {_LAYOUT}"
    if len(shape) not in (3, 4):
        raise VideoError(found)
    if len(shape) == 3 and shape[2] in _CHANNELS:
        raise VideoError(f"{found}. One image is no sequence; add the axis of frames")
    if len(shape) == 4 and shape[3] not in _CHANNELS:
        channels_first = shape[1] in _CHANNELS
        hint = "; save array.transpose(0, 2, 3, 1)" if channels_first else ""
        raise VideoError(found + hint)
    if min(shape) < 1:
        raise VideoError(f"{found}, none of them 0")
