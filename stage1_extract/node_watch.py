"""The nodes of a cluster while a run goes on: those that join are looked at, and take part."""

import time

from stage1_extract.cluster_crew import Crew
from stage1_extract.newcomers import Newcomers, RoomWatch
from stage1_extract.node_checks import Needs
from stage1_extract.progress import ClusterProgressLike

_LOOK_SECONDS = 5.0


class NodeWatch:
    """Looks now and then who is there.

    Args:
        crew: The workers.
        needs: What nodes that join must have.
        progress: Who hears of it.
    """

    def __init__(self, crew: Crew, needs: Needs, progress: ClusterProgressLike) -> None:
        self._crew, self._progress = crew, progress
        self._newcomers = Newcomers(needs)
        self._room = RoomWatch(progress.write)
        self._looked = time.monotonic()

    def look(self) -> None:
        """Add workers on nodes that joined and fit, and tell of what is not as it should be."""
        workers = self._crew.workers
        self._room.look(len(workers), some_have_room=any(one.is_started for one in workers))
        if time.monotonic() - self._looked < _LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        number = self._crew.num_nodes
        self._progress.show_place(f"{number} node{'s' * (number != 1)}")
        for node in self._crew.new_nodes():
            self._newcomers.check(node)
        for node, problem in self._newcomers.checked():
            if problem is None:
                self._crew.add([node])
            else:
                self._progress.write(f"{node.label} joined the cluster and is not used: {problem}")

    def close(self) -> None:
        """Begin no more checks."""
        self._newcomers.close()
