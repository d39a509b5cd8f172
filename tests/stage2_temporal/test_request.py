"""The request: equal for equal results, whatever process asks; another one for anything else."""

import dataclasses
import shutil
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from stage1_extract.keras_setup import load_keras
from stage2_temporal.config import TrainSettings
from stage2_temporal.inputs import clip_inputs
from stage2_temporal.partition import load_data
from stage2_temporal.request import request_of
from tests.stage2_temporal.synthetic import planted, write_manifest, write_store

SETTINGS = TrainSettings("label")


@pytest.fixture
def data(tmp_path: Path) -> Path:
    load_keras()
    sequences = planted([3] * 20)
    write_store(tmp_path / "store", sequences)
    write_manifest(tmp_path / "m.csv", list(sequences), label=["a", "b"] * 10)
    return tmp_path


def request(data: Path, settings: TrainSettings = SETTINGS) -> dict[str, Any]:
    found = load_data(data / "store", data / "m.csv", settings)
    return request_of(found, clip_inputs(found.store, found.clips, settings), settings)


def test_places_and_workers_change_nothing(data: Path, tmp_path_factory: Any) -> None:
    copy = tmp_path_factory.mktemp("copy") / "data"
    shutil.copytree(data, copy)
    other = dataclasses.replace(SETTINGS, workers=3, overwrite=True)
    assert request(data) == request(copy, other)


@pytest.mark.parametrize("module", ["cv2", "openvino"])
def test_what_else_is_loaded_changes_nothing(
    data: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    """A run that a program began goes on in a notebook that has decoded videos before."""
    monkeypatch.delitem(sys.modules, module, raising=False)
    without = request(data)
    loaded = ModuleType(module)
    loaded.__version__ = "99"  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module, loaded)
    assert request(data) == without


def test_it_counts_on_how_many_devices_and_not_on_which(data: Path) -> None:
    found = [
        request(data, dataclasses.replace(SETTINGS, devices=devices))
        for devices in ("0,1", "2,3", "0,1,2,3", None)
    ]
    assert found[0] == found[1]
    assert found[0] not in found[2:]


@pytest.mark.parametrize("change", [{"seed": 1}, {"epochs": 7}, {"head": "lstm"}, {"resamples": 9}])
def test_other_settings_are_another_request(data: Path, change: dict[str, Any]) -> None:
    assert request(data, dataclasses.replace(SETTINGS, **change)) != request(data)


def test_another_embedding_is_another_request(data: Path) -> None:
    before = request(data)
    sequences = planted([3] * 20)
    sequences["v007"][1, 2] += 1e-3
    shutil.rmtree(data / "store")
    write_store(data / "store", sequences)
    assert request(data) != before


def test_another_label_is_another_request(data: Path) -> None:
    before = request(data)
    text = (data / "m.csv").read_text()
    (data / "m.csv").write_text(text.replace("v002,a", "v002,b"))
    assert request(data) != before


def test_another_version_is_another_request(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = request(data)
    monkeypatch.setattr(load_keras(), "__version__", "0.0.1")
    assert request(data) != before
