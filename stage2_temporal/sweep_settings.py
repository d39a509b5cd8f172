"""Settings of a search for the best training settings."""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar, Literal

import tyro

from stage1_extract.cluster_settings import ClusterSettings
from stage1_extract.cores import available_cores
from stage2_temporal.config import TrainSettings

SAMPLERS = ("tpe", "random", "grid")
PRUNERS = ("none", "median", "hyperband")
DEFAULT_TRIALS = 50
_AT_LEAST = {"trials": 1, "jobs": 1, "validation_folds": 1, "refit_seeds": 0}


@dataclasses.dataclass(frozen=True)
class SweepSettings:
    """Which settings are searched, how, and how long."""

    CHOICES: ClassVar = {"sampler": SAMPLERS, "pruner": PRUNERS}
    base: TrainSettings
    search: tyro.conf.UseAppendAction[Sequence[str]] = ()
    """A setting to search, as NAME = VALUES in TOML: 'units = [16, 32]' for choices,
    'learning_rate = {low = 1e-4, high = 1e-2, log = true}' for a range, which may have a step. In a
    TOML file: a table [search]."""
    other_store: tyro.conf.UseAppendAction[Sequence[Path]] = ()
    """A store of the same clips that competes with STORE, from another backbone for instance."""
    trials: int | None = None
    """How many trials the sweep has in the end, those of earlier calls included; default: 50, or
    the whole grid."""
    hours: float | None = None
    """Stop after so many hours of this call; the same command goes on later."""
    jobs: int | Literal["auto"] = "auto"
    """Processes that train at the same time; default: one a core, or as many as find room on the
    cluster."""
    cluster: ClusterSettings = dataclasses.field(default_factory=ClusterSettings)
    """Whether, and how, trials are spread over a Ray cluster."""
    sampler: str = "tpe"
    """How settings are chosen: tpe (learns from earlier trials), random, or grid (all of them)."""
    pruner: str = "none"
    """Which trials end early: none, median (worse than half of the others after as many folds) or
    hyperband."""
    validation_folds: int = 5
    """Into how many folds the clips outside the test side are divided, each scored once by models
    that did not see it; 1: a single validation split."""
    metric: str | None = None
    """Score of the first target to optimise; default: its primary one."""
    refit_seeds: int = 3
    """At the end, the best settings are trained from so many seeds and scored on the test side; 0:
    not at all."""

    def __post_init__(self) -> None:
        for name in ("search", "other_store"):
            values = getattr(self, name)
            several = (values,) if isinstance(values, str | Path) else tuple(values)
            object.__setattr__(self, name, several)
        for name, choices in (("sampler", SAMPLERS), ("pruner", PRUNERS)):
            value = getattr(self, name)
            if value not in choices:
                raise ValueError(f"{name} is {value!r}; expected one of {', '.join(choices)}")
        for name, least in _AT_LEAST.items():
            value = getattr(self, name)
            if isinstance(value, int) and value < least:
                raise ValueError(f"{name} is {value}; expected {least} or more")
        if self.hours is not None and not self.hours > 0:
            raise ValueError(f"hours is {self.hours}; expected more than 0")
        self._check_base()

    def _check_base(self) -> None:
        if self.base.validation != "holdout":
            raise ValueError(
                f"validation is {self.base.validation!r}; a sweep keeps one test side for the end "
                "(holdout), and divides the rest by --validation-folds"
            )
        if self.base.overwrite:
            raise ValueError(
                "a sweep goes on in its folder and never replaces it: leave --overwrite out, and "
                "choose another folder to begin anew"
            )
        if self.base.devices is None:
            return
        if self.cluster.ray is not None:
            raise ValueError(
                f"devices is {self.base.devices!r}, and trials on a Ray cluster compute on what "
                "Ray grants them, one GPU at most; leave --devices out, or --ray"
            )
        if self.num_jobs > 1:
            raise ValueError(
                f"devices is {self.base.devices!r}, and {self.num_jobs} trials at a time would "
                "share these devices; give --jobs 1, or leave --devices out"
            )

    @property
    def num_jobs(self) -> int:
        """How many processes train at the same time, without a cluster."""
        return available_cores() if self.jobs == "auto" else self.jobs
