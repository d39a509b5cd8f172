"""What is wrong with a node, given what it answered; real nodes are in test_cluster.py."""

import dataclasses
from typing import Any

import pytest

from stage1_extract.node_checks import MAX_CLOCK_SECONDS, problems_of
from stage1_extract.node_probe import Answers, Questions
from stage1_extract.ray_session import Node

NODE = Node("0123456789", "far", "10.0.0.1", 4, 0)
QUESTIONS = Questions(
    packages=("stage1_extract",),
    distributions=("keras",),
    weights="/w.h5",
    token=("", ""),
    sources=("/a.mp4", "/b.mp4"),
)
OURS = Answers(
    host="here",
    packages={"stage1_extract": "aaaa"},
    versions={"python": "3.11.7", "keras": "3.15.1", "av": ""},
    weights="ffff",
    token="",
    missing_sources=(),
    clock=1000.0,
)


def problems(clock_span: tuple[float, float] = (999.0, 1001.0), **changes: Any) -> list[str]:
    theirs = dataclasses.replace(OURS, host="far", **changes)
    return list(problems_of(NODE, theirs, OURS, clock_span, QUESTIONS))


def test_equal_nodes_have_no_problems() -> None:
    assert problems() == []


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"packages": {"stage1_extract": "error: No module"}}, "cannot import stage1_extract"),
        ({"packages": {"stage1_extract": "bbbb"}}, "another version of stage1_extract"),
        (
            {"versions": {"python": "3.11.7", "keras": "3.14.0", "av": ""}},
            "keras 3.14.0 there, 3.15.1 here",
        ),
        (
            {"versions": {"python": "3.11.7", "keras": "3.15.1", "av": "18"}},
            "av 18 there, missing here",
        ),
        ({"weights": "error: No such file"}, "cannot read the weights file (No such file)"),
        ({"weights": "eeee"}, "another file at /w.h5"),
        ({"missing_sources": ("/b.mp4",)}, "does not see 1 of 2 videos"),
        ({"clock": 1001 + MAX_CLOCK_SECONDS + 5}, "a clock that is +65 s apart"),
        ({"clock": 999 - MAX_CLOCK_SECONDS - 5}, "a clock that is -65 s apart"),
    ],
)
def test_each_difference_is_told(changes: dict[str, Any], words: str) -> None:
    (found,) = problems(**changes)
    assert words in found


def test_files_that_are_no_videos_are_called_what_they_are() -> None:
    questions = dataclasses.replace(QUESTIONS, sources_called="stores and tables")
    theirs = dataclasses.replace(OURS, missing_sources=("/b.mp4",))
    (found,) = problems_of(NODE, theirs, OURS, (999, 1001), questions)
    assert "does not see 1 of 2 stores and tables that this machine sees" in found


@pytest.mark.parametrize("clock", [999.0, 1000.0, 1001.0 + MAX_CLOCK_SECONDS - 1, 950.0])
def test_small_differences_of_clocks_are_borne(clock: float) -> None:
    assert problems(clock=clock) == []


def test_what_this_machine_lacks_too_is_no_fault_of_the_node() -> None:
    ours = dataclasses.replace(OURS, missing_sources=("/a.mp4",), weights="error: gone")
    theirs = dataclasses.replace(OURS, missing_sources=("/a.mp4",), weights="error: also")
    assert list(problems_of(NODE, theirs, ours, (999, 1001), QUESTIONS)) == []


def test_node_that_does_not_answer_says_why() -> None:
    assert list(problems_of(NODE, "died", OURS, (0, 1), QUESTIONS)) == ["died"]
