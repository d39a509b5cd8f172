"""Stage two: a store of embeddings in, a trained recurrent model and its report out.

from stage2_temporal import TrainSettings, predict, sweep, train
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stage2_temporal.augment import AugmentSettings
    from stage2_temporal.config import TrainSettings
    from stage2_temporal.dataset import EmbeddingSequence
    from stage2_temporal.evaluate_settings import EvaluateSettings
    from stage2_temporal.evaluating import EvaluationResult, evaluate
    from stage2_temporal.export_settings import ExportSettings
    from stage2_temporal.exporting import ExportResult, export
    from stage2_temporal.predict_settings import PredictSettings
    from stage2_temporal.predicting import Predictor, PredictResult, predict
    from stage2_temporal.sweep_settings import SweepSettings
    from stage2_temporal.sweeping import SweepResult, sweep
    from stage2_temporal.training import TrainResult, train

__all__ = [
    "AugmentSettings",
    "EmbeddingSequence",
    "EvaluateSettings",
    "EvaluationResult",
    "ExportResult",
    "ExportSettings",
    "PredictResult",
    "PredictSettings",
    "Predictor",
    "SweepResult",
    "SweepSettings",
    "TrainResult",
    "TrainSettings",
    "evaluate",
    "export",
    "predict",
    "sweep",
    "train",
]
_MODULES = {
    "AugmentSettings": "augment",
    "EmbeddingSequence": "dataset",
    "EvaluateSettings": "evaluate_settings",
    "EvaluationResult": "evaluating",
    "ExportResult": "exporting",
    "ExportSettings": "export_settings",
    "PredictResult": "predicting",
    "PredictSettings": "predict_settings",
    "Predictor": "predicting",
    "SweepResult": "sweeping",
    "SweepSettings": "sweep_settings",
    "TrainResult": "training",
    "TrainSettings": "config",
    "evaluate": "evaluating",
    "export": "exporting",
    "predict": "predicting",
    "sweep": "sweeping",
    "train": "training",
}


def __getattr__(name: str) -> Any:
    """Import a public name when it is used: Keras is loaded only when work starts."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_MODULES[name]}"), name)
