"""Leases at addresses: one run at a time for a manifest and a store in a bucket."""

import json
import threading
import time
from pathlib import Path

import pytest

from stage1_extract import address_lease
from stage1_extract.address_lease import address_lease as lease
from stage1_extract.store import StoreError
from tests.stage1_extract.conftest import Far

SHA = "ab" * 32


@pytest.fixture(autouse=True)
def quick(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have runs beat often, and settle soon."""
    monkeypatch.setattr(address_lease, "STALE_SECONDS", 120.0)  # a late heartbeat is no loss
    monkeypatch.setattr(address_lease, "BEAT_SECONDS", 0.3)
    monkeypatch.setattr(address_lease, "SETTLE_SECONDS", 0.3)
    monkeypatch.setattr(address_lease, "_POLL_SECONDS", 0.05)


def records(far: Far) -> list[Path]:
    return list((far.folder / "store").glob(".run-*.lease"))


def test_second_run_is_refused_and_names_the_first(far: Far) -> None:
    store = far.address("store")
    with lease(store, SHA) as notes:
        (record,) = records(far)
        told = json.loads(record.read_text())
        holder = f"process {told['pid']} on {told['host']}"
        with pytest.raises(StoreError, match=f"{holder}; wait for its end"), lease(store, SHA):
            pass
        assert notes == []
    assert records(far) == []
    with lease(store, SHA):
        pass


def test_other_manifests_have_leases_of_their_own(far: Far) -> None:
    with lease(far.address("store"), SHA), lease(far.address("store"), "cd" * 32):
        assert len(records(far)) == 2
    assert records(far) == []


@pytest.mark.parametrize(
    ("left", "holder"),
    [
        ('{"pid": 1, "host": "far", "run": "x"}', "process 1 on far"),
        ("half a rec", "a process on an unknown machine"),
    ],
)
def test_record_of_a_killed_run_is_taken_over_after_a_while(
    far: Far, monkeypatch: pytest.MonkeyPatch, left: str, holder: str
) -> None:
    monkeypatch.setattr(address_lease, "STALE_SECONDS", 3.0)
    far.put(f"store/.run-{SHA[:16]}.lease", left.encode())
    started, told = time.monotonic(), list[str]()
    with lease(far.address("store"), SHA, told.append):
        assert time.monotonic() - started >= address_lease.STALE_SECONDS
        assert left not in records(far)[0].read_text()
    assert records(far) == []
    assert told == [
        f"waiting up to 3 s for a sign of life of {holder}, whose run of the same manifest did not "
        "give its lease back"
    ]


def test_of_many_at_once_one_gets_it(far: Far, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address_lease, "SETTLE_SECONDS", 5.0)  # threads may be held up
    store, got, ended = far.address("store"), list[str](), threading.Event()
    barrier = threading.Barrier(6)

    def try_it() -> None:
        barrier.wait()
        try:
            with lease(store, SHA):
                got.append("held")
                ended.wait(180)
        except StoreError:
            got.append("refused")

    threads = [threading.Thread(target=try_it) for _ in range(6)]
    for thread in threads:
        thread.start()
    deadline = time.monotonic() + 180
    while len(got) < 6 and time.monotonic() < deadline:
        time.sleep(0.02)
    ended.set()
    for thread in threads:
        thread.join()
    assert sorted(got) == ["held", *["refused"] * 5]


def test_run_that_lost_its_lease_says_so_and_leaves_the_others_alone(far: Far) -> None:
    with lease(far.address("store"), SHA) as notes:
        (record,) = records(far)
        record.write_text('{"pid": 1, "host": "far", "run": "another"}')
        deadline = time.monotonic() + 120
        while not notes and time.monotonic() < deadline:
            time.sleep(0.05)
    assert "another may have embedded the same manifest meanwhile" in notes[0]
    assert "another" in record.read_text()


def test_network_that_fails_for_a_while_costs_no_lease(far: Far) -> None:
    with lease(far.address("store"), SHA) as notes:
        (record,) = records(far)
        far.trouble(f"store/.{record.name}.partial", "drop", times=4)
        before = json.loads(record.read_text())["beats"]
        deadline = time.monotonic() + 120
        while json.loads(record.read_text())["beats"] < before + 3:
            assert time.monotonic() < deadline
            time.sleep(0.05)
    assert notes == []
    assert records(far) == []
