"""What a run on a cluster has left to do: clips that wait, are stored in part, or cost workers."""

import dataclasses
from collections import Counter, deque
from collections.abc import Iterable, Sequence

from stage1_extract.clips import ClipJob

_MOST_TOGETHER = 2
_MOST_ALONE = 3
MOST_LOSSES = _MOST_TOGETHER + _MOST_ALONE
"""So many workers may be lost with a clip in their hands before it fails."""

SequenceKey = tuple[str, int, int]
"""video_id, view and length of a sequence in a shard."""


class ClipLedger:
    """Clips that nobody has; it knows nothing of workers but what is told.

    A worker that dies had many clips in its hands, most of which are not to blame. Those that were
    there twice are suspects: they are tried last, each by a worker that has nothing else, so that
    none fails but for its own sake.

    Args:
        jobs: All clips of the run.

    Attributes:
        pending: Clips that wait, the next one first.
        suspects: Clips that are to be tried alone.
    """

    def __init__(self, jobs: Iterable[ClipJob]) -> None:
        self.pending = deque(jobs)
        self.suspects: deque[ClipJob] = deque()
        self._lacking: dict[str, set[int]] = {}
        self._together: Counter[str] = Counter()
        self._alone: Counter[str] = Counter()

    def __len__(self) -> int:
        """How many clips nobody has."""
        return len(self.pending) + len(self.suspects)

    def take(self, count: int) -> list[ClipJob]:
        """Return the next clips, at most so many."""
        return [self.pending.popleft() for _ in range(min(count, len(self.pending)))]

    def note_stored(self, held: dict[str, ClipJob], keys: Sequence[SequenceKey]) -> "Stored":
        """Take sequences that stand in a shard off a worker's clips.

        Args:
            held: The worker's clips by video_id; those of which nothing lacks are removed.
            keys: The sequences; those of others' clips do not count.
        """
        found = Stored()
        for video_id, view, length in keys:
            job = held.get(video_id)
            if job is None:
                continue
            lacking = self._lacking.setdefault(video_id, set(job.views))
            lacking.discard(view)
            found.num_frames += length
            if not lacking:
                del held[video_id], self._lacking[video_id]
                found.num_clips += 1
        return found

    def take_back(self, held: Sequence[ClipJob]) -> list[ClipJob]:
        """Have clips of a lost worker tried again; return those that are given up."""
        given_up = []
        for job in map(self._without_stored, held):
            video_id, is_alone = job.clip.video_id, len(held) == 1
            (self._alone if is_alone else self._together)[video_id] += 1
            if self._alone[video_id] >= _MOST_ALONE:
                given_up.append(job)
            elif is_alone or self._together[video_id] >= _MOST_TOGETHER:
                self.suspects.append(job)
            else:
                self.pending.append(job)
        return given_up

    def drop_all(self) -> None:
        """Forget what nobody has."""
        self.pending.clear()
        self.suspects.clear()

    def _without_stored(self, job: ClipJob) -> ClipJob:
        lacking = self._lacking.pop(job.clip.video_id, None)
        return ClipJob(job.clip, tuple(sorted(lacking))) if lacking else job


@dataclasses.dataclass
class Stored:
    """What a shard completed.

    Attributes:
        num_clips: Clips of which nothing lacks any more.
        num_frames: Frames of the sequences.
    """

    num_clips: int = 0
    num_frames: int = 0
