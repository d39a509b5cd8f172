import csv
import math
from pathlib import Path

import pandas as pd
import pytest

from stage2_temporal.leaderboard import ranked, write_leaderboard
from tests.stage2_temporal.written_sweeps import record


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("higher_is_better", "expected"),
    [
        (True, [(1, 2), (1, 5), (3, 0), (4, 1)]),
        (False, [(1, 1), (2, 0), (3, 2), (3, 5)]),
    ],
)
def test_equal_values_share_a_rank_and_the_next_counts_them(
    higher_is_better: bool, expected: list[tuple[int, int]]
) -> None:
    values = {0: 0.8, 1: 0.7, 2: 0.9, 5: 0.9}
    records = [record(number, value) for number, value in values.items()]
    found = ranked(records, higher_is_better=higher_is_better)
    assert [(rank, one.number) for rank, one in found] == expected


def test_trials_without_a_value_come_last_without_a_rank() -> None:
    records = [
        record(0),
        record(1, state="running"),
        record(2, state="pruned", intermediate={0: 0.99}),
        record(3, math.nan),
        record(4, 0.6),
        record(5),
    ]
    found = ranked(records, higher_is_better=True)
    order = [(1, 4), (None, 3), (None, 2), (None, 1), (None, 0), (None, 5)]
    assert [(rank, one.number) for rank, one in found] == order


def test_a_row_holds_what_is_known_and_blanks_else(tmp_path: Path) -> None:
    parameters = {"units": 16, "learning_rate": 0.1 + 0.2, "bidirectional": True}
    complete = record(0, 0.875, parameters=parameters, kept_baseline=2)
    failed = record(1, parameters={"units": 64}, seconds=None)
    first, second = rows_of(write_leaderboard(tmp_path, [failed, complete], higher_is_better=True))
    assert list(first) == [
        *("rank", "trial", "state", "value", "baseline", "difference"),
        *(f"fold {n}" for n in range(5)),
        *("units", "learning_rate", "bidirectional"),
        *("kept_baseline", "trainings", "seconds", "reason"),
    ]
    assert (first["rank"], first["trial"], first["state"]) == ("1", "0", "complete")
    assert (first["value"], first["difference"]) == ("0.875", "0.125")
    assert float(first["learning_rate"]) == 0.1 + 0.2  # every digit is kept
    assert (first["kept_baseline"], first["trainings"]) == ("2", "5")
    assert first["bidirectional"] == "true"
    blank = [name for name, cell in second.items() if cell == ""]
    assert blank == [*list(first)[:1], *list(first)[3:11], *list(first)[12:17]]
    assert second["reason"] == "the loss became NaN"


@pytest.mark.parametrize("text", ["=cmd()", "+1+1", "-x", "@SUM(A1)", "\tcell"])
def test_texts_are_no_formulas_and_numbers_stay_numbers(tmp_path: Path, text: str) -> None:
    trial = record(0, -0.5, parameters={"feature": [text], "head": text}, reason=text)
    [row] = rows_of(write_leaderboard(tmp_path, [trial], higher_is_better=True))
    assert row["value"] == "-0.5"
    for name in ("head", "reason"):
        assert row[name].startswith("'")
    assert not row["feature"].startswith(("=", "+", "-", "@", "\t"))


def test_awkward_texts_stay_one_cell(tmp_path: Path) -> None:
    reasons = ['a "quoted", text', "two\nlines", "not UTF-8: \udcff"]
    trials = [record(number, reason=reason) for number, reason in enumerate(reasons)]
    table = pd.read_csv(write_leaderboard(tmp_path, trials, higher_is_better=True))
    assert len(table) == 3
    assert table["reason"][0] == reasons[0]


def test_no_trials_leave_a_header(tmp_path: Path) -> None:
    path = write_leaderboard(tmp_path, [], higher_is_better=True)
    assert path == tmp_path / "leaderboard.csv"
    assert path.read_text().startswith("rank,trial,state,value")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["leaderboard.csv"]
