"""The state of a training between two epochs: kept in memory, and in a file to go on from."""

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Arrays = list[NDArray[Any]]
_LOSSES = ("first_losses", "best_losses")


@dataclasses.dataclass
class FitState:
    """What a training has reached.

    Attributes:
        history: One row an epoch; epoch 0 is the model before training.
        best_loss: Least validation loss so far.
        best_epoch: Its epoch.
        best_weights: The weights after it.
        best_predictions: (n, k) of each target for the validation clips after it, if they are kept.
        first_losses, best_losses: (n,) loss of each validation clip, before training and after it.
        num_plateaus: How often the learning rate was halved.
        plateau_start: Epoch from which the present plateau counts.
    """

    history: list[dict[str, float]] = dataclasses.field(default_factory=list)
    best_loss: float = np.inf
    best_epoch: int = 0
    best_weights: Arrays = dataclasses.field(default_factory=list)
    best_predictions: Arrays = dataclasses.field(default_factory=list)
    first_losses: NDArray[np.float64] = dataclasses.field(default_factory=lambda: np.empty(0))
    best_losses: NDArray[np.float64] = dataclasses.field(default_factory=lambda: np.empty(0))
    num_plateaus: int = 0
    plateau_start: int = 0

    @property
    def epoch(self) -> int:
        """The last finished epoch; 0 before the first."""
        return int(self.history[-1]["epoch"]) if self.history else 0


def save_checkpoint(path: Path, state: FitState, variables: Arrays) -> None:
    """Write the state and all variables (model's, optimizer's), whole or not at all."""
    plain = {field.name: getattr(state, field.name) for field in dataclasses.fields(state)}
    weights, predictions = plain.pop("best_weights"), plain.pop("best_predictions")
    losses = {name: plain.pop(name) for name in _LOSSES}
    arrays: dict[str, Any] = {f"variable_{i}": value for i, value in enumerate(variables)}
    arrays |= losses | {f"best_{i}": value for i, value in enumerate(weights)}
    arrays |= {f"predictions_{i}": value for i, value in enumerate(predictions)}
    partial = path.with_name(f".{path.name}.partial")
    with partial.open("wb") as file:
        np.savez(file, state=np.array(json.dumps(plain)), **arrays)
        file.flush()
        os.fsync(file.fileno())
    partial.replace(path)


def load_checkpoint(path: Path) -> tuple[FitState, Arrays]:
    """Return what `save_checkpoint` wrote: state and variables.

    Raises:
        FileNotFoundError: There is none.
    """
    with np.load(path, allow_pickle=False) as file:
        plain = json.loads(str(file["state"]))
        losses = {name: file[name] for name in _LOSSES}
        best, predictions = _numbered(file, "best_"), _numbered(file, "predictions_")
        variables = _numbered(file, "variable_")
    return FitState(**plain, best_weights=best, best_predictions=predictions, **losses), variables


def _numbered(file: Any, prefix: str) -> Arrays:
    count = sum(name.startswith(prefix) for name in file.files if name not in _LOSSES)
    return [file[f"{prefix}{i}"] for i in range(count)]
