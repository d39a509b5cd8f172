"""Writing the manifest of a folder of videos."""

import csv
import dataclasses
import os
from collections import Counter
from pathlib import Path

from stage1_extract.folders import VIDEO_SUFFIXES
from stage1_extract.layouts import LAYOUTS, LayoutName
from stage1_extract.manifest import ManifestError, read_manifest

_Row = dict[str, str]


@dataclasses.dataclass(frozen=True)
class WrittenManifest:
    """What was written.

    Attributes:
        path: The manifest.
        num_clips: Its rows.
        columns: Its columns.
        labels, splits: How many clips each label and each side of the split has, where there is
            such a column.
        left_out: How many files of the folder are not in it, by kind.
    """

    path: str
    num_clips: int
    columns: tuple[str, ...]
    labels: dict[str, int]
    splits: dict[str, int]
    left_out: dict[str, int]


def write_manifest(
    folder: Path,
    out: Path,
    *,
    layout: LayoutName,
    split: int | None = None,
    overwrite: bool = False,
) -> WrittenManifest:
    """Write the manifest of a folder as CSV; paths are relative to the CSV's folder.

    Args:
        folder: Where the videos are.
        out: The CSV to write.
        layout: How labels are told; see `LAYOUTS`.
        split: Which of UCF101's three official splits; None for the first, if its lists are there.
        overwrite: Whether a manifest that is there may be replaced.

    Raises:
        FileExistsError: `out` is there and may not be replaced.
        FileNotFoundError: The folder, or that of `out`, or a listed video is not there.
        ValueError: The folder is not laid out like that, or holds no videos.
    """
    _check_paths(folder, out, overwrite=overwrite)
    if split is not None and layout != "ucf101":
        raise ValueError(f"--split {split} chooses an official split of ucf101, not of {layout}")
    root, target = folder.resolve(), out.parent.resolve() / out.name
    listed = LAYOUTS[layout](root, split, {target})
    if not listed.rows:
        raise ValueError(_nothing_found(folder, layout, listed.left_out))
    rows = _with_ids([{"path": _relative(p, target), **row} for p, row in listed.rows])
    _write_checked(target, rows)
    return WrittenManifest(
        path=str(out),
        num_clips=len(rows),
        columns=tuple(rows[0]),
        labels=dict(Counter(row["label"] for row in rows if "label" in row)),
        splits=dict(Counter(row["split"] for row in rows if "split" in row)),
        left_out=listed.left_out,
    )


def _check_paths(folder: Path, out: Path, *, overwrite: bool) -> None:
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    if not out.parent.is_dir():
        raise FileNotFoundError(f"no folder {out.parent} to write {out.name} into")
    if out.suffix.lower() != ".csv":
        raise ValueError(f"{out} is to be a CSV; give it a name that ends with .csv")
    if out.exists() and not overwrite:
        raise FileExistsError(f"{out} is there already; --overwrite replaces it")


def _nothing_found(folder: Path, layout: str, left_out: dict[str, int]) -> str:
    others = ", ".join(f"{kind} {count}" for kind, count in left_out.items()) or "none"
    return (
        f"no videos in {folder} for the layout {layout}. Looked for files with the suffixes "
        f"{' '.join(sorted(VIDEO_SUFFIXES))}, and in it for folders of two images or more; hidden "
        f"files do not count. Other files: {others}"
    )


def _relative(path: Path, out: Path) -> str:
    return Path(os.path.relpath(path, out.parent)).as_posix()


def _with_ids(rows: list[_Row]) -> list[_Row]:
    """Add a column video_id where paths without suffix are not unique; those keep the suffix."""
    short = [Path(row["path"]).with_suffix("").as_posix() for row in rows]
    counts = Counter(short)
    if len(counts) == len(rows):
        return rows
    ids = [i if counts[i] == 1 else row["path"] for i, row in zip(short, rows, strict=True)]
    if len(set(ids)) < len(rows):
        ids = [row["path"] for row in rows]
    return [{"path": row["path"], "video_id": i, **row} for i, row in zip(ids, rows, strict=True)]


def _write_checked(out: Path, rows: list[_Row]) -> None:
    """Write the CSV and read it as stage one will; it appears only if that goes well."""
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        with partial.open("w", encoding="utf-8", newline="") as file:
            # Quotes keep spaces at a name's start, which readers of CSV drop otherwise.
            padded = any(value != value.strip() for row in rows for value in row.values())
            writer = csv.DictWriter(
                file,
                list(rows[0]),
                quoting=csv.QUOTE_ALL if padded else csv.QUOTE_MINIMAL,
                lineterminator="\n",
            )
            writer.writeheader()
            writer.writerows(rows)
        read_manifest(partial)
        partial.replace(out)
    except UnicodeEncodeError as error:
        raise ValueError(f"the name {error.object!r} is not UTF-8; rename that file") from error
    except ManifestError as error:
        raise ValueError(str(error).replace(str(partial), str(out))) from error
    finally:
        partial.unlink(missing_ok=True)
