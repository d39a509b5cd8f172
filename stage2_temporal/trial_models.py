"""Compiled models that trainings share, also of other settings, if only their graph is the same."""

import dataclasses
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage1_extract.keras_setup import load_keras
from stage2_temporal.baseline import LinearModel
from stage2_temporal.config import TrainSettings
from stage2_temporal.epochs import all_variables
from stage2_temporal.models import BuiltModel, Output
from stage2_temporal.resident import ResidentFrames
from stage2_temporal.training_batches import TrainingBatches
from stage2_temporal.trial_reuse import Reuse, digest

keras = load_keras()

GRAPH_SETTINGS = (
    *("head", "units", "layers", "bidirectional", "pooling", "skip", "projection", "layer_norm"),
    *("input_dropout", "dropout", "weight_decay", "clip_norm", "precision", "loss_weight"),
    "devices",
)
"""Settings on which a compiled model depends; in others it may be used again."""


@dataclasses.dataclass(frozen=True)
class CompiledModel:
    """A compiled model.

    Attributes:
        built: The model, and what is trained.
        optimizer: The optimizer's variables before any training.
        resident: The frames that are part of it.
    """

    built: BuiltModel
    optimizer: list[NDArray[Any]]
    resident: ResidentFrames | None

    @classmethod
    def of(cls, built: BuiltModel, resident: ResidentFrames | None) -> "CompiledModel":
        """Note the variables of an optimizer that has not trained yet."""
        return cls(built, _values(built.trainee.optimizer.variables), resident)


def shared_model(
    reuse: Reuse,
    graph: Hashable,
    start: Hashable,
    *,
    build: Callable[[], BuiltModel],
    compiled: Callable[[BuiltModel], CompiledModel],
) -> BuiltModel:
    """Return the compiled model of a graph with the weights of a start, and a fresh optimizer.

    Nothing is built where both were there before.

    Args:
        reuse: What is there.
        graph: Of the model, see `graph_key`.
        start: Of its weights, seed included; see `start_key`.
        build: Builds the model with these weights.
        compiled: Compiles it.
    """
    fresh: list[BuiltModel] = []

    def built() -> BuiltModel:
        if not fresh:
            fresh.append(build())
        return fresh[0]

    model = reuse.models.get(graph, lambda: compiled(built()))
    weights = reuse.fits.get((graph, start), lambda: _values(built().model.variables))
    variables = all_variables(model.built)
    for variable, value in zip(variables, [*weights, *model.optimizer], strict=True):
        variable.assign(value)
    return model.built


def graph_key(
    settings: TrainSettings, batches: TrainingBatches, outputs: Sequence[Output]
) -> tuple[Any, ...]:
    """Return everything on which a compiled model depends; batches of another size, too."""
    return (
        *(getattr(settings, name) for name in GRAPH_SETTINGS),
        batches.settings.batch_size,
        tuple(outputs),
        len(batches.statistics.mean),
        str(batches.inputs.store.dtype),
        batches.features.shape[1] if batches.features else 0,
        id(batches.resident),  # it is kept with the model, so that no other gets its number
    )


def start_key(
    seed: int, batches: TrainingBatches, linear: Sequence[LinearModel] | None
) -> tuple[int, str]:
    """Return everything on which a model's first weights depend, beside its graph."""
    models = [array for model in linear or [] for array in (model.coefficients, model.intercept)]
    scales = np.array([(scale.mean, scale.deviation) for scale in batches.scales])
    statistics = batches.statistics
    return seed, digest(statistics.mean, statistics.variance, scales, *models)


def _values(variables: Sequence[Any]) -> list[NDArray[Any]]:
    return [np.array(keras.ops.convert_to_numpy(variable)) for variable in variables]
