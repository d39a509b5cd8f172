"""Test clips of a target made by hand, for the tests of the report's figures."""

from collections.abc import Sequence

import numpy as np

from stage2_temporal.report_curves import Drawing
from stage2_temporal.shown_clips import ShownClips

NAMES = {"recurrent": "sequence model", "mean_pool": "baseline"}


def shown_clips(
    task: str,
    num_clips: int,
    num_classes: int = 2,
    *,
    only_class: int | None = None,
    constant: bool = False,
    labels: Sequence[str] | None = None,
) -> ShownClips:
    """Return clips of groups of three, predicted better than chance, unless all alike."""
    rng = np.random.default_rng(0)
    ids = np.array([f"clip {i}" for i in range(num_clips)], object)
    groups = np.array([f"p{i // 3}" for i in range(num_clips)], object)
    if task == "regression":
        true = rng.gamma(3, 10, num_clips)
        noisy = {m: true + (0 if constant else rng.normal(0, 5, num_clips)) for m in NAMES}
        values = {model: np.full(num_clips, 9.0) if constant else v for model, v in noisy.items()}
        return ShownClips(task, (), ids, groups, true, values, {}, 0)
    classes = tuple(labels or [f"class {i}" for i in range(num_classes)])
    if task == "multilabel":
        truth = (rng.random((num_clips, len(classes))) < 0.3).astype(np.int64)
        found = {m: 0.4 * truth + 0.6 * rng.random(truth.shape) for m in NAMES}
        chosen = {model: (values > 0.5).astype(np.int64) for model, values in found.items()}
        return ShownClips(task, classes, ids, groups, truth, chosen, found, 0)
    numbers = rng.integers(0, len(classes), num_clips)
    if only_class is not None:
        numbers[:] = only_class
    names = np.array(classes, object)
    found = {}
    for model in NAMES:
        logits = rng.normal(size=(num_clips, len(classes)))
        logits[np.arange(num_clips), numbers] += 1.5
        odds = np.exp(0 * logits if constant else logits)
        found[model] = odds / odds.sum(axis=1, keepdims=True)
    predicted = {model: names[values.argmax(axis=1)] for model, values in found.items()}
    return ShownClips(task, classes, ids, groups, names[numbers], predicted, found, 0)


def drawing_of(clips: ShownClips) -> Drawing:
    return Drawing(clips, NAMES, "patient", 0)
