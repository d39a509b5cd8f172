"""What the report shows of the lengths of clips: of all, by side, and by class."""

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stage2_temporal.clip_table import TARGET_COLUMN
from stage2_temporal.length_figures import length_figure
from stage2_temporal.picture import embed, shorten
from stage2_temporal.report_grid import Plate
from stage2_temporal.run_files import Run
from stage2_temporal.run_shapes import Json

MAX_CLASSES = 8

Floats = NDArray[np.float64]


def length_plates(run: Run) -> list[Plate]:
    """Draw frames and, where they are known, seconds of the clips; nothing where all are equal."""
    parts, told = _sides(run), ""
    target = _class_target(run.data)
    if target is not None:
        of_classes = _classes(run.clips, target)
        parts |= of_classes
        told = (
            f"; by class of {shorten(target['name'], 40)}: where classes differ in length, a model "
            "can tell them by length alone"
        )
        if len(target["classes"]) > len(of_classes):
            told += f" ({len(of_classes)} most frequent of {len(target['classes']):,})"
    units = {"frames": "frames of the sequence", "seconds": "seconds from first to last frame"}
    plates = []
    for unit, name in units.items():
        values = run.clips[unit].to_numpy(np.float64)
        if np.isfinite(values).all() and np.ptp(values) > 0:
            plates.append(_plate(values, parts, name, told))
    return plates


def _plate(values: Floats, parts: dict[str, NDArray[np.bool_]], name: str, told: str) -> Plate:
    chosen = {label: values[is_in] for label, is_in in parts.items()}
    caption = (
        f"Length of the clips, {name}{told}. Boxes: quartiles and median; whiskers: shortest and "
        "longest."
        if parts
        else f"Length of the clips, {name}."
    )
    words = [_spoken("all clips", values)] + [_spoken(*pair) for pair in chosen.items()]
    figure = length_figure(values, chosen, name=name)
    return embed(figure, f"{caption} {'; '.join(words)}."), caption


def _spoken(label: str, values: Floats) -> str:
    low, middle, high = np.quantile(values, [0, 0.5, 1])
    return f"{shorten(label, 40)}: {low:.4g} to {high:.4g}, median {middle:.4g}"


def _sides(run: Run) -> dict[str, NDArray[np.bool_]]:
    """Return the test clips and the others of one split; of folds nothing, as all are tested."""
    if len(run.data["folds"]) > 1:
        return {}
    tested: set[str] = set()
    for clips in run.tested.values():
        tested |= set(clips.video_ids.tolist())
    is_tested = np.asarray(run.clips.index.isin(list(tested)), np.bool_)
    found = {"training, validation": ~is_tested, "test": is_tested}
    return {label: is_in for label, is_in in found.items() if is_in.any()}


def _class_target(data: Json) -> Json | None:
    """Return the first target that gives each clip one class; None without any."""
    for target in data["targets"]:
        if target["task"] in ("binary", "multiclass"):
            return dict(target)
    return None


def _classes(clips: pd.DataFrame, target: Json) -> dict[str, NDArray[np.bool_]]:
    """Return which clips are of each class; of many the most frequent, in their order."""
    texts = clips[f"{TARGET_COLUMN}{target['name']}"]
    numbers = pd.Index(target["classes"]).get_indexer(pd.Index(texts))
    counts = np.bincount(numbers[numbers >= 0], minlength=len(target["classes"]))
    most = sorted(np.argsort(-counts, kind="stable")[:MAX_CLASSES].tolist())
    return {target["classes"][c]: np.asarray(numbers == c, np.bool_) for c in most if counts[c]}
