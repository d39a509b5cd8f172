"""Extraction on a Ray cluster: the same clips, shards and results as on one machine."""

import time
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

from stage1_extract.addresses import Location
from stage1_extract.clips import ClipJob
from stage1_extract.cluster_crew import SILENT, Crew, Lost, why_blocked
from stage1_extract.cluster_run import ClusterRun
from stage1_extract.cluster_worker import News
from stage1_extract.config import ExtractSettings
from stage1_extract.interrupt import deferred_interrupt
from stage1_extract.keras_setup import chosen_backend
from stage1_extract.newcomers import ROOM_SECONDS
from stage1_extract.node_checks import Needs, check_nodes, distributions_of
from stage1_extract.progress import ClusterProgressLike
from stage1_extract.ray_actors import no_room, num_workers
from stage1_extract.ray_session import ClusterError, alive_nodes, joined_cluster
from stage1_extract.run_loop import RunResult
from stage1_extract.store import Provenance
from stage1_extract.targets import Target

_POLL_SECONDS = 0.5
_SOURCES = 50
_PACKAGES = ("stage1_extract",)


class ClusterRunner:
    """Embeds clips on a Ray cluster; use it in a `with` block.

    Args:
        settings: How; its `cluster` says where.
        target: The store: in a folder that all nodes share, or at an address.

    Attributes:
        provenance: What the shards say of their origin.

    Raises:
        ClusterError: There is no cluster, or nodes cannot do the work: each is named.
    """

    def __init__(self, settings: ExtractSettings, target: Target) -> None:
        self._settings = settings
        self._target, self._store = target, target.store.absolute()
        with ExitStack() as stack:
            stack.enter_context(joined_cluster(settings.cluster.ray or "local"))
            nodes = [node for node in alive_nodes() if num_workers(node, settings.cluster)]
            if not nodes:
                raise ClusterError(no_room(settings.cluster))
            self._nodes = nodes
            check_nodes(nodes, self._needs())
            self._crew = Crew(settings, self._store, nodes)
            stack.callback(self._crew.end)
            self.provenance = self._first_provenance()
            self._open = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def embed(
        self, jobs: Sequence[ClipJob], store: Location, progress: ClusterProgressLike
    ) -> RunResult:
        """Embed the clips into the store, and return what was done.

        Raises:
            ClusterError: A node does not see the videos, or no worker is left; what was stored is
                kept.
            PrecisionError: The precision is too low for these videos.
            OSError: The store cannot be written; what was finished is kept.
            KeyboardInterrupt: Stopped by the user; what was finished is kept.
        """
        if store.absolute() != self._store:
            raise ValueError(f"the nodes were checked for {self._store}, not for {store}")
        needs = self._needs(jobs[:: max(1, len(jobs) // _SOURCES)])
        check_nodes(self._nodes, needs)
        run = ClusterRun(
            self._settings,
            self._crew,
            jobs,
            self._target,
            progress,
            needs=needs,
            provenance=self.provenance,
        )
        with deferred_interrupt() as check_interrupt, progress:
            run.go(check_interrupt)
        return run.result

    def _needs(self, sample: Sequence[ClipJob] = ()) -> Needs:
        settings = self._settings
        is_file = settings.weights not in ("imagenet", "random")
        return Needs(
            folder=self._store if isinstance(self._store, Path) else None,
            packages=_PACKAGES,
            distributions=distributions_of(
                backend=chosen_backend(settings.backend), engine=settings.engine
            ),
            weights=str(Path(settings.weights).absolute()) if is_file else "",
            sources=tuple(str(one.clip.path) for one in sample if isinstance(one.clip.path, Path)),
        )

    def _first_provenance(self) -> Provenance:
        """Wait for the first worker that is ready; the others join when they are."""
        crew, started, reasons = self._crew, time.monotonic(), list[str]()
        while crew.workers:
            for answer in crew.answers(_POLL_SECONDS):
                worker = answer.worker
                if worker not in crew.workers:
                    continue  # of what it was asked, the first answer told of its loss
                if isinstance(answer.value, Provenance):
                    worker.is_loaded = True
                    return answer.value
                if reason := _why_lost(answer.value):
                    reasons.append(f"{worker.node.label}: {reason}")
                    crew.remove(worker, replace=isinstance(answer.value, Lost))
                else:
                    worker.is_started = True
                    worker.hear()
            for worker in crew.stuck():
                reasons.append(f"{worker.node.label}: {SILENT}")
                crew.remove(worker, replace=True)
            late = time.monotonic() - started > ROOM_SECONDS
            if late and not any(worker.is_started for worker in crew.workers):
                raise ClusterError(
                    f"no worker found room within {ROOM_SECONDS:.0f} s: the cluster's CPUs or "
                    "GPUs are taken by other work (`ray status` shows it); try again later, or "
                    "take less with --worker-cpus and --worker-gpus"
                )
        raise ClusterError("no worker could be loaded:\n  " + "\n  ".join(dict.fromkeys(reasons)))


def _why_lost(value: Any) -> str:
    """Return why a worker that answered so is to be done without; "" for no reason."""
    if isinstance(value, Lost):
        return value.traceback or value.reason
    return why_blocked(value) if isinstance(value, News) else str(value)
