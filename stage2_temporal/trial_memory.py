"""Memory of a process that runs trial after trial."""

import os
import resource
from pathlib import Path

from stage1_extract.keras_setup import load_keras

_STATM = Path("/proc/self/statm")  # of Linux
_MAX_GROWTH_BYTES = 2**30


class Growth:
    """By how much the memory of this process grew since its first trial.

    Keras on TensorFlow keeps 5 to 15 MB of every recurrent model that was ever compiled, and with
    it what its trainings read, whatever is done to free them; only the end of the process does.
    """

    def __init__(self) -> None:
        self._first: int | None = None

    def note(self) -> None:
        """Free what can be freed after a trial, and note how much memory is left in use."""
        load_keras().utils.clear_session()
        if self._first is None:
            self._first = used_bytes()

    @property
    def is_large(self) -> bool:
        """Whether a fresh process should take this one's place."""
        return self._first is not None and used_bytes() - self._first > _MAX_GROWTH_BYTES


def used_bytes() -> int:
    """Return the memory that this process has in use; without Linux, the most that it ever had."""
    if _STATM.exists():
        return int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
