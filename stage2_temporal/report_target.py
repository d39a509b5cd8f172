"""What the report shows of one target: scores by fold, subject and region, and its test clips."""

import numpy as np
import pandas as pd

from stage2_temporal import figures
from stage2_temporal.picture import Picture, embed
from stage2_temporal.report_clips import clip_plates, label_grids
from stage2_temporal.report_curves import Drawing, missing_curves
from stage2_temporal.report_errors import density_plates, residual_plates, scatter_plates
from stage2_temporal.report_grid import Grid, Plate
from stage2_temporal.report_mistakes import confident_grid, most_wrong
from stage2_temporal.report_words import (
    count,
    display_name,
    features_verdict,
    interval,
    model_names,
    rounds,
    score_name,
    verdict,
)
from stage2_temporal.run_files import Run
from stage2_temporal.run_shapes import Json
from stage2_temporal.shown_clips import ShownClips

MAX_FOLD_ROWS = 20
_ROUNDING = 1e-6  # of a score that float32 predictions make


def target_view(run: Run, target: Json) -> Json:
    """Return what the page's section of a target is made of.

    Args:
        run: The run.
        target: The target's part of `data.json`.
    """
    name, names = target["name"], model_names(run)
    seed = int(run.settings["settings"].get("seed", 0))
    scores, clips = without_rounding(run.metrics["targets"][name]), run.tested[name]
    drawing = Drawing(clips, names, run.data["group"], seed)
    return {
        **{"name": name, "task": target["task"], "scores": scores, "clips": clips},
        "verdicts": [
            text
            for text in (f(scores, names["recurrent"]) for f in (verdict, features_verdict))
            if text
        ],
        "scope": _scope(run, clips),
        "headline": _headline(scores, names),
        "strips": _strips(run, name, scores["primary"], names),
        "grids": [*_fold_grids(run, name, scores["primary"], names), *_regions(scores, names)],
        "plates": _plates(run, name, drawing),
        "label_grids": _label_grids(run, drawing),
        "mistakes": len(most_wrong(clips)) > 0,
        "shown": f"{_which_rows(run, clips)} {_left_out(drawing)}".strip(),
    }


def _plates(run: Run, target: str, drawing: Drawing) -> list[Plate]:
    task = drawing.clips.task
    if task != "regression":
        return clip_plates(drawing, _threshold(run, task))
    return [
        *scatter_plates(drawing),
        *residual_plates(drawing),
        *density_plates(drawing, run, target),
    ]


def _label_grids(run: Run, drawing: Drawing) -> list[Grid]:
    confident = confident_grid(drawing.clips, run.data["group"], drawing.names)
    return [*label_grids(drawing), *([] if confident is None else [confident])]


def _left_out(drawing: Drawing) -> str:
    """Say which figures are left out."""
    return "" if drawing.clips.task == "regression" else missing_curves(drawing)


def without_rounding(scores: Json) -> Json:
    """Return a target's scores, with 0 for differences that rounding alone explains.

    A model that training did not change differs from the baseline by float32 arithmetic.

    Args:
        scores: A target's part of `metrics.json`.
    """

    def cleaned(test: Json) -> Json:
        size = {name: abs(score["value"] or 0) for name, score in test["recurrent"].items()}
        return {
            model: {
                name: _zeroed(score, _ROUNDING * size.get(name, 0)) for name, score in of.items()
            }
            if model.startswith("difference")
            else of
            for model, of in test.items()
        }

    subjects = scores["subjects"]
    if subjects is not None:
        subjects = subjects | {"test": cleaned(subjects["test"])}
    return scores | {"test": cleaned(scores["test"]), "subjects": subjects}


def _zeroed(score: Json, least: float) -> Json:
    return {
        key: 0.0 if isinstance(value, float) and abs(value) < least else value
        for key, value in score.items()
    }


def _scope(run: Run, clips: ShownClips) -> str:
    """Return how many clips and groups the scores are of."""
    text = count(len(clips.target), "test clip")
    folds = [fold for fold in run.data["folds"] if fold["repetition"] == 0]
    if run.data["group"] and sum(fold["test"]["clips"] for fold in folds) == len(clips.target):
        text += f" of {count(sum(fold['test']['groups'] for fold in folds), 'group')}"
    if len(folds) > 1:
        text += f", {count(len(folds), 'fold')}"
    return text + (f", mean of {rounds(run)}" if rounds(run) else "")


def _which_rows(run: Run, clips: ShownClips) -> str:
    """Say which predictions the figures of test clips are made of."""
    sentences = []
    if len(run.data["folds"]) > 1:
        sentences.append(
            "The test clips of all folds are pooled: each is predicted by the model that did not "
            "train on it."
        )
    if rounds(run):
        each = "of each " if " and " in rounds(run) else ""
        sentences.append(
            f"Of {rounds(run)}, the first {each}is shown, so that each clip counts once; scores "
            "above are the mean over all of them."
        )
    if clips.num_without:
        why = "lack this target" if clips.task != "multilabel" else "lack it, or have no label"
        sentences.append(f"{count(clips.num_without, 'test clip')} are not shown: they {why}.")
    return " ".join(sentences)


def _threshold(run: Run, task: str) -> str:
    if task not in ("binary", "multilabel"):
        return ""
    value = run.settings["settings"].get("threshold", 0.5)
    if value == "validation":
        return " A clip is positive from a probability that was chosen on validation clips."
    return f" A clip is positive from a probability of {value}."


def _headline(scores: Json, names: dict[str, str]) -> Picture | None:
    found = {name: interval(scores, model) for model, name in names.items()}
    known = {name: bounds for name, bounds in found.items() if bounds is not None}
    if not known:
        return None
    name = display_name(scores["primary"])
    words = [f"{who} {v:.3g}, interval {lo:.3g} to {hi:.3g}" for who, (v, lo, hi) in known.items()]
    figure = figures.interval_figure(known, name=f"{name} on the test clips")
    return embed(figure, f"{name} with intervals: {'; '.join(words)}.")


def _by_fold(run: Run, target: str, primary: str) -> pd.DataFrame:
    """Return the primary test score: a row for each fold and repeat, a column for each model."""
    table = run.by_fold
    chosen = table[
        (table["target"] == target) & (table["split"] == "test") & (table["score"] == primary)
    ]
    values = chosen.set_index(["fold", "repeat", "model"])["value"]
    columns = {str(model): values.xs(model, level="model") for model in chosen["model"].unique()}
    return pd.DataFrame(columns)


def _strips(run: Run, target: str, primary: str, names: dict[str, str]) -> list[Plate]:
    table = _by_fold(run, target, primary)
    if len(table) < 2:
        return []
    found = {name: table[model].to_numpy(float) for model, name in names.items() if model in table}
    values = {name: scores for name, scores in found.items() if np.isfinite(scores).any()}
    if not values:
        return []
    words = [f"{name} {np.nanmin(v):.3g} to {np.nanmax(v):.3g}" for name, v in values.items()]
    label = display_name(primary)
    what = "fold and repeat" if run.data["repeats"] > 1 else "fold"
    caption = (
        f"Test {label} of each {what}, in the same order from top to bottom for each model. The "
        "line is their mean; the scores above pool the test clips of all folds."
    )
    picture = embed(figures.strip_figure(values, name=label), f"{label}: {'; '.join(words)}.")
    return [(picture, caption)]


def _fold_grids(run: Run, target: str, primary: str, names: dict[str, str]) -> list[Grid]:
    table = _by_fold(run, target, primary)
    if len(table) < 2:
        return []
    label, models = score_name(primary), [model for model in names if model in table]
    if len(table) <= MAX_FOLD_ROWS:
        head = ["fold", "repeat", *(names[model] for model in models)]
        rows = [
            [run.data["folds"][int(fold)]["name"], int(repeat), *row]
            for (fold, repeat), row in zip(
                table.index, table[models].to_numpy().tolist(), strict=True
            )
        ]
        return [Grid(f"Test {label} of each fold.", head, rows, "Scores by fold")]
    parts = {"lowest": "min", "median": "median", "mean": "mean", "highest": "max"}
    found = {part: table[models].agg(how).tolist() for part, how in parts.items()}
    rows = [[part, *values] for part, values in found.items()]
    rows.append(["undefined in", *(int(table[model].isna().sum()) for model in models)])
    caption = f"Test {label} over {len(table)} tests of a fold; each is in scores_by_fold.csv."
    return [Grid(caption, ["", *(names[model] for model in models)], rows)]


def _regions(scores: Json, names: dict[str, str]) -> list[Grid]:
    """Return the errors of a regression where training had many, some and few clips."""
    if not scores["regions"]:
        return []
    models = [model for model in names if model in scores["regions"]]
    rows = [
        [
            parts[0]["region"],
            parts[0]["num_training_clips"],
            parts[0]["num_clips"],
            *(None if part["mae"] is None else float(part["mae"]) for part in parts),
        ]
        for parts in zip(*(scores["regions"][model] for model in models), strict=True)
    ]
    head = ["values with", "training clips", "test clips", *(f"MAE ↓ {names[m]}" for m in models)]
    caption = (
        "Error where training values are many, medium and few: thirds of the range of values, by "
        "how dense the training clips lie there."
    )
    return [Grid(caption, head, rows)]
