"""One training of a run, and its result: kept in a file, so that a run goes on after a crash."""

import dataclasses
import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

Indices = NDArray[np.intp]
Predictions = dict[str, list[NDArray[np.float64]]]
"""By model (recurrent, mean_pool, features): one (n, k) array a target."""


@dataclasses.dataclass(frozen=True)
class Unit:
    """One training: which fold, which of its validation cuts, which repeat."""

    fold: int
    member: int
    repeat: int

    @property
    def name(self) -> str:
        """Name of its files."""
        return f"fold{self.fold}-member{self.member}-repeat{self.repeat}"

    def seed(self, seed: int) -> int:
        """Return a seed of its own, made from the run's."""
        state = np.random.SeedSequence([seed, self.fold, self.member, self.repeat])
        return int(state.generate_state(1)[0] % 2**31)


@dataclasses.dataclass(frozen=True)
class UnitResult:
    """What one training predicts for the clips that it did not train on.

    Attributes:
        unit: Which training.
        validation: Predictions for its validation clips.
        test: Predictions for its test clips.
        history: One row an epoch.
        best_epoch: The epoch whose weights the model has; 0 is the model before training.
        gain_confidence: How sure validation is that training improved on epoch 0.
        notices: Remarks worth reading.
    """

    unit: Unit
    validation: Predictions
    test: Predictions
    history: pd.DataFrame
    best_epoch: int
    gain_confidence: float
    notices: tuple[str, ...]

    def save(self, folder: Path) -> None:
        """Write the result, whole or not at all."""
        arrays = {
            f"{side}/{model}/{number}": values
            for side in ("validation", "test")
            for model, of_targets in getattr(self, side).items()
            for number, values in enumerate(of_targets)
        }
        facts = {
            "best_epoch": self.best_epoch,
            "gain_confidence": self.gain_confidence,
            "notices": self.notices,
            "columns": list(self.history.columns),
        }
        path = _path(folder, self.unit)
        partial = path.with_name(f".{path.name}.partial")
        with partial.open("wb") as file:
            history = self.history.to_numpy(np.float64)
            np.savez(file, facts=np.array(json.dumps(facts)), history=history, **arrays)
            file.flush()
            os.fsync(file.fileno())
        partial.replace(path)

    @classmethod
    def load(cls, folder: Path, unit: Unit) -> "UnitResult | None":
        """Read the result of a training; None if it has not ended."""
        if not _path(folder, unit).exists():
            return None
        sides: dict[str, Predictions] = {"validation": {}, "test": {}}
        with np.load(_path(folder, unit), allow_pickle=False) as file:
            facts = json.loads(str(file["facts"]))
            for name in file.files:  # in the order of writing, so by target
                side, _, rest = name.partition("/")
                if side in sides:
                    sides[side].setdefault(rest.partition("/")[0], []).append(file[name])
            history = pd.DataFrame(file["history"], columns=facts["columns"])
        return cls(
            unit,
            sides["validation"],
            sides["test"],
            history.astype({"epoch": int}),
            facts["best_epoch"],
            facts["gain_confidence"],
            tuple(facts["notices"]),
        )


def _path(folder: Path, unit: Unit) -> Path:
    return folder / f"{unit.name}.npz"
