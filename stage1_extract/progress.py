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

    def write(self, message: str) -> None:
        """Print a message without tearing the bar."""
        if self._show:
            self._bar.write(message, file=sys.stderr)

    def _state(self) -> str:
        failures = f", {self.failed} failed" if self.failed else ""
        return f"{self.frames_per_second:.0f} frames/s{failures}"

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
