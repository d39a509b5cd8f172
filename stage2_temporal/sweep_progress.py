"""Progress of a sweep: a bar in a terminal, a line now and then elsewhere, and each trial's end."""

import sys
import time
from typing import Self

from tqdm import tqdm

from stage2_temporal.sweep_storage import COMPLETE, FAILED, RUNNING, TrialRecord, best_trial

_LINE_SECONDS = 30.0


class SweepProgress:
    """Shows trials done, the best so far, and each trial that ends, on stderr.

    Args:
        total: Trials of the whole sweep.
        metric: Name of the score.
        higher_is_better: Whether it is to become large.
        show: False for silence.
    """

    def __init__(self, total: int, metric: str, *, higher_is_better: bool, show: bool) -> None:
        terminal = sys.stderr.isatty()
        self._show, self._lines = show, show and not terminal
        self._total, self._metric, self._higher = total, metric, higher_is_better
        self._bar = tqdm(
            total=total, unit="trial", desc="sweep", disable=not (show and terminal), leave=True
        )
        self._best: TrialRecord | None = None
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def know(self, records: list[TrialRecord]) -> None:
        """Take in trials of earlier calls."""
        self._best = best_trial(records, higher_is_better=self._higher)

    def finish_trial(self, record: TrialRecord) -> None:
        """Show how a trial ended."""
        candidates = [self._best, record] if self._best else [record]
        self._best = best_trial(candidates, higher_is_better=self._higher)
        self.write(trial_line(record, self._metric))

    def tick(self, counts: dict[str, int]) -> None:
        """Show how many trials are in which state; called often."""
        done = sum(count for state, count in counts.items() if state != RUNNING)
        state = self._state(counts)
        self._bar.n = done
        self._bar.set_postfix_str(state)
        now = time.monotonic()
        if self._lines and now - self._last_line > _LINE_SECONDS:
            self._last_line = now
            self.write(f"sweep: {done}/{self._total} trials, {state}")

    def write(self, message: str) -> None:
        """Print a message without tearing the bar."""
        if self._show:
            self._bar.write(message, file=sys.stderr)

    def _state(self, counts: dict[str, int]) -> str:
        best, failed = self._best, counts.get(FAILED, 0)
        parts = [
            f"best {best.value:.4g} (trial {best.number})" if best else "",
            f"{counts.get(RUNNING, 0)} running",
            f"{failed} failed" if failed else "",
        ]
        return ", ".join(part for part in parts if part)


def trial_line(record: TrialRecord, metric: str) -> str:
    """Return what there is to say of a trial that ended."""
    settings = ", ".join(f"{name}={_short(value)}" for name, value in record.parameters.items())
    head = f"trial {record.number}: "
    if record.state != COMPLETE:
        return f"{head}{record.state} with {settings}: {record.reason}"
    baseline = "" if record.baseline is None else f" (baseline {record.baseline:.4g})"
    repeated = f"; {record.reason}" if record.reason else ""
    return f"{head}{metric} {record.value:.4g}{baseline} with {settings}{repeated}"


def _short(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
