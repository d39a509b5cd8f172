"""What the JSON files of a complete run hold."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stage2_temporal.run_tables import incomplete

Json = dict[str, Any]

_SCORE_KEYS = ("value", "low", "high", "spread")

# What a complete run holds. A shape is a type or types, [shape of each item], or an object's keys
# with their shapes; the key "*" stands for every key.
_NUMBER = (int, float)
_NULL = type(None)
_SIDE = {"clips": int, "groups": int}
SIDES = ("train", "validation", "test")
_SCORE = dict.fromkeys(_SCORE_KEYS, (*_NUMBER, _NULL))
_SCORES = {"*": {"*": _SCORE}}
_TESTED = {model: {"*": _SCORE} for model in ("recurrent", "mean_pool", "difference")}
SUBJECTS = {"count": int, "left_out": int, "test": _TESTED | _SCORES}
_REGION = {"region": str, "num_training_clips": int, "num_clips": int, "mae": (*_NUMBER, _NULL)}
CLASSES = [str]
REGIONS = {"*": [_REGION]}
COUNTS = {side: {"*": int} for side in SIDES}

SHAPES: dict[str, Json] = {
    "settings.json": {
        **dict.fromkeys(("format", "created", "command"), str),
        **{"format_version": int, "software": dict, "settings": dict},
        "store": {"path": str, "fingerprint": str, "settings": dict, "dtype": str}
        | {"num_sequences": int, "embedding_dim": int},
        "manifest": {"path": str, "sha256": str, "num_clips": int},
    },
    "data.json": {
        "targets": [
            {"name": str, "task": str, "predictions": str, "labelled": int}
            | {"classes": (list, _NULL), "class_counts": (dict, _NULL)}
            | {"thresholds": (list, _NULL)}
        ],
        **{"group": (str, _NULL), "validation": str, "repeats": int},
        "folds": [{"name": str, "repetition": int, "members": int} | dict.fromkeys(SIDES, _SIDE)],
        **{"split_sha256": [str], "notices": [str], "left_out": {"*": int}},
        "balance": {"kind": str, "description": str}
        | {"distributions": [{"name": str, "labels": [str], "before": [int], "after": [int]}]},
        **{"best_epochs": {"*": int}, "gain_confidence": {"*": _NUMBER}},
        "near_duplicates": [
            dict.fromkeys(("first", "second", "first_side", "second_side"), str)
            | {"cosine": _NUMBER}
        ],
        "lengths": dict.fromkeys(("min", "median", "max"), _NUMBER),
        "map_variance": [_NUMBER],
    },
    "metrics.json": {
        **{"confidence": _NUMBER, "resampled_by": str, "num_resamples": int},
        "targets": {
            "*": {"task": str, "primary": str, "validation": _SCORES, "test": _TESTED | _SCORES}
            | {"subjects": (dict, _NULL), "regions": (dict, _NULL)}
        },
    },
}


def check_shape(path: Path, document: object, shape: object, where: str = "") -> None:
    """Raise ValueError, naming the file and the place, unless a document has a shape.

    Args:
        path: The file.
        document: What it holds.
        shape: A type or types, [shape of each item], or an object's keys with their shapes.
        where: Where in the file the document is.
    """
    problem = next(_problems(document, shape, where), None)
    if problem:
        raise incomplete(path, problem)


def _problems(document: object, shape: Any, where: str) -> Iterator[str]:
    if isinstance(shape, list):
        if not isinstance(document, list):
            yield f"{where} is {document!r}, expected a list"
            return
        for index, item in enumerate(document):
            yield from _problems(item, shape[0], f"{where}[{index}]")
    elif not isinstance(shape, dict):
        if not isinstance(document, shape):
            yield f"{where} is {document!r}, expected {shape}"
    elif not isinstance(document, dict):
        yield f"expected an object at {where or 'the top'}, got {document!r}"
    else:
        for key in (*shape, *(document if "*" in shape else ())):
            name = f"{where}.{key}".lstrip(".")
            if key in document:
                yield from _problems(document[key], shape.get(key, shape.get("*")), name)
            elif key != "*":
                yield f"{name} is missing"
