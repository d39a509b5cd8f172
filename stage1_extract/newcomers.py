"""Nodes that join a cluster while a run goes on: each is looked at before it takes part."""

from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from stage1_extract.node_checks import Needs, check_nodes
from stage1_extract.ray_session import Node


class Newcomers:
    """Checks nodes in a thread, one by one: a silent one holds up neither the run nor the others.

    Args:
        needs: What they must have.
    """

    def __init__(self, needs: Needs) -> None:
        self._needs = needs
        self._thread = ThreadPoolExecutor(1, "newcomers")
        self._checks: dict[Node, Future[None]] = {}

    def look_at(self, nodes: Iterable[Node]) -> None:
        """Begin to check nodes."""
        for node in nodes:
            self._checks[node] = self._thread.submit(check_nodes, [node], self._needs)

    def checked(self) -> Iterator[tuple[Node, OSError | None]]:
        """Yield each node whose check ended since, with what keeps it from taking part."""
        for node in [node for node, check in self._checks.items() if check.done()]:
            error = self._checks.pop(node).exception()
            if error is not None and not isinstance(error, OSError):
                raise error
            yield node, error

    def close(self) -> None:
        """Begin no more checks."""
        self._thread.shutdown(wait=False, cancel_futures=True)
