"""A sweep: many trainings with other settings, compared on clips that they did not see."""

import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stage2_temporal.search_space import SearchSpace
from stage2_temporal.sweep_folder import (
    check_request,
    locked_folder,
    repair_journal,
    write_whole,
)
from stage2_temporal.sweep_messages import Setup
from stage2_temporal.sweep_optuna import load_optuna, quiet_optuna
from stage2_temporal.sweep_run import run_trials
from stage2_temporal.sweep_settings import SweepSettings
from stage2_temporal.sweep_storage import (
    CACHE,
    COMPLETE,
    DOCUMENT,
    FAILED,
    PRUNED,
    SPLIT,
    TrialRecord,
    best_trial,
    read_trials,
)

if TYPE_CHECKING:
    from stage2_temporal.sweep_data import SweepData
    from stage2_temporal.training import TrainResult

_RUNNER = "stage2_temporal.sweep_worker:trial_runner"


@dataclasses.dataclass(frozen=True)
class SweepResult:
    """What a sweep found.

    Attributes:
        folder: The sweep folder.
        best: The best complete trial.
        num_complete: Trials that were scored.
        num_pruned: Trials that ended early.
        num_failed: Trials that failed; each says why.
        winner: The best settings, trained anew and scored on the test side; None without a refit.
        notices: Remarks worth reading.
    """

    folder: Path
    best: TrialRecord
    num_complete: int
    num_pruned: int
    num_failed: int
    winner: "TrainResult | None"
    notices: tuple[str, ...]


def sweep(
    store: Path | str,
    manifest: Path | str,
    folder: Path | str,
    settings: SweepSettings,
    *,
    show_progress: bool = False,
) -> SweepResult:
    """Search the settings that score best on clips outside the test side, which is scored last.

    A sweep that was stopped (killed, Ctrl-C, `hours`) goes on when it is asked for again.

    Args:
        store: A store.
        manifest: A manifest.
        folder: The sweep folder, made if it is not there.
        settings: What is searched, and how.
        show_progress: Whether to show a progress bar.

    Raises:
        ValueError: Settings or data are wrong, the folder belongs to another search, or all trials
            fail; the message says what to do.
        OSError: No trial can go on, as with a full disk; or another process took the sweep over.
    """
    # Stores compete by their full paths, so that the command may be given from another folder.
    folder, store, manifest = Path(folder), Path(store).absolute(), Path(manifest)
    settings = _with_full_paths(settings)
    others = settings.other_store
    load_optuna()
    stores = [str(store), *map(str, others)]
    space = SearchSpace.parse(settings.search, settings.base, stores=stores)
    if settings.sampler == "grid":
        space.grid()  # refuses endless ranges before anything is read
    from stage2_temporal.sweep_data import load_sweep_data
    from stage2_temporal.sweep_request import request_of_sweep

    data = load_sweep_data(store, manifest, settings)
    request = request_of_sweep(data, space, settings)
    with locked_folder(folder) as check_lock, quiet_optuna():
        call = _Call(folder, store, manifest, settings, space, data, show_progress=show_progress)
        call.prepare(request)
        try:
            is_complete = call.run(check_lock)
        finally:
            call.write_tables()
        check_lock()
        return call.finish(refit=is_complete and settings.refit_seeds > 0)


def _with_full_paths(settings: SweepSettings) -> SweepSettings:
    base, table = settings.base, settings.base.feature_table
    return dataclasses.replace(
        settings,
        base=dataclasses.replace(base, feature_table=None if table is None else table.absolute()),
        other_store=tuple(path.absolute() for path in settings.other_store),
    )


@dataclasses.dataclass(frozen=True)
class _Call:
    """One call of the command, in a folder that is its own."""

    folder: Path
    store: Path
    manifest: Path
    settings: SweepSettings
    space: SearchSpace
    data: "SweepData"
    show_progress: bool = dataclasses.field(kw_only=True)

    def prepare(self, request: dict[str, Any]) -> None:
        """Make the folder's files, or check that they are of this search."""
        from stage2_temporal.sweep_request import sweep_document

        if (self.folder / DOCUMENT).exists():
            check_request(self.folder, request)
        else:
            document = sweep_document(
                self.data, self.space, self.settings, manifest=self.manifest, request=request
            )
            write_whole(self.folder / DOCUMENT, json.dumps(document, indent=2, ensure_ascii=False))
        self._write_split()
        repair_journal(self.folder)

    def _write_split(self) -> None:
        """Write which clips are kept apart, or check that they are those of earlier calls."""
        path, split = self.folder / SPLIT, self.data.split.to_csv(index=False)
        if path.exists() and path.read_bytes() != split.encode():
            raise ValueError(
                f"{path} keeps other clips apart than store and manifest lead to now; begin a "
                "sweep in a new folder"
            )
        write_whole(path, split)

    def run(self, check_lock: Callable[[], None]) -> bool:
        """Run trials; return whether there are enough, and not only the time was up."""
        settings = self.settings
        # Trials may run on machines where programs begin in another folder.
        folder, manifest = self.folder.absolute(), self.manifest.absolute()
        setup = Setup(_RUNNER, (str(self.store), str(manifest), settings, folder / CACHE))
        return run_trials(
            folder,
            self.space,
            settings,
            setup,
            store=str(self.store),
            metric=self.data.metric,
            higher_is_better=self.data.higher_is_better,
            num_steps=self.data.num_rungs * settings.validation_folds,
            check_lock=check_lock,
            sources=self._sources(),
            show_progress=self.show_progress,
        )

    def _sources(self) -> list[Path]:
        """Return the files that trials read."""
        searched = self.space.shown.get("feature_table", ())
        tables = [Path(path) for path in (self.settings.base.feature_table, *searched) if path]
        return [self.store, *self.settings.other_store, self.manifest, *tables]

    def write_tables(self) -> None:
        """Write leaderboard and report of what is known."""
        from stage2_temporal.leaderboard import write_leaderboard
        from stage2_temporal.sweep_report import write_sweep_report

        records = read_trials(self.folder)
        higher = self.data.higher_is_better
        write_leaderboard(self.folder, records, higher_is_better=higher)
        write_sweep_report(self.folder)

    def finish(self, *, refit: bool) -> SweepResult:
        """Return what was found, after training the best settings anew.

        Args:
            refit: Whether they are, and the test clips scored: never before the search is over.
        """
        records = read_trials(self.folder)
        best = best_trial(records, higher_is_better=self.data.higher_is_better)
        if best is None:
            raise ValueError(_nothing_found(records))
        winner = self._refit(best) if refit else None
        count = Counter(record.state for record in records)
        return SweepResult(
            folder=self.folder,
            best=best,
            num_complete=count[COMPLETE],
            num_pruned=count[PRUNED],
            num_failed=count[FAILED],
            winner=winner,
            notices=(*self.data.notices, *sweep_notices(records), *self._waits(winner)),
        )

    def _waits(self, winner: "TrainResult | None") -> list[str]:
        if winner is not None or not self.settings.refit_seeds:
            return []
        return [
            "the time was up; the winner is trained, and the test side scored, when the same "
            "command has brought the search to its end"
        ]

    def _refit(self, best: TrialRecord) -> "TrainResult":
        from stage2_temporal.winner import refit_winner

        winner = refit_winner(
            self.folder,
            self.store,
            self.manifest,
            self.settings,
            best,
            show_progress=self.show_progress,
        )
        self.write_tables()
        return winner


def sweep_notices(records: list[TrialRecord]) -> list[str]:
    """Say so if the searched settings hardly had an effect."""
    complete = [record for record in records if record.state == COMPLETE]
    kept = [record for record in complete if record.kept_baseline * 2 > record.num_trainings]
    if len(kept) * 2 <= len(complete):
        return []
    return [
        f"{len(kept)} of {len(complete)} complete trials kept the mean-pool baseline in most of "
        "their trainings, so the searched settings hardly had an effect: give --gain-confidence 0, "
        "or search gain_confidence"
    ]


def _nothing_found(records: list[TrialRecord]) -> str:
    failed = [record for record in records if record.state == FAILED]
    if failed:
        return f"all of {len(failed)} trials failed, the last one because: {failed[-1].reason}"
    return f"none of {len(records)} trials came to an end; give the sweep more --hours"
