"""Reading a run folder: every file checked before it is used."""

import itertools
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd

from stage2_temporal.clip_table import CLIPS_NAME, TARGET_COLUMN
from stage2_temporal.metrics import check_task, higher_is_better
from stage2_temporal.run_folder import PREFIXES, RUN_FORMAT, RUN_VERSION
from stage2_temporal.run_shapes import (
    CLASSES,
    COUNTS,
    REGIONS,
    SHAPES,
    SIDES,
    SUBJECTS,
    Json,
    check_shape,
)
from stage2_temporal.run_tables import check_is_file, incomplete, read_table
from stage2_temporal.shown_clips import ShownClips, read_shown_clips
from stage2_temporal.strip_files import STRIPS, Strips, read_strips

MODELS = tuple(PREFIXES)


@dataclass(frozen=True)
class Run:
    """The files of a run folder, read and checked.

    Attributes:
        settings: `settings.json`.
        data: `data.json`.
        metrics: `metrics.json`.
        history: `history.csv`, one row an epoch of a training, with the training's name in `unit`.
        by_fold: `scores_by_fold.csv`; an undefined value is NaN.
        tested: The test clips of each target, by its name.
        clips: `clips.csv`, indexed by video_id: group and, for each target, `target_` and its name
            are texts; frames, seconds (NaN if unknown), x and y are float64.
        strips: The folder `strips`; None if there is none.
    """

    settings: Json
    data: Json
    metrics: Json
    history: pd.DataFrame
    by_fold: pd.DataFrame
    tested: dict[str, ShownClips]
    clips: pd.DataFrame
    strips: Strips | None


def read_run(run_folder: Path) -> Run:
    """Read and check the files of a run folder; errors say which file is wrong.

    Raises:
        FileNotFoundError: A file of the run is missing.
        ValueError: A file is not what a complete run holds.
    """
    settings = _read_json(run_folder / "settings.json")
    data, metrics = (_read_json(run_folder / name) for name in ("data.json", "metrics.json"))
    _check_data(data, run_folder / "data.json")
    _check_metrics(metrics, data, run_folder / "metrics.json")
    tested = {
        target["name"]: _read_tested(run_folder, target, data, metrics)
        for target in data["targets"]
    }
    strips = _shown_strips(run_folder, read_strips(run_folder, list(tested)), tested)
    return Run(
        settings=settings,
        data=data,
        metrics=metrics,
        history=_read_history(run_folder / "history.csv", data),
        by_fold=_read_by_fold(run_folder / "scores_by_fold.csv", data),
        tested=tested,
        clips=_read_clips(run_folder / CLIPS_NAME, tested),
        strips=strips,
    )


def _read_json(path: Path) -> Json:
    check_is_file(path)
    try:
        document: Json = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise incomplete(path, f"not JSON ({error})") from error
    if path.name == "settings.json":
        _check_version(document, path)
    check_shape(path, document, SHAPES[path.name])
    return document


def _check_version(document: object, path: Path) -> None:
    found = document if isinstance(document, dict) else {}
    got = (found.get("format"), found.get("format_version"))
    if "format" in found and got != (RUN_FORMAT, RUN_VERSION):
        raise incomplete(
            path, f"expected {RUN_FORMAT}, version {RUN_VERSION}, got {got[0]!r}, version {got[1]}"
        )


def _check_data(data: Json, path: Path) -> None:
    if not data["targets"] or not data["folds"]:
        raise incomplete(path, "expected a target and a fold or more")
    if len(data["map_variance"]) != 2:
        raise incomplete(path, f"map_variance is {data['map_variance']}, expected two shares")
    for number, target in enumerate(data["targets"]):
        _check_target(target, path, f"targets[{number}]")
    for distribution in data["balance"]["distributions"]:
        if len({len(distribution[key]) for key in ("labels", "before", "after")}) > 1:
            problem = f"distribution {distribution['name']!r}: its lists differ in length"
            raise incomplete(path, problem)


def _check_target(target: Json, path: Path, where: str) -> None:
    _check_known_task(target["task"], path, where)
    if (target["task"] == "regression") != (target["classes"] is None):
        raise incomplete(path, f"{where}: classes do not suit the task {target['task']!r}")
    if Path(target["predictions"]).name != target["predictions"]:
        problem = f"{where}.predictions is {target['predictions']!r}, expected a file's name"
        raise incomplete(path, problem)
    if target["classes"] is not None:
        check_shape(path, target["classes"], CLASSES, f"{where}.classes")
        check_shape(path, target["class_counts"], COUNTS, f"{where}.class_counts")


def _check_known_task(task: str, path: Path, where: str) -> None:
    try:
        check_task(task)
    except ValueError as error:
        raise incomplete(path, f"{where}: {error}") from error


def _check_metrics(metrics: Json, data: Json, path: Path) -> None:
    tasks = {target["name"]: target["task"] for target in data["targets"]}
    found = {name: scores["task"] for name, scores in metrics["targets"].items()}
    if tasks != found:
        raise incomplete(path, f"its targets are {found}, those of data.json {tasks}")
    for name, scores in metrics["targets"].items():
        _check_target_scores(scores, path, f"targets.{name}")


def _check_target_scores(scores: Json, path: Path, where: str) -> None:
    primary = scores["primary"]
    try:
        higher_is_better(primary)
    except ValueError as error:
        raise incomplete(path, f"{where}.primary: {error}") from error
    if primary not in scores["test"]["recurrent"]:
        raise incomplete(path, f"{where}: no test score of the primary metric {primary!r}")
    known = {*MODELS, "difference", *(f"difference_{model}" for model in MODELS)}
    unknown = sorted({*scores["test"], *scores["validation"]} - known)
    if unknown:
        raise incomplete(path, f"{where}: models {unknown}, expected some of {sorted(known)}")
    if scores["subjects"] is not None:
        check_shape(path, scores["subjects"], SUBJECTS, f"{where}.subjects")
    if scores["regions"] is not None:
        check_shape(path, scores["regions"], REGIONS, f"{where}.regions")


def _read_history(path: Path, data: Json) -> pd.DataFrame:
    places = ["epoch", "fold", "member", "repeat"]
    history = read_table(path, numbers=[*places, "loss", "val_loss"], others=True).numbers
    for name in places:
        if not np.isfinite(history[name].to_numpy()).all():
            raise incomplete(path, f"the column {name} holds blank or infinite values")
    history = history.astype(dict.fromkeys(places, int))
    _check_folds(path, history["fold"], data)
    units = history[places[1:]].drop_duplicates()
    names = {
        unit: "fold{}-member{}-repeat{}".format(*unit)
        for unit in units.itertuples(index=False, name=None)
    }
    history["unit"] = [names[row] for row in history[places[1:]].itertuples(index=False, name=None)]
    epochs = set(zip(history["unit"], history["epoch"], strict=True))
    for unit, epoch in data["best_epochs"].items():
        if (unit, epoch) not in epochs:
            raise incomplete(
                path, f"data.json chose epoch {epoch} of {unit}, which has no row here"
            )
    if missing := sorted(set(names.values()) - set(data["best_epochs"]))[:5]:
        raise incomplete(path, f"data.json has no best epoch of {missing}")
    return history


def _read_by_fold(path: Path, data: Json) -> pd.DataFrame:
    names = ["fold", "repetition", "repeat"]
    table = read_table(path, texts=["target", "model", "split", "score"], numbers=[*names, "value"])
    _check_folds(path, table.numbers["fold"], data)
    unknown = sorted(set(table.texts["model"]) - set(MODELS))
    if unknown:
        raise incomplete(path, f"models {unknown}, expected some of {list(MODELS)}")
    scores = pd.concat([table.texts, table.numbers], axis=1)
    twice = scores.duplicated([*table.texts, "fold", "repeat"])
    if twice.any():
        raise incomplete(path, f"row {int(twice.argmax()) + 2} gives a score a second time")
    return scores


def _check_folds(path: Path, numbers: pd.Series, data: Json) -> None:
    last = len(data["folds"]) - 1
    if not numbers.isin(range(last + 1)).all():
        raise incomplete(path, f"folds {sorted(set(numbers))[:10]}, expected 0 to {last}")


def _read_tested(run_folder: Path, target: Json, data: Json, metrics: Json) -> ShownClips:
    sides = itertools.chain.from_iterable([data["folds"][0][side]] for side in SIDES)
    tested = metrics["targets"][target["name"]]["test"]
    return read_shown_clips(
        run_folder / target["predictions"],
        target["task"],
        target["classes"] or (),
        models=[model for model in MODELS if model in tested],
        folds=[n for n, fold in enumerate(data["folds"]) if fold["repetition"] == 0],
        all_labelled=target["labelled"] == sum(side["clips"] for side in sides),
    )


def _read_clips(path: Path, tested: Mapping[str, ShownClips]) -> pd.DataFrame:
    labels = [f"{TARGET_COLUMN}{name}" for name in tested]
    texts, numbers = ["video_id", "group", *labels], ["frames", "seconds", "x", "y"]
    table = read_table(path, texts=texts, numbers=numbers)
    if not np.isfinite(table.numbers[["frames", "x", "y"]].to_numpy()).all():
        raise incomplete(path, "frames, x and y hold blank or infinite values")
    clips = pd.concat([table.texts, table.numbers], axis=1)
    clips.index = pd.Index(clips["video_id"], name=None)
    if not clips.index.is_unique:
        twice = clips.index[clips.index.duplicated()].unique()[:5].tolist()
        raise incomplete(path, f"clips {twice} have several rows")
    for name, shown in tested.items():
        if (missing := pd.Index(shown.video_ids).difference(clips.index)).size:
            problem = f"no row of clips {missing[:5].tolist()}, which test {name!r}"
            raise incomplete(path, problem)
    return clips


def _shown_strips(
    run_folder: Path, strips: Strips | None, tested: Mapping[str, ShownClips]
) -> Strips | None:
    """Return the strips of clips that the page shows, see `ShownClips.num_without`."""
    if strips is None:
        return None
    shown = {name: set(clips.video_ids) for name, clips in tested.items()}
    kept = tuple(strip for strip in strips.clips if strip.video_id in shown[strip.target])
    for strip in strips.clips:
        if strip not in kept and not tested[strip.target].num_without:
            raise incomplete(
                run_folder / STRIPS,
                f"a strip of {strip.video_id!r}, which does not test {strip.target!r}",
            )
    return replace(strips, clips=kept)
