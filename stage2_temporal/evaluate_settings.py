"""Settings of scoring a run on labelled clips."""

import dataclasses
from pathlib import Path
from typing import ClassVar

_CHOICES = {
    "seen": ("error", "drop", "keep"),
    "unmatched": ("error", "drop"),
    "blank_target": ("error", "drop"),
    "blank_group": ("error", "own"),
}


@dataclasses.dataclass(frozen=True)
class EvaluateSettings:
    """Which clips a run is scored on; what is not given is as it was in training."""

    CHOICES: ClassVar = _CHOICES
    store: Path
    """Store of embeddings, made with the settings of the run's own."""
    manifest: Path
    """CSV or Parquet with the labels; its videos need not be there."""
    out: Path | None = None
    """Folder to write scores and predictions into; default: they are printed alone."""
    seen: str = "error"
    """Clips that the run trained on, or chose its models by, and others of the same recordings:
    error, drop, or keep (their scores then say little)."""
    group: str | None = None
    """Column that is resampled as a whole; default: the run's, if the manifest has it."""
    feature_table: Path | None = None
    """Side features of the clips, for a run that was trained with some."""
    unmatched: str | None = None
    """Clips of the manifest that the store lacks: error, or drop (counted)."""
    blank_target: str | None = None
    """Clips whose target is blank: error, or drop (of several targets, the blank one alone)."""
    blank_group: str | None = None
    """Clips whose group is blank: error, or own (each is taken for a group of its own)."""
    resamples: int | None = None
    """Bootstrap resamples for the confidence intervals."""
    seed: int | None = None
    """Fixes the resamples."""
    backend: str | None = None
    """Keras backend: tensorflow, jax or torch; default: KERAS_BACKEND, or tensorflow."""
    overwrite: bool = False
    """Replace an evaluation that is in the folder."""

    def __post_init__(self) -> None:
        for name, choices in _CHOICES.items():
            value = getattr(self, name)
            if value not in (*choices, None):
                raise ValueError(f"{name} is {value!r}; expected one of {', '.join(choices)}")
        if self.resamples is not None and self.resamples < 1:
            raise ValueError(f"resamples is {self.resamples}; expected 1 or more")
        if self.seed is not None and self.seed < 0:
            raise ValueError(f"seed is {self.seed}; expected 0 or more")
