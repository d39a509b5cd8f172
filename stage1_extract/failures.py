"""failures.jsonl: the videos that could not be embedded, and why."""

import dataclasses
import json
import os
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

FILE_NAME = "failures.jsonl"


@dataclasses.dataclass(frozen=True)
class Failure:
    """One video that failed."""

    video_id: str
    path: str
    reason: str
    exception: str
    time: str

    @classmethod
    def of(cls, video_id: str, path: object, error: Exception) -> "Failure":
        """Describe an error that befell a video now."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        return cls(video_id, _readable(path), _readable(error), type(error).__name__, now)


def read_failures(store_folder: Path) -> dict[str, Failure]:
    """Return the recorded failures by video_id, the latest of each.

    A last line that a crash cut short is left out; its video is simply tried again.

    Raises:
        ValueError: Another line is not a failure record.
    """
    path = store_folder / FILE_NAME
    if not path.exists():
        return {}
    lines = path.read_bytes().split(b"\n")  # bytes: the cut may lie within a character
    failures = {}
    for number, line in enumerate(lines[:-1], 1):  # what follows the last newline is incomplete
        try:
            failure = Failure(**json.loads(line))
        except (json.JSONDecodeError, UnicodeDecodeError, TypeError) as error:
            raise ValueError(
                f"{path} line {number} is not a failure record: {line[:80]!r}; remove the line, or "
                "the file to try all its videos again"
            ) from error
        failures[failure.video_id] = failure
    return failures


def count_exceptions(failures: Iterable[Failure]) -> dict[str, int]:
    """Return how many failures each class of exception has, the most frequent first."""
    return dict(Counter(failure.exception for failure in failures).most_common())


def append_failure(store_folder: Path, failure: Failure) -> None:
    """Add a failure; a single write, so that a crash cuts at most this line."""
    with (store_folder / FILE_NAME).open("a", encoding="utf-8") as file:
        file.write(json.dumps(dataclasses.asdict(failure), ensure_ascii=False) + "\n")


def write_failures(store_folder: Path, failures: Iterable[Failure]) -> None:
    """Replace the record at once; without failures there is no file."""
    path = store_folder / FILE_NAME
    lines = [json.dumps(dataclasses.asdict(f), ensure_ascii=False) + "\n" for f in failures]
    if not lines:
        path.unlink(missing_ok=True)
        return
    partial = path.with_name(f".{FILE_NAME}.{os.getpid()}.partial")
    partial.write_text("".join(lines), "utf-8")
    partial.replace(path)


def _readable(value: object) -> str:
    """Return text with the bytes of names that are not UTF-8 written out; JSON cannot hold them."""
    return str(value).encode(errors="surrogateescape").decode(errors="backslashreplace")
