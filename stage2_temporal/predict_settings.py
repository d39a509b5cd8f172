"""Settings of predicting on new videos."""

import dataclasses
import math
from pathlib import Path
from typing import Literal

_AT_LEAST_ONE = ("decoders", "decoder_memory_mb")
_POSITIVE = ("stall_seconds", "clip_seconds")


@dataclasses.dataclass(frozen=True)
class PredictSettings:
    """What is predicted from, and what it may cost; a run has all else."""

    out: Path
    """CSV to write, one clip a row; the same command goes on where it was stopped."""
    store: Path | None = None
    """Predict stored sequences instead of videos: all of them, or those of the manifests given."""
    weights: Path | None = None
    """File of the backbone's weights, where it is not where it was when the store was made."""
    feature_table: Path | None = None
    """Side features of the clips, for a run that was trained with some."""
    timeline: bool = False
    """Also write what is predicted after each frame, from the clip's beginning up to it."""
    decoders: int | Literal["auto"] = "auto"
    """Processes that decode while the backbone computes; auto adds some while it starves."""
    stall_seconds: float = 60.0
    """A video fails if its decoder makes no progress for so long."""
    clip_seconds: float = 14400.0
    """A clip fails if reading it takes longer, without the time it waits for the backbone."""
    decoder_memory_mb: int = 4096
    """A video fails if its decoder needs more memory than this, in MB."""
    min_coverage: float = 0.8
    """A video fails if less than this part of its stated length can be decoded."""
    seed: int | None = None
    """Seed of random weights, where the store does not say it."""
    backend: str | None = None
    """With a store: Keras backend; videos take the one that made the run's store."""
    overwrite: bool = False
    """Replace OUT if it holds predictions of another run, or with other settings."""

    def __post_init__(self) -> None:
        for name in _AT_LEAST_ONE:
            value = getattr(self, name)
            if value != "auto" and value < 1:
                raise ValueError(f"{name} is {value}; expected 1 or more")
        for name in _POSITIVE:
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} is {getattr(self, name)}; expected more than 0")
        if not 0 <= self.min_coverage <= 1:
            raise ValueError(f"min_coverage is {self.min_coverage}; expected 0 to 1")
        if Path(self.out).suffix.lower() != ".csv":
            raise ValueError(f"out is {self.out}; expected a name that ends with .csv")
        if self.store is not None and self.weights is not None:
            raise ValueError("a store needs no weights: its embeddings are made; leave one out")
        if self.store is None and self.backend is not None:
            raise ValueError(
                f"backend is {self.backend!r}, but videos are embedded by what made the run's "
                "store; leave it out"
            )
