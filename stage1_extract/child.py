"""Child processes that talk to the run, and end when it does.

Started anew and not forked: a fork would copy the threads' locks of Keras. Started by a plain
command, and not by `multiprocessing`: a user's script need not be importable.
"""

import fcntl
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import IO, Any

_PATH_VARIABLE = "EMBED_IMPORT_PATH"
_START = f"""
import importlib, json, os, sys
sys.path[:] = json.loads(os.environ["{_PATH_VARIABLE}"])
module = sys.argv.pop(1)
importlib.import_module(module).main()
"""
_SHOWN_BYTES = 2000
_PATIENCE_SECONDS = 5.0


class ChildProcess:
    """A process that runs `main()` of one of this package's modules.

    Args:
        module: The module, which calls `connect_to_run` first.
        descriptors: Open files that it inherits.
        environment: Variables to add.

    Attributes:
        connection: To exchange objects with it.
    """

    def __init__(
        self,
        module: str,
        *,
        descriptors: tuple[int, ...] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        with ExitStack() as stack:
            self.connection, theirs = Pipe()
            stack.callback(self.connection.close)
            lifeline, self._lifeline = os.pipe()
            stack.callback(os.close, self._lifeline)
            self._output: IO[bytes] = stack.enter_context(tempfile.TemporaryFile())
            fcntl.fcntl(self._output, fcntl.F_SETFL, os.O_APPEND)  # also after `forget_output`
            with _inheritable(theirs.fileno(), lifeline, *descriptors) as inherited:
                theirs.close()
                os.close(lifeline)
                self._process = subprocess.Popen(  # noqa: S603
                    # -P: a `random.py` beside the videos must not be taken for Python's own.
                    [sys.executable, "-P", "-c", _START, module, *map(str, inherited)],
                    pass_fds=inherited,
                    stdin=subprocess.DEVNULL,
                    stdout=self._output,
                    stderr=self._output,
                    env={**os.environ, **(environment or {}), _PATH_VARIABLE: _import_path()},
                    start_new_session=True,  # a terminal's Ctrl-C is for the run alone
                )
            self._open = stack.pop_all()

    @property
    def pid(self) -> int:
        """The process' number."""
        return self._process.pid

    def end(self) -> str:
        """Wait for a process that closed its connection, and say how it ended."""
        code = self._process.wait()
        return signal.Signals(-code).name if code < 0 else f"exit code {code}"

    def last_words(self) -> str:
        """Return the end of what the process printed."""
        output = self._output.fileno()
        start = max(0, os.fstat(output).st_size - _SHOWN_BYTES)
        return os.pread(output, _SHOWN_BYTES, start).decode(errors="replace").strip()

    def interrupt(self) -> None:
        """Do to it what Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)

    def forget_output(self) -> None:
        """Empty the file of what it printed, which would grow with the run."""
        self._output.truncate(0)

    def kill(self) -> None:
        """End the process at once; one that the kernel holds is left behind."""
        self._process.kill()
        self._open.close()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_PATIENCE_SECONDS)


def connect_to_run(
    when_gone: Callable[[], None],
) -> "tuple[Connection[Any, Any], list[int]]":
    """Return the connection to the run, and the inherited descriptors; called by the child.

    Args:
        when_gone: Called in another thread when the run is gone, killed or not.
    """
    connection_fd, lifeline_fd, *descriptors = map(int, sys.argv[1:])

    def watch() -> None:
        os.read(lifeline_fd, 1)  # returns when the run's end of the pipe is closed
        when_gone()

    threading.Thread(target=watch, daemon=True).start()
    return Connection(connection_fd), descriptors


@contextmanager
def _inheritable(*descriptors: int) -> Iterator[tuple[int, ...]]:
    """Yield copies above 2: where a run has no stdin, 0 is a file as any, and a child's is not."""
    copies = tuple(fcntl.fcntl(number, fcntl.F_DUPFD_CLOEXEC, 3) for number in descriptors)
    try:
        yield copies
    finally:
        for number in copies:
            os.close(number)


def _import_path() -> str:
    """Return where this process imports from, this very package included."""
    own = str(Path(__file__).parents[1])
    entries = [str(Path(entry).absolute()) for entry in sys.path if entry]
    return json.dumps([*dict.fromkeys([*entries, own])])
