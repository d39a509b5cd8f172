"""What workers of a cluster answer, with calls that are answered at once."""

from collections.abc import Sequence

import pytest

from stage1_extract import cluster_crew
from stage1_extract.cluster_crew import Crew, Worker
from stage1_extract.config import ExtractSettings
from stage1_extract.ray_session import Node


@pytest.fixture
def crew(monkeypatch: pytest.MonkeyPatch) -> Crew:
    """A crew of two, each of which was asked for two things."""

    def all_of(calls: Sequence[str], seconds: float) -> Sequence[str]:
        return calls

    monkeypatch.setattr(cluster_crew, "answered", all_of)
    monkeypatch.setattr(cluster_crew, "_value_of", str.upper)
    crew = Crew(ExtractSettings(), [])
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
