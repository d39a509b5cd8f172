"""The winner of a sweep: its best settings, trained from several seeds and scored on test clips."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from stage1_extract.manifest import Manifest
from stage1_extract.store import EmbeddingStore
from stage2_temporal.bootstrap import Score
from stage2_temporal.config import TrainSettings
from stage2_temporal.partition import TrainingData, load_data
from stage2_temporal.search_space import apply_parameters
from stage2_temporal.sweep_names import STORE
from stage2_temporal.sweep_report_winner_files import (
    WINNER,
    comparable,
    plain_settings,
    read_winner,
)
from stage2_temporal.sweep_settings import SweepSettings
from stage2_temporal.sweep_storage import SPLIT, TrialRecord
from stage2_temporal.training import TrainResult, train

_MOST_SHOWN = 5
_SCORED_BEFORE = (
    "the search was continued after an earlier winner had been scored on the same test clips: who "
    "stops when that score pleases has chosen by it"
)


def refit_winner(
    folder: Path,
    store: EmbeddingStore | Path | str,
    manifest: Manifest | Path | str,
    settings: SweepSettings,
    best: TrialRecord,
    *,
    show_progress: bool = False,
) -> TrainResult:
    """Train the best settings on the sweep's own split into `winner`, and score the test clips.

    This is the only reading of test clips. A training that was stopped goes on. A winner of the
    same settings and data is kept as it is; one of other settings is replaced when the new one is
    done.

    Args:
        folder: The sweep folder.
        store: STORE, or of several competing ones any: the best trial's is taken.
        manifest: Manifest of the clips.
        settings: What the sweep was asked for; `refit_seeds` trainings are made.
        best: The best trial.
        show_progress: Whether to show a progress bar.

    Raises:
        FileExistsError: `winner` is there and no run folder.
        ValueError: The test clips are not those that the sweep kept apart, or settings or data are
            wrong.
    """
    asked = winner_settings(settings, best)
    data = load_data(best.parameters.get(STORE, store), manifest, asked)
    _check_test_side(folder / SPLIT, data)
    winner = folder / WINNER
    if _is_the_same(winner, data, asked):
        return read_result(winner)
    notices = [_SCORED_BEFORE] if winner.exists() else []
    notices.insert(
        0,
        f"settings of trial {best.number}, the best of the sweep {folder}; no test clip took part "
        "in the search",
    )
    return train(
        data.store, data.manifest, winner, asked, notices=notices, show_progress=show_progress
    )


def winner_settings(settings: SweepSettings, best: TrialRecord) -> TrainSettings:
    """Return the settings of the winner's training.

    Raises:
        ValueError: The sweep was asked for no refit.
    """
    if settings.refit_seeds < 1:
        raise ValueError(f"refit_seeds is {settings.refit_seeds}; expected 1 or more for a refit")
    found = apply_parameters(settings.base, best.parameters)
    return dataclasses.replace(found, repeats=settings.refit_seeds, overwrite=True)


def _check_test_side(path: Path, data: TrainingData) -> None:
    """Refuse a test side that holds other clips than the sweep's."""
    table = pd.read_csv(path, dtype=str, keep_default_na=False)
    kept_apart = set(table.loc[table["side"] == "test", "video_id"])
    tested = set(data.clips.video_ids[data.partition.folds[0].test].tolist())
    problems = [
        f"{len(ids)} clips {where}, like {', '.join(sorted(ids)[:_MOST_SHOWN])}"
        for ids, where in (
            (tested - kept_apart, "would be tested that the search may have seen"),
            (kept_apart - tested, "would not be tested"),
        )
        if ids
    ]
    if problems:
        raise ValueError(
            f"the test side is not the one that {path} keeps apart: {'; '.join(problems)}. Store "
            "or manifest changed after the search: restore them, or begin a sweep in a new folder"
        )


def _is_the_same(winner: Path, data: TrainingData, asked: TrainSettings) -> bool:
    if not (winner / "settings.json").is_file():
        return False
    found = read_winner(winner).settings
    return (
        comparable(found["settings"]) == comparable(plain_settings(asked))
        and found["store"]["fingerprint"] == data.store.fingerprint
        and found["manifest"]["sha256"] == data.manifest.sha256
    )


def read_result(winner: Path) -> TrainResult:
    """Return what a finished run found, from its files.

    Raises:
        ValueError: A file is not what a complete run holds.
    """
    found = read_winner(winner)
    targets, data = found.metrics["targets"], found.data
    return TrainResult(
        folder=winner,
        targets={
            name: {side: _scores(of_target[side]) for side in ("validation", "test")}
            for name, of_target in targets.items()
        },
        tasks={name: of_target["task"] for name, of_target in targets.items()},
        sides={side: data["folds"][0][side] for side in ("train", "validation", "test")},
        num_folds=len(data["folds"]),
        group=data["group"],
        left_out=data["left_out"],
        balance=data["balance"]["description"],
        notices=tuple(data["notices"]),
    )


def _scores(of_side: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> dict[str, dict[str, Score]]:
    return {
        model: {
            name: Score(
                value=_number(score["value"]),
                low=_number(score["low"]),
                high=_number(score["high"]),
                num_resamples=score["num_resamples"],
                spread=_number(score["spread"]),
            )
            for name, score in scores.items()
        }
        for model, scores in of_side.items()
    }


def _number(value: float | None) -> float:
    return np.nan if value is None else value
