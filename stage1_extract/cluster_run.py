"""One run on a cluster: clips handed out, news taken in, lost clips given to others."""

import math
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from pathlib import Path

from stage1_extract.addresses import Location
from stage1_extract.clips import ClipJob
from stage1_extract.cluster_crew import Answer, Crew, Lost, Worker
from stage1_extract.cluster_worker import News
from stage1_extract.config import ExtractSettings
from stage1_extract.failures import Failure, append_failure
from stage1_extract.node_checks import Needs, check_nodes
from stage1_extract.progress import ClusterProgressLike
from stage1_extract.ray_session import ClusterError
from stage1_extract.run_loop import RunResult
from stage1_extract.store import EmbeddingStore, Provenance, describe_difference, shard_paths

_POLL_SECONDS = 0.5
_NODES_SECONDS = 5.0
_MAX_ATTEMPTS = 5
_SAMPLE_CLIPS = 8
_SILENT_NEWS = 2
"""A worker that ended its work has told all of it in so many news."""
STUCK_SECONDS = 300.0
"""A worker answers every few seconds; one that was silent for so long is given up."""


class ClusterRun:
    """Hands out clips a few at a time, and hears which of them stand in a shard.

    The clips of a worker that is lost go to others, but for those that a shard of its holds.
    Nothing is done twice unless a shared folder shows such a shard too late; readers then take one
    of the copies, and the end of the extraction removes the other.

    Args:
        settings: How.
        crew: The workers.
        jobs: What to embed.
        store: Where the workers write.
        folder: Tells what the store holds; the store itself, unless that is at an address.
        progress: Who hears of it.
        needs: What nodes that join must have.
        provenance: What all shards must say.

    Attributes:
        result: What was done so far.
    """

    def __init__(
        self,
        settings: ExtractSettings,
        crew: Crew,
        jobs: Sequence[ClipJob],
        progress: ClusterProgressLike,
        *,
        store: Location,
        folder: Path,
        needs: Needs,
        provenance: Provenance,
    ) -> None:
        self.result = RunResult()
        self._settings = settings
        self._crew = crew
        self._pending = deque(jobs)
        self._sample = list(jobs[:: max(1, len(jobs) // _SAMPLE_CLIPS)])[:_SAMPLE_CLIPS]
        self._progress = progress
        self._store, self._folder = store, folder
        self._needs = needs
        self._provenance = provenance
        self._known_shards = {path.name for path in shard_paths(folder)}
        self._partly_stored: dict[str, set[int]] = {}
        self._attempts: Counter[str] = Counter()
        self._stopped = False
        self._looked = self._awake = time.monotonic()
        self._last_loss: Exception | None = None

    def go(self, check_interrupt: Callable[[], None]) -> None:
        """Embed everything.

        Raises:
            ClusterError: No worker is left.
            ValueError, OSError: What ended the last worker, or what would end each.
            KeyboardInterrupt: From `check_interrupt`, once what was begun is stored.
        """
        interrupt: KeyboardInterrupt | None = None
        while self._is_busy():
            for answer in self._crew.answers(_POLL_SECONDS):
                if answer.worker in self._crew.workers:
                    self._take(answer)
            self._lose_the_stuck()
            self._hand_out()
            self._look_for_nodes()
            try:
                check_interrupt()
            except KeyboardInterrupt as error:
                interrupt = error
                self._stop()
        if interrupt:
            raise interrupt

    def _is_busy(self) -> bool:
        workers = self._crew.workers
        if any(worker.is_embedding for worker in workers):
            return True
        if self._stopped:  # until they told of what they stored at last
            return any(w.jobs and w.num_silent < _SILENT_NEWS for w in workers)
        left = len(self._pending) + sum(len(worker.jobs) for worker in workers)
        if left and not workers:
            raise self._last_loss or ClusterError(
                f"no worker is left, and {left} clips are not embedded; what was stored is kept, "
                "run the same command again to go on"
            )
        return left > 0

    def _stop(self) -> None:
        """Have the workers store what they have begun, and no more."""
        self._stopped = True
        self._pending.clear()
        for worker in self._crew.workers:
            worker.stop()

    # ------------------------------------------------------------------------ what workers answer

    def _take(self, answer: Answer) -> None:
        worker, value = answer.worker, answer.value
        if isinstance(value, Lost):
            self._lose(worker, value.reason, replace=True)
        elif isinstance(value, OSError):
            self._last_loss = value
            self._lose(worker, str(value), replace=False)
        elif isinstance(value, Exception):
            raise value
        elif answer.call == "load":
            self._accept(worker, value)
        elif answer.call == "embed":
            worker.num_silent = 0
            self.result.notes += value.notes
            self.result.num_sought += value.num_sought
        elif answer.call == "hear":
            self._take_news(worker, value)

    def _accept(self, worker: Worker, provenance: Provenance) -> None:
        if difference := describe_difference(self._provenance.settings, provenance.settings):
            self._lose(worker, f"it computes something else: {difference}", replace=False)
        worker.is_loaded = True

    def _take_news(self, worker: Worker, news: News) -> None:
        worker.is_started = True
        worker.hear()
        self._progress.add_frames(news.num_frames)
        for _ in range(news.num_finished):
            self._progress.finish_clip()
        worker.num_finished += news.num_finished
        worker.num_open -= news.num_finished + len(news.failures)
        for shard, keys in news.stored.items():
            self._known_shards.add(shard)
            self._note_stored(worker, keys)
        for failure in news.failures:
            del worker.jobs[failure.video_id]
            self._fail(failure)
        for message in news.messages:
            self._progress.write(f"{worker.node.host}: {message}")
        if not news.num_waiting and self._pending and worker.is_embedding:
            worker.look_further_ahead()
        self._check_silence(worker)

    def _note_stored(self, worker: Worker, keys: Sequence[tuple[str, int, int]]) -> int:
        """Take sequences off a worker's list; returns how many of its clips are complete."""
        num_complete = 0
        for video_id, view, length in keys:
            job = worker.jobs.get(video_id)
            if job is None:
                continue
            lacking = self._partly_stored.setdefault(video_id, set(job.views))
            lacking.discard(view)
            self.result.num_frames += length
            if not lacking:
                del worker.jobs[video_id], self._partly_stored[video_id]
                num_complete += 1
        worker.num_finished -= num_complete
        self.result.num_stored += num_complete
        return num_complete

    def _fail(self, failure: Failure) -> None:
        append_failure(self._folder, failure)
        self.result.failures.append(failure)
        self._progress.finish_clip(failed=True)
        if self._settings.fail_fast and not self._stopped:
            self._stop()

    def _check_silence(self, worker: Worker) -> None:
        """Take clips back that a worker has lost without saying so, which would be a fault."""
        if worker.is_embedding or not worker.jobs:
            return
        worker.num_silent += 1
        if worker.num_silent > _SILENT_NEWS and not self._stopped:
            self._lose(worker, "it ended without a word of its last clips", replace=True)

    # ---------------------------------------------------------------------------- what it has lost

    def _lose_the_stuck(self) -> None:
        """Do without workers that Ray holds for alive and that do nothing: a file server hangs."""
        before, self._awake = self._awake, time.monotonic()
        if self._awake - before > STUCK_SECONDS / 2:
            # It was we who slept, so answers are on their way.
            for worker in self._crew.workers:
                worker.asked_seconds = self._awake
        late = self._awake - STUCK_SECONDS
        for worker in [w for w in self._crew.workers if w.is_started and w.asked_seconds < late]:
            self._lose(worker, f"it did not answer for {STUCK_SECONDS:.0f} s", replace=True)

    def _lose(self, worker: Worker, reason: str, *, replace: bool) -> None:
        """Give a worker's clips to others, unless its shards hold them."""
        self._crew.remove(worker, replace=replace)
        num_counted = worker.num_finished
        num_rescued = sum(self._note_stored(worker, keys) for keys in self._unknown_shards())
        self._progress.take_back(num_counted - num_rescued)
        left = [self._without_stored(job) for job in worker.jobs.values()]
        what = f"; {len(left)} clips go to other workers" if left else ""
        self._progress.write(f"lost a worker of {worker.node.label} ({reason}){what}")
        if self._stopped:
            return
        for job in left:
            video_id = job.clip.video_id
            self._attempts[video_id] += 1
            if self._attempts[video_id] < _MAX_ATTEMPTS:
                self._pending.append(job)
                continue
            error = ClusterError(
                f"{_MAX_ATTEMPTS} workers were lost while they had this clip, at last: {reason}"
            )
            self._fail(Failure.of(video_id, job.clip.path, error))

    def _unknown_shards(self) -> list[list[tuple[str, int, int]]]:
        """Return the sequences of shards that no worker told of."""
        found = []
        for path in shard_paths(self._folder):
            if path.name not in self._known_shards:
                store = EmbeddingStore(path)
                columns = store.video_ids.tolist(), store.views.tolist(), store.lengths.tolist()
                found.append(list(zip(*columns, strict=True)))
        return found

    def _without_stored(self, job: ClipJob) -> ClipJob:
        lacking = self._partly_stored.pop(job.clip.video_id, None)
        return ClipJob(job.clip, tuple(sorted(lacking))) if lacking else job

    # -------------------------------------------------------------------------- what workers get

    def _hand_out(self) -> None:
        loaded = [worker for worker in self._crew.workers if worker.is_loaded]
        if not self._pending:
            for worker in loaded:
                if worker.is_embedding:
                    worker.close()
            return
        for worker in loaded:
            if not worker.is_embedding:
                worker.embed(self._store, self._sample)
        takers = sorted((w for w in loaded if not w.is_closing), key=lambda w: w.num_open)
        if not takers:
            return
        # The last clips are shared out evenly.
        open_clips = len(self._pending) + sum(worker.num_open for worker in takers)
        fair = math.ceil(open_clips / len(takers))
        for worker in takers:
            room = min(worker.ahead, fair) - worker.num_open
            jobs = [self._pending.popleft() for _ in range(min(room, len(self._pending)))]
            if jobs:
                worker.give(jobs)

    def _look_for_nodes(self) -> None:
        """Have nodes that join take part."""
        if time.monotonic() - self._looked < _NODES_SECONDS:
            return
        self._looked = time.monotonic()
        nodes = self._crew.num_nodes
        self._progress.show_place(f"{nodes} node{'s' * (nodes != 1)}")
        if self._stopped or not (joined := self._crew.new_nodes()):
            return
        try:
            check_nodes(joined, self._needs)
        except ClusterError as error:
            self._progress.write(f"nodes that joined are not used: {error}")
        else:
            self._crew.add(joined)
