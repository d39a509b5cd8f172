"""Mishaps of a sweep: each costs what it must, is told, and loses nothing that was done."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from stage1_extract import run_lease
from stage2_temporal.sweep_folder import (
    check_request,
    locked_folder,
    repair_journal,
    write_whole,
)
from stage2_temporal.sweep_storage import DOCUMENT, JOURNAL, SweepDocument, read_trials
from tests.stage2_temporal.sweep_fakes import (
    BROKEN,
    EXITS,
    FULL,
    KILLED,
    NAN,
    REFUSED,
    WAITS,
    computed,
    pids,
    run_fake,
    sweep_settings,
)


def grid(*units: int, **more: Any) -> Any:
    return sweep_settings(f"units = {list(units)}", sampler="grid", **more)


@pytest.mark.parametrize(
    ("mishap", "reason", "is_replaced"),
    [
        (KILLED, r"its process ended with SIGKILL \(mostly for want of memory", True),
        (EXITS, "its process ended with exit code 3", True),
        (BROKEN, r"KeyError: 'a bug' \(its process ended with exit code 1\)", True),
        (REFUSED, "^the loss was no number any more$", False),
        (NAN, "the score is nan", False),
    ],
)
def test_a_mishap_costs_its_trial_alone(
    tmp_path: Path, mishap: int, reason: str, is_replaced: bool
) -> None:
    assert run_fake(tmp_path, grid(8, mishap, 32))
    first, failed, last = read_trials(tmp_path)
    assert [first.state, failed.state, last.state] == ["complete", "failed", "complete"]
    assert failed.value is None
    with pytest.raises(ValueError, match=reason):
        raise ValueError(failed.reason)
    assert len(set(pids(tmp_path))) == 1 + is_replaced
    assert not list((tmp_path / "trials").iterdir())


def test_a_worker_killed_by_others_costs_its_trial(tmp_path: Path) -> None:
    def kill() -> None:
        while (0, 1) not in computed(tmp_path):
            time.sleep(0.01)
        os.kill(pids(tmp_path)[-1], signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    run_fake(tmp_path, grid(WAITS, 32), gate=tmp_path / "never")
    killer.join()
    assert [record.state for record in read_trials(tmp_path)] == ["failed", "complete"]


@pytest.mark.parametrize(("first", "num_trials"), [([REFUSED], 5), ([32, REFUSED], 8)])
def test_if_the_first_trials_all_fail_the_sweep_ends(
    tmp_path: Path, first: list[int], num_trials: int
) -> None:
    search = (f"units = {first}", "layers = {low = 1, high = 8}")
    settings = sweep_settings(*search, sampler="grid", trials=8)
    if num_trials == 5:
        with pytest.raises(ValueError, match=r"first 5 trials all failed.*: the loss was no"):
            run_fake(tmp_path, settings)
    else:
        run_fake(tmp_path, settings)
    assert len(read_trials(tmp_path)) == num_trials


def test_a_full_disk_stops_the_sweep_and_costs_no_trial(tmp_path: Path) -> None:
    room = tmp_path / "room"
    settings = grid(8, FULL, 32)
    with pytest.raises(OSError, match="No space left"):
        run_fake(tmp_path / "sweep", settings, room=room)
    assert [r.state for r in read_trials(tmp_path / "sweep")] == ["complete", "running"]
    room.touch()
    run_fake(tmp_path / "sweep", settings, room=room)
    assert [r.state for r in read_trials(tmp_path / "sweep")] == ["complete"] * 3


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"cannot_start": True}, "the data are gone"),
        ({"dies_at_start": True}, "a process to train in could not start: SIGKILL"),
    ],
)
def test_workers_that_cannot_start_end_the_sweep(
    tmp_path: Path, options: dict[str, bool], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        run_fake(tmp_path, grid(8, 32), **options)
    assert not read_trials(tmp_path)
    run_fake(tmp_path, grid(8, 32))
    assert [record.state for record in read_trials(tmp_path)] == ["complete"] * 2


def test_if_some_workers_cannot_start_the_others_do_their_work(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    room, gate = tmp_path / "room", tmp_path / "gate"

    def open_gate() -> None:
        while not room.exists() or len(list(room.iterdir())) < 3:
            time.sleep(0.01)
        gate.touch()

    opener = threading.Thread(target=open_gate)
    opener.start()
    settings = grid(WAITS, 16, 32, jobs=2)
    run_fake(tmp_path, settings, room_for_one=room, gate=gate, seconds=0.3, show_progress=True)
    opener.join()
    assert [record.state for record in read_trials(tmp_path)] == ["complete"] * 3
    assert len(computed(tmp_path)) == 9
    told = "one of 2 processes could not start (SIGKILL); going on with fewer"
    assert told in capsys.readouterr().err


# the folder


@pytest.mark.parametrize("torn", [b'{"op_co', b'{"op_code":4}', b"\0\0\0\0\0", b"\0\0\n", b"\xff"])
def test_a_torn_last_line_is_cut_off(tmp_path: Path, torn: bytes) -> None:
    run_fake(tmp_path, grid(8, 32, trials=1))
    journal = tmp_path / JOURNAL
    whole = journal.read_bytes()
    journal.write_bytes(whole + torn)
    assert repair_journal(tmp_path) == len(torn)
    assert journal.read_bytes() == whole
    assert repair_journal(tmp_path) == 0
    run_fake(tmp_path, grid(8, 32))
    assert [record.state for record in read_trials(tmp_path)] == ["complete"] * 2


def test_a_lost_end_of_a_trial_is_made_up_for(tmp_path: Path) -> None:
    """What was computed is lost with the trial's folder, but the trial is not."""
    run_fake(tmp_path, grid(8, 32))
    journal = tmp_path / JOURNAL
    journal.write_bytes(journal.read_bytes()[:-20])
    run_fake(tmp_path, grid(8, 32))
    assert [record.state for record in read_trials(tmp_path)] == ["complete"] * 2


def test_a_journal_damaged_in_the_middle_is_refused(tmp_path: Path) -> None:
    run_fake(tmp_path, grid(8))
    lines = (tmp_path / JOURNAL).read_bytes().splitlines(keepends=True)
    lines[3] = lines[3][:5] + b"\n"
    (tmp_path / JOURNAL).write_bytes(b"".join(lines))
    before = (tmp_path / JOURNAL).read_bytes()
    with pytest.raises(ValueError, match=rf"{JOURNAL} is damaged in line 4 of {len(lines)}"):
        repair_journal(tmp_path)
    assert (tmp_path / JOURNAL).read_bytes() == before


def test_the_lock_of_a_killed_process_does_not_hold_the_sweep_up(tmp_path: Path) -> None:
    run_fake(tmp_path, grid(8, 32, trials=1))
    lock = tmp_path / f"{JOURNAL}.lock"
    lock.symlink_to(tmp_path / JOURNAL)
    repair_journal(tmp_path)
    assert not lock.is_symlink()  # Optuna would wait for it for 30 s
    run_fake(tmp_path, grid(8, 32))
    assert len(read_trials(tmp_path)) == 2


HOLD = """
import sys, time
from pathlib import Path
from stage2_temporal.sweep_folder import locked_folder
with locked_folder(Path(sys.argv[1])):
    print("ready", flush=True)
    time.sleep(60)
"""


def hold(folder: Path) -> "subprocess.Popen[str]":
    """Have another process at a sweep."""
    argv = [sys.executable, "-c", HOLD, str(folder)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_two_processes_at_one_sweep_are_one_too_many(tmp_path: Path) -> None:
    run_fake(tmp_path, grid(8))
    with hold(tmp_path) as process:
        with pytest.raises(ValueError, match=f"at the sweep .*: process {process.pid} on "):
            run_fake(tmp_path, grid(8, 32))
        process.kill()


def test_the_lock_ends_with_its_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with hold(tmp_path / "sweep") as process:
        process.kill()
    monkeypatch.setattr(run_lease, "STALE_SECONDS", 600.0)
    started = time.monotonic()
    with locked_folder(tmp_path / "sweep"):
        assert time.monotonic() - started < run_lease.STALE_SECONDS / 2
        assert [path.name for path in (tmp_path / "sweep").iterdir()] == [".sweep.lease"]


def test_a_sweep_that_another_process_took_over_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As after a sleep of its machine: what the other writes to the journal is left alone."""
    monkeypatch.setattr(run_lease, "STALE_SECONDS", 20.0)  # a late heartbeat is no loss
    monkeypatch.setattr(run_lease, "BEAT_SECONDS", 0.3)

    def take_over() -> None:
        while (0, 1) not in computed(tmp_path):
            time.sleep(0.01)
        other = tmp_path / "other"
        other.write_text((tmp_path / ".sweep.lease").read_text())
        other.replace(tmp_path / ".sweep.lease")

    taker = threading.Thread(target=take_over)
    taker.start()
    with pytest.raises(OSError, match="another may be at the sweep"):
        run_fake(tmp_path, grid(WAITS, 32), gate=tmp_path / "never")
    taker.join()
    assert (tmp_path / ".sweep.lease").exists()
    assert [record.state for record in read_trials(tmp_path)] == ["running"]


def test_other_folders_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.docx").touch()
    with (
        pytest.raises(ValueError, match=r"is no sweep and holds thesis\.docx"),
        locked_folder(tmp_path),
    ):
        pytest.fail("the block ran")
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.docx"]
    with pytest.raises(ValueError, match="is a file"), locked_folder(tmp_path / "thesis.docx"):
        pytest.fail("the block ran")


def document(request: dict[str, Any]) -> str:
    """A sweep.json with this request."""
    empty = dict.fromkeys(SweepDocument.__dataclass_fields__)
    content = {**empty, "format": "stage2-sweep", "format_version": 1, "request": request}
    return json.dumps(content)


@pytest.mark.parametrize(
    ("now", "differences"),
    [
        ({"settings": {"units": 32, "seed": 0}, "search": {"dropout": [0.1, 0.5]}}, []),
        (
            {"settings": {"units": 64, "seed": 0}, "search": {"dropout": [0.1, 0.5]}},
            ["settings.units: 32 there, 64 now"],
        ),
        (
            {"settings": {"units": 32}, "search": {"dropout": {"low": 0.1, "high": 0.5}}},
            [
                "settings.seed: 0 there, nothing now",
                r"search.dropout: \[0.1, 0.5\] there, nothing now",
                "search.dropout.low: nothing there, 0.1 now",
            ],
        ),
    ],
)
def test_the_folder_of_another_search_is_refused_with_the_differences(
    tmp_path: Path, now: dict[str, Any], differences: list[str]
) -> None:
    before = {"settings": {"units": 32, "seed": 0}, "search": {"dropout": [0.1, 0.5]}}
    write_whole(tmp_path / DOCUMENT, document(before))
    if not differences:
        check_request(tmp_path, now)
    for difference in differences:
        with pytest.raises(ValueError, match=difference):
            check_request(tmp_path, now)
