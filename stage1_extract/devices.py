"""Several GPUs of one machine: a process for each, each with its share of the clips and shards."""

import dataclasses
import itertools
import os
import signal
from collections.abc import Sequence
from contextlib import ExitStack
from multiprocessing.connection import Connection, wait
from typing import Any, Self

from stage1_extract.addresses import Location
from stage1_extract.child import ChildProcess, connect_to_run
from stage1_extract.clips import ClipJob
from stage1_extract.config import ExtractSettings
from stage1_extract.cores import available_cores
from stage1_extract.interrupt import deferred_interrupt
from stage1_extract.keras_setup import load_keras, num_gpus
from stage1_extract.local import LocalRunner
from stage1_extract.progress import ProgressLike
from stage1_extract.run_loop import RunResult
from stage1_extract.store import Provenance, StoreError, describe_difference

_POLL_SECONDS = 0.2
_VISIBLE = ("CUDA_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


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
        alone = dataclasses.replace(settings, decoders=_decoders_each(settings, names))
        self._fail_fast = settings.fail_fast
        self._processes: dict[str, ChildProcess] = {}
        with ExitStack() as stack:
            stack.callback(self._kill_all)
            for number, name in enumerate(names):
                process = ChildProcess("stage1_extract.devices", environment=_visibility(name))
                label = f"{name} (process {number})"
                self._processes[label] = process
                _send(label, process, dataclasses.replace(alone, devices=name))
            self.provenance = self._common_provenance()
            stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._kill_all()

    def _kill_all(self) -> None:
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

    def embed(self, jobs: Sequence[ClipJob], store: Location, progress: ProgressLike) -> RunResult:
        """Embed the clips into the store, and return what was done.

        Raises:
            DeviceError: A process ended early; the others finished their share first.
            PrecisionError: The precision is too low for the videos of one device; the others
                stopped, and what they had finished is kept.
            OSError: The store cannot be written; what was finished is kept.
            KeyboardInterrupt: Stopped by the user; what was finished is kept.
        """
        for number, (name, process) in enumerate(self._processes.items()):
            _send(name, process, (jobs[number :: len(self._processes)], store))
        share = _Share(dict(self._processes), progress, self._fail_fast)
        interrupted = False
        with deferred_interrupt() as check_interrupt, progress:
            while share.busy:
                share.hear(_POLL_SECONDS)
                try:
                    check_interrupt()
                except KeyboardInterrupt:
                    interrupted = True
                    share.stop()
        if interrupted:
            raise KeyboardInterrupt
        if share.errors:
            raise share.errors[0]
        return share.result


class _Share:
    """What the processes are at, and what they did so far."""

    def __init__(
        self, busy: dict[str, ChildProcess], progress: ProgressLike, fail_fast: bool
    ) -> None:
        self.busy = busy
        self.result = RunResult()
        self.errors: list[Exception] = []
        self._progress = progress
        self._fail_fast = fail_fast
        self._stopped = False

    def stop(self) -> None:
        """Have those that are at work finish what they have begun to store."""
        if not self._stopped:
            for process in self.busy.values():
                process.interrupt()
        self._stopped = True

    def hear(self, timeout_seconds: float) -> None:
        """Take in what the processes tell, waiting for it no longer than that."""
        ready = wait([process.connection for process in self.busy.values()], timeout_seconds)
        for name in [name for name, process in self.busy.items() if process.connection in ready]:
            try:
                self._take(name, _receive(name, self.busy[name]))
            except DeviceError as error:
                del self.busy[name]
                if not self._stopped:  # one that was stopped early on says nothing more
                    self.errors.append(error)

    def _take(self, name: str, message: Any) -> None:
        if isinstance(message, _Told):
            getattr(self._progress, message.method)(**message.arguments)
            return
        del self.busy[name]
        if isinstance(message, RunResult):
            self.result.add(message)
            if message.failures and self._fail_fast:
                self.stop()
        else:
            self.errors.append(message)
            if isinstance(message, ValueError):
                self.stop()


def _decoders_each(settings: ExtractSettings, names: Sequence[str]) -> int:
    if settings.decoders != "auto":
        return settings.decoders
    return max(1, available_cores() // len(names))


def _visibility(name: str) -> dict[str, str]:
    """Return the environment in which a process sees one device alone.

    Where the run itself may see only some GPUs, as a cluster's scheduler has it, the numbers
    count these.

    Raises:
        DeviceError: There are not so many.
    """
    return {variable: _shown(name, os.environ.get(variable)) for variable in _VISIBLE}


def _shown(name: str, visible: str | None) -> str:
    if name == "cpu":
        return "-1"
    if visible is None:
        return name
    names = list(itertools.takewhile(lambda n: n not in ("", "-1"), visible.split(",")))
    if int(name) >= len(names):
        raise DeviceError(
            f"device {name} is not there: this run may use {len(names)} GPUs (the environment "
            f"shows it {visible!r}), and --devices counts these from 0"
        )
    return names[int(name)]


def _send(name: str, process: ChildProcess, message: Any) -> None:
    try:
        process.connection.send(message)
    except (BrokenPipeError, ConnectionResetError) as error:
        raise _ended(name, process) from error


def _receive(name: str, process: ChildProcess) -> Any:
    try:
        return process.connection.recv()
    except (EOFError, ConnectionResetError) as error:
        raise _ended(name, process) from error


def _ended(name: str, process: ChildProcess) -> DeviceError:
    return DeviceError(
        f"the process of device {name} ended ({process.end()}); what was stored is kept, run it "
        f"again to go on:\n{process.last_words()}".rstrip(":\n")
    )


def main() -> None:
    """Embed one device's share; runs in a process of its own."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    connection, _ = connect_to_run(when_gone=lambda: os.kill(os.getpid(), signal.SIGINT))
    runner = None
    try:
        settings = connection.recv()
        runner = LocalRunner(dataclasses.replace(settings, devices=None))
        _check_gpu(settings.devices)
        connection.send(runner.provenance)
        jobs, store = connection.recv()
        result = runner.embed(jobs, store, _Reporter(connection))
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # too late, and bad in the middle of a message
        connection.send(result)
    except KeyboardInterrupt:
        # Before there is a result, it may have come in the middle of a message: the end of the
        # connection says enough.
        if runner is not None and runner.result is not None:
            connection.send(runner.result)
    except (EOFError, BrokenPipeError, ConnectionResetError):
        return  # the run is over
    except (ValueError, OSError) as error:
        connection.send(error)


def _check_gpu(name: str) -> None:
    """Refuse to compute on the CPU what was meant for a GPU.

    Raises:
        DeviceError: Keras sees no GPU.
    """
    if name != "cpu" and num_gpus() == 0:
        raise DeviceError(
            f"device {name}: {load_keras().backend.backend()} sees no such GPU; check nvidia-smi, "
            "and that the backend was installed with GPU support"
        )


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
