"""Trials on a Ray cluster: Ray places and watches processes, Optuna's journal stays the driver's.

Not Ray Tune: it starts a process anew for each trial, or needs its own kind of trainable, and keeps
a second record of the search; measured side by side in tests/benchmarks (`bench_sweep_ray`).
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stage1_extract.cluster_settings import ClusterSettings
from stage1_extract.keras_setup import chosen_backend
from stage1_extract.node_checks import Needs, check_nodes, distributions_of
from stage1_extract.ray_actors import answered, no_room, num_workers, share_of, start_actor
from stage1_extract.ray_session import (
    ClusterError,
    Node,
    alive_nodes,
    joined_cluster,
    load_ray,
)
from stage2_temporal.sweep_messages import Setup
from stage2_temporal.sweep_relay import Ended, SweepRelay, Told
from stage2_temporal.sweep_room import Room
from stage2_temporal.sweep_settings import SweepSettings

WORKER_CPUS = 1.0
"""CPUs of a worker by default: these models are small, so many side by side are faster."""
STUCK_SECONDS = 300.0
"""A worker answers every few seconds; one that was silent for so long is given up."""
_ROOM_SECONDS = 10.0
_HEAR_SECONDS = 10.0
_MOST_COUNTED_SECONDS = 5.0
"""Silence is counted in steps no longer than this: the sweep itself may have slept."""
_LEARNING = ("scikit-learn", "scipy", "pandas")


class ClusterWorker:
    """A worker process on a node.

    Args:
        node: Where.
        relay: Ray's handle of its actor there.
    """

    def __init__(self, node: Node, relay: Any) -> None:
        self.node = node
        self._relay = relay
        self._ended: Ended | None = None
        self._arrived: Any = None
        self._has_room = False
        self._started_seconds = time.monotonic()
        self._silent_seconds = 0.0
        self.is_killed = False
        self.is_displaced = False
        self.call = relay.receive.remote(0.0)  # answered as soon as there is room for it

    @property
    def is_waiting(self) -> bool:
        """Whether Ray finds no room for it: others than this sweep work on its node."""
        late = time.monotonic() - self._started_seconds > _ROOM_SECONDS
        return late and not self._has_room

    def take_answer(self) -> bool:
        """Take in the answer that came; returns whether it tells something."""
        ray = load_ray()
        self._has_room, self._silent_seconds = True, 0.0
        try:
            answer = ray.get(self.call)
        except ray.exceptions.RayTaskError as error:
            raise RuntimeError(f"a relay on {self.node.label} failed:\n{error}") from error
        except ray.exceptions.RayError as error:
            self._displace(f"the loss of {self.node.label}", str(error).strip())
            return True
        if isinstance(answer, Ended):
            self._ended = answer
        else:
            self.call = self._relay.receive.remote(_HEAR_SECONDS)
            self._arrived = answer
        return answer is not None

    def note_silence(self, seconds: float) -> bool:
        """Note that no answer came; returns whether it is given up for that."""
        self._silent_seconds += seconds
        if not self._has_room or self._silent_seconds < STUCK_SECONDS:
            return False
        self._displace(f"the silence of {self.node.label}", f"for {STUCK_SECONDS:.0f} s")
        return True

    def _displace(self, how: str, words: str) -> None:
        self._ended, self.is_displaced = Ended(how, words), True

    def send(self, message: Any) -> None:
        """Send a message; that the process is gone will be noticed where it is heard."""
        self._relay.send.remote(message)

    def receive(self) -> Any:
        """Return the message that arrived.

        Raises:
            EOFError: The process, or its node, is gone.
        """
        if self._ended is not None:
            raise EOFError
        arrived, self._arrived = self._arrived, None
        if not isinstance(arrived, Told):
            raise TypeError(f"nothing arrived from {self.node.label}: {arrived!r}")
        return arrived.message

    def end(self) -> str:
        """Say how it ended."""
        return "" if self._ended is None else self._ended.how

    def last_words(self) -> str:
        """Return the end of what it printed."""
        return "" if self._ended is None else self._ended.words

    def kill(self) -> None:
        """End it at once."""
        self.is_killed = True
        load_ray().kill(self._relay)


class ClusterPool:
    """Worker processes on the nodes of a cluster that is joined, those that join later included.

    Args:
        settings: What each takes of a node.
        environment: Variables for the processes.
        needs: What a node must have.
        most: How many processes at most; None for as many as find room.
        tell: Shows a message.

    Raises:
        ClusterError: No node has room, or one that has cannot do the work: each is named.
    """

    def __init__(
        self,
        settings: ClusterSettings,
        environment: Mapping[str, str],
        *,
        needs: Needs,
        most: int | None,
        tell: Callable[[str], None],
    ) -> None:
        self._settings, self._environment, self._needs = settings, environment, needs
        self._most, self._tell = most, tell
        self._workers: list[ClusterWorker] = []
        self._heard_seconds = time.monotonic()
        nodes = [node for node in alive_nodes() if self._num_workers(node)]
        if not nodes:
            raise ClusterError(no_room(settings))
        check_nodes(nodes, needs)
        self._rooms = {node.node_id: Room(self._num_workers(node)) for node in nodes}

    def _num_workers(self, node: Node) -> int:
        return num_workers(node, self._settings, default_cpus=WORKER_CPUS)

    @property
    def size(self) -> int:
        """How many processes the nodes that are alive have room for."""
        size = sum(self._room_on(node).size for node in alive_nodes())
        return size if self._most is None else min(size, self._most)

    def _room_on(self, node: Node) -> Room:
        """Return a node's room: none on one that joined and cannot do the work, which is told."""
        if node.node_id not in self._rooms:
            size = self._num_workers(node)
            try:
                if size:
                    check_nodes([node], self._needs)
            except ClusterError as error:
                self._tell(f"a node that joined is not used: {error}")
                size = 0
            self._rooms[node.node_id] = Room(size)
        return self._rooms[node.node_id]

    def start(self, setup: Setup) -> ClusterWorker | None:
        """Start a process on the node that has most room; None if none has."""
        self._workers = [worker for worker in self._workers if not worker.is_killed]
        if self._most is not None and len(self._workers) >= self._most:
            return None
        free = {node: self._room_on(node).size - self._num_on(node) for node in alive_nodes()}
        node = max(free, key=lambda one: free[one], default=None)
        if node is None or free[node] < 1:
            return None
        share = share_of(node, self._settings, default_cpus=WORKER_CPUS)
        threads = str(max(1, int(share.cpus)))
        names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
        environment = {**self._environment, **dict.fromkeys(names, threads)}
        relay = start_actor(SweepRelay, node, share, setup, environment, has_gpu=share.gpus > 0)
        worker = ClusterWorker(node, relay)
        self._workers.append(worker)
        return worker

    def _num_on(self, node: Node) -> int:
        """How many processes live on a node."""
        here = [worker for worker in self._workers if worker.node.node_id == node.node_id]
        return sum(not worker.is_killed for worker in here)

    def wait(self, workers: Sequence[ClusterWorker], seconds: float) -> list[ClusterWorker]:
        """Return those that sent something, or ended, or were silent for too long."""
        asked = {worker.call: worker for worker in workers}
        ready = [asked.pop(call) for call in answered(list(asked), seconds)]
        before, self._heard_seconds = self._heard_seconds, time.monotonic()
        step = min(self._heard_seconds - before, _MOST_COUNTED_SECONDS)
        told = [worker for worker in ready if worker.take_answer()]
        return told + [worker for worker in asked.values() if worker.note_silence(step)]

    def note_ready(self, worker: ClusterWorker) -> None:
        """Note that a process can take trials."""
        self._room_on(worker.node).note_ready()

    def note_failed_start(self, worker: ClusterWorker) -> str | None:
        """Note that a process was never ready; says so if there will be fewer on its node."""
        num_left = self._num_on(worker.node)
        if not self._room_on(worker.node).note_failed_start(num_left):
            return None
        last_line = worker.last_words().rpartition("\n")[2]
        return (
            f"processes could not start on {worker.node.label} ({worker.end()}: {last_line}); "
            f"going on with {num_left} there"
        )

    def leave_out(self, worker: ClusterWorker, error: OSError) -> str | None:
        """Start nothing more on a process' node, and say so; None if there is no other node."""
        others = [node for node in alive_nodes() if node.node_id != worker.node.node_id]
        if not any(self._room_on(node).size for node in others):
            return None
        self._room_on(worker.node).size = 0
        return f"{worker.node.label} is left out: {error}"


@contextmanager
def cluster_pool(
    folder: Path,
    settings: SweepSettings,
    sources: Sequence[Path],
    environment: Mapping[str, str],
    tell: Callable[[str], None],
) -> Iterator[ClusterPool]:
    """Join the cluster for the time of the block, and check its nodes.

    Args:
        folder: The sweep folder, which all nodes share.
        settings: Of the sweep.
        sources: Files that trials read.
        environment: Variables for the processes.
        tell: Shows a message.

    Raises:
        ClusterError: There is no cluster, or a node cannot do the work: each is named.
    """
    backend = chosen_backend(settings.base.backend)
    needs = Needs(
        folder=folder.absolute(),
        packages=("stage1_extract", "stage2_temporal"),
        distributions=(*distributions_of(backend=backend, engine="keras"), *_LEARNING),
        sources=tuple(str(path.absolute()) for path in sources),
        sources_called="stores and tables",
    )
    with joined_cluster(settings.cluster.ray or "local"):
        yield ClusterPool(
            settings.cluster,
            environment,
            needs=needs,
            most=None if settings.jobs == "auto" else settings.jobs,
            tell=tell,
        )
