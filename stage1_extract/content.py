"""The bytes behind a source: their state on disk and their hash."""

import dataclasses
import hashlib
from pathlib import Path

from stage1_extract.sources import Beat
from stage1_extract.stacks import source_files

_BLOCK_BYTES = 4 * 2**20


@dataclasses.dataclass(frozen=True)
class SourceState:
    """What the file system says of a source; a folder counts as the sum of its images.

    Attributes:
        size_bytes: Bytes of all its files.
        modified_ns: When the latest of them was written.
    """

    size_bytes: int
    modified_ns: int


def source_state(path: Path, beat: Beat = lambda: None) -> SourceState:
    """Return the state of a source's files now.

    Raises:
        OSError: A file is not there, or may not be looked at.
    """
    size_bytes = modified_ns = 0
    for file in source_files(path, beat):
        status = file.stat()
        size_bytes += status.st_size
        modified_ns = max(modified_ns, status.st_mtime_ns)
        beat()
    return SourceState(size_bytes, modified_ns)


def hash_source(path: Path, beat: Beat = lambda: None) -> str:
    """Return blake2b-128 of a source's bytes as hexadecimal text.

    Of a folder, the images' names and sizes count too, so that no two folders can be taken for one
    another by where one file ends and the next begins.
    """
    hasher = hashlib.blake2b(digest_size=16)
    for file in source_files(path, beat):
        beat()
        if file != path:
            entry = f"{file.name}\0{file.stat().st_size}\0"
            hasher.update(entry.encode(errors="surrogateescape"))  # names need not be UTF-8
        with file.open("rb") as stream:
            while block := stream.read(_BLOCK_BYTES):
                hasher.update(block)
                beat()
    return hasher.hexdigest()
