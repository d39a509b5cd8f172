"""Several GPUs of one machine: a process for each, each with its share of the clips and shards."""

import dataclasses
import os
import signal
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any, Self

from stage1_extract.child import ChildProcess, connect_to_run
from stage1_extract.clips import ClipJob
from stage1_extract.config import ExtractSettings
from stage1_extract.cores import available_cores
from stage1_extract.interrupt import deferred_interrupt
from stage1_extract.local import LocalRunner
from stage1_extract.progress import ProgressLike
from stage1_extract.run_loop import RunResult
from stage1_extract.store import Provenance, StoreError, describe_difference

_POLL_SECONDS = 0.2


class DeviceError(OSError):
    """A device's process ended early; what it and the others had stored is kept."""


@dataclasses.dataclass(frozen=True)
class _Told:
    """From a device: a call of `ProgressLike`'s method of that name."""

    method: str
    arguments: dict[str, Any]


class DeviceGroup:
    """Processes that embed clips, one on each device; use it in a `with` block.

    Clips are dealt out in turn. Every process sees its own device alone, and writes shards of its
    own, so nothing is shared but the folder.

    Args:
        settings: How; its `devices` are numbers as CUDA's, or cpu, separated by commas.

    Attributes:
        provenance: What the shards say of their origin.

    Raises:
        StoreError: The devices compute different things.
        DeviceError: A process ended.
    """

    def __init__(self, settings: ExtractSettings) -> None:
        names = (settings.devices or "").split(",")
        decoders = _decoders_each(settings, names)
        alone = dataclasses.replace(settings, devices=None, decoders=decoders)
        self._processes: dict[str, ChildProcess] = {}
        for number, name in enumerate(names):
            process = ChildProcess("stage1_extract.devices", environment=_visibility(name))
            process.connection.send(alone)
            self._processes[f"{name} (process {number})"] = process
        try:
            self.provenance = self._common_provenance()
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.kill()

    def _common_provenance(self) -> Provenance:
        found: list[Provenance] = []
        for name, process in self._processes.items():
            message = _receive(name, process)
            if isinstance(message, Exception):
                raise message
            found.append(message)
        for other in found[1:]:
            if difference := describe_difference(found[0].settings, other.settings):
                raise StoreError(f"the devices compute different things: {difference}")
        return found[0]

    def embed(self, jobs: Sequence[ClipJob], folder: Path, progress: ProgressLike) -> RunResult:
        """Embed the clips into the store, and return what was done.

        Raises:
            DeviceError: A process ended early; the others finished their share first.
            PrecisionError, OSError: As `LocalRunner.embed`, from any of the processes.
            KeyboardInterrupt: Stopped by the user; what was finished is kept.
        """
        for number, process in enumerate(self._processes.values()):
            process.connection.send((jobs[number :: len(self._processes)], folder))
        busy, result = dict(self._processes), RunResult()
        errors: list[Exception] = []
        stopped = False
        with deferred_interrupt() as check_interrupt, progress:
            while busy:
                for name in self._with_news(busy):
                    try:
                        ended = _hear(_receive(name, busy[name]), progress, result)
                    except (ValueError, OSError) as error:
                        errors.append(error)
                        ended = True
                    if ended:
                        del busy[name]
                try:
                    check_interrupt()
                except KeyboardInterrupt:
                    if not stopped:
                        for process in busy.values():
                            process.interrupt()
                    stopped = True
        if stopped:
            raise KeyboardInterrupt
        if errors:
            raise errors[0]
        return result

    @staticmethod
    def _with_news(busy: dict[str, ChildProcess]) -> list[str]:
        ready = wait([process.connection for process in busy.values()], _POLL_SECONDS)
        return [name for name, process in busy.items() if process.connection in ready]


def _decoders_each(settings: ExtractSettings, names: Sequence[str]) -> int:
    if settings.decoders != "auto":
        return settings.decoders
    return max(1, available_cores() // len(names))


def _visibility(name: str) -> dict[str, str]:
    shown = "-1" if name == "cpu" else name
    return {"CUDA_VISIBLE_DEVICES": shown, "HIP_VISIBLE_DEVICES": shown}


def _receive(name: str, process: ChildProcess) -> Any:
    try:
        return process.connection.recv()
    except (EOFError, ConnectionResetError):
        end = process.end()
    raise DeviceError(
        f"the process of device {name} ended ({end}); what was stored is kept, run it again to go "
        f"on:\n{process.last_words()}"
    )


def _hear(message: Any, progress: ProgressLike, result: RunResult) -> bool:
    """Take in what a device tells; returns whether it is done."""
    if isinstance(message, _Told):
        getattr(progress, message.method)(**message.arguments)
        return False
    if isinstance(message, RunResult):
        result.add(message)
    elif isinstance(message, Exception):
        raise message
    return True  # None: it was interrupted


def main() -> None:
    """Embed one device's share; runs in a process of its own."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    connection, _ = connect_to_run(when_gone=lambda: os.kill(os.getpid(), signal.SIGINT))
    try:
        with LocalRunner(connection.recv()) as runner:
            connection.send(runner.provenance)
            jobs, folder = connection.recv()
            connection.send(runner.embed(jobs, folder, _Reporter(connection)))
    except KeyboardInterrupt:
        connection.send(None)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the run is over
    except (ValueError, OSError) as error:
        connection.send(error)


class _Reporter:
    """Tells the run of progress."""

    def __init__(self, connection: "Connection[Any, Any]") -> None:
        self._connection = connection

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def add_frames(self, count: int) -> None:
        self._connection.send(_Told("add_frames", {"count": count}))

    def finish_clip(self, *, failed: bool = False) -> None:
        self._connection.send(_Told("finish_clip", {"failed": failed}))

    def write(self, message: str) -> None:
        self._connection.send(_Told("write", {"message": message}))
