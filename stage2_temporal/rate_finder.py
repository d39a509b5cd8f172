"""The learning-rate range test: which learning rates make the loss fall, and where it explodes."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from stage1_extract.interrupt import deferred_interrupt
from stage1_extract.keras_setup import load_keras
from stage1_extract.manifest import Manifest
from stage1_extract.store import EmbeddingStore
from stage2_temporal.config import TrainSettings
from stage2_temporal.partition import load_data

if TYPE_CHECKING:
    from stage2_temporal.training_batches import TrainingBatches

LOWEST, HIGHEST = 1e-6, 1.0
_SMOOTHING = 0.9
_EXPLODED = 4.0


@dataclasses.dataclass(frozen=True)
class RateTest:
    """What a range test found.

    Attributes:
        table: One row a step: learning_rate, loss (of the batch), smoothed.
        suggestion: The learning rate at which the smoothed loss falls fastest.
    """

    table: pd.DataFrame
    suggestion: float


def find_learning_rate(
    store: EmbeddingStore | Path | str,
    manifest: Manifest | Path | str,
    settings: TrainSettings,
    *,
    num_steps: int = 100,
) -> RateTest:
    """Train a fresh model on the first fold's training clips, the rate rising from batch to batch.

    The rate rises evenly on a logarithmic scale, from 1e-6 to 1, until the smoothed loss is four
    times its least value (Smith 2017, with the smoothing and the stop of Howard's fastai). A skip
    path starts from zero here: a model that starts from its optimum has no loss to lose.

    Args:
        store: A store or its path.
        manifest: A manifest or its path.
        settings: Of the training that the rate is for; one device will do here, for on several the
            batch is the same.
        num_steps: At most so many batches.

    Raises:
        ValueError: Data or settings are wrong.
    """
    if num_steps < 2:
        raise ValueError(f"num_steps is {num_steps}; expected 2 or more")
    settings = dataclasses.replace(settings, devices=None)
    data = load_data(store, manifest, settings)
    load_keras(settings.backend)
    from stage2_temporal.fitting import Trainer
    from stage2_temporal.inputs import clip_inputs
    from stage2_temporal.training_batches import TrainingBatches

    inputs = clip_inputs(data.store, data.clips, settings)
    split = data.partition.folds[0].splits[0]
    targets, groups = data.clips.targets, data.partition.groups
    batches = TrainingBatches.prepare(inputs, targets, groups, split, settings)
    model = Trainer(settings).fresh_model(batches, linear=None, seed=settings.seed).trainee
    training = batches.training(settings.seed, _no_offsets(batches))
    losses: list[float] = []
    rates = np.geomspace(LOWEST, HIGHEST, num_steps)
    with deferred_interrupt() as check_interrupt:
        for step, rate in enumerate(rates.tolist()):
            if step and step % len(training) == 0:
                training.on_epoch_end()
            model.optimizer.learning_rate = rate
            model.reset_metrics()  # which would average over batches
            logs = model.train_on_batch(*training[step % len(training)], return_dict=True)
            losses.append(float(logs["loss"]))
            smoothed = _smoothed(losses)
            if not np.isfinite(losses[-1]) or smoothed[-1] > _EXPLODED * smoothed.min():
                break
            check_interrupt()
    table = pd.DataFrame(
        {"learning_rate": rates[: len(losses)], "loss": losses, "smoothed": _smoothed(losses)}
    )
    return RateTest(table, suggested_rate(table))


def _no_offsets(batches: "TrainingBatches") -> dict[str, NDArray[np.float32]]:
    """Return a skip path of zeros for the trainee."""
    from stage2_temporal.fitting import outputs_of
    from stage2_temporal.models import offset_key

    if not batches.settings.skip:
        return {}
    num_clips = len(batches.split.train)
    return {
        offset_key(output.key): np.zeros((num_clips, output.num_outputs), np.float32)
        for output in outputs_of(batches)
    }


def suggested_rate(table: pd.DataFrame) -> float:
    """Return the rate at which the smoothed loss falls fastest, before its minimum.

    Raises:
        ValueError: Not even the first loss is a number.
    """
    smoothed = table["smoothed"].to_numpy(float)
    if not np.isfinite(smoothed[0]):
        raise ValueError(
            f"the loss of the first batch is {smoothed[0]:g}, whatever the learning rate; look at "
            "the target for extreme values, or use --precision float32"
        )
    finite = np.isfinite(smoothed)
    until = max(2, int(np.argmin(np.where(finite, smoothed, np.inf))) + 1)
    slope = np.gradient(smoothed[:until], np.log(table["learning_rate"].to_numpy(float)[:until]))
    return float(table["learning_rate"].iloc[int(slope.argmin())])


def _smoothed(losses: list[float]) -> NDArray[np.float64]:
    """Exponential moving average without the bias of its start (as in Adam)."""
    average, found = 0.0, []
    for step, loss in enumerate(losses, start=1):
        average = _SMOOTHING * average + (1 - _SMOOTHING) * loss
        found.append(average / (1 - _SMOOTHING**step))
    return np.array(found)
