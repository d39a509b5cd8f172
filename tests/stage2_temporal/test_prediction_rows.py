"""Cells that no spreadsheet runs, and predictions by name."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stage2_temporal.bundle import Prediction
from stage2_temporal.prediction_rows import (
    csv_line,
    named_predictions,
    plain_text,
    prediction_cells,
    prediction_columns,
    read_predictions,
    safe_text,
)
from stage2_temporal.run_facts import BundleTarget

BINARY = BundleTarget("ill", "binary", ("no", "yes"), (0.3,))
GRADE = BundleTarget("grade", "multiclass", ("=a", "b", "-1"), ())
LABELS = BundleTarget("x+y", "multilabel", ("x", "y"), (0.5, 0.9))
AGE = BundleTarget("age", "regression", (), ())


@pytest.mark.parametrize(
    ("text", "cell"),
    [
        ("clips/a", "clips/a"),
        ("=cmd()", "'=cmd()"),
        ("+1+2", "'+1+2"),
        ("-1.5", "-1.5"),  # a number is no formula
        ("-3.5e-05", "-3.5e-05"),
        ("-1e+300", "-1e+300"),
        ("-inf", "-inf"),
        ("-1e", "'-1e"),
        ("Recording 3.00\u202fPM\u00a0\u3000", "Recording 3.00\u202fPM\u00a0\u3000"),
        ("\U0001f469\u200d\U0001f52c", "\U0001f469\u200d\U0001f52c"),  # a joined emoji
        ("a\u2028b\u0378", "a\\u2028b\\u0378"),  # a line's end; no character
        ("@SUM(A1)", "'@SUM(A1)"),
        ("'quoted", "''quoted"),
        ("\tx", "'\\tx"),
        ("\rx", "'\\rx"),
        ("a\nb", "a\\nb"),
        ("a\udcffb", "a\\xffb"),  # a byte that is not UTF-8
        ("<script>", "<script>"),
        ("../../x", "../../x"),
    ],
)
def test_texts_become_cells_that_are_no_formulas(text: str, cell: str) -> None:
    assert safe_text(text) == cell


@given(st.text(st.characters(categories=["L", "M", "N", "P", "S", "Zs", "Cf", "Co"]), min_size=1))
def test_writable_texts_come_back(text: str) -> None:
    cell = safe_text(text)
    [[read, _]] = csv.reader(io.StringIO(csv_line([cell, "x"])))
    assert plain_text(read) == text
    assert read[0] not in "=+@"


@pytest.mark.parametrize(
    ("target", "mean", "expected"),
    [
        (BINARY, [[0.29], [0.3]], ["no", "yes"]),
        (GRADE, [[0.2, 0.5, 0.3], [0.1, 0.2, 0.7]], ["b", "-1"]),
        (LABELS, [[0.5, 0.89], [0.6, 0.9], [0.1, 0.1]], ["x", "x+y", ""]),
        (AGE, [[61.25]], ["61.25"]),
    ],
)
def test_predictions_have_names(
    target: BundleTarget, mean: list[list[float]], expected: list[str]
) -> None:
    assert named_predictions(target, np.array(mean)) == expected


def test_columns_and_cells_of_several_targets() -> None:
    columns = prediction_columns([BINARY, AGE], several_models=True)
    assert columns == [
        *("ill:prediction", "ill:probability_no", "ill:probability_yes"),
        *("ill:spread_no", "ill:spread_yes", "age:prediction", "age:spread"),
    ]
    predictions = [
        Prediction(np.array([[0.25]]), np.array([[0.125]])),
        Prediction(np.array([[50.5]]), np.array([[2.0]])),
    ]
    [cells] = prediction_cells([BINARY, AGE], predictions, several_models=True)
    assert cells == ["no", "0.75", "0.25", "0.125", "0.125", "50.5", "2.0"]


def test_one_model_has_no_spread_and_one_target_no_prefix() -> None:
    assert prediction_columns([GRADE], several_models=False) == [
        *("prediction", "probability_=a", "probability_b", "probability_-1")
    ]
    prediction = Prediction(np.array([[0.5, 0.25, 0.25]]), np.full((1, 3), np.nan))
    [cells] = prediction_cells([GRADE], [prediction], several_models=False)
    assert cells == ["'=a", "0.5", "0.25", "0.25"]


VALUES = [-3.5e-05, 7.0, -1e300, 0.1 + 0.2]


@pytest.mark.parametrize("targets", [[AGE], [AGE, GRADE]], ids=["alone", "beside another"])
def test_values_of_a_regression_are_read_as_numbers(
    targets: list[BundleTarget], tmp_path: Path
) -> None:
    predictions = [
        Prediction(np.array([VALUES]).T, np.full((4, 1), 0.5)),
        Prediction(np.tile([0.5, 0.25, 0.25], (4, 1)), np.full((4, 3), 0.125)),
    ][: len(targets)]
    columns = prediction_columns(targets, several_models=True)
    prefix = "age:" if len(targets) > 1 else ""
    rows = prediction_cells(targets, predictions, several_models=True)
    lines = [csv_line(map(safe_text, ["video_id", f"{prefix}target", *columns]))]
    lines += [csv_line([f"{i}", "" if i else "2.5", *row]) for i, row in enumerate(rows)]
    (tmp_path / "p.csv").write_text("".join(lines))
    table = read_predictions(tmp_path / "p.csv")
    assert table["video_id"].tolist() == ["0", "1", "2", "3"]
    assert table[f"{prefix}prediction"].tolist() == VALUES
    assert table[f"{prefix}spread"].tolist() == [0.5] * 4
    assert table[f"{prefix}target"].fillna(-1).tolist() == [2.5, -1, -1, -1]
    if len(targets) > 1:
        assert table["grade:prediction"].tolist() == ["=a"] * 4
        assert table["grade:probability_-1"].tolist() == [0.25] * 4
