"""Asking a cluster whose head may be gone."""

import socket
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from stage1_extract import ray_session
from stage1_extract.ray_session import ClusterError, alive_nodes

FOUND = {
    "NodeID": "0123456789",
    "NodeManagerHostname": "host",
    "NodeManagerAddress": "10.0.0.1",
    "Resources": {"CPU": 2.0},
}


@pytest.fixture
def head(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """What is to listen at the address of a cluster of one node that is alive."""
    with socket.socket() as head:
        head.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{head.getsockname()[1]}"
        ray = SimpleNamespace(
            get_runtime_context=lambda: SimpleNamespace(gcs_address=address),
            nodes=lambda: [{**FOUND, "Alive": True}, {**FOUND, "NodeID": "9", "Alive": False}],
        )
        monkeypatch.setattr(ray_session, "load_ray", lambda: ray)
        yield head


def test_nodes_that_are_alive_are_told(head: socket.socket) -> None:
    head.listen()
    assert [node.label for node in alive_nodes()] == ["node host (10.0.0.1, 01234567)"]


def test_head_that_starts_anew_is_waited_for(
    head: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: head.listen())
    assert len(alive_nodes()) == 1


def test_head_that_is_gone_is_told(head: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_session, "_HEAD_SECONDS", 0.0)
    monkeypatch.setattr(ray_session, "_HEAD_POLL_SECONDS", 0.0)
    with pytest.raises(
        ClusterError, match=r"the head of .* at 127\.0\.0\.1:\d+ is gone.*same command goes on"
    ):
        alive_nodes()
