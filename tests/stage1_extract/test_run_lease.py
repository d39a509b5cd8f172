"""Leases: one run at a time for a manifest and a store; a killed run's is taken over."""

import re
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor, as_completed
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
from filelock import SoftFileLease

from stage1_extract import run_lease
from stage1_extract.run_lease import run_lease as lease
from stage1_extract.store import StoreError

SHA = "ab" * 32
HOLD = """
import sys, time
from pathlib import Path
from stage1_extract.run_lease import run_lease
with run_lease(Path(sys.argv[1]), sys.argv[2]):
    print("held", flush=True)
    time.sleep(60)
"""


def hold(folder: Path) -> "subprocess.Popen[bytes]":
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(folder), SHA], stdout=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"held\n"
    return process


def leases(folder: Path) -> list[Path]:
    return list(folder.glob(".run-*"))


def test_second_run_is_refused_and_names_the_first(tmp_path: Path) -> None:
    with hold(tmp_path) as process:
        with (
            pytest.raises(StoreError, match=f"process {process.pid} on .*wait for its end"),
            lease(tmp_path, SHA),
        ):
            pass
        process.kill()


@pytest.mark.parametrize("signal_number", [signal.SIGKILL, signal.SIGTERM])
def test_lease_of_a_killed_run_is_taken_over_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signal_number: int
) -> None:
    with hold(tmp_path) as process:
        process.send_signal(signal_number)
    assert leases(tmp_path)
    monkeypatch.setattr(run_lease, "STALE_SECONDS", 600.0)
    started = time.monotonic()
    with lease(tmp_path, SHA):
        assert time.monotonic() - started < run_lease.STALE_SECONDS / 2
    assert not leases(tmp_path)


def test_other_manifests_have_leases_of_their_own(tmp_path: Path) -> None:
    with lease(tmp_path, SHA), lease(tmp_path, "cd" * 32):
        assert len(leases(tmp_path)) == 2
    assert not leases(tmp_path)


def move_to_another_machine(folder: Path) -> Path:
    (path,) = leases(folder)
    path.write_text(re.sub("host=.*", "host=far", path.read_text()))
    return path


def test_run_on_another_machine_that_gives_signs_of_life_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lease, "BEAT_SECONDS", 0.5)
    with lease(tmp_path, SHA):  # its thread goes on touching the file
        move_to_another_machine(tmp_path)
        with pytest.raises(StoreError, match="on far"), lease(tmp_path, SHA):
            pass


def shorten(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make leases stale soon."""
    monkeypatch.setattr(run_lease, "STALE_SECONDS", 1.0)
    monkeypatch.setattr(run_lease, "BEAT_SECONDS", 0.3)


def test_silent_run_on_another_machine_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch)
    acquire = SoftFileLease.acquire

    def patiently(self: SoftFileLease, **options: Any) -> Any:
        return acquire(self, **{**options, "timeout": 300})

    monkeypatch.setattr(SoftFileLease, "acquire", patiently)
    with lease(tmp_path, SHA):
        content = leases(tmp_path)[0].read_text()
    path = tmp_path / f".run-{SHA[:16]}.lease"
    path.write_text(content.replace("pid=", "pid=1"))
    move_to_another_machine(tmp_path)
    with lease(tmp_path, SHA):
        assert "host=far" not in path.read_text()
    assert not leases(tmp_path)


def test_run_that_was_away_for_long_says_that_another_may_have_begun(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch)
    with lease(tmp_path, SHA) as notes:
        assert not notes
        path = leases(tmp_path)[0]
        other = path.with_name("other")
        other.write_text(path.read_text())
        other.replace(path)
        deadline = time.monotonic() + 120
        while not notes and time.monotonic() < deadline:
            time.sleep(0.05)
    assert "tells of sequences stored twice" in notes[0]
    assert path.exists(), "the other's lease is not ours to remove"


def test_torn_lease_does_not_block_for_ever(tmp_path: Path) -> None:
    path = tmp_path / f".run-{SHA[:16]}.lease"
    path.write_text("half a rec")
    with lease(tmp_path, SHA):
        pass
    assert not leases(tmp_path)


def test_empty_lease_is_named_to_be_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch)
    path = tmp_path / f".run-{SHA[:16]}.lease"
    path.touch()  # as a power cut leaves it
    with pytest.raises(StoreError, match=re.escape(f"remove {path}")), lease(tmp_path, SHA):
        pass


def test_of_many_at_once_one_gets_a_stale_lease(tmp_path: Path) -> None:
    with hold(tmp_path) as process:
        process.kill()
    barrier, ended = threading.Barrier(8), threading.Event()

    def try_it() -> str:
        barrier.wait()
        try:
            with lease(tmp_path, SHA):
                ended.wait()
                return "held"
        except StoreError:
            return "refused"

    with ThreadPoolExecutor(8) as threads:
        tries = [threads.submit(try_it) for _ in range(8)]
        try:
            deque(islice(as_completed(tries, timeout=300), 7))
        finally:
            ended.set()
    assert sorted(one.result() for one in tries) == ["held", *["refused"] * 7]
