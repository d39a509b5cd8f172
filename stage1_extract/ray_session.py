"""Joining a Ray cluster: https://docs.ray.io. Both stages use it."""

import dataclasses
import importlib
import os
import secrets
import socket
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stage1_extract.cores import available_cores

_CONNECT_SECONDS = 10.0
_HEAD_SECONDS = 20.0
"""A head that does not listen may be starting anew for so long; Ray gives it 60 s."""
_HEAD_POLL_SECONDS = 1.0
_TOKEN = "~/.ray/auth_token"  # noqa: S105 - where it is
_OBJECT_STORE_BYTES = 100 * 10**6  # nothing large goes through it


class ClusterError(OSError):
    """A cluster, or a node of it, cannot be used: which, why, and what to do."""


@dataclasses.dataclass(frozen=True)
class Node:
    """A node of the cluster that is alive.

    Attributes:
        node_id: Ray's name of it.
        host: The machine's name.
        address: Its IP address.
        num_cpus, num_gpus: What it offers to Ray.
    """

    node_id: str
    host: str
    address: str
    num_cpus: float
    num_gpus: float

    @property
    def label(self) -> str:
        """How a person finds it: several nodes may be on one machine."""
        return f"node {self.host} ({self.address}, {self.node_id[:8]})"


def load_ray() -> Any:
    """Import Ray and return it.

    Raises:
        ClusterError: It is not installed.
    """
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    try:
        return importlib.import_module("ray")
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ClusterError(
            "work on a cluster needs Ray, on this machine and on every node: "
            "pip install 'embed-then-sequence[cluster]'"
        ) from error


@contextmanager
def joined_cluster(address: str) -> Iterator[None]:
    """Join the cluster for the time of the block.

    Args:
        address: HOST:PORT, auto, or local, which starts one on this machine and ends it.

    Raises:
        ClusterError: Ray is not installed, nothing answers, or it runs another version.
    """
    _show_token(address)
    ray = load_ray()
    if ray.is_initialized():  # the user's own program did it
        yield
        return
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        options |= {
            "num_cpus": available_cores(),
            "include_dashboard": False,
            "object_store_memory": _OBJECT_STORE_BYTES,
        }
    elif address != "auto":
        _check_listening(address)
    try:
        ray.init(address=address, **options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ClusterError(
            f"cannot join the Ray cluster at {address!r}: {error}. On its machines, `ray status` "
            "shows whether it runs, and `ray start --head` starts one; if it asks for a token "
            f"({_TOKEN} on its head), copy that file to this machine's {_TOKEN}"
        ) from error
    try:
        yield
    finally:
        ray.shutdown()


def alive_nodes() -> list[Node]:
    """Return the nodes of the cluster that are alive, in a fixed order.

    Raises:
        ClusterError: The head is gone.
    """
    ray = load_ray()
    _check_head(ray.get_runtime_context().gcs_address)
    return [
        Node(
            node_id=found["NodeID"],
            host=found["NodeManagerHostname"],
            address=found["NodeManagerAddress"],
            num_cpus=found["Resources"].get("CPU", 0.0),
            num_gpus=found["Resources"].get("GPU", 0.0),
        )
        for found in sorted(ray.nodes(), key=lambda found: str(found["NodeID"]))
        if found["Alive"]
    ]


def on_node(node: Node) -> Any:
    """Return the scheduling strategy that keeps a task or an actor on a node."""
    scheduling = importlib.import_module("ray.util.scheduling_strategies")
    return scheduling.NodeAffinitySchedulingStrategy(node.node_id, soft=False)


def _show_token(address: str) -> None:
    """Have Ray (2.60 and later) show its token where there is one.

    Nobody else may use a cluster that is started here. Left alone, Ray would write a token for it
    which all clusters that are started later ask for. Ray looks at these variables once, when it is
    imported.
    """
    if "RAY_AUTH_MODE" in os.environ or "ray" in sys.modules:
        return
    if address == "local":
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    elif not ({"RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"} & set(os.environ)) and not (
        Path(_TOKEN).expanduser().exists()
    ):
        return
    os.environ["RAY_AUTH_MODE"] = "token"


def _check_head(address: str) -> None:
    """Refuse to ask a head that is gone: Ray would block for a minute, and end this process."""
    deadline = time.monotonic() + _HEAD_SECONDS
    while True:
        try:
            _connect(address)
        except OSError as error:
            if time.monotonic() > deadline:
                raise ClusterError(
                    f"the head of the Ray cluster at {address} is gone: {error}. What was done is "
                    "kept; once a cluster runs, the same command goes on, also at another address"
                ) from error
        else:
            return
        time.sleep(_HEAD_POLL_SECONDS)


def _check_listening(address: str) -> None:
    """Refuse an address at which nothing listens: Ray itself would try for two minutes."""
    host, _, port = address.rpartition(":")
    try:
        _connect(address)
    except OSError as error:
        raise ClusterError(
            f"no Ray cluster answers at {address}: {error}. Start one with `ray start --head "
            f"--port={port}` on {host}, or give --ray local to use this machine alone"
        ) from error


def _connect(address: str) -> None:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), _CONNECT_SECONDS):
        pass
