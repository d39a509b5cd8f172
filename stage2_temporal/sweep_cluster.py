"""Trials on a Ray cluster: Ray places and watches processes, Optuna's journal stays the driver's.

Not Ray Tune: it starts a process anew for each trial, or needs its own kind of trainable, and keeps
a second record of the search; measured side by side in tests/benchmarks (`bench_sweep_ray`).
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
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
from stage2_temporal.sweep_settings import SweepSettings

WORKER_CPUS = 1.0
"""CPUs of a worker by default: these models are small, so many side by side are faster."""
_LEARNING = ("scikit-learn", "scipy", "pandas")
_HEAR_SECONDS = 10.0


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
        self.is_killed = False
        self.is_displaced = False
        self.is_waiting = True
        self.call = relay.receive.remote(0.0)  # answered as soon as there is room for it

    def take_answer(self) -> bool:
        """Take in the answer that came; returns whether it tells something."""
        ray = load_ray()
        try:
            answer = ray.get(self.call)
            self.is_waiting = False
        except ray.exceptions.RayTaskError as error:
            raise RuntimeError(f"a relay on {self.node.label} failed:\n{error}") from error
        except ray.exceptions.RayError as error:
            answer = Ended(f"the loss of {self.node.label}", str(error).strip().splitlines()[0])
            self.is_displaced = True
        if isinstance(answer, Ended):
            self._ended = answer
        else:
            self.call = self._relay.receive.remote(_HEAR_SECONDS)
            self._arrived = answer
        return answer is not None

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
    """Worker processes on the nodes of a cluster that is joined.

    Args:
        settings: What each takes of a node.
        environment: Variables by which they share a GPU.
    """

    def __init__(self, settings: ClusterSettings, environment: Mapping[str, str]) -> None:
        self._settings = settings
        self._environment = environment
        self._workers: list[ClusterWorker] = []

    @property
    def room(self) -> int:
        """How many processes the nodes that are alive have room for."""
        return sum(self.room_on(node) for node in alive_nodes())

    def room_on(self, node: Node) -> int:
        """How many processes a node has room for."""
        return num_workers(node, self._settings, default_cpus=WORKER_CPUS)

    def has_room(self) -> bool:
        """Whether a node has room for one more."""
        return any(room > 0 for room in self._free().values())

    def _free(self) -> dict[Node, int]:
        self._workers = [worker for worker in self._workers if not worker.is_killed]
        taken = Counter(worker.node.node_id for worker in self._workers)
        return {node: self.room_on(node) - taken[node.node_id] for node in alive_nodes()}

    def start(self, setup: Setup) -> ClusterWorker:
        """Start a process on the node that has most room."""
        free = self._free()
        node = max(free, key=lambda one: free[one])
        share = share_of(node, self._settings, default_cpus=WORKER_CPUS)
        threads = str(max(1, int(share.cpus)))
        names = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")
        environment = {**self._environment, **dict.fromkeys(names, threads)}
        relay = start_actor(SweepRelay, node, share, setup, environment, has_gpu=share.gpus > 0)
        worker = ClusterWorker(node, relay)
        self._workers.append(worker)
        return worker

    def wait(self, workers: Sequence[ClusterWorker], seconds: float) -> list[ClusterWorker]:
        """Return those that sent something, or ended."""
        asked = {worker.call: worker for worker in workers}
        ready = answered(list(asked), seconds)
        return [asked[call] for call in ready if asked[call].take_answer()]


@contextmanager
def cluster_pool(
    folder: Path, settings: SweepSettings, sources: Sequence[Path], environment: Mapping[str, str]
) -> Iterator[ClusterPool]:
    """Join the cluster for the time of the block, and check its nodes.

    Args:
        folder: The sweep folder, which all nodes share.
        settings: Of the sweep.
        sources: Files that trials read.
        environment: Variables for the processes.

    Raises:
        ClusterError: There is no cluster, or a node cannot do the work: each is named.
    """
    with joined_cluster(settings.cluster.ray or "local"):
        pool = ClusterPool(settings.cluster, environment)
        nodes = [node for node in alive_nodes() if pool.room_on(node)]
        if not nodes:
            raise ClusterError(no_room(settings.cluster))
        backend = chosen_backend(settings.base.backend)
        distributions = (*distributions_of(backend=backend, engine="keras"), *_LEARNING)
        needs = Needs(
            folder=folder.absolute(),
            packages=("stage1_extract", "stage2_temporal"),
            distributions=distributions,
            sources=tuple(str(path.absolute()) for path in sources),
        )
        check_nodes(nodes, needs)
        yield pool
