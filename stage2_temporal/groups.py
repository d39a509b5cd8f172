"""The group column: who is who, by name."""

import numpy as np
from numpy.typing import NDArray

from stage1_extract.manifest import Manifest, is_missing
from stage2_temporal.config import TrainSettings
from stage2_temporal.targets import LabelledClips

_MAX_NAMES = 3


def read_group_names(
    clips: LabelledClips, manifest: Manifest, settings: TrainSettings
) -> tuple[NDArray[np.str_], list[str]]:
    """Return each clip's value of the group column as text, and remarks for the report.

    Returns:
        (N,) names, blank without a column or value; and notices.

    Raises:
        ValueError: A group is blank without leave, or two differ only in case.
    """
    group = settings.group
    if group is None:
        notice = (
            "no --group was given: clips of one patient or recording session may be on several "
            "sides, and intervals take all clips for independent"
        )
        return np.full(len(clips.rows), ""), [notice]
    column = manifest.column(group).iloc[clips.rows]
    blank = is_missing(column).to_numpy()
    if blank.any() and settings.blank_group == "error":
        raise ValueError(
            f"{blank.sum()} clips have no {group!r}, e.g. {clips.video_ids[blank][:5].tolist()}; "
            "fill the column in, or take each for a group of its own with --blank-group own"
        )
    names = np.where(blank, "", column.astype("string").str.strip().fillna("").to_numpy(str))
    _check_same_case(group, names)
    notice = f"{blank.sum()} clips have no {group}; each was taken for a group of its own"
    return names.astype(np.str_), [notice] if blank.any() else []


def _check_same_case(group: str, names: NDArray[np.str_]) -> None:
    """Refuse groups such as P01 and p01: they would count as two patients."""
    spellings: dict[str, set[str]] = {}
    for name in names.tolist():
        spellings.setdefault(name.casefold(), set()).add(name)
    doubled = [sorted(found) for found in spellings.values() if len(found) > 1]
    if doubled:
        raise ValueError(
            f"column {group!r} has groups that differ only in case: {doubled[:5]}; write each "
            "group one way"
        )


def group_labels(
    groups: NDArray[np.intp], names: NDArray[np.str_], video_ids: NDArray[np.str_], column: str
) -> list[str]:
    """Return a name for each group number in order: its names in the column, or its first clip.

    Args:
        groups: (N,) numbers, see `merge_groups`; several names are one group if they share a file.
        names: (N,) names, blank for a clip of its own.
        video_ids: (N,) ids.
        column: What the names are, such as patient.
    """
    named: dict[int, dict[str, None]] = {int(number): {} for number in np.unique(groups)}
    first: dict[int, str] = {}
    for number, name, video_id in zip(
        groups.tolist(), names.tolist(), video_ids.tolist(), strict=True
    ):
        first.setdefault(number, video_id)
        if name:
            named[number][name] = None
    return [
        f"{column} {_joined(list(found))}" if found else f"clip {first[number]}"
        for number, found in named.items()
    ]


def _joined(names: list[str]) -> str:
    more = f" and {len(names) - _MAX_NAMES} more" if len(names) > _MAX_NAMES else ""
    return "+".join(names[:_MAX_NAMES]) + more
