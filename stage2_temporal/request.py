"""What a run's result follows from: settings, data and software, as hashes and versions."""

import dataclasses
import hashlib
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from stage1_extract.keras_setup import software_versions
from stage1_extract.store import EmbeddingStore
from stage2_temporal.config import TrainSettings
from stage2_temporal.inputs import ClipInputs
from stage2_temporal.partition import TrainingData

CHANGES_NOTHING = ("overwrite", "workers", "strips")
"""Settings that no number depends on."""

# Read videos, which training does not; they are loaded in some processes and in others not.
_OTHER_SOFTWARE = ("cv2", "openvino", "av")


def request_of(data: TrainingData, inputs: ClipInputs, settings: TrainSettings) -> dict[str, Any]:
    """Return everything that a run's result follows from.

    Two equal requests have equal results, so an unfinished run of one goes on for the other.
    """
    software = {"package": version("embed-then-sequence"), **software_versions()}
    return {
        "settings": settings_that_count(settings),
        "store": store_content(data.store),
        "manifest": data.manifest.sha256,
        "features": None if inputs.features is None else inputs.features.table.identity,
        "software": {name: software[name] for name in software if name not in _OTHER_SOFTWARE},
    }


def settings_that_count(
    settings: TrainSettings, *, without: Sequence[str] = CHANGES_NOTHING
) -> dict[str, Any]:
    """Return the settings that numbers depend on.

    Of the devices it is their number: sums of several parts are rounded in another way.
    """
    asked = {**dataclasses.asdict(settings), "devices": settings.num_devices}
    return {name: asked[name] for name in asked if name not in without}


def store_content(store: EmbeddingStore) -> list[str]:
    """Return what tells a store of other settings, clips or embeddings."""
    content = hashlib.sha256(repr(store.views.tolist()).encode())
    texts = (store.video_ids, store.column("checksum"), store.column("source_hash"))
    for column in texts:
        content.update(b"\0".join(value.encode() for value in column.tolist()))
    return [store.fingerprint, content.hexdigest()]
