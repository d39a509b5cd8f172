"""The files of one prediction: OUT.csv, its timeline and failures, and what was asked for."""

import dataclasses
import fcntl
import functools
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

from stage1_extract.content import source_state
from stage1_extract.failures import Failure
from stage1_extract.sources import Clip, VideoError
from stage1_extract.store import sync
from stage2_temporal.prediction_file import ClipTable
from stage2_temporal.prediction_rows import csv_line, safe_text

_FORMAT = "stage2-predictions"
_VERSION = 1
_NUM_EXAMPLES = 5
_UNKNOWN = None, None
FAILURE_COLUMNS = ("video_id", "path", "reason", "exception", "time")


@dataclasses.dataclass(frozen=True)
class OutputPaths:
    """Where the parts of a prediction are written."""

    out: Path

    @property
    def timeline(self) -> Path:
        """Predictions after each frame."""
        return self.out.with_name(f"{self.out.stem}-timeline.csv")

    @property
    def failures(self) -> Path:
        """Clips that failed."""
        return self.out.with_name(f"{self.out.stem}-failures.csv")

    @property
    def request(self) -> Path:
        """What was asked for, and of which files: it tells whether OUT may be gone on with."""
        return self.out.with_name(f".{self.out.name}.request.json")

    @property
    def lock(self) -> Path:
        """Locked by the one process that may write the others; it stays, for another may wait."""
        return self.out.with_name(f".{self.out.name}.lock")


@dataclasses.dataclass(frozen=True)
class AskedClip:
    """A clip that is to be predicted.

    Attributes:
        video_id: Its id.
        path: Its source, as it is written.
        part: Start and end in seconds, where it is a part of its source.
        file: The source, if it is a file that is read; None for a stored sequence, and for what is
            at an address, whose versions are not told apart.
    """

    video_id: str
    path: str
    part: tuple[float | None, float | None] | None = None
    file: Path | None = None

    @classmethod
    def of(cls, clip: Clip) -> "AskedClip":
        """Return what is asked with a clip of a video."""
        ends = clip.start_seconds, clip.end_seconds
        file = clip.path if isinstance(clip.path, Path) else None
        return cls(clip.video_id, str(clip.path), None if ends == _UNKNOWN else ends, file)

    def version(self, state_of: Callable[[Path], Sequence[int | None]]) -> list[float | None]:
        """Return start, end, bytes and time of writing (ns): equal ones show the same frames."""
        return [*(self.part or _UNKNOWN), *(_UNKNOWN if self.file is None else state_of(self.file))]


class PredictionOutput:
    """The files of a prediction, open for writing; use it in a `with` block.

    What they hold already of the same request is kept, so that a prediction that was stopped goes
    on. Nothing of an earlier one is touched before it is known to be of the same request.

    Args:
        out: The CSV.
        columns: Its columns.
        timeline_columns: Columns of the timeline; None for no timeline.
        request: All that the predictions follow from, but the clips.
        clips: What is wanted, in this order.
        overwrite: Whether predictions of another request may be replaced.

    Attributes:
        present: Ids of clips that are predicted already.
        failures: Clips that failed now.

    Raises:
        FileExistsError: OUT is there, and holds something else.
        ValueError: OUT holds other clips, or other versions of them; or is being written.
        OSError: It cannot be written.
    """

    def __init__(
        self,
        out: Path,
        *,
        columns: Sequence[str],
        timeline_columns: Sequence[str] | None,
        request: Mapping[str, Any],
        clips: Sequence[AskedClip],
        overwrite: bool,
    ) -> None:
        self.paths = OutputPaths(out)
        self.failures: list[Failure] = []
        self._request = {"format": _FORMAT, "format_version": _VERSION, **request}
        self._clips = {clip.video_id: clip for clip in clips}
        with ExitStack() as stack:
            stack.enter_context(_locked(self.paths))
            before = self._check_may_write(overwrite=overwrite)
            # Before anything is read, so that what changes meanwhile is noticed the next time.
            state_of = functools.cache(_state)
            self._versions = {clip.video_id: clip.version(state_of) for clip in clips}
            if not before:  # first, so that whatever is there from now on is known to be ours
                self._write_request(finished=False)
            self._table = ClipTable(out, columns)
            stack.callback(self._table.close)
            if before:
                self._drop_others(before.get("clips", {}), overwrite=overwrite)
                self._write_request(finished=False)
            self.present = frozenset(self._table.ids)
            self._timeline: ClipTable | None = None
            if timeline_columns is not None:
                self._timeline = ClipTable(self.paths.timeline, timeline_columns, keep=self.present)
                stack.callback(self._timeline.close)
            self.paths.failures.unlink(missing_ok=True)
            self._open = stack.pop_all()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()

    def add(
        self, video_id: str, cells: Sequence[str], timeline: Iterable[Sequence[str]] = ()
    ) -> None:
        """Write a clip: its row last, so that a clip with a row is whole."""
        if self._timeline is not None:
            self._timeline.append(video_id, timeline)
        self._table.append(video_id, [[safe_text(self._clips[video_id].path), *cells]])

    def fail(self, failure: Failure) -> None:
        """Note a clip that failed."""
        is_first = not self.failures
        self.failures.append(failure)
        cells = map(safe_text, dataclasses.astuple(failure))
        with self.paths.failures.open("w" if is_first else "a", encoding="utf-8") as file:
            file.write((csv_line(FAILURE_COLUMNS) if is_first else "") + csv_line(cells))

    def fail_clip(self, video_id: str, error: Exception) -> None:
        """Note that a clip failed, and of what."""
        self.fail(Failure.of(video_id, Path(self._clips[video_id].path), error))

    def finish(self) -> None:
        """Put all rows into the order of the clips."""
        for table in (self._timeline, self._table):
            if table is not None:
                table.sort(self._clips)
        self._write_request(finished=True)

    def _check_may_write(self, *, overwrite: bool) -> dict[str, Any]:
        """Return the request that the files were written for; remove them if it is another."""
        paths = self.paths
        before = _read_request(paths.request)
        there = [path for path in (paths.out, paths.timeline, paths.failures) if path.exists()]
        filled = [path for path in there if path.stat().st_size]
        if before is None and filled:
            raise FileExistsError(
                f"{filled[0]} is there, and not known to hold predictions ({paths.request.name} is "
                "missing); it is not replaced: choose another --out"
            )
        if before is None:
            return {}
        is_same = all(before.get(name) == value for name, value in self._request.items())
        if is_same and not (overwrite and before.get("finished")):
            return before
        if not overwrite:
            raise FileExistsError(
                f"{paths.out} holds predictions of another run, or with other settings "
                f"({self._differences(before)}); choose another --out, or give --overwrite"
            )
        for path in (*there, paths.request):
            path.unlink()
        return {}

    def _differences(self, before: Mapping[str, Any]) -> str:
        return ", ".join(
            f"{name}: {before.get(name)!r} there, {value!r} now"
            for name, value in self._request.items()
            if before.get(name) != value
        )

    def _drop_others(self, versions: Mapping[str, Any], *, overwrite: bool) -> None:
        """Empty the table if it holds other clips, or other versions of them."""
        if problem := self._other_clips(versions):
            if not overwrite:
                raise ValueError(f"{problem}; choose another --out, or give --overwrite")
            self._table.sort([])

    def _other_clips(self, versions: Mapping[str, Any]) -> str:
        """Say where a row that is there tells of another clip than the one asked; blank if none."""
        labels = self._table.labels
        unknown = [video_id for video_id in labels if video_id not in self._clips]
        changed = [
            video_id
            for video_id in labels.keys() & self._clips.keys()
            if labels[video_id] != safe_text(self._clips[video_id].path)
            or versions.get(video_id) != self._versions[video_id]
        ]
        for ids, what in (
            (unknown, "are not among the inputs"),
            (changed, "are of another file, another part of it, or the file changed since"),
        ):
            if ids:
                shown = sorted(ids)[:_NUM_EXAMPLES]
                return (
                    f"{self.paths.out} holds predictions of {len(ids)} clips that {what}: {shown}"
                )
        return ""

    def _write_request(self, *, finished: bool) -> None:
        document = {**self._request, "finished": finished, "clips": self._versions}
        path = self.paths.request
        partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
        partial.write_text(
            json.dumps(document) + "\n", "utf-8"
        )  # indented, it would take ten times as long
        sync(partial)
        partial.replace(path)


@contextmanager
def _locked(paths: OutputPaths) -> Iterator[None]:
    if not paths.out.parent.is_dir():
        raise FileNotFoundError(f"no folder {paths.out.parent} to write {paths.out.name} into")
    with paths.lock.open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(
                f"another process is writing {paths.out}; wait for it, or give another --out"
            ) from error
        yield


def _state(path: Path) -> tuple[int | None, int | None]:
    """Return bytes and time of writing; unknown for what cannot be read, and so has no row."""
    try:
        state = source_state(path)
    except (OSError, VideoError):
        return _UNKNOWN
    return state.size_bytes, state.modified_ns


def _read_request(path: Path) -> dict[str, Any] | None:
    if not path.exists():
        return None
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError:
        return None
    is_request = isinstance(found, dict) and found.get("format") == _FORMAT
    return found if is_request else None
