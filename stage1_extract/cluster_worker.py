"""One worker of a cluster: a Ray actor that holds the backbone and writes shards of its own."""

import dataclasses
import math
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Self

from stage1_extract.addresses import Address, Location
from stage1_extract.clips import ClipJob
from stage1_extract.config import ExtractSettings
from stage1_extract.cores import CORES_VARIABLE
from stage1_extract.failures import Failure
from stage1_extract.job_queue import JobQueue
from stage1_extract.local import LocalRunner
from stage1_extract.publishing import open_outbox
from stage1_extract.remote import list_folder
from stage1_extract.run_loop import RunResult
from stage1_extract.store import Provenance, SequenceRecord, SourceFacts
from stage1_extract.writing import SequenceBuffer, ShardWriter

_GATHER_SECONDS = 0.1
"""News are gathered so long, so that many small clips do not make many messages."""


@dataclasses.dataclass
class News:
    """What happened at a worker since it was last asked.

    Attributes:
        num_frames: Frames that were embedded.
        num_finished: Clips that were embedded, and wait for their shard.
        stored: Shards that are on the disk, by name, with (video_id, view, length) of their
            sequences.
        failures: Clips that failed.
        unseen: The video_ids of those whose source this node does not see.
        messages: For the user.
        num_waiting: Clips that wait for a decoder.
        blocked_seconds: For how long its work has not gone on, as in a call to a file server that
            hangs.
        is_loading: Whether that is loading the backbone.
    """

    num_frames: int = 0
    num_finished: int = 0
    stored: dict[str, list[tuple[str, int, int]]] = dataclasses.field(default_factory=dict)
    failures: list[Failure] = dataclasses.field(default_factory=list)
    unseen: set[str] = dataclasses.field(default_factory=set)
    messages: list[str] = dataclasses.field(default_factory=list)
    num_waiting: int = 0
    blocked_seconds: float = 0.0
    is_loading: bool = False


class ClusterWorker:
    """Embeds the clips that it is given; its methods run side by side, in threads.

    Args:
        settings: How, as for one device.
        store: Where it writes.
        num_cpus: Cores that it may use.
        has_gpu: Whether Ray granted it one.
    """

    def __init__(
        self, settings: ExtractSettings, store: Location, *, num_cpus: float, has_gpu: bool
    ) -> None:
        cores = max(1, int(num_cpus))
        _limit(cores, has_gpu=has_gpu)
        decoders = cores if settings.decoders == "auto" else settings.decoders
        self._settings = dataclasses.replace(settings, decoders=decoders)
        self._store = store
        self._runner: LocalRunner | None = None
        self._is_measured = False
        self._jobs = JobQueue()
        self._stopped = False
        self._board = _NewsBoard()

    def load(self) -> Provenance | Exception:
        """Load the backbone and start the decoders; an error is returned."""
        try:
            with self._board.at_work(loads=True):
                if isinstance(self._store, Address):
                    list_folder(self._store)  # a node without keys, or a route, is told of now
                self._runner = LocalRunner(self._settings)
                self._runner.prepare()
        except (ValueError, OSError) as error:
            return error
        return self._runner.provenance

    def embed(self, sample: Sequence[ClipJob]) -> RunResult | Exception:
        """Embed what `give` brings until `close`; an error that ends it is returned.

        Args:
            sample: Clips to try a low precision on before.
        """
        if self._runner is None:
            raise RuntimeError("the worker was not loaded")
        try:
            with self._board.at_work():
                return self._embed(self._runner, sample)
        except (ValueError, OSError) as error:
            return error
        finally:
            self._jobs = JobQueue()  # for the next time

    def _embed(self, runner: LocalRunner, sample: Sequence[ClipJob]) -> RunResult:
        if not self._is_measured:
            runner.measure_precision(sample, self._board)
            self._is_measured = True
        with open_outbox(self._store, self._settings.scratch_folder) as outbox:
            writer = runner.new_writer(outbox, self._board.note_stored)
            return runner.embed_into(self._jobs, _WorkerSink(writer, self._board), self._board)

    def give(self, jobs: Sequence[ClipJob]) -> None:
        """Add clips; those that come after `stop` are left."""
        if not self._stopped:
            self._jobs.put(jobs)

    def close(self) -> None:
        """Say that no clips will come for now: finish those there are, and store them."""
        self._jobs.close()

    def stop(self) -> None:
        """Leave the clips that were not begun, and store the others; no more will be taken."""
        self._stopped = True
        self._jobs.drop_all()

    def clear(self) -> None:
        """End the decoders, and remove their copies of clips."""
        if self._runner is not None:
            self._runner.end_decoders()

    def hear(self, seconds: float) -> News:
        """Return what happened since the last call, waiting for something at most so long."""
        news = self._board.take(seconds)
        news.num_waiting = len(self._jobs)
        return news


class _NewsBoard:
    """Gathers news, as the `ProgressLike` of a run and as its shards are written."""

    def __init__(self) -> None:
        self._news = News()
        self._any = False
        self._beat_seconds = math.inf  # when its work last went on; never late without work
        self._loads = False
        self._changed = threading.Condition()

    def take(self, seconds: float) -> News:
        """Return what there is, waiting for something at most so long."""
        with self._changed:
            some = self._changed.wait_for(lambda: self._any, seconds)
        if some:
            time.sleep(_GATHER_SECONDS)
        with self._changed:
            news, self._news, self._any = self._news, News(), False
        news.blocked_seconds = max(0.0, time.monotonic() - self._beat_seconds)
        news.is_loading = self._loads
        return news

    @contextmanager
    def at_work(self, *, loads: bool = False) -> Iterator[None]:
        """In the block, work goes on as often as `beat` says so."""
        self._loads = loads
        self.beat()
        try:
            yield
        finally:
            self._beat_seconds = math.inf

    def beat(self) -> None:
        """Note that work goes on."""
        self._beat_seconds = time.monotonic()

    @contextmanager
    def _noted(self) -> Iterator[News]:
        with self._changed:
            yield self._news
            self._any = True
            self._changed.notify_all()

    def note_stored(self, shard: Path, records: Sequence[SequenceRecord]) -> None:
        with self._noted() as news:
            news.stored[shard.name] = [(one.video_id, one.view, one.length) for one in records]

    def note_failure(self, failure: Failure) -> None:
        is_seen = os.path.exists(failure.path)  # noqa: PTH110 - False where a mount broke, too
        with self._noted() as news:
            news.failures.append(failure)
            if not is_seen:
                news.unseen.add(failure.video_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def add_frames(self, count: int) -> None:
        with self._noted() as news:
            news.num_frames += count

    def finish_clip(self, *, failed: bool = False) -> None:
        with self._noted() as news:
            news.num_finished += not failed

    def write(self, message: str) -> None:
        with self._noted() as news:
            news.messages.append(message)


class _WorkerSink:
    """Writes shards, and tells the run of failures: only the run writes failures.jsonl.

    Appending to one file from several machines tears lines on network file systems.
    """

    def __init__(self, writer: ShardWriter, board: _NewsBoard) -> None:
        self.folder = writer.folder
        self._writer = writer
        self._board = board

    def __enter__(self) -> Self:
        self._writer.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.__exit__(*error)

    def add(self, video_id: str, view: int, sequence: SequenceBuffer, facts: SourceFacts) -> None:
        self._writer.add(video_id, view, sequence, facts)

    def fail(self, failure: Failure) -> None:
        self._board.note_failure(failure)

    def flush_if_old(self) -> None:
        self._board.beat()  # called often, whatever there is to do
        self._writer.flush_if_old()

    def flush(self) -> None:
        self._writer.flush()


def _limit(cores: int, *, has_gpu: bool) -> None:
    """Keep to what Ray granted; to be called before a backend is loaded."""
    for name in (CORES_VARIABLE, "TF_NUM_INTRAOP_THREADS", "OMP_NUM_THREADS"):
        os.environ[name] = str(cores)
    if has_gpu:  # which may be shared with other workers
        os.environ.setdefault("TF_FORCE_GPU_ALLOW_GROWTH", "true")
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    else:
        os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
