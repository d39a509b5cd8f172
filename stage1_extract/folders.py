"""Finding the videos of a folder: files, and folders of images."""

import dataclasses
import re
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path

VIDEO_SUFFIXES = tuple(
    f".{kind}"
    for kind in (
        *("mp4", "avi", "mov", "mkv", "mpg", "mpeg", "wmv", "webm", "m4v", "flv", "ts", "mts"),
        *("3gp", "gif", "tif", "tiff", "npy", "npz", "dcm", "dicom"),
    )
)
_MIN_IMAGES = 2
_DIGITS = re.compile("([0-9]+)")


@dataclasses.dataclass(frozen=True)
class FoundVideos:
    """What a folder holds.

    Attributes:
        paths: Video files, and folders whose images are the frames of one clip; in natural order.
        left_out: How many other files there are, by suffix, the most frequent first.
    """

    paths: list[Path]
    left_out: dict[str, int]


def find_videos(root: Path, *, ignore: Collection[Path] = ()) -> FoundVideos:
    """Find the videos of a folder and of all folders in it; hidden ones are passed over.

    A folder other than `root` with two images or more, and no video file, is one clip. TIFF files
    are images where the folder's first one has a single page, and videos where it has several.
    Links are followed, each folder is looked at once.

    Args:
        root: The folder.
        ignore: Files that are neither videos nor worth counting.
    """
    found: list[Path] = []
    left_out: Counter[str] = Counter()
    for folder in _folders(root):
        files = [p for p in _visible(folder) if not p.is_dir() and p not in ignore]
        videos = _videos_among(folder, files, folder_may_be_clip=folder != root)
        found += videos
        if videos != [folder]:
            left_out.update(_kind(path) for path in files if path not in set(videos))
        else:
            left_out.update(_kind(path) for path in files if not _is_image(path))
    found.sort(key=lambda path: natural_key(path.relative_to(root)))
    return FoundVideos(found, dict(left_out.most_common()))


def natural_key(path: Path) -> list[tuple[list[str | int], str]]:
    """Return a key that sorts a2 before a10, folder by folder and whatever the case."""
    return [
        (
            [int(t) if t.isascii() and t.isdigit() else t for t in _DIGITS.split(part.casefold())],
            part,
        )
        for part in path.parts
    ]


def _folders(root: Path) -> Iterator[Path]:
    """Yield the visible folders, each once: links come last, and none leads back up."""
    seen = {_identity(folder) for folder in root.resolve().parents}
    real, links = [root], list[Path]()
    while real or links:
        folder = real.pop() if real else links.pop()
        if _identity(folder) in seen:
            continue
        seen.add(_identity(folder))
        yield folder
        for child in reversed(_visible(folder)):
            if child.is_dir():
                (links if child.is_symlink() else real).append(child)


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _visible(folder: Path) -> list[Path]:
    visible = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sorted(visible, key=lambda path: natural_key(Path(path.name)))


def _videos_among(folder: Path, files: list[Path], *, folder_may_be_clip: bool) -> list[Path]:
    """Return the video files, or the folder itself where its images are one clip."""
    videos = [p for p in files if p.suffix.lower() in VIDEO_SUFFIXES and p.is_file()]
    images = [p for p in files if _is_image(p) and p.is_file()]
    tiffs = [p for p in videos if p in images]
    if tiffs and len(images) >= _MIN_IMAGES and not _has_pages(tiffs[0]):
        videos = [p for p in videos if p not in tiffs]
        tiffs = []
    num_frames = len(images) - len(tiffs)
    if num_frames >= _MIN_IMAGES and not videos and folder_may_be_clip:
        return [folder]
    return videos


def _is_image(path: Path) -> bool:
    from stage1_extract.images import IMAGE_SUFFIXES

    return path.suffix.lower() in IMAGE_SUFFIXES


def _has_pages(path: Path) -> bool:
    import cv2

    return int(cv2.imcount(str(path))) > 1


def _kind(path: Path) -> str:
    if not path.exists():
        return "broken link"
    return path.suffix.lower() or "without suffix"
