"""failures.jsonl: kept through crashes, the latest of each video, nothing unreadable accepted."""

import json
from pathlib import Path

import pytest

from stage1_extract.failures import (
    FILE_NAME,
    Failure,
    append_failure,
    count_exceptions,
    read_failures,
    write_failures,
)


def failure(video_id: str, reason: str = "bad") -> Failure:
    return Failure(video_id, f"/videos/{video_id}.mp4", reason, "VideoError", "2026-01-01T00:00:00")


def test_without_a_file_there_are_no_failures(tmp_path: Path) -> None:
    assert read_failures(tmp_path) == {}


@pytest.mark.parametrize("text", ["plain", "ünïcødé 🎬", 'quotes " and\nnew\u2028lines\r'])
def test_failures_come_back_as_written(tmp_path: Path, text: str) -> None:
    written = [failure("a", text), failure(f"b {text}")]
    for each in written:
        append_failure(tmp_path, each)
    assert list(read_failures(tmp_path).values()) == written
    write_failures(tmp_path, written)
    assert list(read_failures(tmp_path).values()) == written


def test_failure_says_what_befell_the_video() -> None:
    made = Failure.of("a", Path("/v/a.mp4"), OSError("disk on fire"))
    assert (made.video_id, made.path, made.reason) == ("a", "/v/a.mp4", "disk on fire")
    assert made.exception == "OSError"


def test_exceptions_are_counted_the_most_frequent_first() -> None:
    errors = [OSError(), ValueError(), ValueError()]
    failures = [Failure.of(f"{i}", Path("v.mp4"), error) for i, error in enumerate(errors)]
    assert list(count_exceptions(failures).items()) == [("ValueError", 2), ("OSError", 1)]


def test_each_line_is_json(tmp_path: Path) -> None:
    for video_id in "abc":
        append_failure(tmp_path, failure(video_id, "two\nlines"))
    lines = (tmp_path / FILE_NAME).read_text("utf-8").splitlines()
    assert [json.loads(line)["video_id"] for line in lines] == ["a", "b", "c"]


def test_the_latest_failure_of_a_video_counts(tmp_path: Path) -> None:
    for reason in ("first", "second"):
        append_failure(tmp_path, failure("a", reason))
    assert read_failures(tmp_path)["a"].reason == "second"


def test_line_cut_short_at_any_byte_is_left_out(tmp_path: Path) -> None:
    append_failure(tmp_path, failure("a"))
    whole = (tmp_path / FILE_NAME).read_bytes()
    append_failure(tmp_path, failure("b", "日本語 🎬"))
    content = (tmp_path / FILE_NAME).read_bytes()
    for cut in range(len(whole), len(content)):
        (tmp_path / FILE_NAME).write_bytes(content[:cut])
        assert list(read_failures(tmp_path)) == ["a"]


@pytest.mark.parametrize("line", [b"{", b"[]", b"3", b'{"video_id": "a"}', b"\xff\xfe", b""])
def test_other_lines_are_an_error_that_says_where(tmp_path: Path, line: bytes) -> None:
    append_failure(tmp_path, failure("a"))
    with (tmp_path / FILE_NAME).open("ab") as file:
        file.write(line + b"\n")
    with pytest.raises(ValueError, match=rf"{FILE_NAME} line 2 is not a failure record"):
        read_failures(tmp_path)


def test_rewriting_without_failures_removes_the_file(tmp_path: Path) -> None:
    append_failure(tmp_path, failure("a"))
    write_failures(tmp_path, [])
    assert not list(tmp_path.iterdir())
    write_failures(tmp_path, [])


def test_rewriting_replaces_all_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    append_failure(tmp_path, failure("a"))
    write_failures(tmp_path, [failure("b")])
    assert list(read_failures(tmp_path)) == ["b"]
    assert [path.name for path in tmp_path.iterdir()] == [FILE_NAME]


def test_names_that_are_not_utf_8_are_recorded(tmp_path: Path) -> None:
    path = tmp_path / b"caf\xe9.mp4".decode(errors="surrogateescape")
    append_failure(tmp_path, Failure.of("v", path, ValueError(f"{path} is damaged")))
    (failure,) = read_failures(tmp_path).values()
    assert failure.path == f"{tmp_path}/caf\\xe9.mp4"
    assert "caf\\xe9.mp4 is damaged" in failure.reason
