"""A cluster without Ray: workers answer at once, and what befalls them is told beforehand."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from stage1_extract import cluster_crew
from stage1_extract.clips import ClipJob
from stage1_extract.cluster_crew import Lost
from stage1_extract.cluster_worker import News
from stage1_extract.failures import Failure
from stage1_extract.ray_session import Node
from stage1_extract.run_loop import RunResult
from stage1_extract.sources import Clip
from stage1_extract.store import Provenance

PROVENANCE = Provenance({"backbone": "MobileNet"}, {"python": "3"}, {"batch_size": 2})
FRAMES = 7
"""Of each clip."""


def node(name: str, num_cpus: float = 4) -> Node:
    """Return a node that has room for one worker, unless told otherwise."""
    return Node(name, name, "10.0.0.1", num_cpus, 0)


@dataclasses.dataclass
class PretendedRay:
    """What a crew takes for Ray.

    Attributes:
        nodes: Those of the cluster.
        deadly: Clips that end any worker that has them in its hands.
        broken: Clips that cannot be decoded.
        blind: Hosts that see no clip.
        blocked: Hosts whose workers answer, and do no work.
        loading: Hosts whose workers never come to the end of it.
        load_answers: What a worker on a host answers to `load`, instead of its provenance.
        work_answers: What it answers to `embed`, at once, instead of working.
        before_death: Called with a dying worker's clips.
        handed: The clips that workers were given, time after time, by host.
        num_stops: How often a worker was told to stop.
    """

    nodes: list[Node]
    deadly: set[str] = dataclasses.field(default_factory=set)
    broken: set[str] = dataclasses.field(default_factory=set)
    blind: set[str] = dataclasses.field(default_factory=set)
    blocked: set[str] = dataclasses.field(default_factory=set)
    loading: set[str] = dataclasses.field(default_factory=set)
    load_answers: dict[str, Any] = dataclasses.field(default_factory=dict)
    work_answers: dict[str, Any] = dataclasses.field(default_factory=dict)
    before_death: Callable[[Sequence[ClipJob]], None] = lambda jobs: None
    handed: list[tuple[str, list[str]]] = dataclasses.field(default_factory=list)
    num_stops: int = 0
    actors: "list[PretendedWorker]" = dataclasses.field(default_factory=list)
    calls: "dict[int, tuple[PretendedWorker, str]]" = dataclasses.field(default_factory=dict)

    def install(self, monkeypatch: pytest.MonkeyPatch) -> "PretendedRay":
        """Take the place of Ray in a crew."""
        numbers = itertools.count()

        def start_actor(kind: Any, where: Node, *_: Any, **__: Any) -> Any:
            self.actors.append(PretendedWorker(self, where, numbers))
            return self.actors[-1].as_actor()

        def answered(calls: Sequence[int], seconds: float) -> Iterable[int]:
            return [call for call in calls if self._has_answer(call)]

        ray = SimpleNamespace(kill=lambda actor: None, wait=lambda *_, **__: None)
        monkeypatch.setattr(cluster_crew, "start_actor", start_actor)
        monkeypatch.setattr(cluster_crew, "answered", answered)
        monkeypatch.setattr(cluster_crew, "alive_nodes", lambda: list(self.nodes))
        monkeypatch.setattr(cluster_crew, "load_ray", lambda: ray)
        monkeypatch.setattr(cluster_crew, "_value_of", self._value_of)
        return self

    def _has_answer(self, call: int) -> bool:
        worker, name = self.calls[call]
        if name == "load":
            return not worker.is_loading
        return name != "embed" or worker.has_ended

    def _value_of(self, call: int) -> Any:
        worker, name = self.calls.pop(call)
        return worker.answer(name)


class PretendedWorker:
    """Embeds what it has whenever it is asked for news."""

    def __init__(self, ray: PretendedRay, where: Node, numbers: Any) -> None:
        self._ray, self._where, self._numbers = ray, where, numbers
        self._jobs: list[ClipJob] = []
        self._is_closed = False
        self.is_dead = False

    def as_actor(self) -> Any:
        """Return what looks like Ray's handle."""
        names = ("load", "hear", "embed", "give", "close", "stop", "clear")
        return SimpleNamespace(
            **{n: SimpleNamespace(remote=self._called(n)) for n in names},
        )

    def _called(self, name: str) -> Callable[..., int]:
        def remote(*arguments: Any) -> int:
            getattr(self, f"_{name}", lambda *_: None)(*arguments)
            number = next(self._numbers)
            self._ray.calls[number] = self, name
            return int(number)

        return remote

    def _give(self, jobs: list[ClipJob]) -> None:
        self._ray.handed.append((self._where.host, [job.clip.video_id for job in jobs]))
        self._jobs += jobs

    def _close(self) -> None:
        self._is_closed = True

    def _stop(self) -> None:
        self._ray.num_stops += 1
        self._is_closed = True
        self._jobs.clear()

    def _embed(self, sample: Any) -> None:
        self._is_closed = False

    @property
    def is_loading(self) -> bool:
        """Whether `load` does not return."""
        return self._where.host in self._ray.loading

    @property
    def has_ended(self) -> bool:
        """Whether `embed` returns."""
        at_once = self._where.host in self._ray.work_answers
        return self.is_dead or at_once or (self._is_closed and not self._jobs)

    def answer(self, name: str) -> Any:
        """Return what a call brings."""
        host = self._where.host
        if name == "hear" and any(job.clip.video_id in self._ray.deadly for job in self._jobs):
            self.is_dead = True
            self._ray.before_death(self._jobs)
        if self.is_dead or self._where not in self._ray.nodes:
            return Lost("it died")
        if name == "load":
            return self._ray.load_answers.get(host, PROVENANCE)
        if name == "embed":
            return self._ray.work_answers.get(host, RunResult())
        if name != "hear":
            return None
        if self.is_loading:
            return News(blocked_seconds=1e6, is_loading=True)
        if host in self._ray.blocked:
            return News(blocked_seconds=1e6, num_waiting=len(self._jobs))
        return News() if host in self._ray.work_answers else self._work()

    def _work(self) -> News:
        news = News()
        is_blind = self._where.host in self._ray.blind
        for job in self._jobs:
            if is_blind or job.clip.video_id in self._ray.broken:
                error = ValueError("damaged")
                news.failures.append(Failure.of(job.clip.video_id, job.clip.path, error))
                news.unseen |= {job.clip.video_id} if is_blind else set()
                continue
            news.num_finished += 1
            keys = [(job.clip.video_id, view, FRAMES) for view in job.views]
            news.stored[f"{next(self._numbers)}.h5"] = keys
        self._jobs.clear()
        return news


def jobs(names: Iterable[str], folder: Path = Path("/videos")) -> list[ClipJob]:
    """Return clips to embed."""
    return [ClipJob(Clip(name, folder / f"{name}.mp4")) for name in names]
