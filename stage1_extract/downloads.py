"""Clips at addresses: a decoder downloads the file, decodes the copy, and removes it."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from stage1_extract.addresses import Address
from stage1_extract.clips import ClipContent, ClipDone, ClipJob, FrameRecipe, read_clip
from stage1_extract.remote import RemoteState, download
from stage1_extract.scratch import ScratchFolder
from stage1_extract.sources import Beat, VideoError

_MAX_SUFFIX = 16


@dataclasses.dataclass(frozen=True)
class _Copy:
    address: Address
    path: Path
    state: RemoteState


class Downloads:
    """The copy of the file that is being decoded, and no other; it serves all clips cut from it.

    Args:
        scratch: Where to put it; None for the system's folder for temporary files.
    """

    def __init__(self, scratch: Path | None) -> None:
        self._scratch = scratch
        self._folder: ScratchFolder | None = None
        self._copy: _Copy | None = None
        self._count = 0

    def fetch(self, address: Address, beat: Beat) -> tuple[Path, RemoteState]:
        """Return a local copy, and what its file system says of the file.

        Raises:
            VideoError: It is a folder.
            OSError: It cannot be had.
        """
        if self._copy is None or self._copy.address != address:
            self.forget()
            self._copy = self._download(address, beat)
        return self._copy.path, self._copy.state

    def forget(self) -> None:
        """Remove the copy."""
        if self._copy is not None:
            self._copy.path.unlink(missing_ok=True)
        self._copy = None

    def close(self) -> None:
        """Remove the folder too."""
        if self._folder is not None:
            self._folder.remove()
        self._folder = self._copy = None

    def _download(self, address: Address, beat: Beat) -> _Copy:
        if self._folder is None:
            self._folder = ScratchFolder(self._scratch)
        self._count += 1  # no name comes twice: what is known of files is kept by name
        target = self._folder.path / f"{self._count}{address.suffix[:_MAX_SUFFIX]}"
        try:
            state = download(address, target, beat=beat)
        except IsADirectoryError as error:
            raise VideoError(
                f"{address} is a folder; folders of images are read from the disk alone: copy it, "
                "or make it one file (.npz, .tif, a video)"
            ) from error
        return _Copy(address, target, state)


def read_source(
    job: ClipJob, recipe: FrameRecipe, downloads: Downloads, beat: Beat = lambda: None
) -> Iterator[ClipContent]:
    """Do as `read_clip`, also for a clip at an address.

    Raises:
        VideoError, OSError: As `read_clip`; of a file at an address, messages name the address.
    """
    address = job.clip.path
    if not isinstance(address, Address):
        downloads.forget()
        yield from read_clip(job, recipe, beat)
        return
    path, state = downloads.fetch(address, beat)
    local = dataclasses.replace(job, clip=dataclasses.replace(job.clip, path=path))
    try:
        for content in read_clip(local, recipe, beat):
            yield _told_of(content, address, state) if isinstance(content, ClipDone) else content
    except VideoError as error:
        raise VideoError(str(error).replace(str(path), str(address))) from error
    except OSError as error:
        if error.filename != str(path):
            raise
        raise OSError(error.errno, error.strerror, str(address)) from error


def _told_of(done: ClipDone, address: Address, state: RemoteState) -> ClipDone:
    facts = dataclasses.replace(
        done.facts, source_path=str(address), source_modified_ns=state.modified_ns
    )
    return dataclasses.replace(done, facts=facts)
