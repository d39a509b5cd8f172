"""Child processes that talk to the run, and end when it does.

Started anew and not forked: a fork would copy the threads' locks of Keras. Started by a plain
command, and not by `multiprocessing`: a user's script need not be importable.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import IO, Any


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
        self.connection, theirs = Pipe()
        lifeline, self._lifeline = os.pipe()
        self._output: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        inherited = (theirs.fileno(), lifeline, *descriptors)
        self._process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-c", f"from {module} import main; main()", *map(str, inherited)],
            pass_fds=inherited,
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            env={**os.environ, **(environment or {}), "PYTHONPATH": _import_path()},
            start_new_session=True,  # a terminal's Ctrl-C is for the run alone
        )
        theirs.close()
        os.close(lifeline)

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
        self._output.seek(0)
        return self._output.read().decode(errors="replace")[-2000:]

    def interrupt(self) -> None:
        """Do to it what Ctrl-C does."""
        self._process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """End the process at once."""
        self._process.kill()
        self._process.wait()
        self.connection.close()
        os.close(self._lifeline)
        self._output.close()


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


def _import_path() -> str:
    """Let the process import this very package, wherever it is run from."""
    own = str(Path(__file__).parents[1])
    return os.pathsep.join(filter(None, [own, os.environ.get("PYTHONPATH")]))
