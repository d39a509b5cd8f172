"""The workers of a run on a cluster: started on its nodes, heard, replaced when they are lost."""

import dataclasses
import math
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stage1_extract.addresses import Location
from stage1_extract.clip_ledger import MOST_LOSSES
from stage1_extract.clips import ClipJob
from stage1_extract.cluster_settings import ClusterSettings
from stage1_extract.cluster_worker import ClusterWorker, News
from stage1_extract.config import ExtractSettings
from stage1_extract.keras_setup import chosen_backend
from stage1_extract.ray_actors import answered, num_workers, share_of, start_actor
from stage1_extract.ray_session import Node, alive_nodes, load_ray

_FIRST_AHEAD = 4
_MAX_AHEAD = 1024
_MAX_STARTS = 2 * MOST_LOSSES
"""A worker is started so often while nothing comes of it; a clip or two alone may cost fewer."""
STUCK_SECONDS = 300.0
"""A worker answers every few seconds; one that was silent for so long is given up."""
SILENT = f"it did not answer for {STUCK_SECONDS:.0f} s"
BLOCKED_SECONDS = 900.0
"""So is one that answers, and whose work stands still; a large batch or an upload takes minutes."""
LOADING_SECONDS = 3600.0
"""So is one that does not come to work; weights may have to be downloaded."""
_HEAR_SECONDS = 2.0
_CLEAR_SECONDS = 15.0


@dataclasses.dataclass(frozen=True)
class Lost:
    """Instead of an answer: the worker, or its node, is gone, or failed in a way nobody foresaw.

    Attributes:
        reason: Why, in a line.
        traceback: Where the worker's program failed; "" where it did not.
    """

    reason: str
    traceback: str = ""


@dataclasses.dataclass(frozen=True)
class Answer:
    """What a worker answered to a call: load, embed, hear or give."""

    worker: "Worker"
    call: str
    value: Any


@dataclasses.dataclass(eq=False)
class Worker:
    """A worker as the run sees it.

    Attributes:
        node: Where it is.
        actor: Ray's handle of it.
        jobs: The clips that it was given and that are neither stored nor failed.
        num_open: How many of them it has not embedded yet.
        num_finished: Clips that it embedded, and that are not stored yet.
        ahead: How many clips it is given beforehand; grows while it runs out of them.
        is_started: Whether Ray found room for it.
        is_loaded: Whether its backbone is.
        is_closing: Whether it was told that no clips will come for now.
        num_silent: How many news told nothing of its clips since it ended its work.
        asked_seconds: When it was last asked for news, in `time.monotonic()`.
        calls: What was asked of it and is not answered, by Ray's reference: load, embed, hear
            or give.
    """

    node: Node
    actor: Any
    ahead: int
    jobs: dict[str, ClipJob] = dataclasses.field(default_factory=dict)
    num_open: int = 0
    num_finished: int = 0
    is_started: bool = False
    is_loaded: bool = False
    is_closing: bool = False
    num_silent: int = 0
    asked_seconds: float = math.inf
    calls: dict[Any, str] = dataclasses.field(default_factory=dict)

    @property
    def is_embedding(self) -> bool:
        """Whether it takes clips, or finishes those it took."""
        return "embed" in self.calls.values()

    def load(self) -> None:
        """Have it load the backbone, and see whether it reaches the store."""
        self.calls[self.actor.load.remote()] = "load"

    def embed(self, sample: list[ClipJob]) -> None:
        """Have it take clips."""
        self.is_closing = False
        self.calls[self.actor.embed.remote(sample)] = "embed"

    def hear(self) -> None:
        """Ask it for news."""
        self.asked_seconds = time.monotonic()
        self.calls[self.actor.hear.remote(_HEAR_SECONDS)] = "hear"

    def give(self, jobs: list[ClipJob]) -> None:
        """Hand it clips."""
        self.jobs |= {job.clip.video_id: job for job in jobs}
        self.num_open += len(jobs)
        self.calls[self.actor.give.remote(jobs)] = "give"

    def close(self) -> None:
        """Have it finish what it has, and store it, as soon as it took all that it was given."""
        if not self.is_closing and "give" not in self.calls.values():
            self.is_closing = True
            self.actor.close.remote()

    def stop(self) -> None:
        """Have it leave what it has not begun, and store the rest."""
        self.is_closing = True
        self.actor.stop.remote()

    def look_further_ahead(self) -> None:
        """Give it more clips beforehand: it waited for some."""
        self.ahead = min(2 * self.ahead, _MAX_AHEAD)


class Crew:
    """All workers of a run.

    Args:
        settings: How they embed.
        store: Where they write.
        nodes: Nodes that passed the checks.
    """

    def __init__(self, settings: ExtractSettings, store: Location, nodes: list[Node]) -> None:
        self.workers: list[Worker] = []
        self._cluster = settings.cluster
        self._settings = settings_elsewhere(settings)
        self._store = store
        self._starts: Counter[str] = Counter()
        self._known = {node.node_id for node in nodes}
        self._awake = time.monotonic()
        self.add(nodes)

    @property
    def num_nodes(self) -> int:
        """Nodes with a worker that is loaded."""
        return len({worker.node.node_id for worker in self.workers if worker.is_loaded})

    def answers(self, seconds: float) -> Iterator[Answer]:
        """Yield what workers answered, waiting for something at most so long.

        What the caller leaves comes again the next time.
        """
        asked = {call: worker for worker in self.workers for call in worker.calls}
        for call in answered(list(asked), seconds):
            yield Answer(asked[call], asked[call].calls.pop(call), _value_of(call))

    def stuck(self) -> list[Worker]:
        """Return workers that Ray holds for alive and that do not answer; to be asked often."""
        before, self._awake = self._awake, time.monotonic()
        if self._awake - before > STUCK_SECONDS / 2:
            # It was we who slept, so answers are on their way.
            for worker in self.workers:
                worker.asked_seconds = self._awake
        late = self._awake - STUCK_SECONDS
        return [one for one in self.workers if one.is_started and one.asked_seconds < late]

    def remove(self, worker: Worker, *, replace: bool) -> None:
        """Take a worker out; starts another on its node if that is alive and it did not often fail.

        A worker that is wrongly taken for lost must not go on, so it is killed.
        """
        load_ray().kill(worker.actor)
        self.workers.remove(worker)
        alive = {node.node_id for node in alive_nodes()}
        if replace and worker.node.node_id in alive:
            self._start(worker.node)

    def new_nodes(self) -> list[Node]:
        """Return nodes that joined the cluster since the last call."""
        joined = [
            node
            for node in alive_nodes()
            if node.node_id not in self._known and num_workers(node, self._cluster)
        ]
        self._known |= {node.node_id for node in joined}
        return joined

    def note_progress(self, node: Node) -> None:
        """Forget how often workers were lost on a node: they get something done."""
        self._starts[node.node_id] = 0

    def add(self, nodes: list[Node]) -> None:
        """Start workers on nodes."""
        for node in nodes:
            for _ in range(num_workers(node, self._cluster)):
                self._start(node)

    def end(self) -> None:
        """Kill all workers; those that are idle remove their copies of clips before."""
        ray = load_ray()
        idle = [worker for worker in self.workers if worker.is_loaded and not worker.is_embedding]
        if cleared := [worker.actor.clear.remote() for worker in idle]:
            ray.wait(cleared, num_returns=len(cleared), timeout=_CLEAR_SECONDS)
        for worker in self.workers:
            ray.kill(worker.actor)
        self.workers.clear()

    def _start(self, node: Node) -> None:
        self._starts[node.node_id] += 1
        if self._starts[node.node_id] > _MAX_STARTS * num_workers(node, self._cluster):
            return
        share = share_of(node, self._cluster)
        actor = start_actor(
            ClusterWorker,
            node,
            share,
            self._settings,
            self._store,
            num_cpus=share.cpus,
            has_gpu=share.gpus > 0,
        )
        worker = Worker(node, actor, ahead=max(_FIRST_AHEAD, 2 * int(share.cpus)))
        worker.load()
        worker.hear()
        self.workers.append(worker)


def why_blocked(news: News) -> str:
    """Return why a worker is to be done without although it answers; "" for no reason."""
    limit = LOADING_SECONDS if news.is_loading else BLOCKED_SECONDS
    if news.blocked_seconds <= limit:
        return ""
    what = "its backbone was not loaded" if news.is_loading else "its work did not go on"
    return f"{what} for {limit:.0f} s: does a file server hang?"


def settings_elsewhere(settings: ExtractSettings) -> ExtractSettings:
    """Return settings that mean the same in another folder and environment, without a cluster."""
    is_file = settings.weights not in ("imagenet", "random")
    return dataclasses.replace(
        settings,
        backend=chosen_backend(settings.backend),
        weights=str(Path(settings.weights).absolute()) if is_file else settings.weights,
        scratch=None if settings.scratch is None else str(settings.scratch_folder),
        cluster=ClusterSettings(),
    )


def _value_of(call: Any) -> Any:
    ray = load_ray()
    errors = ray.exceptions
    try:
        return ray.get(call)
    except errors.RayTaskError as error:  # expected ones are answers
        return Lost(str(error).strip().splitlines()[-1], traceback=str(error))
    except errors.RayError as error:  # its process, or its node, is gone
        return Lost(str(error).strip().splitlines()[0])
