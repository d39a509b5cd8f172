"""What an exported model says of itself: inputs, outputs, and how frames must be prepared."""

import json
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any

from stage1_extract.keras_setup import software_versions
from stage2_temporal.bundle import Bundle
from stage2_temporal.joined_model import JoinedModel, JoinedOutput
from stage2_temporal.model_inputs import output_key
from stage2_temporal.run_facts import BundleTarget

EXPORT_FORMAT = "stage2-export"
EXPORT_VERSION = 1
_PACKAGE = "embed-then-sequence"
_INPUTS = {
    "frames": "uint8 RGB, chosen and fitted as store.settings say (sampling, fit, input_size)",
    "embedding": "of the frames, as a store with these store.settings has them",
    "mask": "true for frames, which come first; false for padding",
    "features": "side features, unscaled, in the order of `features`; NaN for blank",
}


def name_outputs(targets: Sequence[BundleTarget], num_models: int) -> list[JoinedOutput]:
    """Name the outputs by target; one whose name is an input's gets an underscore."""
    taken = set(_INPUTS)
    found = []
    for number, target in enumerate(targets):
        mean = _free(target.name, taken)
        spread = _free(f"{target.name}:spread", taken) if num_models > 1 else None
        found.append(JoinedOutput(output_key(number), mean, spread))
    return found


def _free(name: str, taken: set[str]) -> str:
    while name in taken:
        name += "_"
    taken.add(name)
    return name


def describe(bundle: Bundle, joined: JoinedModel, part: str) -> str:
    """Return the metadata as JSON."""
    facts = bundle.facts
    document = {
        "format": EXPORT_FORMAT,
        "format_version": EXPORT_VERSION,
        "part": part,
        "run": {"name": facts.folder.resolve().name, "identity": facts.identity},
        "num_models": len(joined.models),
        "inputs": {
            name: {
                "shape": [*_axes(spec.shape), *(size for size in spec.shape if size is not None)],
                "dtype": spec.dtype,
                "meaning": _INPUTS[name],
            }
            for name, spec in joined.inputs.items()
        },
        "features": list(joined.feature_columns),
        "targets": [
            _describe_target(target, output)
            for target, output in zip(bundle.targets, joined.outputs, strict=True)
        ]
        if joined.models
        else [],
        "store": {
            "fingerprint": facts.fingerprint,
            "embedding_dim": facts.embedding_dim,
            "settings": facts.store_settings,
        },
        "software": software_versions() | {_PACKAGE: version(_PACKAGE)},
    }
    return json.dumps(document, ensure_ascii=False, indent=2)


def _axes(shape: tuple[int | None, ...]) -> list[str]:
    """Name the free axes, which come first."""
    return ["batch", "frames"][: sum(size is None for size in shape)]


def _describe_target(target: BundleTarget, output: JoinedOutput) -> dict[str, Any]:
    """Return name and classes; `columns` says what the k columns of the outputs are."""
    columns = {"binary": target.classes[1:], "regression": (target.name,)}
    return {
        "name": target.name,
        "task": target.task,
        "output": output.mean,
        "spread_output": output.spread,
        "columns": list(columns.get(target.task, target.classes)),
        "unit": "the column's own" if target.task == "regression" else "probability",
        "classes": list(target.classes) or None,
        "thresholds": list(target.thresholds) or None,
    }
