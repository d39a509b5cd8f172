"""A progress bar in a terminal, a line now and then elsewhere."""

import sys
import time
from typing import Protocol, Self

from tqdm import tqdm

_LINE_SECONDS = 30.0


class ProgressLike(Protocol):
    """Whom a run tells of its progress; work begins when it is entered."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *_: object) -> None: ...

    def add_frames(self, count: int) -> None:
        """Count embedded frames."""

    def finish_clip(self, *, failed: bool = False) -> None:
        """Count a clip that is stored, or that failed."""

    def write(self, message: str) -> None:
        """Show a message."""


class ClusterProgressLike(ProgressLike, Protocol):
    """Whom a run on a cluster tells of its progress."""

    def take_back(self, count: int) -> None:
        """Count finished clips as not finished: they were lost before they were stored."""

    def show_place(self, place: str) -> None:
        """Show where the work is done, such as `3 nodes`."""


class Progress:
    """Shows clips done, frames per second, failures and the time left, on stderr.

    Args:
        total: Number of clips.
        what: What is being done, in a word.
        show: False for silence.
    """

    def __init__(self, total: int, *, what: str = "extract", show: bool = True) -> None:
        terminal = sys.stderr.isatty()
        self._show, self._what = show, what
        self._bar = tqdm(
            total=total, unit="clip", desc=what, disable=not (show and terminal), leave=True
        )
        self._lines = show and not terminal
        self._total = total
        self._started = self._last_line = time.monotonic()
        self.clips = self.frames = self.failed = 0
        self._place = ""

    @property
    def seconds(self) -> float:
        """Time since the `with` block was entered."""
        return time.monotonic() - self._started

    @property
    def frames_per_second(self) -> float:
        """Mean speed so far."""
        return self.frames / max(self.seconds, 1e-9)

    def add_frames(self, count: int) -> None:
        """Count embedded frames."""
        self.frames += count
        self._bar.set_postfix_str(self._state(), refresh=False)
        self._print_line()

    def finish_clip(self, *, failed: bool = False) -> None:
        """Count a clip that is stored, or that failed."""
        self.clips += 1
        self.failed += failed
        self._bar.update()

    def take_back(self, count: int) -> None:
        """Count finished clips as not finished: they were lost before they were stored."""
        self.clips -= count
        self._bar.update(-count)

    def show_place(self, place: str) -> None:
        """Show where the work is done, such as `3 nodes`."""
        self._place = f", {place}"

    def write(self, message: str) -> None:
        """Print a message without tearing the bar."""
        if self._show:
            self._bar.write(message, file=sys.stderr)

    def _state(self) -> str:
        failures = f", {self.failed} failed" if self.failed else ""
        return f"{self.frames_per_second:.0f} frames/s{failures}{self._place}"

    def _print_line(self) -> None:
        now = time.monotonic()
        if not self._lines or now - self._last_line < _LINE_SECONDS:
            return
        self._last_line = now
        left = (self._total - self.clips) * self.seconds / max(self.clips, 1)
        self.write(
            f"{self._what}: {self.clips}/{self._total} clips, {self._state()}, "
            f"about {left:.0f} s left"
        )

    def __enter__(self) -> Self:
        self._started = self._last_line = time.monotonic()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()


class ByteProgress:
    """Shows how much of some files was read, and the time left, on stderr.

    Args:
        total_bytes: Of all files.
        what: What is being done, in a word.
        show: False for silence.
    """

    def __init__(self, total_bytes: int, *, what: str, show: bool = True) -> None:
        terminal = sys.stderr.isatty()
        self._what, self._total, self._lines = what, total_bytes, show and not terminal
        self._bar = tqdm(
            total=total_bytes, unit="B", unit_scale=True, desc=what, disable=not (show and terminal)
        )
        self._started = self._last_line = time.monotonic()
        self._read = 0

    def add_bytes(self, count: int) -> None:
        """Count bytes that were read."""
        self._read += count
        self._bar.update(count)
        now = time.monotonic()
        if self._lines and now - self._last_line >= _LINE_SECONDS:
            self._last_line = now
            left = (self._total - self._read) * (now - self._started) / max(self._read, 1)
            share = self._read / max(self._total, 1)
            line = f"{self._what}: {share:.0%}, about {left:.0f} s left"
            self._bar.write(line, file=sys.stderr)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()
