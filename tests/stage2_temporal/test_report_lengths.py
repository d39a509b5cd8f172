from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from stage2_temporal.report_lengths import length_plates
from stage2_temporal.run_files import read_run
from tests.stage2_temporal.written_runs import make_run


def alts(folder: Path, task: str, columns: dict[str, Any], **options: Any) -> list[str]:
    """Return the texts of the figures of eight clips, the first not tested."""
    path = make_run(folder, task, **options) / "clips.csv"
    table = pd.read_csv(path, dtype=str)[:8]
    table[list(columns)] = pd.DataFrame(columns, index=table.index)
    table.to_csv(path, index=False)
    return [picture.alt for picture, _ in length_plates(read_run(folder))]


def test_frames_are_shown_by_side_and_class(tmp_path: Path) -> None:
    # Clip i is of class i modulo 2.
    columns = {"frames": [9, 1, 2, 3, 4, 5, 6, 7], "seconds": ""}
    [text] = alts(tmp_path, "binary", columns)
    for expected in (
        "all clips: 1 to 9, median 4.5",
        "training, validation: 9 to 9, median 9",
        "test: 1 to 7, median 4",
        "0: 2 to 9, median 5",
        "1: 1 to 7, median 4",
    ):
        assert expected in text


def test_seconds_are_shown_where_they_are_known(tmp_path: Path) -> None:
    seconds = [0.5 * i for i in range(8)]
    [frames, time] = alts(tmp_path, "binary", {"frames": range(8), "seconds": seconds})
    assert "frames" in frames
    assert "all clips: 0 to 3.5, median 1.75" in time


@pytest.mark.parametrize("task", ["regression", "multilabel"])
def test_targets_without_classes_have_sides_only(tmp_path: Path, task: str) -> None:
    [text] = alts(tmp_path, task, {"frames": range(8), "seconds": ""})
    assert "test: 1 to 7" in text
    assert "by class" not in text


def test_equal_lengths_have_no_figure(tmp_path: Path) -> None:
    assert alts(tmp_path, "binary", {"frames": 24, "seconds": ""}) == []


def test_of_many_classes_the_most_frequent_are_shown(tmp_path: Path) -> None:
    classes = [f"action {i}" for i in range(30)]
    columns = {"frames": range(8), "seconds": "", "target_abnormal": ["action 7"] * 8}
    [text] = alts(tmp_path, "multiclass", columns, classes=classes)
    assert "(1 most frequent of 30)" in text
    assert "action 7: 0 to 7" in text
