"""Settings: wrong ones are refused at once, and the identity holds what changes an embedding."""

import dataclasses
from typing import Any

import pytest

from stage1_extract.config import ExtractSettings
from stage1_extract.store import fingerprint


def identity_of(**changes: Any) -> str:
    settings = ExtractSettings(**changes)
    return fingerprint(settings.identity(weights_sha256="w", input_size=224, engine="e"))


def test_defaults_are_valid_and_lossless() -> None:
    settings = ExtractSettings()
    assert settings.fit == "squash"
    assert settings.identity(weights_sha256="w", input_size=1, engine="e")["precision"] == "float32"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"backbone": "MobileNetV9"}, r"'MobileNetV9' is not in keras\.applications.*MobileNetV2"),
        ({"backbone": "resnet50"}, "close: .*'ResNet50'"),
        ({"backbone": "ResNet50", "alpha": 0.5}, "ResNet50 has no alpha"),
        ({"pooling": "mean"}, "pooling is 'mean'; expected one of avg, max"),
        ({"fit": "stretch"}, "fit is 'stretch'; expected one of squash, crop, pad"),
        ({"dtype": "float64"}, "dtype is 'float64'; expected one of float16, float32"),
        ({"backend": "theano"}, "backend is 'theano'; expected one of tensorflow, jax, torch"),
        ({"sampling": "sometimes"}, "sampling 'sometimes' is not understood"),
        ({"input_size": 0}, "input_size is 0; expected 1 or more"),
        ({"batch_size": -1}, "batch_size is -1"),
        ({"decoders": 0}, "decoders is 0"),
        ({"shard_mb": 0}, "shard_mb is 0"),
        ({"min_coverage": 1.1}, r"min_coverage is 1\.1; expected 0 to 1"),
        ({"min_coverage": float("nan")}, "min_coverage is nan"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExtractSettings(**changes)


@pytest.mark.parametrize(
    "changes",
    [
        {"backbone": "ResNet50"},
        {"alpha": 0.5},
        {"pooling": "max"},
        {"fit": "crop"},
        {"sampling": "uniform:31"},
        {"dtype": "float32"},
    ],
)
def test_what_changes_an_embedding_changes_the_identity(changes: dict[str, Any]) -> None:
    assert identity_of(**changes) != identity_of()


@pytest.mark.parametrize(
    "changes",
    [
        {"batch_size": 8},
        {"decoders": 9},
        {"shard_mb": 1},
        {"shard_seconds": 1.0},
        {"fail_fast": True},
        {"retry_failed": True},
        {"min_coverage": 0.0},
        {"weights": "some/file.h5"},  # the weights' own hash tells
        {"alpha": 1.0},  # which is what leaving it out means
    ],
)
def test_what_changes_nothing_leaves_the_identity(changes: dict[str, Any]) -> None:
    assert identity_of(**changes) == identity_of()


@pytest.mark.parametrize("name", ["weights_sha256", "input_size", "engine"])
def test_what_was_really_used_belongs_to_the_identity(name: str) -> None:
    used: dict[str, Any] = {"weights_sha256": "w", "input_size": 224, "engine": "e"}
    first = ExtractSettings().identity(**used)
    other = ExtractSettings().identity(**{**used, name: 3})
    assert {key for key in first if first[key] != other[key]} == {name}


def test_settings_cannot_be_changed_afterwards() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ExtractSettings().fit = "crop"  # type: ignore[misc]
