"""The page directories of a TIFF file, followed without decoding a page (TIFF 6.0 and BigTIFF)."""

import dataclasses
import re
import struct
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from stage1_extract.sources import VideoError

TIFF_MAGICS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_DESCRIPTION_TAG = 270
_MOST_ENTRIES = 2**16 - 1  # of a page; what a BigTIFF file claims beyond that is damage
_LARGEST_DESCRIPTION = 2**20  # bytes; ImageJ's are some hundreds


@dataclasses.dataclass(frozen=True)
class PageDirectories:
    """Where a TIFF file's pages are described.

    Attributes:
        offsets: Byte at which each page's directory starts.
        description: Text of the first page, empty where it has none.
        header: Format and position of the first offset within the file's header.
    """

    offsets: list[int]
    description: str
    header: tuple[str, int]

    def point_to(self, buffer: NDArray[np.uint8], page: int) -> None:
        """Make a page the first one of the file in `buffer`, for readers that know no other way."""
        struct.pack_into(self.header[0], buffer.data, self.header[1], self.offsets[page])


def read_directories(path: Path) -> PageDirectories:
    """Follow the chain of page directories to its end.

    OpenCV takes what is left of a broken chain for all there is, so it is not asked.

    Raises:
        VideoError: No TIFF file, or its chain of pages is broken.
        OSError: The file cannot be read.
    """
    with path.open("rb") as file:
        magic = file.read(4)
        if magic not in TIFF_MAGICS:
            raise VideoError(f"{path} is no TIFF file: it starts with {magic!r}")
        order = "<" if magic[:2] == b"II" else ">"
        layout = _Layout(order, "Q", "Q", 20) if b"+" in magic else _Layout(order, "H", "I", 12)
        return _follow(path, file, layout, first_offset_at=8 if b"+" in magic else 4)


def imagej_sizes(description: str) -> dict[str, int]:
    """Return what ImageJ says of a stack (images, channels, slices, frames), as far as it does."""
    if not description.startswith("ImageJ="):
        return {}
    found = re.findall(r"^(images|channels|slices|frames)=(\d+)\s*$", description, re.MULTILINE)
    return {name: int(number) for name, number in found}


@dataclasses.dataclass(frozen=True)
class _Layout:
    order: str
    count: str
    offset: str
    entry_bytes: int

    def read(self, file: IO[bytes], number_format: str) -> int:
        number_format = self.order + number_format
        (number,) = struct.unpack(number_format, file.read(struct.calcsize(number_format)))
        return int(number)


def _follow(
    path: Path, file: IO[bytes], layout: _Layout, *, first_offset_at: int
) -> PageDirectories:
    offsets: list[int] = []
    description = ""
    seen: set[int] = set()
    try:
        file.seek(first_offset_at)
        offset = layout.read(file, layout.offset)
        while offset and offset not in seen:
            file.seek(offset)
            count = min(layout.read(file, layout.count), _MOST_ENTRIES)
            entries = file.read(count * layout.entry_bytes)
            next_offset = layout.read(file, layout.offset)
            if not offsets:
                description = _description(file, layout, entries)
            offsets.append(offset)
            seen.add(offset)
            offset = next_offset
    except (struct.error, OverflowError) as error:
        raise VideoError(
            f"{path} is cut short or damaged: page {len(offsets)} is announced, but not there"
        ) from error
    if offset or not offsets:
        raise VideoError(f"{path} is damaged: its chain of pages runs in a circle or is empty")
    return PageDirectories(offsets, description, (layout.order + layout.offset, first_offset_at))


def _description(file: IO[bytes], layout: _Layout, entries: bytes) -> str:
    entry_format = f"{layout.order}HH{layout.offset}{layout.offset}"
    for start in range(0, len(entries) - layout.entry_bytes + 1, layout.entry_bytes):
        tag, _, length, offset = struct.unpack_from(entry_format, entries, start)
        # Shorter texts stand in the entry itself; none that matters is so short.
        if tag == _DESCRIPTION_TAG and 8 < length <= _LARGEST_DESCRIPTION:
            file.seek(offset)
            return file.read(length).rstrip(b"\0").decode("latin-1")
    return ""
