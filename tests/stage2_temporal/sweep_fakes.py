"""A sweep whose trials cost nothing: their score is a formula, and some settings are mishaps."""

import dataclasses
import os
import signal
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from stage1_extract.keras_setup import chosen_backend
from stage2_temporal.config import TrainSettings
from stage2_temporal.search_space import SearchSpace
from stage2_temporal.sweep_folder import locked_folder, repair_journal
from stage2_temporal.sweep_messages import Setup
from stage2_temporal.sweep_optuna import quiet_optuna
from stage2_temporal.sweep_run import run_trials
from stage2_temporal.sweep_settings import SweepSettings

NUM_FOLDS = 3
KILLED, EXITS, BROKEN, REFUSED, NAN, FULL, WAITS = 901, 902, 903, 904, 905, 906, 907
"""Numbers of units that are mishaps."""


@dataclasses.dataclass(frozen=True)
class FakeResult:
    """The fields of a trial's result."""

    value: float
    scores: dict[str, dict[str, float]]
    by_fold: list[float]
    baseline: float
    epochs: list[int]
    kept_baseline: int
    num_trainings: int
    seconds: float


def score(settings: TrainSettings) -> float:
    """Best at 1 for 32 units and a dropout of 0.5."""
    return 1 - abs(settings.units - 32) / 1000 - (settings.dropout - 0.5) ** 2


@dataclasses.dataclass(frozen=True)
class FakeRunner:
    """What a worker has."""

    run: Callable[..., FakeResult]
    should_be_replaced: bool


def make(log: Path, options: Mapping[str, Any]) -> FakeRunner:
    """Return what runs trials; each fold that it computes is a line of the log."""
    if options.get("cannot_start"):
        raise ValueError("the data are gone")
    if options.get("backend") not in (None, chosen_backend()):
        raise ValueError(f"a worker would compute with {chosen_backend()}")
    if options.get("dies_at_start") or _comes_second(options.get("room_for_one")):
        os.kill(os.getpid(), signal.SIGKILL)

    def run(
        settings: TrainSettings, store: str, folder: Path, report: Callable[[int, float], None]
    ) -> FakeResult:
        for fold in range(NUM_FOLDS):
            if not (folder / f"fold{fold}").exists():
                with log.open("a") as file:
                    file.write(f"{folder.name} {fold} {settings.units} {os.getpid()} {store}\n")
                _meet_mishap(settings.units, fold, options)
                while (int(folder.name), fold) == options.get("stands_at"):
                    time.sleep(0.01)
                time.sleep(options.get("seconds", 0.0))
                (folder / f"fold{fold}").touch()
            report(fold, score(settings))
        return FakeResult(
            value=float("nan") if settings.units == NAN else score(settings),
            scores={"recurrent": {"accuracy": score(settings)}},
            by_fold=[score(settings)] * NUM_FOLDS,
            baseline=0.5,
            epochs=[1] * NUM_FOLDS,
            kept_baseline=options.get("kept", 0),
            num_trainings=NUM_FOLDS,
            seconds=0.25,
        )

    return FakeRunner(run, should_be_replaced=bool(options.get("one_trial_each")))


def _comes_second(marker: Path | None) -> bool:
    if marker is None:
        return False
    try:
        marker.mkdir()
    except FileExistsError:
        (marker / str(os.getpid())).touch()
        return True
    return False


def _meet_mishap(units: int, fold: int, options: Mapping[str, Any]) -> None:
    if units == KILLED:
        os.kill(os.getpid(), signal.SIGKILL)
    if units == EXITS:
        os._exit(3)
    if units == BROKEN:
        raise KeyError("a bug")
    if units == REFUSED:
        raise ValueError("the loss was no number any more")
    if units == FULL and not Path(options["room"]).exists():
        raise OSError(28, "No space left on device")
    while units == WAITS and fold == 1 and not Path(options["gate"]).exists():
        time.sleep(0.01)


def sweep_settings(*search: str, base: Mapping[str, Any] | None = None, **more: Any) -> Any:
    """Return settings of a sweep with one process, unless told otherwise."""
    train = TrainSettings(target=["label"], **(base or {}))
    return SweepSettings(train, search, **{"jobs": 1, "validation_folds": NUM_FOLDS, **more})


def run_fake(
    folder: Path, settings: SweepSettings, *, show_progress: bool = False, **options: Any
) -> bool:
    """Sweep in a folder, whose log tells what was computed."""
    stores = ["first", *map(str, settings.other_store)]
    space = SearchSpace.parse(settings.search, settings.base, stores=stores)
    setup = Setup("tests.stage2_temporal.sweep_fakes:make", (folder / "computed", options))
    with locked_folder_of_fakes(folder) as check_lock, quiet_optuna():
        return run_trials(
            folder,
            space,
            settings,
            setup,
            store="first",
            metric="accuracy",
            higher_is_better=True,
            num_steps=NUM_FOLDS,
            check_lock=check_lock,
            show_progress=show_progress,
        )


def locked_folder_of_fakes(folder: Path) -> Any:
    """Lock the folder as a sweep does."""
    folder.mkdir(exist_ok=True)
    (folder / "sweep.json").touch()
    repair_journal(folder)
    return locked_folder(folder)


def computed(folder: Path) -> list[tuple[int, int]]:
    """Return trial and fold of all that was computed, in order."""
    log = folder / "computed"
    lines = log.read_text().splitlines() if log.exists() else []
    return [(int(line.split()[0]), int(line.split()[1])) for line in lines]


def pids(folder: Path) -> list[int]:
    """Return the processes that computed, in order."""
    return [int(line.split()[3]) for line in (folder / "computed").read_text().splitlines()]


def is_gone(pid: int) -> bool:
    """Return whether a process ended, reaped or not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


if __name__ == "__main__":  # a sweep to be stopped in its third trial: folder, jobs, search
    run_fake(
        Path(sys.argv[1]),
        sweep_settings(*sys.argv[3:], jobs=int(sys.argv[2]), trials=6),
        stands_at=(2, 1),
    )
