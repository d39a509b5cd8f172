"""What a run folder says of its models, checked: targets, and how the embeddings were made."""

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from stage1_extract.backbones import WeightsError
from stage1_extract.store import EmbeddingStore, StoreError, describe_difference
from stage2_temporal.file_hashes import FILE_HASHES, check_file_hashes
from stage2_temporal.metrics import check_task
from stage2_temporal.run_folder import RUN_FORMAT, RUN_VERSION
from stage2_temporal.run_shapes import check_shape
from stage2_temporal.run_tables import check_is_file, incomplete

Json = dict[str, Any]

_NULL = type(None)
_SETTINGS: Json = {
    **{"format": str, "format_version": int, "software": dict, "settings": dict},
    "store": {"path": str, "fingerprint": str, "settings": dict, "execution": dict}
    | {"dtype": str, "embedding_dim": int},
}
_DATA: Json = {
    "targets": [{"name": str, "task": str, "classes": (list, _NULL), "thresholds": (list, _NULL)}],
    "group": (str, _NULL),
    "best_epochs": {"*": int},
}
_NOT_OF_FRAMES = ("views",)
"""Settings of a store that do not change the embeddings of the clips themselves."""
_UNIT = re.compile(r"fold\d+-member\d+-repeat\d+")


@dataclasses.dataclass(frozen=True)
class BundleTarget:
    """What a run predicts.

    Attributes:
        name: As it was asked for in training.
        task: binary, multiclass, multilabel or regression.
        classes: Class or label names by number; empty for regression.
        thresholds: (k,) probability from which a class or label is positive, for binary and
            multilabel targets; empty for others.
    """

    name: str
    task: str
    classes: tuple[str, ...]
    thresholds: tuple[float, ...]

    @property
    def num_outputs(self) -> int:
        """Width k of a model's output."""
        return len(self.classes) if self.task in {"multiclass", "multilabel"} else 1


@dataclasses.dataclass(frozen=True)
class RunFacts:
    """What a run folder says of its models, without loading them.

    Attributes:
        folder: The run folder.
        settings: `settings.json`.
        targets: What is predicted, in the order of the models' outputs.
        group: Column that kept clips together in training.
        units: Names of the trainings, in the order of the models.
        identity: Hash of all that predictions follow from.
    """

    folder: Path
    settings: Json
    targets: tuple[BundleTarget, ...]
    group: str | None
    units: tuple[str, ...]
    identity: str

    @classmethod
    def read(cls, run_folder: Path | str) -> "RunFacts":
        """Read and check a run folder; the models' files are compared with their hashes.

        Raises:
            FileNotFoundError: A file is missing.
            ValueError: A file was altered, or is not what a complete run of this version holds.
        """
        folder = Path(run_folder)
        settings = read_json(folder / "settings.json")
        _check_version(folder / "settings.json", settings)
        data = read_json(folder / "data.json")
        check_shape(folder / "settings.json", settings, _SETTINGS)
        check_shape(folder / "data.json", data, _DATA)
        targets = tuple(_target(folder / "data.json", target) for target in data["targets"])
        units = tuple(data["best_epochs"])
        if not targets or not units:
            raise incomplete(folder / "data.json", "expected a target and a training or more")
        if wrong := [unit for unit in units if not _UNIT.fullmatch(unit)]:
            raise incomplete(folder / "data.json", f"best_epochs names {wrong[:5]}")
        facts = cls(folder, settings, targets, data["group"], units, "")
        scalers = [name for name in facts.scaler_files if name is not None]
        check_file_hashes(folder, ["settings.json", "data.json", *facts.model_files, *scalers])
        identity = hashlib.sha256((folder / FILE_HASHES).read_bytes()).hexdigest()
        return dataclasses.replace(facts, identity=identity)

    @property
    def model_files(self) -> list[str]:
        """Names of the models' files."""
        return [f"model{suffix}.keras" for suffix in self._suffixes]

    @property
    def scaler_files(self) -> list[str | None]:
        """Names of the files of their side features' scalers; None for models without."""
        if self.settings["settings"].get("feature_table") is None:
            return [None for _ in self.units]
        return [f"features{suffix}.json" for suffix in self._suffixes]

    @cached_property
    def feature_columns(self) -> tuple[str, ...]:
        """Side features that the models take; empty for none."""
        name = self.scaler_files[0]
        return () if name is None else tuple(read_json(self.folder / name).get("columns", ()))

    @property
    def _suffixes(self) -> list[str]:
        return [f"-{unit}" for unit in self.units] if len(self.units) > 1 else [""]

    @property
    def store_settings(self) -> Json:
        """How the embeddings that it was trained on were made: the store's identity."""
        return dict(self.settings["store"]["settings"])

    @property
    def fingerprint(self) -> str:
        """Fingerprint of the store that it was trained on."""
        return str(self.settings["store"]["fingerprint"])

    @property
    def embedding_dim(self) -> int:
        """D."""
        return int(self.settings["store"]["embedding_dim"])

    @property
    def dtype(self) -> str:
        """Dtype of the embeddings."""
        return str(self.settings["store"]["dtype"])

    def check_store(self, store: EmbeddingStore) -> None:
        """Refuse a store whose embeddings were made in another way.

        Raises:
            StoreError: The settings that differ, both sides.
        """
        if difference := self.difference(store.settings):
            raise StoreError(
                f"{store.path} was made with other settings than the store that {self.folder} was "
                f"trained on (run against store): {difference}. Extract these videos with the "
                "run's settings, or train on a store of these"
            )

    def check_weights(self, found: str, weights: str) -> None:
        """Refuse a backbone with other weights than the store's.

        Args:
            found: Hash of the values that it has.
            weights: How they were named.

        Raises:
            WeightsError: The hashes differ.
        """
        wanted = self.store_settings["weights_sha256"]
        if found != wanted:
            raise WeightsError(
                f"the weights {weights} are not those that {self.folder} was trained with: the "
                f"hash of their values is {found}, expected {wanted}; name the right file with "
                "--weights (for random weights, their --seed)"
            )

    def difference(self, settings: Mapping[str, Any]) -> str:
        """Say which settings of embeddings differ from the run's; blank for none."""
        ours, theirs = (
            {name: value for name, value in one.items() if name not in _NOT_OF_FRAMES}
            for one in (self.store_settings, settings)
        )
        return describe_difference(ours, theirs)


def _target(path: Path, target: Json) -> BundleTarget:
    name, task, classes = target["name"], target["task"], tuple(target["classes"] or ())
    try:
        check_task(task)
    except ValueError as error:
        raise incomplete(path, f"target {name!r}: {error}") from error
    found = BundleTarget(name, task, classes, tuple(target["thresholds"] or ()))
    wanted = found.num_outputs if task in {"binary", "multilabel"} else 0
    texts = all(isinstance(label, str) for label in classes)
    numbers = all(isinstance(limit, int | float) for limit in found.thresholds)
    fits = len(classes) == 2 if task == "binary" else bool(classes) == (task != "regression")
    if not (texts and numbers and fits and len(found.thresholds) == wanted):
        raise incomplete(path, f"classes and thresholds of target {name!r} do not suit its task")
    return found


def _check_version(path: Path, settings: object) -> None:
    found = settings if isinstance(settings, dict) else {}
    got = (found.get("format"), found.get("format_version"))
    if got != (RUN_FORMAT, RUN_VERSION):
        raise incomplete(
            path, f"expected {RUN_FORMAT}, version {RUN_VERSION}, got {got[0]!r}, version {got[1]}"
        )


def read_json(path: Path) -> Json:
    """Read a JSON object of a run folder; errors name the file."""
    check_is_file(path)
    try:
        document = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise incomplete(path, f"not JSON ({error})") from error
    if not isinstance(document, dict):
        raise incomplete(path, "not a JSON object")
    return document
