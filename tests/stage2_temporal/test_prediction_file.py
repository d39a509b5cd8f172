"""A table that grows clip by clip: whole after any crash, sorted at the end."""

from pathlib import Path

import pytest

from stage2_temporal.prediction_file import ClipTable

COLUMNS = ["video_id", "path", "value"]


def fill(path: Path, ids: list[str], rows: int = 1) -> bytes:
    table = ClipTable(path, COLUMNS)
    for video_id in ids:
        table.append(video_id, [["p", f"{i}"] for i in range(rows)])
    table.close()
    return path.read_bytes()


def test_rows_are_there_at_once(tmp_path: Path) -> None:
    table = ClipTable(tmp_path / "t.csv", COLUMNS)
    table.append("=b", [["p", "1"]])
    assert (tmp_path / "t.csv").read_text() == "video_id,path,value\n'=b,p,1\n"
    table.close()


def test_whatever_a_crash_cuts_off_the_rest_stays(tmp_path: Path) -> None:
    whole = fill(tmp_path / "whole.csv", ["a", "b,c", "ü"])
    for size in range(len(whole)):
        path = tmp_path / "cut.csv"
        path.write_bytes(whole[:size])
        table = ClipTable(path, COLUMNS)
        for video_id in ("a", "b,c", "ü"):
            if video_id not in table.ids:
                table.append(video_id, [["p", "0"]])
        table.close()
        assert path.read_bytes() == whole


def test_sorting_moves_all_rows_of_a_clip(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    fill(path, ["c", "a", "b"], rows=2)
    table = ClipTable(path, COLUMNS)
    table.sort(["a", "b", "x"])
    table.append("d", [["p", "9"]])
    table.close()
    assert path.read_text().split() == [
        *("video_id,path,value", "a,p,0", "a,p,1", "b,p,0", "b,p,1", "d,p,9")
    ]
    assert [p.name for p in tmp_path.iterdir()] == ["t.csv"]


def test_rows_of_other_clips_are_dropped(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    fill(path, ["a", "b", "c"], rows=2)
    table = ClipTable(path, COLUMNS, keep={"a", "c"})
    assert list(table.ids) == ["a", "c"]
    table.close()
    assert path.read_text().split() == ["video_id,path,value", "a,p,0", "a,p,1", "c,p,0", "c,p,1"]


def test_other_columns_are_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("video_id,label\na,1\n")
    with pytest.raises(ValueError, match="has other columns"):
        ClipTable(path, COLUMNS)
    assert path.read_text() == "video_id,label\na,1\n"


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (b"\n", "has 0 cells, expected 3"),
        (b"a\n", "has 1 cells, expected 3"),
        (b"b,p,1,2\n", "has 4 cells, expected 3"),
        (b"\xff,p,1\n", "is no line of a UTF-8 table"),
    ],
)
def test_rows_that_something_else_wrote_are_errors(
    tmp_path: Path, line: bytes, problem: str
) -> None:
    path = tmp_path / "t.csv"
    content = fill(path, ["a"]) + line
    path.write_bytes(content)
    with pytest.raises(ValueError, match=rf"t.csv: row 2 .* {problem}.*delete this table"):
        ClipTable(path, COLUMNS)
    assert path.read_bytes() == content


def fill_up(table: ClipTable) -> None:
    for number in range(10**6):
        table.append(f"{number}", [["p" * 5000, "1"]])


def test_a_full_disk_leaves_no_part_of_a_row_behind(tiny_filesystem: Path) -> None:
    path = tiny_filesystem / "t.csv"
    table = ClipTable(path, COLUMNS)
    with pytest.raises(OSError, match="No space left"):
        fill_up(table)
    count = len(table.ids)
    table.close()
    again = ClipTable(path, COLUMNS)
    assert len(again.ids) == count
    again.close()
