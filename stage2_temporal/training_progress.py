"""Progress of a run's trainings: a bar in a terminal, a line now and then elsewhere."""

import sys
import time
from typing import Self

from tqdm import tqdm

from stage2_temporal.checkpoint import FitState

_LINE_SECONDS = 30.0


class TrainingProgress:
    """Shows how many trainings ended, and the validation loss of the one at work, on stderr.

    Args:
        num_trainings: Of the run.
        num_epochs: At most so many each.
        show: False for silence.
    """

    def __init__(self, num_trainings: int, num_epochs: int, *, show: bool) -> None:
        terminal = sys.stderr.isatty()
        total = num_trainings * num_epochs
        self._bar = tqdm(
            total=total, unit="epoch", desc="train", disable=not (show and terminal), leave=True
        )
        self._lines = show and not terminal
        self._num_trainings = num_trainings
        self._num_epochs = num_epochs
        self._finished = 0
        self._last_line = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def finish_epoch(self, state: FitState) -> None:
        """Show where the training at work is."""
        loss = f"{state.history[-1]['val_loss']:.4f}"
        self._bar.n = self._finished * self._num_epochs + state.epoch
        self._bar.set_postfix(val_loss=loss)
        now = time.monotonic()
        if self._lines and now - self._last_line > _LINE_SECONDS:
            self._last_line = now
            self._bar.write(
                f"train: {self._finished}/{self._num_trainings} trainings done, epoch "
                f"{state.epoch} of the next, validation loss {loss}",
                file=sys.stderr,
            )

    def finish_training(self) -> None:
        """Count a training that ended, or had ended before."""
        self._finished += 1
        self._bar.n = self._finished * self._num_epochs
        self._bar.refresh()
