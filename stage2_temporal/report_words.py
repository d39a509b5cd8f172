"""The words of the report: numbers, names of scores and models, verdicts."""

import json
import math
from collections.abc import Mapping

from stage2_temporal.metrics import higher_is_better
from stage2_temporal.partition import FEW_TEST_GROUPS
from stage2_temporal.run_files import Run
from stage2_temporal.run_shapes import Json

_WORDS = {
    **{"auroc": "AUROC", "auprc": "AUPRC", "mae": "MAE", "rmse": "RMSE", "mse": "MSE"},
    **{"pearson": "Pearson r", "r2": "R²", "f1": "F1", "ece": "ECE", "brier": "Brier score"},
    **{"macro": "(macro)", "hamming": "Hamming", "lr": "learning rate"},
}
_BOUNDS = ("value", "low", "high")
_ROUNDING = 1e-12  # of scores of equal predictions


def format_number(value: float | None) -> str:
    """Return a score as text: three decimals, or three to four digits where those would mislead."""
    if value is None or not math.isfinite(value):
        return "undefined"
    if value == 0 or 0.01 <= abs(value) < 100:
        return f"{value:.3f}"
    return f"{value:.4g}" if abs(value) >= 1 else f"{value:.3g}"


def format_spread(value: float | None) -> str:
    """Return a standard deviation as text, in two digits; blank where undefined.

    What rounding alone makes of equal values is 0.
    """
    if value is None or not math.isfinite(value):
        return ""
    return f"± {value if value > _ROUNDING else 0:.2g}"


def display_name(name: str) -> str:
    """Return the usual spelling of a score's or column's name: `auroc` is AUROC."""
    return " ".join(_WORDS.get(word, word) for word in name.split("_"))


def score_name(name: str) -> str:
    """Return the usual spelling of a score's name, with an arrow where lower is better."""
    return display_name(name) + ("" if higher_is_better(name) else " ↓")


def shown(value: object) -> str:
    """Return a setting or fact as text."""
    if value is None:
        return "none"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {shown(item)}" for key, item in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(shown(item) for item in value) or "none"
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def count(number: int, noun: str) -> str:
    """Return a number and its noun: 1 fold, 1,200 folds."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def model_names(run: Run) -> dict[str, str]:
    """Return what to call the models of a run, in the order of its tables."""
    recurrent = run.settings["settings"].get("head", "gru") in ("gru", "lstm")
    names = {
        "recurrent": "recurrent model" if recurrent else "sequence model",
        "mean_pool": "mean-pool baseline",
        "features": "features-alone baseline",
    }
    first = run.metrics["targets"][run.data["targets"][0]["name"]]
    return {model: name for model, name in names.items() if model in first["test"]}


def verdict(scores: Json, model: str = "recurrent model") -> str:
    """Say whether the order of frames helped, from the paired difference of the primary score.

    Args:
        scores: A target's part of `metrics.json`.
        model: What to call the recurrent model.
    """
    found = interval(scores, "difference")
    if found is None:
        return "Undecided: the test score or its interval is undefined for at least one model."
    what = "the order of frames"
    if "features" in scores["test"]:
        what += ", or the side features that the baseline lacks,"
    difference = f"the {model} minus the average of the frames is {_paired(found)}"
    return _judged(found, scores["primary"], what, difference)


def caution(run: Run) -> str:
    """Say beside the headline how many models are the baseline, and that groups are few."""
    best, sentences = list(run.data["best_epochs"].values()), []
    kept = best.count(0) if run.settings["settings"].get("skip") else 0
    if kept:
        sentences.append(
            f"{kept} of {len(best)} trained models are the mean-pool baseline itself, because "
            "validation did not show a gain."
        )
    folds = [fold for fold in run.data["folds"] if fold["repetition"] == 0]
    groups = sum(fold["test"]["groups"] for fold in folds)
    if groups < FEW_TEST_GROUPS:
        sentences.append(
            f"With {groups} independent groups in the test the intervals are rough, and rather too "
            "narrow."
        )
    return " ".join(sentences)


def features_verdict(scores: Json, model: str = "recurrent model") -> str:
    """Say whether the video helped beyond side features; blank without side features."""
    if "features" not in scores["test"]:
        return ""
    found = interval(scores, "difference_features")
    if found is None:
        return "Undecided whether the video adds to the side features: a score is undefined."
    difference = f"the {model} minus the side features alone is {_paired(found)}"
    return _judged(found, scores["primary"], "the video beside the side features", difference)


def _judged(found: tuple[float, float, float], primary: str, what: str, difference: str) -> str:
    value, low, high = found
    start = what[0].upper() + what[1:]
    if low <= 0 <= high:
        return (
            f"No clear difference: {difference}, so this test set does not show whether {what} "
            "helps."
        )
    if (value > 0) == higher_is_better(primary):
        return f"{start} appears to help: {difference}."
    return f"{start} did not help: {difference}."


def _paired(found: tuple[float, float, float]) -> str:
    value, low, high = map(format_number, found)
    return f"{value} (paired interval {low} to {high})"


def interval(scores: Json, model: str) -> tuple[float, float, float] | None:
    """Return value, low and high of a target's primary test score; None where undefined."""
    score = scores["test"].get(model, {}).get(scores["primary"], {})
    value, low, high = (score.get(key) for key in _BOUNDS)
    if any(x is None or not math.isfinite(x) for x in (value, low, high)):
        return None
    return value, low, high


def scheme(run: Run) -> str:
    """Say in one or two sentences how the run was validated."""
    data = run.data
    group = f"; no {data['group']} is on two sides" if data["group"] else ""
    made = 1 + max(fold["repetition"] for fold in data["folds"])
    folds = len(data["folds"]) // made
    each = data["group"] or "group"
    text = {
        "holdout": "One split: the test clips were held out from training and selection",
        "kfold": f"Cross-validation in {count(folds, 'fold')}: each clip is tested once",
        "leave-one-group-out": f"Each {each} in turn is tested: {count(folds, 'fold')}",
    }.get(data["validation"], f"{data['validation']}: {count(folds, 'fold')}")
    sentences = [text + group]
    if made > 1:
        sentences.append(f"The folds were made anew {made} times")
    members = max(fold["members"] for fold in data["folds"])
    if members > 1:
        sentences.append(
            f"In each fold {members} models trained, each with other validation clips; the mean of "
            "their predictions is scored"
        )
    if data["repeats"] > 1:
        sentences.append(f"Every training was repeated with {data['repeats']} seeds")
    return ". ".join(sentences) + "."


def rounds(run: Run) -> str:
    """Say what scores are the mean of; blank where there is one of them only."""
    made = 1 + max(fold["repetition"] for fold in run.data["folds"])
    parts = [
        count(number, noun)
        for number, noun in ((made, "repetition"), (run.data["repeats"], "repeat"))
        if number > 1
    ]
    return " and ".join(parts)
