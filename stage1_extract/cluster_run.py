"""One run on a cluster: clips handed out, news taken in, lost clips given to others."""

import math
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from stage1_extract.clip_ledger import MOST_LOSSES, ClipLedger, SequenceKey
from stage1_extract.clips import ClipJob
from stage1_extract.cluster_crew import SILENT, Answer, Crew, Lost, Worker, why_blocked
from stage1_extract.cluster_worker import News
from stage1_extract.config import ExtractSettings
from stage1_extract.failures import Failure, append_failure
from stage1_extract.node_checks import Needs
from stage1_extract.node_watch import NodeWatch
from stage1_extract.precision import PrecisionError
from stage1_extract.progress import ClusterProgressLike
from stage1_extract.ray_session import ClusterError
from stage1_extract.run_loop import RunResult
from stage1_extract.store import Provenance, describe_difference
from stage1_extract.targets import Target
from stage1_extract.untold_shards import UntoldShards

_POLL_SECONDS = 0.5
_KEEP_SECONDS = 10.0
_SAMPLE_CLIPS = 8
_SILENT_NEWS = 2
"""A worker that ended its work has told all of it in so many news."""


class ClusterRun:
    """Hands out clips a few at a time, and hears which of them stand in a shard.

    The clips of a worker that is lost go to others, but for those that a shard of its holds.
    Nothing is done twice unless a shared folder shows such a shard too late; readers then take one
    of the copies, and the end of the extraction removes the other.

    Args:
        settings: How.
        crew: The workers.
        jobs: What to embed.
        target: Where the workers write.
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
        target: Target,
        progress: ClusterProgressLike,
        *,
        needs: Needs,
        provenance: Provenance,
    ) -> None:
        self.result = RunResult()
        self._settings = settings
        self._crew = crew
        self._clips = ClipLedger(jobs)
        self._sample = list(jobs[:: max(1, len(jobs) // _SAMPLE_CLIPS)])[:_SAMPLE_CLIPS]
        self._target = target
        self._progress = progress
        self._provenance = provenance
        self._nodes = NodeWatch(crew, needs, progress)
        self._untold = UntoldShards(target, progress.write)
        self._stopped = False
        self._kept = time.monotonic()
        self._num_kept = 0
        self._reasons: dict[str, str] = {}

    def go(self, check_interrupt: Callable[[], None]) -> None:
        """Embed everything.

        Raises:
            ClusterError: No worker is left; what ended the last of each node is told.
            PrecisionError: The precision is too low for these videos.
            OSError: Failures cannot be noted.
            KeyboardInterrupt: From `check_interrupt`, once what was begun is stored.
        """
        interrupt: KeyboardInterrupt | None = None
        try:
            while self._is_busy():
                for answer in self._crew.answers(_POLL_SECONDS):
                    if answer.worker in self._crew.workers:
                        self._take(answer)
                for worker in self._crew.stuck():
                    self._lose(worker, SILENT, replace=True)
                self._hand_out()
                if not self._stopped:
                    self._nodes.look()
                try:
                    check_interrupt()
                except KeyboardInterrupt as error:
                    interrupt = error
                    self._stop()
        finally:
            self._nodes.close()
            self._keep_failures()
        if interrupt:
            raise interrupt

    def _is_busy(self) -> bool:
        workers = self._crew.workers
        if any(worker.is_embedding for worker in workers):
            return True
        if self._stopped:  # until they told of what they stored at last
            return any(w.jobs and w.num_silent < _SILENT_NEWS for w in workers)
        left = len(self._clips) + sum(len(worker.jobs) for worker in workers)
        if left and not workers:
            reasons = [f"\n  {label}: {reason}" for label, reason in self._reasons.items()]
            raise ClusterError(
                f"no worker is left, and {left} clips are not embedded; what was stored is kept, "
                "run the same command again to go on. Why the last worker of each node was lost:"
                + "".join(reasons)
            )
        return left > 0

    def _stop(self) -> None:
        """Have the workers store what they have begun, and no more."""
        if self._stopped:
            return
        self._stopped = True
        self._clips.drop_all()
        for worker in self._crew.workers:
            worker.stop()

    # ------------------------------------------------------------------------ what workers answer

    def _take(self, answer: Answer) -> None:
        worker, value = answer.worker, answer.value
        if isinstance(value, Lost):
            if value.traceback and value.reason not in self._reasons.values():
                self._progress.write(value.traceback)
            self._lose(worker, value.reason, replace=True)
        elif isinstance(value, PrecisionError):
            raise value  # it would be too low for the others, too
        elif isinstance(value, Exception):
            self._lose(worker, str(value), replace=False)
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
            return
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
            self._untold.tell_of(shard)
            self._note_stored(worker, keys)
        unseen = [failure for failure in news.failures if failure.video_id in news.unseen]
        hidden = {one.video_id: one.path for one in unseen if _is_seen(worker, one)}
        for failure in news.failures:
            if failure.video_id not in hidden:
                del worker.jobs[failure.video_id]
                self._fail(failure)
        for message in news.messages:
            self._progress.write(f"{worker.node.host}: {message}")
        if news.stored or news.failures:
            self._crew.note_progress(worker.node)
        if hidden:  # left at work, it would have all clips fail, faster than others embed them
            path = next(iter(hidden.values()))
            reason = f"it does not see {path}, which this machine sees: is its folder mounted?"
            self._lose(worker, reason, replace=False)
            return
        if not news.num_waiting and self._clips.pending and worker.is_embedding:
            worker.look_further_ahead()
        if reason := why_blocked(news):
            self._lose(worker, reason, replace=not news.is_loading)
            return
        self._check_silence(worker)

    def _note_stored(self, worker: Worker, keys: Sequence[SequenceKey]) -> None:
        """Take sequences off a worker's clips."""
        stored = self._clips.note_stored(worker.jobs, keys)
        worker.num_finished -= stored.num_clips
        self.result.num_stored += stored.num_clips
        self.result.num_frames += stored.num_frames

    def _fail(self, failure: Failure) -> None:
        append_failure(self._target.folder, failure)
        self.result.failures.append(failure)
        if time.monotonic() - self._kept > _KEEP_SECONDS:
            self._keep_failures()
        self._progress.finish_clip(failed=True)
        if self._settings.fail_fast:
            self._stop()

    def _keep_failures(self) -> None:
        if len(self.result.failures) > self._num_kept:
            self._target.keep_failures()
        self._num_kept, self._kept = len(self.result.failures), time.monotonic()

    def _check_silence(self, worker: Worker) -> None:
        """Take clips back that a worker has lost without saying so, which would be a fault."""
        if worker.is_embedding or not worker.jobs:
            return
        worker.num_silent += 1
        if worker.num_silent > _SILENT_NEWS and not self._stopped:
            self._lose(worker, "it ended without a word of its last clips", replace=True)

    # ---------------------------------------------------------------------------- what it has lost

    def _lose(self, worker: Worker, reason: str, *, replace: bool) -> None:
        """Give a worker's clips to others, unless its shards hold them."""
        self._crew.remove(worker, replace=replace and not self._stopped)
        self._reasons[worker.node.label] = reason
        for keys in self._untold.find():
            for holder in (worker, *self._crew.workers):  # others may be lost with its node
                self._note_stored(holder, keys)
        self._progress.take_back(worker.num_finished)
        left = list(worker.jobs.values())
        what = f"; {len(left)} clips go to other workers" if left else ""
        self._progress.write(f"lost a worker of {worker.node.label} ({reason}){what}")
        if self._stopped:
            return
        for job in self._clips.take_back(left):
            error = ClusterError(
                f"{MOST_LOSSES} workers or more were lost while they had this clip, the last of "
                f"them had no other: {reason}"
            )
            self._fail(Failure.of(job.clip.video_id, job.clip.path, error))

    # -------------------------------------------------------------------------- what workers get

    def _hand_out(self) -> None:
        loaded = [worker for worker in self._crew.workers if worker.is_loaded]
        if self._clips.pending:
            self._share_out(loaded)
            return
        for worker in loaded:
            if worker.is_embedding:
                worker.close()
            elif self._clips.suspects and not worker.jobs:
                worker.embed(self._sample)
                worker.give([self._clips.suspects.popleft()])

    def _share_out(self, loaded: Sequence[Worker]) -> None:
        for worker in loaded:
            if not worker.is_embedding:
                worker.embed(self._sample)
        takers = sorted((w for w in loaded if not w.is_closing), key=lambda w: w.num_open)
        if not takers:
            return
        # The last clips are shared out evenly.
        open_clips = len(self._clips.pending) + sum(worker.num_open for worker in takers)
        fair = math.ceil(open_clips / len(takers))
        for worker in takers:
            if jobs := self._clips.take(max(0, min(worker.ahead, fair) - worker.num_open)):
                worker.give(jobs)


def _is_seen(worker: Worker, failure: Failure) -> bool:
    """Return whether this machine sees the file of a clip that failed on a node."""
    path = worker.jobs[failure.video_id].clip.path
    is_told = str(path) == failure.path  # names that are not UTF-8 are told in other letters
    return isinstance(path, Path) and is_told and os.path.exists(path)  # noqa: PTH110
