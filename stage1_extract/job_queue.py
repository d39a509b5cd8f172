"""Clips that wait for a decoder; more may come while the first are being embedded."""

import threading
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Self

from stage1_extract.clips import ClipJob


class JobQueue:
    """Jobs in the order in which they came, until it is closed; safe to use from several threads.

    Args:
        jobs: The first of them.
    """

    def __init__(self, jobs: Iterable[ClipJob] = ()) -> None:
        self._jobs = deque(jobs)
        self._closed = False
        self._lock = threading.Lock()

    @classmethod
    def of(cls, jobs: "Sequence[ClipJob] | JobQueue") -> "JobQueue":
        """Return a queue as it is, and a list as one that is closed."""
        return jobs if isinstance(jobs, JobQueue) else cls(jobs).close()

    def put(self, jobs: Iterable[ClipJob]) -> None:
        """Add jobs.

        Raises:
            ValueError: It is closed.
        """
        with self._lock:
            if self._closed:
                raise ValueError("the queue is closed; nobody would take these jobs")
            self._jobs.extend(jobs)

    def take(self) -> ClipJob | None:
        """Return the next job; None where none waits now."""
        with self._lock:
            return self._jobs.popleft() if self._jobs else None

    def close(self) -> Self:
        """Say that no more will come."""
        with self._lock:
            self._closed = True
        return self

    def drop_all(self) -> None:
        """Forget what waits, and close."""
        with self._lock:
            self._jobs.clear()
            self._closed = True

    def __len__(self) -> int:
        """Jobs that wait."""
        return len(self._jobs)

    @property
    def exhausted(self) -> bool:
        """Whether none waits and none will come."""
        with self._lock:
            return self._closed and not self._jobs
