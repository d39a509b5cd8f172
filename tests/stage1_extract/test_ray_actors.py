"""How many workers a node gets, and what each takes."""

import pytest

from stage1_extract.cluster_settings import ClusterSettings
from stage1_extract.config import ExtractSettings
from stage1_extract.ray_actors import num_workers, share_of
from stage1_extract.ray_session import Node


def node(cpus: float, gpus: float = 0) -> Node:
    return Node("0123456789", "host", "10.0.0.1", cpus, gpus)


@pytest.mark.parametrize(
    ("cpus", "gpus", "flags", "expected"),
    [
        (1, 0, {}, (1, 1.0, 0.0)),
        (2, 0, {}, (1, 2.0, 0.0)),
        (16, 0, {}, (4, 4.0, 0.0)),
        (18, 0, {}, (4, 4.0, 0.0)),
        (16, 0, {"worker_cpus": 16}, (1, 16.0, 0.0)),
        (16, 4, {}, (4, 4.0, 1.0)),
        (17, 4, {}, (4, 4.0, 1.0)),
        (3, 4, {}, (3, 1.0, 1.0)),
        (16, 2, {"worker_gpus": 0.5}, (4, 4.0, 0.5)),
        (16, 2, {"worker_gpus": 0}, (4, 4.0, 0.0)),
        (16, 0, {"worker_gpus": 1}, (0, 16.0, 1.0)),
        (2, 0, {"worker_cpus": 4}, (0, 2.0, 0.0)),
        (0, 0, {}, (0, 0.0, 0.0)),
        (1, 0, {"worker_cpus": 0.1}, (10, 0.1, 0.0)),
    ],
)
def test_workers_fill_a_node(
    cpus: float, gpus: float, flags: dict[str, float], expected: tuple[int, float, float]
) -> None:
    settings = ClusterSettings(ray="auto", **flags)
    one = node(cpus, gpus)
    number = num_workers(one, settings)
    assert number == expected[0]
    if number:
        share = share_of(one, settings)
        assert (share.cpus, share.gpus) == expected[1:]
        assert number * share.cpus <= cpus + 1e-6
        assert number * share.gpus <= gpus + 1e-6


@pytest.mark.parametrize(
    ("flags", "reason"),
    [
        ({"ray": "somewhere"}, "expected HOST:PORT, auto or local"),
        ({"ray": "host:port"}, "expected HOST:PORT"),
        ({"ray": "host:99999"}, "expected HOST:PORT"),
        ({"ray": "ray://host:10001"}, "Ray's client server"),
        ({"ray": "auto", "worker_cpus": 0}, "worker_cpus is 0; expected more than 0"),
        ({"ray": "auto", "worker_cpus": float("nan")}, "worker_cpus is nan"),
        ({"ray": "auto", "worker_gpus": -1}, "worker_gpus is -1"),
        ({"ray": "auto", "worker_gpus": 2}, "computes on one GPU"),
        ({"worker_cpus": 2}, "give --ray"),
    ],
)
def test_settings_that_make_no_sense_are_refused(flags: dict[str, object], reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        ClusterSettings(**flags)  # type: ignore[arg-type]


def test_devices_and_a_cluster_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="Ray deals out the GPUs"):
        ExtractSettings(devices="0,1", cluster=ClusterSettings(ray="auto"))
