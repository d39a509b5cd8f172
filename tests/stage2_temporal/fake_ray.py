"""Ray as a sweep sees it, without processes: what workers answer follows from their node's name."""

import dataclasses
import time
from collections import Counter
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from stage1_extract import newcomers
from stage1_extract.ray_session import ClusterError, Node
from stage2_temporal import sweep_cluster, sweep_cluster_worker
from stage2_temporal.sweep_messages import Done, Hindered, Job, Ready
from stage2_temporal.sweep_relay import Ended, Still, Told
from tests.stage2_temporal.sweep_fakes import NUM_FOLDS, FakeResult

RESULT = FakeResult(
    value=0.5,
    scores={},
    by_fold=[0.5] * NUM_FOLDS,
    baseline=0.5,
    epochs=[1] * NUM_FOLDS,
    kept_baseline=0,
    num_trainings=NUM_FOLDS,
    seconds=0.25,
)
SILENCE = object()


class ActorError(Exception):
    """Ray's error for an actor that is gone."""


class TaskError(Exception):
    """Ray's error for a method that raised one."""


Life = Callable[["FakeRelay"], Any]
"""Given a relay that is asked for news: what it answers, an error of Ray's, or SILENCE."""


def works(relay: "FakeRelay") -> Any:
    """Be ready, and do every trial at once."""
    if not relay.is_ready:
        relay.is_ready = True
        return Told(Ready())
    return Told(Done(dataclasses.asdict(RESULT))) if relay.take_job() else SILENCE


def finds_no_room(_: "FakeRelay") -> Any:
    """Have no answer: another job of Ray's holds the node."""
    return SILENCE


def cannot_start(_: "FakeRelay") -> Any:
    """Die of an error of the relay's own."""
    return ActorError("The actor died because of an error\n\nOSError: No space left on device")


def is_killed_at_start(_: "FakeRelay") -> Any:
    """Lose the process before it is ready."""
    return Ended("SIGKILL", "")


def has_a_full_disk(relay: "FakeRelay") -> Any:
    """Be ready, and fail to write the first trial."""
    return Told(Hindered(OSError("disk full"))) if relay.take_job() else works(relay)


def dies_of_trials(relay: "FakeRelay") -> Any:
    """Be ready, and lose the relay to the first trial."""
    return ActorError("The actor died unexpectedly") if relay.take_job() else works(relay)


def is_killed_by_trials(relay: "FakeRelay") -> Any:
    """Be ready, and lose the process to the first trial."""
    return Ended("SIGKILL", "") if relay.take_job() else works(relay)


def stands_still(relay: "FakeRelay") -> Any:
    """Be ready, and do nothing with the first trial."""
    return Still() if relay.take_job() else works(relay)


def hangs(relay: "FakeRelay") -> Any:
    """Be ready, and be heard of no more once there is a trial."""
    return SILENCE if relay.jobs else works(relay)


def leaves(relay: "FakeRelay") -> Any:
    """Do one trial, and be replaced."""
    return Told(Done(dataclasses.asdict(RESULT), leaves=True)) if relay.take_job() else works(relay)


class FakeRelay:
    """An actor; a method is called by `.remote`, and the call is what is asked for its answer."""

    def __init__(self, host: str, life: Life, environment: dict[str, str]) -> None:
        self.host, self.life, self.environment = host, life, environment
        self.jobs: list[Job] = []
        self.num_given = 0
        self.is_ready = False
        self.is_killed = False
        self.receive = SimpleNamespace(remote=lambda _: FakeCall(self))
        self.send = SimpleNamespace(remote=self._take)

    def _take(self, message: Any) -> None:
        if isinstance(message, Job):
            self.jobs.append(message)
            self.num_given += 1

    def take_job(self) -> Job | None:
        """Return the trial that it was given, once."""
        return self.jobs.pop() if self.jobs else None


@dataclasses.dataclass(eq=False)
class FakeCall:
    """What a relay was asked."""

    relay: FakeRelay
    answer: Any = SILENCE


class FakeRay:
    """A cluster.

    Attributes:
        nodes: Those that are alive.
        lives: How workers fare, by their node.
        refused: Nodes that checks refuse.
        checked: Nodes that were checked, in order.
        relays: All actors that were started.
        on_poll: Called each time that answers are waited for.
        on_check: Called with each node that is being checked.
    """

    exceptions = SimpleNamespace(RayError=ActorError, RayTaskError=TaskError)

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.nodes: list[Node] = []
        self.lives: dict[str, Life] = {}
        self.refused: set[str] = set()
        self.checked: list[str] = []
        self.relays: list[FakeRelay] = []
        self.on_poll: Callable[[], None] = lambda: None
        self.on_check: Callable[[str], None] = lambda host: None
        monkeypatch.setattr(sweep_cluster_worker, "load_ray", lambda: self)
        monkeypatch.setattr(sweep_cluster, "alive_nodes", lambda: list(self.nodes))
        monkeypatch.setattr(sweep_cluster, "check_nodes", self._check)
        monkeypatch.setattr(newcomers, "check_nodes", self._check)
        monkeypatch.setattr(sweep_cluster, "start_actor", self._start)
        monkeypatch.setattr(sweep_cluster, "answered", self._answered)

    def join(self, host: str, life: Life = works, *, num_cpus: int = 1) -> None:
        """Add a node."""
        self.lives[host] = life
        self.nodes.append(Node(f"id-{host}", host, "10.0.0.1", num_cpus, 0))

    def lose(self, host: str) -> None:
        """Take a node away, with its actors."""
        self.nodes = [node for node in self.nodes if node.host != host]
        for relay in self.relays:
            if relay.host == host:
                relay.life = lambda _: ActorError("The node died")

    def started(self) -> dict[str, int]:
        """Return how many actors were started, by their node."""
        return dict(Counter(relay.host for relay in self.relays))

    def get(self, call: FakeCall) -> Any:
        """Return an answer, or raise it."""
        if isinstance(call.answer, Exception):
            raise call.answer
        return call.answer

    def kill(self, relay: FakeRelay) -> None:
        """End an actor."""
        relay.is_killed = True

    def _check(self, nodes: Sequence[Node], _: Any) -> None:
        for node in nodes:
            self.checked.append(node.host)
            self.on_check(node.host)
        if bad := [node.host for node in nodes if node.host in self.refused]:
            raise ClusterError(f"{bad} cannot do the work")

    def _start(
        self, _: Any, node: Node, __: Any, ___: Any, environment: dict[str, str], **____: Any
    ) -> FakeRelay:
        alive = [relay for relay in self.relays if not relay.is_killed and relay.host == node.host]
        assert len(alive) < node.num_cpus, f"{node.host} is full"
        self.relays.append(FakeRelay(node.host, self.lives[node.host], environment))
        return self.relays[-1]

    def _answered(self, calls: Sequence[FakeCall], _: float) -> list[FakeCall]:
        time.sleep(0.002)
        self.on_poll()
        for call in calls:
            if call.answer is SILENCE:
                call.answer = call.relay.life(call.relay)
        return [call for call in calls if call.answer is not SILENCE]
