"""How many cores this process may use."""

import math
import os
from pathlib import Path

CORES_VARIABLE = "EMBED_CORES"
"""In the environment: how many cores a cluster's scheduler granted."""
_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def available_cores() -> int:
    """Return the number of cores: those it may run on, at most what it is granted."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    granted = os.environ.get(CORES_VARIABLE)
    return max(1, min(cores or 1, _granted_cores(), int(granted) if granted else 2**31))


def _granted_cores() -> int:
    """Return the container's quota in whole cores; without one, more than any machine has."""
    if not _QUOTA.is_file():
        return 2**31
    quota, _, period = _QUOTA.read_text().partition(" ")
    return 2**31 if quota == "max" else math.ceil(int(quota) / int(period))
