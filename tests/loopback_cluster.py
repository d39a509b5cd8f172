"""A real Ray cluster on this machine: several nodes, each a raylet of its own, on loopback."""

import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

_START_SECONDS = 300
_PRIORITY = {"RAY_worker_niceness": "0"}  # other tests would starve its workers
_AUTHENTICATION = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}


class LoopbackNode:
    """A node: its raylet, its workers and, on the head, the cluster's own processes."""

    def __init__(
        self,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str] | None = None,
        cwd: Path | None = None,
    ) -> None:
        self.log = log
        with log.open("wb") as file:
            self.process = subprocess.Popen(
                command,
                stdout=file,
                stderr=file,
                stdin=subprocess.DEVNULL,
                cwd=cwd,
                env={
                    **os.environ,
                    **_PRIORITY,
                    "RAY_USAGE_STATS_ENABLED": "0",
                    **(environment or {}),
                },
                start_new_session=True,
            )
        self._wait()

    def _wait(self) -> None:
        deadline = time.monotonic() + _START_SECONDS
        while "--block" not in (text := self.log.read_text("utf-8", "replace")):
            assert self.process.poll() is None, text
            assert time.monotonic() < deadline, text
            time.sleep(0.05)

    def processes(self) -> list[psutil.Process]:
        """Return all its processes, the raylet and its workers among them."""
        root = psutil.Process(self.process.pid)
        return [root, *root.children(recursive=True)]

    @property
    def workers(self) -> list[psutil.Process]:
        """Its actors that embed or train."""
        return [process for process in self.processes() if _is_worker(process)]

    def kill(self) -> None:
        """End raylet and workers as a power cut would: kill -9, and no word to anybody."""
        try:
            processes = self.processes()
        except psutil.NoSuchProcess:
            return
        for process in processes:
            try:
                process.send_signal(signal.SIGKILL)
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(processes, timeout=120)
        self.process.wait(120)


class LoopbackCluster:
    """A head node, and those that are added; all end with the `with` block.

    Args:
        num_cpus: What the head offers.
        cwd: Folder in which the nodes are started, and with them their workers.
    """

    def __init__(self, num_cpus: int = 1, *, cwd: Path | None = None) -> None:
        self._cwd = cwd
        for name, value in _AUTHENTICATION.items():
            os.environ.setdefault(name, value)  # for good: Ray reads them once in a process
        self._folder = Path(tempfile.mkdtemp(prefix="ray", dir="/tmp"))  # short: sockets lie in it
        self.address = f"127.0.0.1:{_free_port()}"
        self.nodes: list[LoopbackNode] = []
        port = self.address.rpartition(":")[2]
        self.head = self._start(
            [
                "--head",
                f"--port={port}",
                f"--ray-client-server-port={_free_port()}",
                "--include-dashboard=false",
                f"--temp-dir={self._folder}",
            ],
            num_cpus,
        )

    def add_node(
        self,
        num_cpus: int = 1,
        *,
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> LoopbackNode:
        """Start another node, in an environment of its own, by a command before its command."""
        return self._start([f"--address={self.address}"], num_cpus, environment, prefix)

    def _start(
        self,
        flags: list[str],
        num_cpus: int,
        environment: Mapping[str, str] | None = None,
        prefix: Sequence[str] = (),
    ) -> LoopbackNode:
        ray = str(Path(sys.executable).with_name("ray"))
        command = [*prefix, ray, "start", *flags, "--block", "--disable-usage-stats"]
        command += [f"--num-cpus={num_cpus}", "--node-ip-address=127.0.0.1"]
        command += ["--object-store-memory=80000000"]
        command += ["--min-worker-port=0", "--max-worker-port=0"]
        node = LoopbackNode(
            command, self._folder / f"node{len(self.nodes)}.log", environment, self._cwd
        )
        self.nodes.append(node)
        return node

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for node in reversed(self.nodes):
            node.kill()
        shutil.rmtree(self._folder, ignore_errors=True)


def _is_worker(process: psutil.Process) -> bool:
    try:
        return "ray::ClusterWorker" in "".join(process.cmdline())
    except psutil.NoSuchProcess:  # ended meanwhile, or is about to
        return False


def _free_port() -> int:
    """Return a port below those that the system hands out, lest another part of Ray gets it."""
    while True:
        port = secrets.randbelow(10_000) + 20_000
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
