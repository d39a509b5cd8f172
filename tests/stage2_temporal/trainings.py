"""Small trainings: targets of every task on sequences whose labels are known, and their start."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage1_extract.store import EmbeddingStore
from stage2_temporal.baseline import LinearModel, fit_linear, mean_embeddings
from stage2_temporal.config import TrainSettings
from stage2_temporal.crossfit import cross_fitted_logits
from stage2_temporal.fitting import FitResult, SkipStart, Trainer
from stage2_temporal.inputs import ClipInputs, SideFeatures
from stage2_temporal.model_inputs import output_key
from stage2_temporal.models import offset_key
from stage2_temporal.splits import Split
from stage2_temporal.targets import Target
from stage2_temporal.training_batches import TrainingBatches


def a_target(
    task: str, numbers: Any, *, name: str = "label", present: NDArray[np.bool_] | None = None
) -> Target:
    numbers = np.asarray(numbers)
    count = numbers.shape[1] if task == "multilabel" else int(numbers.max()) + 1
    count = {"binary": 2, "regression": 0}.get(task, count)
    classes = tuple(f"c{i}" for i in range(count))
    here = np.ones(len(numbers), bool) if present is None else present
    return Target(name, task, classes, numbers, here)


def four_targets(num_clips: int, *, seed: int = 0) -> list[Target]:
    """One of each task, by chance: nothing can be learned."""
    rng = np.random.default_rng(seed)
    return [
        a_target("binary", rng.permutation(np.arange(num_clips) % 2), name="a"),
        a_target("multiclass", rng.permutation(np.arange(num_clips) % 3), name="b"),
        a_target("multilabel", rng.integers(0, 2, (num_clips, 2)), name="c"),
        a_target("regression", rng.normal(1000, 50, num_clips), name="d"),
    ]


def sides(num_clips: int, *, shift: int = 0) -> Split:
    """Half of the clips train, a quarter each validates and tests; labels alternate."""
    names = np.resize(["train"] * 4 + ["validation"] * 2 + ["test"] * 2, num_clips)
    return Split.of(np.roll(names, shift))


def prepare(
    store: EmbeddingStore,
    targets: Sequence[Target],
    settings: TrainSettings,
    *,
    groups: NDArray[np.intp] | None = None,
    split: Split | None = None,
    features: SideFeatures | None = None,
) -> TrainingBatches:
    """Each clip is its own group, unless others are given."""
    number = np.arange(store.num_sequences)
    return TrainingBatches.prepare(
        ClipInputs(store, number, features),
        targets,
        number if groups is None else groups,
        sides(len(number)) if split is None else split,
        settings,
    )


def baselines(batches: TrainingBatches) -> tuple[NDArray[np.float32], list[LinearModel]]:
    """Return the mean embeddings, and the linear model of each target on them."""
    split, means = batches.split, mean_embeddings(batches.inputs.store, batches.inputs.positions)
    return means, [
        fit_linear(means, target, train=split.train, validation=split.validation)
        for target in batches.targets
    ]


def start_of(batches: TrainingBatches) -> SkipStart:
    """Return the fitted baseline and its cross-fitted predictions, where a training starts."""
    means, models = baselines(batches)
    offsets = {
        offset_key(output_key(i)): batches.scales[i].standardised(
            cross_fitted_logits(
                models[i], means, target, train=batches.split.train, groups=batches.groups
            )
        )
        for i, target in enumerate(batches.targets)
        if batches.settings.skip
    }
    return SkipStart(models, offsets)


@functools.cache
def trainer_of(settings: TrainSettings) -> Trainer:
    """Return one trainer for all tests with the same settings: compiling takes seconds."""
    return Trainer(settings)


def settings_of(*names: str, **changes: Any) -> TrainSettings:
    """Small convolutions, which compile faster than recurrent layers."""
    small: dict[str, Any] = {
        "head": "tcn",
        "units": 4,
        "epochs": 2,
        "batch_size": 16,
        "resamples": 20,
    }
    return TrainSettings(names or ("label",), **(small | changes))


def train(batches: TrainingBatches, *, seed: int = 0, **options: Any) -> FitResult:
    trainer = trainer_of(batches.settings)
    return trainer.fit(batches, start=start_of(batches), seed=seed, **options)
