"""What a relay says of a process that does nothing."""

import os
import time
from types import SimpleNamespace
from typing import Any

import pytest

from stage2_temporal import still_process, sweep_relay
from stage2_temporal.still_process import cpu_seconds
from stage2_temporal.sweep_messages import Ready, Setup
from stage2_temporal.sweep_relay import STILL_SECONDS, Still, SweepRelay, Told


class FakeProcess:
    """A process that computes as it is told, and a clock.

    Attributes:
        computed: Its CPU time in seconds.
        now: The time.
        messages: What comes from it.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.computed: float | None = 0.0
        self.now = 0.0
        self.messages: list[Any] = []
        self.connection = SimpleNamespace(poll=lambda _: bool(self.messages))
        worker = SimpleNamespace(
            process=SimpleNamespace(pid=1, connection=self.connection),
            send=lambda message: None,
            receive=lambda: self.messages.pop(),
        )
        monkeypatch.setattr(still_process, "cpu_seconds", lambda pid: self.computed)
        monkeypatch.setattr(still_process, "time", SimpleNamespace(monotonic=lambda: self.now))
        monkeypatch.setattr(sweep_relay, "LocalWorker", lambda setup, environment: worker)

    def pass_time(self, seconds: float, *, computing: float = 0.0) -> None:
        """Have time pass, of which it computes so much."""
        self.now += seconds
        if self.computed is not None:
            self.computed += computing


@pytest.fixture
def process(monkeypatch: pytest.MonkeyPatch) -> FakeProcess:
    return FakeProcess(monkeypatch)


@pytest.fixture
def relay(process: FakeProcess) -> SweepRelay:
    return SweepRelay(Setup("", ()), {}, has_gpu=True)


def test_process_that_stands_still_while_it_starts_or_trains_is_told(
    process: FakeProcess, relay: SweepRelay
) -> None:
    process.pass_time(STILL_SECONDS - 1)
    assert relay.receive(0) is None
    process.pass_time(2, computing=0.5)
    assert relay.receive(0) == Still()
    process.messages.append(Ready())
    assert relay.receive(0) == Told(Ready())
    relay.send("a trial")
    assert relay.receive(0) is None
    process.pass_time(STILL_SECONDS + 1)
    assert relay.receive(0) == Still()


def test_process_that_has_nothing_to_do_may_stand_still(
    process: FakeProcess, relay: SweepRelay
) -> None:
    process.messages.append(Ready())
    assert relay.receive(0) == Told(Ready())
    process.pass_time(10 * STILL_SECONDS)
    assert relay.receive(0) is None
    relay.send("a trial")
    assert relay.receive(0) is None


@pytest.mark.parametrize("is_told", [True, False])
def test_process_that_computes_slowly_or_out_of_sight_is_left_alone(
    process: FakeProcess, relay: SweepRelay, *, is_told: bool
) -> None:
    if not is_told:  # not on Linux
        process.computed = None
    for _ in range(10):
        process.pass_time(STILL_SECONDS / 2, computing=2)
        assert relay.receive(0) is None


def test_cpu_time_is_that_of_the_system() -> None:
    while time.process_time() < 0.1:
        pass
    found, now = cpu_seconds(os.getpid()), time.process_time()
    if found is not None:
        assert 0.05 < found <= now + 1
    assert cpu_seconds(2**22 + 1) is None
