"""The nodes of a cluster while a run goes on: those that join are looked at, and take part."""

import math
import time
from concurrent.futures import Future, ThreadPoolExecutor

from stage1_extract.cluster_crew import Crew
from stage1_extract.node_checks import Needs, check_nodes
from stage1_extract.progress import ClusterProgressLike
from stage1_extract.ray_session import Node

_LOOK_SECONDS = 5.0
ROOM_SECONDS = 60.0
"""That no worker finds room is told after so long."""


class NodeWatch:
    """Looks now and then who is there.

    Nodes that join are checked in a thread, one by one: a silent one holds up neither the run nor
    the others.

    Args:
        crew: The workers.
        needs: What nodes that join must have.
        progress: Who hears of it.
    """

    def __init__(self, crew: Crew, needs: Needs, progress: ClusterProgressLike) -> None:
        self._crew, self._needs, self._progress = crew, needs, progress
        self._thread = ThreadPoolExecutor(1, "node-watch")
        self._checks: dict[Node, Future[None]] = {}
        self._looked = self._had_room = time.monotonic()

    def look(self) -> None:
        """Add workers on nodes that joined and fit, and tell of what is not as it should be."""
        self._tell_of_waiting()
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        number = self._crew.num_nodes
        self._progress.show_place(f"{number} node{'s' * (number != 1)}")
        for node in self._crew.new_nodes():
            self._checks[node] = self._thread.submit(check_nodes, [node], self._needs)
        for node in [node for node, check in self._checks.items() if check.done()]:
            self._take_in(node, self._checks.pop(node))

    def _take_in(self, node: Node, check: Future[None]) -> None:
        try:
            check.result()
        except OSError as error:
            self._progress.write(f"{node.label} joined the cluster and is not used: {error}")
        else:
            self._crew.add([node])

    def _tell_of_waiting(self) -> None:
        """Say so once if all workers wait for room, for hours perhaps."""
        workers = self._crew.workers
        if not workers or any(worker.is_started for worker in workers):
            self._had_room = time.monotonic()
        elif time.monotonic() - self._had_room > ROOM_SECONDS:
            self._had_room = math.inf
            self._progress.write(
                f"{len(workers)} workers wait for room: the cluster's CPUs or GPUs are taken by "
                "other work (`ray status` shows it)"
            )

    def close(self) -> None:
        """Begin no more checks."""
        self._thread.shutdown(wait=False, cancel_futures=True)
