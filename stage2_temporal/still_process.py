"""Whether a process computes: one that a file server or a driver holds takes no CPU time."""

import os
import time
from pathlib import Path

_SOME_SECONDS = 1.0
"""Less is no work: threads that wait wake up now and then."""


class StillProcess:
    """For how long a process has hardly computed.

    Args:
        pid: Its number.
    """

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self.begin()

    def begin(self) -> None:
        """Count from now on."""
        self._computed, self._since = cpu_seconds(self._pid), time.monotonic()

    @property
    def still_seconds(self) -> float:
        """For how long it has taken less than a second of CPU time; to be asked often."""
        computed = cpu_seconds(self._pid)
        if self._computed is None or computed is None or computed - self._computed > _SOME_SECONDS:
            self.begin()
        return time.monotonic() - self._since


def cpu_seconds(pid: int) -> float | None:
    """Return the CPU time of all threads of a process; None without Linux, or without it."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text("utf-8", "replace")
    except OSError:
        return None
    user, system = status.rpartition(")")[2].split()[11:13]  # man 5 proc: fields 14 and 15
    return (int(user) + int(system)) / os.sysconf("SC_CLK_TCK")
