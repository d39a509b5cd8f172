"""What is to be predicted: clips of video files, folders and manifests, each with an id."""

from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from stage1_extract.layouts import flat
from stage1_extract.manifest import read_manifest
from stage1_extract.sources import Clip
from stage1_extract.store import EmbeddingStore
from stage1_extract.texts import is_writable
from stage2_temporal.stored_clips import plain_positions

MANIFEST_SUFFIXES = (".csv", ".parquet", ".pq")
_MIN_IMAGES = 2
_NUM_EXAMPLES = 5


def find_clips(inputs: Sequence[Path | str]) -> list[Clip]:
    """Return the clips of all inputs, in their order.

    A manifest (.csv, .parquet) gives its own ids. The videos of a folder, found as
    `stage1-extract manifest --layout flat` finds them, have their path in it without the suffix as
    id (with it, where two would be alike); a folder that holds nothing but images is a clip itself.
    A video file has its path as it was given, without the suffix.

    Raises:
        FileNotFoundError: An input is not there.
        ValueError: A folder holds no videos, a manifest is wrong, or two clips have one id.
    """
    if not inputs:
        raise ValueError("nothing to predict: give videos, folders of videos, or manifests")
    missing = [str(path) for path in inputs if not Path(path).exists()]
    if missing:
        raise FileNotFoundError(
            f"{len(missing)} of {len(inputs)} inputs are not there: {missing[:_NUM_EXAMPLES]}"
        )
    clips = [clip for path in inputs for clip in _clips_of(Path(path))]
    _check_ids(clips)
    return clips


def find_ids(inputs: Sequence[Path | str]) -> list[str]:
    """Return the ids of all manifests, whose videos need not be there.

    Raises:
        ValueError: An input is no manifest, a manifest is wrong, or an id occurs twice.
    """
    others = [str(path) for path in inputs if not is_manifest(Path(path))]
    if others:
        raise ValueError(
            f"{others[:_NUM_EXAMPLES]} are no manifests (.csv, .parquet); with --store, these "
            "choose among its sequences, and videos are not read"
        )
    manifests = [read_manifest(Path(path), files_must_exist=False) for path in inputs]
    clips = [clip for manifest in manifests for clip in manifest.clips]
    _check_ids(clips)
    return [clip.video_id for clip in clips]


def stored_ids(store: EmbeddingStore) -> list[str]:
    """Return the ids of all sequences of a store, without augmented views.

    Raises:
        ValueError: An id is blank, or cannot be written.
    """
    ids = list(plain_positions(store))
    if bad := [video_id for video_id in ids if not video_id or not is_writable(video_id)]:
        raise ValueError(
            f"{store.path} has {len(bad)} ids that are blank or hold control characters: "
            f"{bad[:_NUM_EXAMPLES]}; name the other clips in a manifest, or extract these again "
            "with other ids"
        )
    return ids


def is_manifest(path: Path) -> bool:
    """Whether an input is taken for a manifest."""
    return path.suffix.lower() in MANIFEST_SUFFIXES and not path.is_dir()


def _clips_of(path: Path) -> Iterator[Clip]:
    if is_manifest(path):
        yield from read_manifest(path).clips
    elif path.is_dir():
        yield from _clips_in(path)
    else:
        yield Clip(path.with_suffix("").as_posix(), path.absolute())


def _clips_in(folder: Path) -> Iterator[Clip]:
    root = folder.resolve()
    paths = [path for path, _ in flat(root, None, ()).rows]
    if not paths and _num_images(root) >= _MIN_IMAGES:
        yield Clip(folder.as_posix() if folder.name else root.name, root)
        return
    if not paths:
        raise ValueError(
            f"no videos in {folder}; expected video files, or folders of two images or more, at "
            "any depth"
        )
    for path, video_id in zip(paths, _ids([path.relative_to(root) for path in paths]), strict=True):
        yield Clip(video_id, path)


def _ids(names: Sequence[Path]) -> list[str]:
    """Return paths without their suffix, or with it where two would be alike."""
    short = [name.with_suffix("").as_posix() for name in names]
    counts = Counter(short)
    ids = [i if counts[i] == 1 else n.as_posix() for i, n in zip(short, names, strict=True)]
    return ids if len(set(ids)) == len(ids) else [name.as_posix() for name in names]


def _num_images(folder: Path) -> int:
    from stage1_extract.images import IMAGE_SUFFIXES

    visible = (path for path in folder.iterdir() if not path.name.startswith("."))
    return sum(path.suffix.lower() in IMAGE_SUFFIXES for path in visible)


def _check_ids(clips: Sequence[Clip]) -> None:
    """Refuse ids that cannot be told apart, or cannot be written."""
    first: dict[str, Clip] = {}
    for clip in clips:
        if not is_writable(clip.video_id):
            raise ValueError(
                f"{clip.path!r} has a name with control characters or such that are not UTF-8; "
                "rename it, or name it in a manifest with a column video_id"
            )
        other = first.setdefault(clip.video_id, clip)
        if other is not clip:
            raise ValueError(
                f"two clips have the id {clip.video_id!r}: {other.path} and {clip.path}; predict "
                "them into two files, or list them in a manifest with a column video_id"
            )
