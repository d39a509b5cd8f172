"""What a node of a cluster sees; sent to it by value, so that it needs Python alone.

A node that lacks this package, or has another version, could not run anything else of it.
"""

import dataclasses
import hashlib
import importlib
import importlib.metadata
import os
import platform
import time
from collections.abc import Iterable
from pathlib import Path

TOKEN_SECONDS = 10.0
"""So long a shared folder may take to show another node's file."""
_POLL_SECONDS = 0.2


@dataclasses.dataclass(frozen=True)
class Questions:
    """What a node is asked.

    Attributes:
        packages: Modules whose sources must be alike.
        distributions: Installed software whose versions must be alike.
        weights: The weights file; "" for none.
        token: A file in the shared folder, with its content; empty texts for none.
        sources: Some of the files that are read.
        sources_called: What they are called, in the plural.
    """

    packages: tuple[str, ...]
    distributions: tuple[str, ...]
    weights: str
    token: tuple[str, str]
    sources: tuple[str, ...]
    sources_called: str = "videos"


@dataclasses.dataclass(frozen=True)
class Answers:
    """What it answered.

    Attributes:
        host: The machine's name.
        packages: Hash of each package's sources; or why it cannot be imported, after "error: ".
        versions: Of Python and of the distributions; "" where one is not installed.
        weights: Hash of the weights file; or why it cannot be read, after "error: ".
        token: What was found in the shared folder; or why nothing was.
        missing_sources: Those that cannot be seen.
        clock: Its time, in seconds since 1970.
    """

    host: str
    packages: dict[str, str]
    versions: dict[str, str]
    weights: str
    token: str
    missing_sources: tuple[str, ...]
    clock: float


def answer(questions: Questions, node_id: str) -> Answers:
    """Look at this node; writes a file beside the token, named for the node."""
    return Answers(
        host=platform.node(),
        packages={name: _sources_hash(name) for name in questions.packages},
        versions=_versions(questions.distributions),
        weights=_file_hash(questions.weights) if questions.weights else "",
        token=_exchange_token(*questions.token, node_id) if questions.token[0] else "",
        missing_sources=tuple(path for path in questions.sources if not os.path.exists(path)),  # noqa: PTH110
        clock=time.time(),
    )


def answer_path(token: Path, node_id: str) -> Path:
    """Return where a node writes that it saw the token."""
    return token.with_name(f"{token.name}.{node_id}")


def wait_for(path: Path, seconds: float = TOKEN_SECONDS) -> str:
    """Return a file's content once it is there.

    Raises:
        OSError: It does not appear, or cannot be read.
    """
    deadline = time.monotonic() + seconds
    while True:
        try:
            os.listdir(path.parent)  # noqa: PTH208 - has network file systems look again
            return path.read_text("utf-8")
        except FileNotFoundError:
            if time.monotonic() > deadline:
                raise
        time.sleep(_POLL_SECONDS)


def _exchange_token(path: str, content: str, node_id: str) -> str:
    token = Path(path)
    try:
        found = wait_for(token)
        answer_path(token, node_id).write_text(content, "utf-8")
    except OSError as error:
        return f"error: {error}"
    return found


def _sources_hash(package: str) -> str:
    try:
        module = importlib.import_module(package)
    except ImportError as error:
        return f"error: {error}"
    folder = Path(str(module.__file__)).parent
    hasher = hashlib.sha256()
    for path in sorted(folder.glob("*.py")):
        hasher.update(path.name.encode() + b"\0" + path.read_bytes())
    return hasher.hexdigest()[:16]


def _versions(distributions: Iterable[str]) -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in distributions:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = ""
    return found


def _file_hash(path: str) -> str:
    try:
        with open(path, "rb") as file:  # noqa: PTH123
            return hashlib.file_digest(file, "sha256").hexdigest()[:16]
    except OSError as error:
        return f"error: {error}"
