"""What the report shows of the trainings: learning curves and kept epochs."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stage2_temporal import figures
from stage2_temporal.picture import embed
from stage2_temporal.report_grid import Grid, Plate
from stage2_temporal.report_words import count, display_name
from stage2_temporal.run_files import Run

MAX_UNIT_ROWS = 50
MAX_CURVES = 8  # that can be told apart

_Curve = tuple[NDArray[np.int64], NDArray[np.float64]]  # epochs and values


def training_plates(run: Run) -> list[Plate]:
    """Draw the learning curves: of one training all losses, of several the validation loss."""
    history, best = run.history, run.data["best_epochs"]
    several = len(best) > 1
    plates = _validation_curves(history, best) if several else _both_curves(history, best)
    return [*plates, *_loss_of_targets(run), *_learning_rate(history, several=several)]


def _both_curves(history: pd.DataFrame, best: dict[str, int]) -> list[Plate]:
    epochs, epoch = history["epoch"].to_numpy(np.int64), next(iter(best.values()))
    plates = []
    for name in [name for name in history.columns if f"val_{name}" in history.columns]:
        both = {"training": history[name], "validation": history[f"val_{name}"]}
        curves = {label: values.to_numpy(np.float64) for label, values in both.items()}
        label = display_name(name)
        figure = figures.curve_figure(epochs, curves, name=label, best_epoch=epoch)
        alt = f"{label} of the training and validation clips against epochs."
        caption = (
            f"Learning curve: {label}. The weights of the starred epoch were kept; epoch 0 is the "
            "model before training."
        )
        plates.append((embed(figure, alt), caption))
    return plates


def _validation_curves(history: pd.DataFrame, best: dict[str, int]) -> list[Plate]:
    curves = [(*curve, best[unit]) for unit, curve in _units(history, "val_loss").items()]
    figure = figures.curves_figure(curves, name="validation loss")
    caption = (
        f"Validation loss of {count(len(curves), 'training')} against epochs, and the median of "
        "those still training, while at least half are. The weights of starred epochs were kept; "
        "epoch 0 is the model before training."
    )
    return [(embed(figure, caption), caption)]


def _units(history: pd.DataFrame, column: str) -> dict[str, _Curve]:
    return {
        str(unit): (rows["epoch"].to_numpy(np.int64), rows[column].to_numpy(np.float64))
        for unit, rows in history.groupby("unit", sort=False)
    }


def _median(history: pd.DataFrame, column: str) -> _Curve:
    return figures.median_curve(list(_units(history, column).values()))


def _loss_of_targets(run: Run) -> list[Plate]:
    names = [target["name"] for target in run.data["targets"]]
    columns = {name: f"val_loss {name}" for name in names if f"val_loss {name}" in run.history}
    if len(columns) < 2:
        return []
    shown = dict(list(columns.items())[:MAX_CURVES])
    found = {name: _median(run.history, column) for name, column in shown.items()}
    epochs = next(iter(found.values()))[0]
    curves = {name: values for name, (_, values) in found.items()}
    figure = figures.curve_figure(epochs, curves, name="validation loss", best_epoch=None)
    median = ", median of the trainings" if len(run.data["best_epochs"]) > 1 else ""
    caption = f"Validation loss of each target{median}."
    return [(embed(figure, caption), caption)]


def _learning_rate(history: pd.DataFrame, *, several: bool) -> list[Plate]:
    if "learning_rate" not in history or history["learning_rate"].nunique() < 2:
        return []
    epochs, values = _median(history, "learning_rate")
    curves = {"median" if several else "learning rate": values}
    figure = figures.curve_figure(epochs, curves, name="learning rate", best_epoch=None)
    caption = "Learning rate against epochs" + (", median of the trainings." if several else ".")
    return [(embed(figure, caption), caption)]


def best_epochs_text(run: Run) -> str:
    """Say at which epochs the kept weights are from."""
    best = list(run.data["best_epochs"].values())
    skip = run.settings["settings"].get("skip", False)
    untrained = "the model before training" + (", the mean-pool baseline itself" if skip else "")
    if len(best) == 1:
        epoch = f"epoch {best[0]}" + ("" if best[0] else f" ({untrained})")
        why = "its validation loss was the lowest"
        if not best[0] and skip:
            why = (
                "validation did not show that training improved on it (confidence "
                f"{_confidences(run)[0]:.3f}, wanted {_wanted(run):g})"
            )
        return f"The weights of {epoch} were kept: {why}."
    span = f"epochs {min(best)} to {max(best)} (median {float(np.median(best)):g})"
    if min(best) == max(best):
        span = f"epoch {best[0]}"
    text = f"Of {count(len(best), 'training')}, the weights of {span} were kept."
    if 0 not in best:
        return f"{text} Their validation loss was the lowest."
    text += f" In {best.count(0)} of them that was epoch 0, {untrained}"
    if not skip:
        return f"{text}."
    return (
        f"{text}: validation did not show with a confidence of {_wanted(run):g} that training "
        "improved on it."
    )


def _confidences(run: Run) -> list[float]:
    return list(run.data["gain_confidence"].values())


def _wanted(run: Run) -> float:
    return float(run.settings["settings"]["gain_confidence"])


def best_epoch_grid(run: Run) -> Grid | None:
    """Return the best epoch of each training, of several."""
    best = run.data["best_epochs"]
    if len(best) < 2:
        return None
    last = run.history.groupby("unit", sort=False).last()
    at_best = run.history.set_index(["unit", "epoch"])["val_loss"]
    rows = [
        [
            run.data["folds"][int(last.loc[unit, "fold"])]["name"],
            int(last.loc[unit, "member"]),
            int(last.loc[unit, "repeat"]),
            epoch,
            int(last.loc[unit, "epoch"]),
            float(at_best[unit, epoch]),
        ]
        for unit, epoch in list(best.items())[:MAX_UNIT_ROWS]
    ]
    caption = "The kept epoch of each training."
    if len(best) > MAX_UNIT_ROWS:
        caption = f"The kept epoch of the first {MAX_UNIT_ROWS} trainings; all are in data.json."
    head = ["fold", "member", "repeat", "kept epoch", "last epoch", "validation loss"]
    return Grid(caption, head, rows, "Kept epochs")
