"""The models of a run folder, loaded safely, as one ensemble."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stage1_extract.config import ExtractSettings
from stage1_extract.interrupt import deferred_interrupt
from stage2_temporal.features import FeatureScaler
from stage2_temporal.model_inputs import output_key
from stage2_temporal.run_facts import BundleTarget, Json, RunFacts, read_json
from stage2_temporal.run_shapes import check_shape
from stage2_temporal.safe_loading import load_model

_SCALER: Json = {
    **{"columns": [str], "mean": [(int, float)], "deviation": [(int, float)]},
    **{"indicators": [bool], "notices": [str]},
}
_COPIED = (
    *("backbone", "pooling", "input_size", "fit", "sampling", "value_range", "assumed_fps"),
    *("normalise", "dtype", "precision"),
)
_NEEDED = {*_COPIED, "alpha", "engine", "weights_sha256"}
_ENGINE_PREFIX = "keras-"


@dataclasses.dataclass(frozen=True)
class Prediction:
    """What an ensemble says of one target.

    Attributes:
        mean: (B, k) float64: probabilities, or values in the target's units.
        spread: (B, k) standard deviation (n - 1) over the models; NaN for one model.
    """

    mean: NDArray[np.float64]
    spread: NDArray[np.float64]


@dataclasses.dataclass(frozen=True)
class Member:
    """One model of the ensemble, and how it wants side features, if it takes any."""

    model: Any
    scaler: FeatureScaler | None

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[np.float64]]:
        """Return its outputs (B, k) by key; see `Bundle.predict`."""
        given = {name: inputs[name] for name in ("embedding", "mask")}
        if self.scaler is not None:
            given["features"] = self.scaler.transform(inputs["features"])
        with deferred_interrupt():
            found = self.model.predict_on_batch(given)
        return {key: np.asarray(values, np.float64) for key, values in found.items()}


@dataclasses.dataclass(frozen=True)
class Bundle:
    """The models of a run: all folds, members and repeats, loaded, as one ensemble.

    Attributes:
        facts: What the run folder says of them.
        members: The models, in the order of the trainings.
    """

    facts: RunFacts
    members: tuple[Member, ...]

    @classmethod
    def open(cls, run: Path | str | RunFacts) -> "Bundle":
        """Check a run folder and load its models.

        Args:
            run: The folder, or what was read of it.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: A file was altered, is of another version, or holds what could run code.
        """
        facts = run if isinstance(run, RunFacts) else RunFacts.read(run)
        files = zip(facts.model_files, facts.scaler_files, strict=True)
        return cls(facts, tuple(_member(facts, *names) for names in files))

    @property
    def models(self) -> list[Any]:
        """The Keras models: {"embedding", "mask"[, "features"]} -> {"target_0": (B, k), ...}."""
        return [member.model for member in self.members]

    @property
    def targets(self) -> tuple[BundleTarget, ...]:
        """What they predict."""
        return self.facts.targets

    def predict(self, inputs: Mapping[str, NDArray[Any]]) -> list[Prediction]:
        """Return what the models say on average, and how much they differ, target by target.

        Args:
            inputs: `embedding` (B, T, D) right-padded, `mask` (B, T) bool, and, for a run with side
                features, `features` (B, F): the table's own values, NaN where blank.
        """
        outputs = [member.predict(inputs) for member in self.members]
        return [
            _summary(np.stack([output[output_key(i)] for output in outputs]))
            for i in range(len(self.targets))
        ]


def _summary(values: NDArray[np.float64]) -> Prediction:
    """Return mean and spread over the models of values (M, B, k)."""
    if len(values) == 1:
        return Prediction(values[0], np.full_like(values[0], np.nan))
    return Prediction(values.mean(axis=0), values.std(axis=0, ddof=1))


def _member(facts: RunFacts, model_file: str, scaler_file: str | None) -> Member:
    path = facts.folder / model_file
    scaler = None
    if scaler_file is not None:
        stored = read_json(facts.folder / scaler_file)
        check_shape(facts.folder / scaler_file, stored, _SCALER)
        scaler = FeatureScaler.from_dict(stored)
    model = load_model(path)
    _check_model(path, model, facts, scaler)
    return Member(model, scaler)


def _check_model(path: Path, model: Any, facts: RunFacts, scaler: FeatureScaler | None) -> None:
    """Refuse a model of other inputs and outputs than the run's documents promise."""
    widths: Json = {"embedding": facts.embedding_dim, "mask": None}
    if scaler is not None:
        widths["features"] = scaler.num_outputs
    expected = widths, {output_key(i): t.num_outputs for i, t in enumerate(facts.targets)}
    found = tuple(
        {name: tensor.shape[-1] for name, tensor in part.items()}
        if isinstance(part, dict)
        else part
        for part in (model.input, model.output)
    )
    if found != expected:
        raise ValueError(
            f"{path} has inputs and outputs of the widths {found}; data.json and settings.json "
            f"promise {expected}. Copy the run folder again, or train again"
        )


def extract_settings(
    run: RunFacts | Bundle, weights: Path | None = None, **changes: Any
) -> ExtractSettings:
    """Return the settings of stage one that make embeddings as the run's store has them.

    Args:
        run: The run.
        weights: The backbone's weights, where they are not where they were.
        changes: Settings that change no embedding (decoders, limits), and the seed of random
            weights.

    Raises:
        FileNotFoundError: The weights file that was used is not there.
        ValueError: The store does not say how its embeddings were made.
    """
    facts = run.facts if isinstance(run, Bundle) else run
    stored, execution = facts.store_settings, facts.settings["store"]["execution"]
    if missing := sorted(_NEEDED - stored.keys()):
        raise ValueError(
            f"{facts.folder} was trained on a store that does not say how its embeddings were made "
            f"(no {', '.join(missing)}), so videos cannot be embedded like them; predict from a "
            "store of the same origin with --store"
        )
    engine = str(stored["engine"])
    is_keras = engine.startswith(_ENGINE_PREFIX)
    options = {name: stored[name] for name in _COPIED}
    alpha = stored["alpha"]
    return ExtractSettings(
        **options,
        alpha=None if alpha == 1.0 else alpha,
        weights=_weights(facts, execution, weights),
        engine="keras" if is_keras else engine,
        backend=engine.removeprefix(_ENGINE_PREFIX) if is_keras else None,
        batch_size=int(execution.get("batch_size", ExtractSettings.batch_size)),
        max_precision_error=float("inf"),  # it was judged when the store was made
        **{"seed": int(execution.get("seed", 0)), **changes},
    )


def _weights(facts: RunFacts, execution: Json, given: Path | None) -> str:
    """Return imagenet, random, or the file of weights.

    Raises:
        FileNotFoundError: There is no such file.
    """
    recorded = str(execution.get("weights", "imagenet"))
    if given is not None:
        return str(given)
    if recorded not in ("imagenet", "random") and not Path(recorded).is_file():
        raise FileNotFoundError(
            f"the backbone's weights that {facts.folder} was made with are not at {recorded} any "
            "more; say where that file is now with --weights FILE"
        )
    return recorded
