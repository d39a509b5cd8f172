from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stage2_temporal import report_table
from stage2_temporal.report_table import ClipTable, clip_table
from stage2_temporal.run_files import read_run
from tests.stage2_temporal.written_runs import make_run, write_clips

NAMES = {"recurrent": "model", "mean_pool": "average", "features": "features"}


def table_of(folder: Path, target: str = "abnormal") -> ClipTable:
    return clip_table(read_run(folder), target, NAMES)


def changed(folder: Path, **columns: Any) -> ClipTable:
    """Replace columns of the predictions; the first of the eight rows is a validation clip."""
    path = folder / "predictions.csv"
    pd.read_csv(path, dtype=str).assign(**columns).to_csv(path, index=False)
    write_clips(folder)
    return table_of(folder)


def ids(table: ClipTable) -> list[int]:
    return [int(str(row[0]).removeprefix("clip_")) for row in table.rows]


def test_wrong_clips_come_first_then_doubtful_ones(tmp_path: Path) -> None:
    make_run(tmp_path)
    of_class_1 = np.array([0.5, 0.9, 0.4, 0.2, 0.75, 0.45, 0.3, 0.62])
    table = changed(
        tmp_path,
        target=list("01010101"),
        prediction=["1" if value >= 0.5 else "0" for value in of_class_1],
        probability_1=of_class_1,
        probability_0=1 - of_class_1,
    )
    # Wrong are 3 (0.2 for its class 1), 4 (0.25 for its class 0) and 5 (0.45).
    assert ids(table) == [3, 4, 5, 2, 7, 6, 1]
    assert list(table.is_wrong) == [True] * 3 + [False] * 4
    assert [row[4] for row in table.rows] == pytest.approx([0.2, 0.25, 0.45, 0.6, 0.62, 0.7, 0.9])


def test_columns_of_classes(tmp_path: Path) -> None:
    table = table_of(make_run(tmp_path, features=True))
    first = ["clip", "patient", "target", "predicted", "probability of the target"]
    assert list(table.head) == [*first, "average", "features", "frames"]
    assert list(table.rows[0]) == ["clip_1", "p01", "1", "0", pytest.approx(0.3), "1", "1", 13]


def test_columns_of_values(tmp_path: Path) -> None:
    table = table_of(make_run(tmp_path, "regression", group=None))
    assert list(table.head) == ["clip", "target", "predicted", "error", "average", "frames"]
    # All are predicted as 44.5, and clip i is 10 (i + 1).
    assert [row[3] for row in table.rows] == [-35.5, -25.5, 24.5, -15.5, 14.5, -5.5, 4.5]
    assert not table.is_wrong


def test_columns_of_labels(tmp_path: Path) -> None:
    make_run(tmp_path, "multilabel", ["a", "b", "c"])
    said = ["", "a", "a", "a+b", "b", "a", "a", "a"]
    table = changed(tmp_path, target=["", "a", "b+c", "", "a", "a", "a", "a"], prediction=said)
    assert ids(table)[:3] == [2, 3, 4]
    assert list(table.rows[0][2:5]) == ["b + c", "a", 3]
    assert list(table.rows[1][2:5]) == ["none", "a + b", 2]
    assert list(table.is_wrong) == [True] * 3 + [False] * 4


def test_of_very_many_clips_the_most_wrong_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_run(tmp_path, second="regression")
    monkeypatch.setattr(report_table, "MAX_TABLE_ROWS", 6)
    table = table_of(tmp_path, "other")
    assert [row[4] for row in table.rows] == [-35.5, -25.5, 24.5]
    assert table.caption.startswith("The 3 most wrong of 7 test clips")
    assert "✗" in table_of(tmp_path).caption
