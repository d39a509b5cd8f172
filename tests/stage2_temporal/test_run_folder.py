"""Run folder: whole or absent, and nothing else is ever deleted."""

import json
import math
import shutil
from pathlib import Path

import pytest

from stage2_temporal.run_folder import check_free, new_run_folder, write_json


class BrokenError(Exception):
    """Raised in the middle of writing."""


def write_run(path: Path, mark: str) -> None:
    with new_run_folder(path, overwrite=True) as partial:
        write_json(partial / "settings.json", {"format": "stage2-run"})
        (partial / mark).touch()


def break_after_writing(path: Path) -> None:
    path.touch()
    raise BrokenError


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_folder_appears_whole(tmp_path: Path) -> None:
    run = tmp_path / "deep" / "run"
    with new_run_folder(run, overwrite=False) as partial:
        (partial / "a").write_text("x")
        assert not run.exists()
    assert names(tmp_path / "deep") == ["run"]
    assert names(run) == ["a"]


def test_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(BrokenError), new_run_folder(tmp_path / "run", overwrite=False) as partial:
        break_after_writing(partial / "a")
    assert names(tmp_path) == []


def test_failure_keeps_the_old_run(tmp_path: Path) -> None:
    write_run(tmp_path / "run", "old")
    with pytest.raises(BrokenError), new_run_folder(tmp_path / "run", overwrite=True):
        raise BrokenError
    assert names(tmp_path) == ["run"]
    assert names(tmp_path / "run") == ["old", "settings.json"]


def test_overwrite_replaces_the_whole_run(tmp_path: Path) -> None:
    write_run(tmp_path / "run", "old")
    write_run(tmp_path / "run", "new")
    assert names(tmp_path) == ["run"]
    assert names(tmp_path / "run") == ["new", "settings.json"]


def test_existing_run_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "run", "old")
    with (
        pytest.raises(FileExistsError, match=r"run exists; .*--overwrite"),
        new_run_folder(tmp_path / "run", overwrite=False),
    ):
        pytest.fail("the block ran")
    assert "old" in names(tmp_path / "run")


@pytest.mark.parametrize(
    "settings",
    [None, "", "not json", "[]", "{}", '{"editor.tabSize": 4}', '{"format": "sweep"}', b"\xff\xfe"],
)
def test_other_folders_are_never_replaced(tmp_path: Path, settings: str | bytes | None) -> None:
    """Many programs keep a settings.json, editors for instance."""
    if settings is not None:
        content = settings if isinstance(settings, bytes) else settings.encode()
        (tmp_path / "settings.json").write_bytes(content)
    (tmp_path / "thesis.docx").touch()
    with pytest.raises(FileExistsError, match="is not a run folder and is not replaced"):
        check_free(tmp_path, overwrite=True)
    assert "thesis.docx" in names(tmp_path)


def test_a_file_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(FileExistsError, match="is not a run folder"):
        check_free(tmp_path / "run", overwrite=True)


def test_folder_that_appears_meanwhile_is_kept(tmp_path: Path) -> None:
    run, other = tmp_path / "new" / "run", tmp_path / "other"
    write_run(other, "mark")
    with pytest.raises(FileExistsError), new_run_folder(run, overwrite=False):
        shutil.copytree(other, run)
    assert names(tmp_path / "new") == ["run"]
    assert names(run) == ["mark", "settings.json"]


def test_json_without_nan_is_strict_json(tmp_path: Path) -> None:
    content = {"a": math.nan, "b": [math.inf, 1.5], "c": {"d": (-math.inf, "é")}, "e": True}
    write_json(tmp_path / "x.json", content)
    text = (tmp_path / "x.json").read_text("utf-8")
    expected = {"a": None, "b": [None, 1.5], "c": {"d": [None, "é"]}, "e": True}
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name)) == expected
