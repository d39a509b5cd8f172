"""Refusing nodes on which a run would fail, or compute something else, before it begins."""

import dataclasses
import secrets
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stage1_extract import node_probe
from stage1_extract.node_probe import Answers, Questions
from stage1_extract.ray_session import ClusterError, Node, alive_nodes, load_ray, on_node

MAX_CLOCK_SECONDS = 60.0
"""Clocks may differ by so much; what is stored tells when it was made."""
_BACKENDS = {"tensorflow": ("tensorflow",), "jax": ("jax", "jaxlib"), "torch": ("torch",)}
_ENGINES = {"keras": (), "openvino": ("openvino",)}
_REMOTE = ("fsspec", "s3fs", "gcsfs", "adlfs", "aiohttp")
_DECODING = ("numpy", "opencv-python-headless", "opencv-python", "pillow", "av", "pydicom")
_SOURCES_SHOWN = 3
_PROBE_SECONDS = 120.0
_CHECK_PREFIX = ".node-check-"


@dataclasses.dataclass(frozen=True)
class Needs:
    """What every node must have.

    Attributes:
        folder: The shared folder that is written to; None where that is an address.
        packages: Modules of this project that run there.
        distributions: Installed software that results depend on.
        weights: The weights file; "" for none.
        sources: Some of the files that are read.
        sources_called: What they are called, in the plural.
    """

    folder: Path | None
    packages: tuple[str, ...]
    distributions: tuple[str, ...]
    weights: str = ""
    sources: tuple[str, ...] = ()
    sources_called: str = "videos"


def distributions_of(*, backend: str, engine: str) -> tuple[str, ...]:
    """Return the installed software that embeddings depend on."""
    return ("keras", "h5py", *_BACKENDS[backend], *_ENGINES[engine], *_DECODING, *_REMOTE)


def check_nodes(nodes: Sequence[Node], needs: Needs) -> None:
    """Ask every node what it sees, and compare with what this machine sees.

    Raises:
        ClusterError: A node lacks something; every problem of every node is named.
        OSError: The shared folder cannot be written from here.
    """
    with _token(needs.folder) as token:
        questions = Questions(
            packages=needs.packages,
            distributions=needs.distributions,
            weights=needs.weights,
            token=token,
            sources=needs.sources,
            sources_called=needs.sources_called,
        )
        asked = time.time()
        answers = _ask(nodes, questions)
        span = asked, time.time()
        ours = node_probe.answer(questions, "driver")
        alive = set(alive_nodes())
        problems = [
            f"{node.label} {problem}"
            for node, theirs in zip(nodes, answers, strict=True)
            if node in alive  # one that is lost meanwhile does no work, good or bad
            for problem in problems_of(node, theirs, ours, span, questions)
        ]
    if problems:
        raise ClusterError(
            "not all nodes of the cluster can do the work; mend them, or take them out of it:\n"
            + "\n".join(f"  {problem}" for problem in problems)
        )


@contextmanager
def _token(folder: Path | None) -> Iterator[tuple[str, str]]:
    """Yield a new file in the folder, and its content; empty texts without a folder."""
    if folder is None:
        yield "", ""
        return
    path = folder / f"{_CHECK_PREFIX}{secrets.token_hex(8)}"
    content = secrets.token_hex(16)
    path.write_text(content, "utf-8")
    try:
        yield str(path), content
    finally:
        for written in folder.glob(f"{path.name}*"):
            written.unlink(missing_ok=True)


def _ask(nodes: Sequence[Node], questions: Questions) -> list[Answers | str]:
    """Return each node's answers, or why it gave none."""
    ray = load_ray()
    ray.cloudpickle.register_pickle_by_value(node_probe)
    try:
        task = ray.remote(num_cpus=0, max_retries=0)(node_probe.answer)
        asked = [
            task.options(scheduling_strategy=on_node(node)).remote(questions, node.node_id)
            for node in nodes
        ]
        ray.wait(asked, num_returns=len(asked), timeout=_PROBE_SECONDS)
        return [_answer_of(ray, reference) for reference in asked]
    finally:
        ray.cloudpickle.unregister_pickle_by_value(node_probe)


def _answer_of(ray: Any, reference: Any) -> Answers | str:
    try:
        # A plain dictionary: the class of a module sent by value is another one there.
        return Answers(**vars(ray.get(reference, timeout=0)))
    except ray.exceptions.GetTimeoutError:
        return f"did not answer within {_PROBE_SECONDS:.0f} s"
    except ray.exceptions.RayError as error:
        return f"could not answer: {str(error).strip().splitlines()[-1]}"


def problems_of(
    node: Node,
    theirs: Answers | str,
    ours: Answers,
    span: tuple[float, float],
    questions: Questions,
) -> Iterator[str]:
    """Yield what is wrong with a node.

    Args:
        node: The node.
        theirs: What it answered, or why it did not.
        ours: What this machine answers.
        span: When the nodes were asked, and when all had answered, by this machine's clock.
        questions: What was asked.
    """
    if isinstance(theirs, str):
        yield theirs
        return
    yield from _software_problems(theirs, ours)
    if questions.token[0]:
        token = Path(questions.token[0])
        yield from _folder_problems(token, theirs.token, questions.token[1], node.node_id)
    if theirs.weights != ours.weights:
        yield from _weights_problems(questions.weights, theirs.weights, ours.weights)
    # What this machine lacks too is the clips' own failure.
    if hidden := [path for path in theirs.missing_sources if path not in ours.missing_sources]:
        yield (
            f"does not see {len(hidden)} of {len(questions.sources)} {questions.sources_called} "
            f"that this machine sees, such as {hidden[:_SOURCES_SHOWN]}: mount their folder there "
            "under the same path"
        )
    if apart := _clock_difference(theirs.clock, span):
        yield (
            f"has a clock that is {apart:+.0f} s apart from this machine's; at most "
            f"{MAX_CLOCK_SECONDS:.0f} s are allowed: synchronise them (NTP)"
        )


def _software_problems(theirs: Answers, ours: Answers) -> Iterator[str]:
    for name, found in theirs.packages.items():
        wanted = ours.packages[name]
        if found.startswith("error: "):
            yield (
                f"cannot import {name} ({found.removeprefix('error: ')}): install "
                "embed-then-sequence there, the same release as here"
            )
        elif found != wanted:
            yield (
                f"has another version of {name} (its sources' hash is {found}, here {wanted}): "
                "install the same release of embed-then-sequence there"
            )
    if different := _differences(theirs.versions, ours.versions):
        yield (
            f"has other versions, so it would compute other values: {', '.join(different)}; "
            "install the same there"
        )


def _differences(theirs: Mapping[str, str], ours: Mapping[str, str]) -> list[str]:
    return [
        f"{name} {theirs[name] or 'missing'} there, {ours[name] or 'missing'} here"
        for name in ours
        if theirs[name] != ours[name]
    ]


def _folder_problems(token: Path, found: str, content: str, node_id: str) -> Iterator[str]:
    if found.startswith("error: "):
        yield (
            f"does not share the folder {token.parent} with this machine "
            f"({found.removeprefix('error: ')}): a file that was written here cannot be read, or "
            "answered, there. Mount the same folder on every node, under the same path"
        )
        return
    try:
        seen = node_probe.wait_for(node_probe.answer_path(token, node_id)) == content == found
    except OSError:
        seen = False
    if not seen:
        yield (
            f"writes into another folder {token.parent} than this machine: what it wrote there "
            "does not appear here. Mount the same folder on every node, under the same path"
        )


def _weights_problems(path: str, theirs: str, ours: str) -> Iterator[str]:
    if ours.startswith("error: "):
        return  # told as it is without a cluster
    if theirs.startswith("error: "):
        yield (
            f"cannot read the weights file ({theirs.removeprefix('error: ')}): copy it there, or "
            "give one in a folder that all nodes share"
        )
    else:
        yield f"has another file at {path} (its hash is {theirs}, here {ours}): copy it there"


def _clock_difference(clock: float, span: tuple[float, float]) -> float:
    """Return by how much a clock is ahead, 0 where that is little; it was read within the span."""
    apart = max(0.0, clock - span[1]) - max(0.0, span[0] - clock)
    return apart if abs(apart) > MAX_CLOCK_SECONDS else 0.0
