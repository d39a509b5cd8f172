"""Trials on a Ray cluster: Ray places and watches processes, Optuna's journal stays the driver's.

Not Ray Tune: it starts a process anew for each trial, or needs its own kind of trainable, and keeps
a second record of the search; measured side by side in tests/benchmarks (`bench_sweep_ray`).
"""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from stage1_extract.cluster_settings import ClusterSettings
from stage1_extract.keras_setup import chosen_backend
from stage1_extract.newcomers import Newcomers, RoomWatch
from stage1_extract.node_checks import Needs, check_nodes, distributions_of
from stage1_extract.ray_actors import answered, no_room, num_workers, share_of, start_actor
from stage1_extract.ray_session import (
    ClusterError,
    Node,
    alive_nodes,
    joined_cluster,
)
from stage2_temporal.sweep_cluster_worker import ClusterWorker
from stage2_temporal.sweep_messages import Setup
from stage2_temporal.sweep_relay import SweepRelay
from stage2_temporal.sweep_room import Room
from stage2_temporal.sweep_settings import SweepSettings

WORKER_CPUS = 1.0
"""CPUs of a worker by default: these models are small, so many side by side are faster."""
_MOST_COUNTED_SECONDS = 5.0
"""Silence is counted in steps no longer than this: the sweep itself may have slept."""
_LEARNING = ("scikit-learn", "scipy", "pandas")


class ClusterPool:
    """Worker processes on the nodes of a cluster that is joined, those that join later included.

    Close it at the end.

    Args:
        settings: What each takes of a node.
        environment: Variables for the processes.
        needs: What a node must have.
        most: How many processes at most, but for those that Ray finds no room for; None for as
            many as find room.
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
        self._settings, self._environment = settings, environment
        self._most, self._tell = most, tell
        self._workers: list[ClusterWorker] = []
        self._heard_seconds = time.monotonic()
        nodes = [node for node in alive_nodes() if self._num_workers(node)]
        if not nodes:
            raise ClusterError(no_room(settings))
        check_nodes(nodes, needs)
        self._rooms = {node.node_id: Room(self._num_workers(node)) for node in nodes}
        self._newcomers, self._waiting = Newcomers(needs), RoomWatch(tell)

    def close(self) -> None:
        """Begin no more checks of nodes."""
        self._newcomers.close()

    def _num_workers(self, node: Node) -> int:
        return num_workers(node, self._settings, default_cpus=WORKER_CPUS)

    @property
    def size(self) -> int:
        """How many processes the nodes that are alive have room for."""
        size = sum(self._room_on(node).size for node in alive_nodes())
        return size if self._most is None else min(size, self._most)

    def _room_on(self, node: Node) -> Room:
        """Return a node's room: none on one that joined, as long as it is not found to fit."""
        if node.node_id not in self._rooms:
            self._rooms[node.node_id] = Room(0)
            if self._num_workers(node):
                self._newcomers.check(node)
        return self._rooms[node.node_id]

    def _take_in_newcomers(self, nodes: Sequence[Node]) -> None:
        """Use nodes that joined and fit; their checks are waited for where there is no other."""
        room = sum(self._room_on(node).size for node in nodes)
        for node, problem in self._newcomers.checked(wait_for_all=not room):
            if problem is None:
                self._rooms[node.node_id] = Room(self._num_workers(node))
            else:
                self._tell(f"{node.label} joined the cluster and is not used: {problem}")

    def start(self, setup: Setup) -> ClusterWorker | None:
        """Start a process on the node that has most room; None if none has."""
        if self._most is not None and self._num_placed() >= self._most:
            return None
        nodes = alive_nodes()
        self._take_in_newcomers(nodes)
        free = {node: self._room_on(node).size - self._num_on(node) for node in nodes}
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

    @property
    def is_over(self) -> bool:
        """Whether there are more processes than are wanted, for one that waited found room."""
        return self._most is not None and self._num_placed() > self._most

    def _num_placed(self) -> int:
        return sum(not worker.is_waiting for worker in self._living())

    def _living(self) -> list[ClusterWorker]:
        self._workers = [worker for worker in self._workers if not worker.is_killed]
        return self._workers

    def _num_on(self, node: Node) -> int:
        """How many processes live on a node."""
        return sum(worker.node.node_id == node.node_id for worker in self._living())

    def wait(self, workers: Sequence[ClusterWorker], seconds: float) -> list[ClusterWorker]:
        """Return those that sent something, or ended, or were silent for too long."""
        asked = {worker.call: worker for worker in workers}
        ready = [asked.pop(call) for call in answered(list(asked), seconds)]
        self._waiting.look(len(workers), some_have_room=any(one.has_room for one in workers))
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
            f"processes could not start ({worker.end()}: {last_line}); going on with {num_left} "
            "there"
        )

    def leave_out(self, worker: ClusterWorker, error: OSError) -> str | None:
        """Start nothing more on a process' node, and say so; None if there is no other node."""
        others = [node for node in alive_nodes() if node.node_id != worker.node.node_id]
        if not any(self._room_on(node).size for node in others):
            return None
        self._room_on(worker.node).size = 0
        return f"{error}; that node is left out"


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
        pool = ClusterPool(
            settings.cluster,
            environment,
            needs=needs,
            most=None if settings.jobs == "auto" else settings.jobs,
            tell=tell,
        )
        with closing(pool):
            yield pool
