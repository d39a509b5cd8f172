"""Nodes that join a cluster while work goes on: looked at beside it, as are those that wait."""

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait

from stage1_extract.node_checks import Needs, check_nodes
from stage1_extract.ray_session import Node

ROOM_SECONDS = 60.0
"""That no worker finds room is told after so long."""


class Newcomers:
    """Checks nodes in a thread, one by one: a silent one holds up neither the work nor the others.

    Args:
        needs: What a node must have.
    """

    def __init__(self, needs: Needs) -> None:
        self._needs = needs
        self._thread = ThreadPoolExecutor(1, "newcomers")
        self._checks: dict[Node, Future[None]] = {}

    def check(self, node: Node) -> None:
        """Begin to check a node, once those before it are checked."""
        self._checks[node] = self._thread.submit(check_nodes, [node], self._needs)

    def checked(self, *, wait_for_all: bool = False) -> Iterator[tuple[Node, OSError | None]]:
        """Yield each node whose check ended since, with what it lacks, if it does.

        Args:
            wait_for_all: Whether to wait for checks that go on.
        """
        if wait_for_all:
            wait(self._checks.values())
        for node in [node for node, check in self._checks.items() if check.done()]:
            check = self._checks.pop(node)
            try:
                check.result()
            except OSError as error:
                yield node, error
            else:
                yield node, None

    def close(self) -> None:
        """Begin no more checks."""
        self._thread.shutdown(wait=False, cancel_futures=True)


class RoomWatch:
    """Says so once if none of the workers finds room, for hours perhaps.

    Args:
        tell: Shows a message.
    """

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._had_room = time.monotonic()

    def look(self, num_workers: int, *, some_have_room: bool) -> None:
        """Take note of how it is now; called often."""
        if not num_workers or some_have_room:
            self._had_room = time.monotonic()
        elif time.monotonic() - self._had_room > ROOM_SECONDS:
            self._had_room = math.inf
            self._tell(
                f"{num_workers} workers wait for room: the cluster's CPUs or GPUs are taken by "
                "other work (`ray status` shows it)"
            )
