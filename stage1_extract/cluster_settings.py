"""Settings of work on a Ray cluster."""

import dataclasses
import math


@dataclasses.dataclass(frozen=True)
class ClusterSettings:
    """Where work is spread, and what each worker takes of a node."""

    ray: str | None = None
    """Spread the work over a Ray cluster: HOST:PORT of its head node, auto (the one that this
    machine belongs to), or local (one on this machine, started for this run)."""
    worker_cpus: float | None = None
    """CPUs that a worker takes; default: a node's CPUs shared among its GPUs, or 4
    (1 for training)."""
    worker_gpus: float | None = None
    """GPUs that a worker takes, also a part such as 0.5; default: 1 on nodes that have some."""

    def __post_init__(self) -> None:
        if self.ray is not None:
            _check_address(self.ray)
        for name in ("worker_cpus", "worker_gpus"):
            value = getattr(self, name)
            if value is None or (name == "worker_gpus" and value == 0):
                continue
            if not 0 < value < math.inf:
                raise ValueError(f"{name} is {value}; expected more than 0")
            if self.ray is None:
                raise ValueError(f"{name} is for clusters; give --ray ADDRESS or --ray local too")
        if self.worker_gpus is not None and self.worker_gpus > 1:
            raise ValueError(
                f"worker_gpus is {self.worker_gpus}; a worker computes on one GPU, so give 1, or "
                "a part such as 0.5 to let several share one"
            )


def _check_address(address: str) -> None:
    if address in ("local", "auto"):
        return
    if address.startswith("ray://"):
        raise ValueError(
            f"{address} is an address of Ray's client server, which this program does not use; "
            "give HOST:PORT of the head node (6379 by default), on a machine of the cluster"
        )
    host, colon, port = address.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 2**16):
        raise ValueError(f"ray is {address!r}; expected HOST:PORT, auto or local")
