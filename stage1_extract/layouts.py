"""How data sets lay out their videos and labels: the rows of a manifest from a folder."""

import csv
import dataclasses
import re
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Literal

from stage1_extract.folders import find_videos

LayoutName = Literal["class-folders", "ucf101", "echonet", "flat"]
_Row = dict[str, str]
_MAX_SHOWN = 50
_UCF101_FILE = re.compile(r"v_(?P<label>.+)_g(?P<group>\d+)_c\d+\.avi")
_ECHONET_SPLITS = {"TRAIN": "train", "VAL": "validation", "TEST": "test"}


@dataclasses.dataclass(frozen=True)
class ListedVideos:
    """The rows of a manifest in the making.

    Attributes:
        rows: (video, its other columns), in the manifest's order; all have the same columns.
        left_out: How many other files there are, by kind.
    """

    rows: list[tuple[Path, _Row]]
    left_out: dict[str, int]


def class_folders(root: Path, _split: int | None, ignore: Collection[Path]) -> ListedVideos:
    """List ROOT/<label>/.../video: the first folder below the root is the column `label`.

    Raises:
        ValueError: Videos lie in no class folder, or a folder's name would read as a blank label.
    """
    found = find_videos(root, ignore=ignore)
    outside = [path for path in found.paths if len(path.relative_to(root).parts) == 1]
    if outside:
        raise ValueError(
            f"{len(outside)} videos of {root} lie in no class folder: {_names(outside)}. Expected "
            f"{root.name}/<label>/<video>; without labels, give --layout flat"
        )
    rows = [(path, {"label": path.relative_to(root).parts[0]}) for path in found.paths]
    _check_labels(row["label"] for _, row in rows)
    return ListedVideos(rows, found.left_out)


def flat(root: Path, _split: int | None, ignore: Collection[Path]) -> ListedVideos:
    """List all videos in the folder and below, without labels."""
    found = find_videos(root, ignore=ignore)
    return ListedVideos([(path, {}) for path in found.paths], found.left_out)


def ucf101(root: Path, split: int | None, ignore: Collection[Path]) -> ListedVideos:
    """List UCF101: <Class>/v_<Class>_gNN_cNN.avi with columns `label`, `group` and maybe `split`.

    Clips of one group (g01 to g25, of one class) are cut from the same videos, so `group` is for
    `--group` when training. `split` (train or test) comes from the official lists trainlist0N.txt
    and testlist0N.txt, in the folder or in its ucfTrainTestlist. The layout is that of Soomro,
    Zamir and Shah, "UCF101: A Dataset of 101 Human Actions Classes From Videos in The Wild",
    CRCV-TR-12-01, 2012.

    Raises:
        FileNotFoundError: A list, or a video of it, is missing.
        ValueError: A file has another name, or is in no list or in both.
    """
    found = find_videos(root, ignore=ignore)
    rows = [(path, _ucf101_row(root, path)) for path in found.paths]
    sides = _ucf101_sides(root, split)
    if sides is not None:
        _check_listed({path.name for path, _ in rows}, sides)
        rows = [(path, {**row, "split": sides[path.name]}) for path, row in rows]
    return ListedVideos(rows, found.left_out)


def _ucf101_row(root: Path, path: Path) -> _Row:
    name = _UCF101_FILE.fullmatch(path.name)
    if name is None:
        raise ValueError(
            f"{path} is not named as in UCF101, v_<Class>_gNN_cNN.avi; use --layout class-folders, "
            "or move it elsewhere"
        )
    # Class HandstandPushups has files named v_HandStandPushups_...: the folder's spelling counts.
    label = name["label"] if path.parent == root else path.parent.name
    return {"label": label, "group": f"{label}_g{name['group']}"}


def _ucf101_sides(root: Path, split: int | None) -> dict[str, str] | None:
    """Return train or test by file name; None where no split was asked for or is there."""
    names = {side: f"{side}list{split or 1:02}.txt" for side in ("train", "test")}
    folders = (root, root / "ucfTrainTestlist")
    lists = {side: [f / n for f in folders if (f / n).is_file()] for side, n in names.items()}
    if split is None and not any(lists.values()):
        return None
    sides: dict[str, str] = {}
    for side, paths in lists.items():
        if not paths:
            raise FileNotFoundError(f"no {names[side]} in {root} or {folders[1]}")
        for line in filter(None, map(str.strip, paths[0].read_text("utf-8").splitlines())):
            name = line.split()[0].rpartition("/")[2]
            if sides.setdefault(name, side) != side:
                raise ValueError(f"{name} is in {names['train']} and in {names['test']}")
    return sides


def _check_listed(present: set[str], sides: dict[str, str]) -> None:
    if missing := sorted(sides.keys() - present):
        raise FileNotFoundError(
            f"{len(missing)} videos of the official lists are missing: {_names(missing)}"
        )
    if unlisted := sorted(present - sides.keys()):
        raise ValueError(f"{len(unlisted)} videos are in no official list: {_names(unlisted)}")


def echonet(root: Path, _split: int | None, _ignore: Collection[Path]) -> ListedVideos:
    """List EchoNet-Dynamic: FileList.csv and Videos/<FileName>.avi.

    Its columns keep their names (EF in percent, ESV and EDV in ml), but for `Split`, which becomes
    `split` with train, validation and test. The layout is that of Ouyang et al., "Video-based AI
    for beat-to-beat assessment of cardiac function", Nature 580, 2020.

    Raises:
        FileNotFoundError: FileList.csv, or a video that it lists, is missing.
        ValueError: FileList.csv is not as expected.
    """
    table = root / "FileList.csv"
    if not table.is_file():
        raise FileNotFoundError(f"no {table}; expected the folder of EchoNet-Dynamic, unpacked")
    rows = [_echonet_row(table, row) for row in _read_csv(table, {"FileName", "Split"})]
    if missing := [path.name for path, _ in rows if not path.is_file()]:
        raise FileNotFoundError(
            f"{len(missing)} videos that {table} lists are not in {root / 'Videos'}: "
            f"{_names(missing)}"
        )
    listed = {path for path, _ in rows}
    others = [p for p in find_videos(root / "Videos").paths if p not in listed] if rows else []
    return ListedVideos(rows, {"video not in FileList.csv": len(others)} if others else {})


def _echonet_row(table: Path, row: _Row) -> tuple[Path, _Row]:
    name, side = row.pop("FileName").strip(), row.pop("Split").strip()
    if side.upper() not in _ECHONET_SPLITS:
        raise ValueError(f"{table}: {name} has Split {side!r}; expected TRAIN, VAL or TEST")
    file_name = name if name.lower().endswith(".avi") else f"{name}.avi"
    return table.parent / "Videos" / file_name, {**row, "split": _ECHONET_SPLITS[side.upper()]}


def _read_csv(path: Path, needed: set[str]) -> list[_Row]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, restval="")
        if missing := needed - {*(reader.fieldnames or ())}:
            raise ValueError(
                f"{path} has no column {', '.join(sorted(missing))}; its columns are "
                f"{list(reader.fieldnames or ())}"
            )
        rows = list(reader)
    if any(None in row for row in rows):
        raise ValueError(f"{path} has rows with more fields than its header")
    return rows


def _check_labels(labels: Iterable[str]) -> None:
    import pandas as pd

    from stage1_extract.manifest import is_missing

    names = pd.Series(sorted(set(labels)), dtype=str)
    if blank := names[is_missing(names)].tolist():
        raise ValueError(f"class folders named {blank} would read as blank labels; rename them")


def _names(paths: Iterable[Path | str]) -> str:
    names = [path.name if isinstance(path, Path) else path for path in paths]
    more = f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else ""
    return ", ".join(names[:_MAX_SHOWN]) + more


LAYOUTS: dict[LayoutName, Callable[[Path, int | None, Collection[Path]], ListedVideos]] = {
    "class-folders": class_folders,
    "ucf101": ucf101,
    "echonet": echonet,
    "flat": flat,
}
