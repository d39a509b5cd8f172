"""The driver of a sweep and its places: what breaks in one of them is the others' to do."""

import itertools
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from stage1_extract import newcomers
from stage1_extract.cluster_settings import ClusterSettings
from stage1_extract.node_checks import Needs
from stage2_temporal import sweep_cluster, sweep_cluster_worker
from stage2_temporal.search_space import SearchSpace
from stage2_temporal.sweep_cluster import ClusterPool
from stage2_temporal.sweep_driver import Driver
from stage2_temporal.sweep_messages import Setup
from stage2_temporal.sweep_optuna import load_optuna, quiet_optuna
from stage2_temporal.sweep_queue import TrialQueue
from stage2_temporal.sweep_room import Room
from stage2_temporal.sweep_storage import record_of
from tests.stage2_temporal.fake_ray import (
    SILENCE,
    FakeRay,
    FakeRelay,
    cannot_start,
    dies_of_trials,
    finds_no_room,
    hangs,
    has_a_full_disk,
    is_killed_at_start,
    is_killed_by_trials,
    leaves,
    stands_still,
    works,
)
from tests.stage2_temporal.sweep_fakes import sweep_settings


class Sweep:
    """A sweep of some trials on a fake cluster."""

    def __init__(self, folder: Path, num_trials: int, jobs: int | None = None) -> None:
        self.messages: list[str] = []
        base = sweep_settings().base
        space = SearchSpace.parse([f"units = {[8 + n for n in range(num_trials)]}"], base)
        with quiet_optuna():
            self.study = load_optuna().create_study()
        self.queue = TrialQueue(
            self.study, space, base, sampler="grid", limit=num_trials, on_end=lambda _: None
        )
        self.pool = ClusterPool(
            ClusterSettings(ray="auto"),
            {},
            needs=Needs(folder=None, packages=(), distributions=()),
            most=jobs,
            tell=self.messages.append,
        )
        self.folder = folder

    def tick(self, _: dict[str, int]) -> None:
        """Show nothing."""

    def write(self, message: str) -> None:
        """Keep a message."""
        self.messages.append(message)

    def run(self) -> None:
        """Run it to its end, which comes within seconds."""
        driver = Driver(
            self.queue,
            Setup("", ()),
            store="store",
            folder=self.folder,
            pool=self.pool,
            deadline=time.monotonic() + 60,
            progress=self,
            check_lock=lambda: None,
        )
        assert driver.run(), "the sweep hung"

    @property
    def states(self) -> list[str]:
        """What became of the trials."""
        return [trial.state.name for trial in self.study.trials]


@pytest.fixture
def ray(monkeypatch: pytest.MonkeyPatch) -> FakeRay:
    return FakeRay(monkeypatch)


def shorten(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
    for name, value in seconds.items():
        monkeypatch.setattr(sweep_cluster_worker, name, value)


def test_trials_are_shared_among_nodes_and_processes_end(ray: FakeRay, tmp_path: Path) -> None:
    ray.join("a", num_cpus=2)
    ray.join("b")
    run = Sweep(tmp_path, 9)
    run.run()
    assert run.states == ["COMPLETE"] * 9
    assert ray.started() == {"a": 2, "b": 1}
    assert all(relay.is_killed for relay in ray.relays)


@pytest.mark.parametrize(("jobs", "num_trials", "expected"), [(2, 9, 2), (None, 3, 3), (8, 9, 4)])
def test_as_many_processes_start_as_are_wanted_and_find_room(
    ray: FakeRay, tmp_path: Path, jobs: int | None, num_trials: int, expected: int
) -> None:
    ray.join("a", num_cpus=4)
    run = Sweep(tmp_path, num_trials, jobs)
    assert run.pool.size == min(4, jobs or 4)
    run.run()
    assert len(ray.relays) == expected


def test_trial_whose_node_is_lost_late_is_done_by_a_process_that_had_nothing_to_do(
    ray: FakeRay, tmp_path: Path
) -> None:
    ray.join("a")
    ray.join("b", hangs)
    run = Sweep(tmp_path, 2)

    def lose_when_idle() -> None:
        if run.states.count("COMPLETE") == 1:
            ray.lose("b")

    ray.on_poll = lose_when_idle
    run.run()
    assert run.states == ["COMPLETE"] * 2
    (message,) = run.messages
    assert message.startswith("the loss of node b ")
    assert message.endswith("(The node died); its trial goes on elsewhere")


@pytest.mark.parametrize("broken", [cannot_start, is_killed_at_start])
def test_node_where_processes_cannot_start_costs_the_others_nothing(
    ray: FakeRay, tmp_path: Path, broken: Any
) -> None:
    ray.join("a", num_cpus=2)
    ray.join("b", broken, num_cpus=2)
    run = Sweep(tmp_path, 40)
    run.run()
    assert run.states == ["COMPLETE"] * 40
    assert run.pool.size == 2
    assert ray.started()["a"] == 2
    assert ray.started()["b"] <= 4
    assert run.messages[0].startswith("processes could not start (")
    assert " node b (10.0.0.1, id-b)" in run.messages[0]
    assert run.messages[-1].endswith("going on with 0 there")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (cannot_start, r"could not start: the loss of node a .*\n[\s\S]*No space left on device"),
        (is_killed_at_start, r"could not start: SIGKILL on node a \(10.0.0.1, id-a\)"),
    ],
)
def test_if_processes_can_start_nowhere_the_sweep_ends(
    ray: FakeRay, tmp_path: Path, broken: Any, message: str
) -> None:
    ray.join("a", broken)
    run = Sweep(tmp_path, 2)
    with pytest.raises(ValueError, match=message):
        run.run()
    assert ray.started() == {"a": 3}


def test_if_all_nodes_are_gone_the_sweep_ends(ray: FakeRay, tmp_path: Path) -> None:
    ray.join("a", hangs)
    run = Sweep(tmp_path, 2)
    ray.on_poll = lambda: ray.lose("a") if ray.relays[0].jobs else None
    with pytest.raises(OSError, match="no room for a process to train in: all nodes are gone"):
        run.run()


def test_trial_that_ends_its_relays_fails_at_last(ray: FakeRay, tmp_path: Path) -> None:
    ray.join("a", dies_of_trials)
    run = Sweep(tmp_path, 1)
    run.run()
    reason = record_of(run.study.trials[0]).reason
    assert run.states == ["FAIL"]
    assert reason.startswith("5 processes were lost while they ran it, at last: the loss of node a")
    assert len(ray.relays) == 5


def test_trial_that_ends_its_process_fails_and_tells_where(ray: FakeRay, tmp_path: Path) -> None:
    ray.join("a", is_killed_by_trials)
    run = Sweep(tmp_path, 1)
    run.run()
    reason = record_of(run.study.trials[0]).reason
    assert reason.startswith("its process ended with SIGKILL on node a (10.0.0.1, id-a) (mostly")


@pytest.mark.parametrize("jobs", [None, 1])
def test_last_trial_does_not_wait_for_a_node_that_others_use(
    ray: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, jobs: int | None
) -> None:
    shorten(monkeypatch, _ROOM_SECONDS=0.1)
    ray.join("a", finds_no_room)
    ray.join("b")
    run = Sweep(tmp_path, 1, jobs)
    run.run()
    assert run.states == ["COMPLETE"]
    assert ray.started() == {"a": 1, "b": 1}


def test_process_that_finds_room_late_gets_no_trial_beside_as_many_as_are_wanted(
    ray: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, _ROOM_SECONDS=0.1)

    def finds_room_late(relay: FakeRelay) -> Any:
        return works(relay) if ray.started().get("b") else SILENCE

    def waits_for_it(relay: FakeRelay) -> Any:
        late = ray.relays[0]
        return works(relay) if not relay.jobs or late.jobs or late.is_killed else SILENCE

    ray.join("a", finds_room_late)
    ray.join("b", waits_for_it)
    run = Sweep(tmp_path, 3, jobs=1)
    run.run()
    assert run.states == ["COMPLETE"] * 3
    assert ray.started() == {"a": 1, "b": 1}
    assert [relay.num_given for relay in ray.relays] == [0, 3]


def test_process_that_is_replaced_leaves_no_trial_to_one_that_finds_no_room(
    ray: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, _ROOM_SECONDS=0.1)
    ray.join("a", finds_no_room)
    ray.join("b", leaves)
    run = Sweep(tmp_path, 3)
    run.run()
    assert run.states == ["COMPLETE"] * 3
    assert ray.started() == {"a": 1, "b": 3}


def test_node_whose_disk_is_full_is_left_out(ray: FakeRay, tmp_path: Path) -> None:
    ray.join("a")
    ray.join("b", has_a_full_disk)
    run = Sweep(tmp_path, 6)
    run.run()
    assert run.states == ["COMPLETE"] * 6
    assert ray.started() == {"a": 1, "b": 1}
    (message,) = run.messages
    assert message == "node b (10.0.0.1, id-b): disk full; that node is left out"


def test_if_no_node_can_write_the_sweep_ends_and_no_trial_fails(
    ray: FakeRay, tmp_path: Path
) -> None:
    ray.join("a", has_a_full_disk)
    ray.join("b", has_a_full_disk)
    run = Sweep(tmp_path, 6)
    with pytest.raises(OSError, match=r"^node [ab] \(10.0.0.1, id-[ab]\): disk full$"):
        run.run()
    assert set(run.states) == {"RUNNING"}


def test_silent_process_is_given_up(
    ray: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, STUCK_SECONDS=0.3)
    ray.join("a")
    ray.join("b", hangs)
    run = Sweep(tmp_path, 2)
    ray.on_poll = lambda: ray.lives.update(b=finds_no_room)
    run.run()
    assert run.states == ["COMPLETE"] * 2
    assert run.messages[0].startswith("the silence of node b ")
    assert next(relay for relay in ray.relays if relay.host == "b").is_killed


def test_trial_of_a_process_that_stands_still_goes_on_elsewhere(
    ray: FakeRay, tmp_path: Path
) -> None:
    ray.join("a")
    ray.join("b", stands_still)
    run = Sweep(tmp_path, 2)
    ray.on_poll = lambda: ray.lives.update(b=finds_no_room)
    run.run()
    assert run.states == ["COMPLETE"] * 2
    assert run.messages[0].startswith("a standstill on node b (10.0.0.1, id-b) (no CPU time for")
    assert run.messages[0].endswith("its trial goes on elsewhere")


def test_process_that_waits_for_room_is_not_taken_for_silent(
    ray: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, STUCK_SECONDS=0.1)
    freed = time.monotonic() + 0.5
    ray.join("a", lambda relay: works(relay) if time.monotonic() > freed else SILENCE)
    run = Sweep(tmp_path, 1)
    run.run()
    assert (run.states, ray.started()) == (["COMPLETE"], {"a": 1})


def test_sweep_that_slept_does_not_take_processes_for_silent(
    ray: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shorten(monkeypatch, STUCK_SECONDS=0.5)
    monkeypatch.setattr(sweep_cluster, "_MOST_COUNTED_SECONDS", 0.01)
    ray.join("a")
    run = Sweep(tmp_path, 1)
    polls = iter([None, lambda: time.sleep(1)])
    slow = iter(range(5))

    def answers_late(relay: FakeRelay) -> Any:
        return SILENCE if relay.jobs and next(slow, None) is not None else works(relay)

    ray.lives["a"] = answers_late
    ray.on_poll = lambda: (next(polls, None) or (lambda: None))()
    run.run()
    assert (run.states, run.messages) == (["COMPLETE"], [])


def test_nodes_that_join_are_checked_once_and_take_part(ray: FakeRay, tmp_path: Path) -> None:
    def waits_for_checks(relay: FakeRelay) -> Any:
        return works(relay) if run.messages else SILENCE

    def join() -> None:
        if run.states.count("COMPLETE") == 2 and len(ray.nodes) == 1:
            ray.relays[0].life = waits_for_checks
            ray.join("good", waits_for_checks, num_cpus=2)
            ray.join("bad")
            ray.join("tiny", num_cpus=0)

    ray.join("a")
    run = Sweep(tmp_path, 30)
    ray.refused = {"bad"}
    ray.on_poll = join
    run.run()
    assert run.states == ["COMPLETE"] * 30
    assert ray.started() == {"a": 1, "good": 2}
    assert ray.checked == ["a", "good", "bad"]
    (message,) = run.messages
    assert message.startswith("node bad (10.0.0.1, id-bad) joined the cluster and is not used: ")


def test_node_that_joins_and_is_silent_holds_up_no_trial(ray: FakeRay, tmp_path: Path) -> None:
    began, ended, waited = threading.Event(), threading.Event(), list[bool]()

    def check(host: str) -> None:
        if host == "silent":
            began.set()
            waited.append(ended.wait(120))

    ray.join("a")
    run = Sweep(tmp_path, 5)
    ray.on_check = check
    ray.on_poll = lambda: ray.join("silent") if len(ray.nodes) == 1 else None
    run.run()
    assert began.wait(120)
    assert run.states == ["COMPLETE"] * 5
    assert waited == []
    ended.set()


def test_node_that_joins_is_waited_for_if_all_others_are_gone(ray: FakeRay, tmp_path: Path) -> None:
    def exchange() -> None:
        if ray.relays[0].jobs and ray.nodes[0].host == "a":
            ray.lose("a")
            ray.join("b")

    ray.join("a", hangs)
    run = Sweep(tmp_path, 2)
    ray.on_check = lambda _: time.sleep(0.1)
    ray.on_poll = exchange
    run.run()
    assert run.states == ["COMPLETE"] * 2
    assert ray.started() == {"a": 1, "b": 1}


def test_waiting_for_room_everywhere_is_told_once(
    ray: FakeRay, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(newcomers, "ROOM_SECONDS", 0.0)
    polls = itertools.count()
    ray.join("a", lambda relay: works(relay) if next(polls) > 5 else SILENCE)
    run = Sweep(tmp_path, 1)
    run.run()
    assert run.states == ["COMPLETE"]
    (message,) = run.messages
    assert message.startswith("1 workers wait for room: the cluster's CPUs or GPUs are taken")


def test_room_becomes_smaller_after_three_failed_starts_in_a_row() -> None:
    room = Room(4)
    assert not room.note_failed_start(3)
    assert not room.note_failed_start(3)
    room.note_ready()
    assert not room.note_failed_start(2)
    assert not room.note_failed_start(2)
    assert room.size == 4
    assert room.note_failed_start(2)
    assert room.size == 2
