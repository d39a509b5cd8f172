"""Run folder: whole or absent, gone on with after a stop, and nothing else is ever deleted."""

import json
import math
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stage2_temporal.run_folder import PROGRESS, check_free, new_run_folder, write_json


class BrokenError(Exception):
    """Raised in the middle of writing."""


def write_run(path: Path, mark: str) -> None:
    with new_run_folder(path, overwrite=True) as partial:
        write_json(partial / "settings.json", {"format": "stage2-run"})
        (partial / mark).touch()


def be_overtaken(partial: Path, other: Path, run: Path) -> None:
    (partial / PROGRESS / "fold0").touch()
    shutil.copytree(other, run)


def break_after_writing(path: Path, error: BaseException | None = None) -> None:
    path.touch()
    raise error or BrokenError


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


def test_folder_that_appears_meanwhile_is_kept_and_so_is_the_work(tmp_path: Path) -> None:
    run, other = tmp_path / "new" / "run", tmp_path / "other"
    write_run(other, "mark")
    with pytest.raises(FileExistsError), new_run_folder(run, overwrite=False) as partial:
        be_overtaken(partial, other, run)
    assert names(run) == ["mark", "settings.json"]
    with new_run_folder(run, overwrite=True) as partial:
        assert names(partial / PROGRESS) == ["fold0"]
    assert names(tmp_path / "new") == ["run"]


# going on


def stop(run: Path, mark: str, error: BaseException | None = None, **request: Any) -> None:
    """Begin a run, write `mark` into its progress, and stop."""
    error = error or KeyboardInterrupt()
    with (
        pytest.raises(type(error)),
        new_run_folder(run, overwrite=False, request=request) as partial,
    ):
        break_after_writing(partial / PROGRESS / mark, error)


@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), OSError(28, "No space left"), MemoryError(), SystemExit(1)]
)
def test_a_stopped_run_goes_on_where_it_was(tmp_path: Path, error: BaseException) -> None:
    run = tmp_path / "run"
    stop(run, "fold0", error, seed=1, epochs=(2, 3))
    assert not run.exists()
    with new_run_folder(run, overwrite=False, request={"epochs": [2, 3], "seed": 1}) as partial:
        assert names(partial / PROGRESS) == ["fold0"]
        (partial / "model.keras").touch()
    assert names(tmp_path) == ["run"]
    assert names(run) == ["model.keras"]


def test_a_run_that_was_replaced_just_before_a_kill_is_removed_by_the_next(tmp_path: Path) -> None:
    for name in (".run.0123abcd.old", ".run2.0123abcd.old", ".run.notes.old"):
        write_run(tmp_path / name, "mark")
    with new_run_folder(tmp_path / "run", overwrite=False):
        pass
    assert names(tmp_path) == [".run.notes.old", ".run2.0123abcd.old", "run"]


def test_another_request_begins_anew_and_cleans_up(tmp_path: Path) -> None:
    run = tmp_path / "run"
    stop(run, "fold0", seed=1)
    stop(run, "fold0", seed=2)
    with new_run_folder(run, overwrite=False, request={"seed": 3}) as partial:
        assert names(partial / PROGRESS) == []
        assert len(names(tmp_path)) == 3
    assert names(tmp_path) == ["run"]


@pytest.mark.parametrize("error", [ValueError("loss is NaN"), KeyError("x"), RuntimeError("bug")])
def test_an_error_leaves_nothing_of_an_earlier_stop_either(
    tmp_path: Path, error: Exception
) -> None:
    stop(tmp_path / "run", "fold0")
    stop(tmp_path / "run", "fold1", error)
    assert names(tmp_path) == []


@pytest.mark.parametrize("other", ["run.v2", "run2", "a run", "run.v2.0123456789ab", "run*", "r?n"])
def test_unfinished_runs_of_other_names_are_kept(tmp_path: Path, other: str) -> None:
    stop(tmp_path / other, "fold0")
    write_run(tmp_path / "run", "mark")
    write_run(tmp_path / "r[a-z]n", "mark")
    with new_run_folder(tmp_path / other, overwrite=False) as partial:
        assert names(partial / PROGRESS) == ["fold0"]


def test_names_of_any_signs_are_cleaned_up(tmp_path: Path) -> None:
    stop(tmp_path / "run [1] (ü)+.*", "fold0", seed=1)
    write_run(tmp_path / "run [1] (ü)+.*", "mark")
    assert names(tmp_path) == ["run [1] (ü)+.*"]


def test_the_current_folder_may_become_a_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_run(tmp_path / "run", "old")
    monkeypatch.chdir(tmp_path / "run")
    write_run(Path(), "new")
    assert names(tmp_path / "run") == ["new", "settings.json"]


HOLD = """
import sys
from pathlib import Path
from stage2_temporal.run_folder import PROGRESS, new_run_folder

with new_run_folder(Path(sys.argv[1]), overwrite=False, request={"seed": 1}) as partial:
    (partial / PROGRESS / "fold0").touch()
    print("ready", flush=True)
    sys.stdin.read()
"""


@contextmanager
def held(run: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process at the run, until its stdin is closed."""
    command = [sys.executable, "-c", HOLD, str(run)]
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, **pipes) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process


def test_two_processes_at_one_run_are_one_too_many(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with held(run) as process:
        with (
            pytest.raises(ValueError, match=r"another process is training .*run with the same"),
            new_run_folder(run, overwrite=False, request={"seed": 1}),
        ):
            pytest.fail("the block ran")
        process.communicate("", timeout=120)
        assert process.returncode == 0
    assert names(tmp_path) == ["run"]


def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    with held(tmp_path / "run") as process:
        os.kill(process.pid, signal.SIGKILL)
        process.wait(120)
    with new_run_folder(tmp_path / "run", overwrite=False, request={"seed": 1}) as partial:
        assert names(partial / PROGRESS) == ["fold0"]


def test_a_run_with_other_settings_under_way_is_left_alone(tmp_path: Path) -> None:
    """Who comes second finds the name taken, and loses nothing of what it did."""
    run = tmp_path / "run"
    with held(run) as process:
        write_run(run, "first")
        process.communicate("", timeout=120)
        assert process.returncode == 1
    assert names(run) == ["first", "settings.json"]
    with new_run_folder(run, overwrite=True, request={"seed": 1}) as partial:
        assert names(partial / PROGRESS) == ["fold0"]


def test_json_without_nan_is_strict_json(tmp_path: Path) -> None:
    content = {"a": math.nan, "b": [math.inf, 1.5], "c": {"d": (-math.inf, "é")}, "e": True}
    write_json(tmp_path / "x.json", content)
    text = (tmp_path / "x.json").read_text("utf-8")
    expected = {"a": None, "b": [None, 1.5], "c": {"d": [None, "é"]}, "e": True}
    assert json.loads(text, parse_constant=lambda name: pytest.fail(name)) == expected
