"""Ray actors that do a node's share of the work: how many find room, and how they are started."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from stage1_extract.cluster_settings import ClusterSettings
from stage1_extract.ray_session import Node, alive_nodes, load_ray, on_node

WORKER_CPUS = 4.0
"""CPUs of a worker by default, on nodes without GPUs."""
_THREADS = 4
"""Methods of an actor that run side by side: a long one, one that waits for news, short ones."""


@dataclasses.dataclass(frozen=True)
class Share:
    """What a worker takes of its node."""

    cpus: float
    gpus: float


def start_actor(kind: type[Any], node: Node, share: Share, *arguments: Any, **named: Any) -> Any:
    """Start an actor on a node, and return Ray's handle of it, also if it has to wait for room.

    Args:
        kind: Its class.
        node: Where.
        share: What it takes.
        *arguments: Of the class.
        **named: Of the class.
    """
    started = (
        load_ray()
        .remote(kind)
        .options(
            num_cpus=share.cpus,
            num_gpus=share.gpus,
            max_concurrency=_THREADS,
            scheduling_strategy=on_node(node),
        )
    )
    return started.remote(*arguments, **named)


def answered(calls: Sequence[Any], seconds: float) -> list[Any]:
    """Return those of several calls that are answered, waiting for one at most so long."""
    if not calls:
        return []
    ray = load_ray()
    ready, _ = ray.wait(list(calls), timeout=seconds)
    if ready:
        ready, _ = ray.wait(list(calls), num_returns=len(calls), timeout=0)
    return list(ready)


def share_of(node: Node, settings: ClusterSettings, *, default_cpus: float = WORKER_CPUS) -> Share:
    """Return the CPUs and GPUs that each worker on a node takes."""
    gpus = settings.worker_gpus
    if gpus is None:
        gpus = 1.0 if node.num_gpus >= 1 else 0.0
    if settings.worker_cpus is not None:
        return Share(settings.worker_cpus, gpus)
    if not gpus:
        return Share(min(default_cpus, node.num_cpus), 0.0)
    # Whole ones, so that the workers of all its GPUs find room.
    on_gpus = max(1, _times(gpus, node.num_gpus))
    return Share(max(1.0, node.num_cpus // on_gpus), gpus)


def num_workers(node: Node, settings: ClusterSettings, *, default_cpus: float = WORKER_CPUS) -> int:
    """Return how many workers find room on a node."""
    share = share_of(node, settings, default_cpus=default_cpus)
    by_cpus = _times(share.cpus, node.num_cpus) if share.cpus else 0
    return min(by_cpus, _times(share.gpus, node.num_gpus)) if share.gpus else by_cpus


def _times(share: float, whole: float) -> int:
    return int(whole / share + 1e-9)


def no_room(settings: ClusterSettings) -> str:
    """Say that no node has room for a worker, and what they offer."""
    nodes = [f"{n.label} offers {n.num_cpus:g} CPUs, {n.num_gpus:g} GPUs" for n in alive_nodes()]
    return (
        f"no node of the cluster has room for a worker (worker_cpus {settings.worker_cpus}, "
        f"worker_gpus {settings.worker_gpus}): {'; '.join(nodes)}"
    )
