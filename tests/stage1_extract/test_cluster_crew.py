"""What workers of a cluster answer, with calls that are answered at once."""

from collections.abc import Sequence
from pathlib import Path

import pytest

from stage1_extract import cluster_crew
from stage1_extract.cluster_crew import Crew, Worker, settings_elsewhere
from stage1_extract.cluster_settings import ClusterSettings
from stage1_extract.config import ExtractSettings
from stage1_extract.keras_setup import load_keras
from stage1_extract.ray_session import Node


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch) -> Crew:
    """A crew of two, each of which was asked for two things."""

    def all_of(calls: Sequence[str], seconds: float) -> Sequence[str]:
        return calls

    monkeypatch.setattr(cluster_crew, "answered", all_of)
    monkeypatch.setattr(cluster_crew, "_value_of", str.upper)
    crew = Crew(ExtractSettings(), Path("store"), [])
    for name in "ab":
        calls = {f"{name} load": "load", f"{name} hear": "hear"}
        node = Node(name, "host", "10.0.0.1", 1, 0)
        crew.workers.append(Worker(node, actor=None, ahead=4, calls=calls))
    return crew


def test_answers_name_worker_and_call(crew: Crew) -> None:
    found = [(answer.worker.node.node_id, answer.call, answer.value) for answer in crew.answers(0)]
    calls = [(name, call) for name in "ab" for call in ("load", "hear")]
    assert found == [(name, call, f"{name} {call}".upper()) for name, call in calls]
    assert list(crew.answers(0)) == []


def test_answers_that_were_left_come_again(crew: Crew) -> None:
    """A worker whose news were dropped would never be asked for others: the run would not end."""
    for answer in crew.answers(0):
        assert answer.value == "A LOAD"
        break
    assert [answer.value for answer in crew.answers(0)] == ["A HEAR", "B LOAD", "B HEAR"]


def test_settings_mean_the_same_in_the_folder_and_environment_of_a_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ExtractSettings(
        weights="w.h5", scratch="scratch", cluster=ClusterSettings(ray="10.0.0.1:6379")
    )
    told = settings_elsewhere(given)
    assert told.weights == str(tmp_path / "w.h5")
    assert told.scratch == str(tmp_path / "scratch")
    assert told.backend == load_keras().backend.backend()
    assert told.cluster.ray is None
    assert settings_elsewhere(ExtractSettings(weights="random")).weights == "random"
