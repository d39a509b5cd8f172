"""What a sweep's trials follow from: settings, data and software; and what sweep.json says."""

import dataclasses
import hashlib
import platform
from datetime import UTC, datetime
from importlib.metadata import packages_distributions, version
from pathlib import Path
from typing import Any

import pandas as pd

from stage1_extract.keras_setup import chosen_backend
from stage2_temporal.features import FeatureTable
from stage2_temporal.request import CHANGES_NOTHING, settings_that_count, store_content
from stage2_temporal.search_space import SearchSpace
from stage2_temporal.sweep_data import SweepData
from stage2_temporal.sweep_settings import SweepSettings
from stage2_temporal.sweep_storage import SWEEP_FORMAT, SWEEP_VERSION

# They change nothing in a trial.
_NOT_OF_TRIALS = (*CHANGES_NOTHING, "tensorboard", "resamples", "duplicate_cosine")


def request_of_sweep(
    data: SweepData, space: SearchSpace, settings: SweepSettings
) -> dict[str, Any]:
    """Return everything that the trials follow from, as JSON has it.

    A sweep goes on in its folder as long as this stays the same.
    """
    first = data.development[data.stores[0]]
    base = settings_that_count(settings.base, without=_NOT_OF_TRIALS)
    tables = {base.pop("feature_table")} - {None}
    tables |= {Path(p) for p in space.shown.get("feature_table", ()) if p}
    return {
        "settings": base,
        "search": space.shown,
        "sampler": settings.sampler,
        "pruner": settings.pruner,
        "validation_folds": settings.validation_folds,
        "metric": data.metric,
        "stores": [store_content(data.development[name].store) for name in data.stores],
        "manifest": first.manifest.sha256,
        "features": sorted(_table_identity(path) for path in tables),
        "software": software(settings.base.backend),
    }


def _table_identity(path: Path) -> str:
    return hashlib.sha256(repr(FeatureTable(path).identity).encode()).hexdigest()


def software(backend: str | None) -> dict[str, str]:
    """Return the versions that trials depend on, without importing Keras."""
    modules = ("keras", chosen_backend(backend), "numpy", "sklearn")
    installed = packages_distributions()
    return {
        "package": version("embed-then-sequence"),
        "python": platform.python_version(),
        **{name: version(installed[name][0]) for name in modules if name in installed},
    }


def sweep_document(
    data: SweepData,
    space: SearchSpace,
    settings: SweepSettings,
    *,
    manifest: Path,
    request: dict[str, Any],
) -> dict[str, Any]:
    """Return sweep.json."""
    base = dataclasses.asdict(settings.base)
    table = base["feature_table"]
    return {
        "format": SWEEP_FORMAT,
        "format_version": SWEEP_VERSION,
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "search": space.shown,
        "base": {**base, "feature_table": None if table is None else str(table.absolute())},
        "sampler": settings.sampler,
        "pruner": settings.pruner,
        "validation_folds": settings.validation_folds,
        "metric": data.metric,
        "higher_is_better": data.higher_is_better,
        "stores": [str(Path(name).absolute()) for name in data.stores],
        "manifest": str(manifest.absolute()),
        "sides": {
            side: _counts(data.split[data.split["side"] == side])
            for side in ("development", "test")
        },
        "notices": list(data.notices),
        "request": request,
    }


def _counts(clips: pd.DataFrame) -> dict[str, int]:
    groups = clips["group"]
    return {"clips": len(clips), "groups": int(groups[groups != ""].nunique())}
