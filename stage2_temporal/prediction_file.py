"""A CSV file that grows clip by clip, goes on after a kill, and is sorted at the end."""

import csv
import os
import time
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

from stage1_extract.store import sync
from stage2_temporal.prediction_rows import csv_line, plain_text, safe_text

_SYNC_SECONDS = 5.0
_COPY_BYTES = 2**20
_REMEDY = (
    "something else has changed it: delete this table, and its timeline if there is one, to "
    "predict all clips again, or give another --out"
)


class ClipTable:
    """A CSV file whose first column names a clip; all rows of a clip follow each other.

    Rows are appended and written at once. A last row that a crash cut short is cut off when the
    file is opened again. Memory holds where each clip's rows are, and no row. Nobody else may write
    the file meanwhile; whoever opens the table sees to that.

    Args:
        path: The file; made if it is not there.
        columns: Its columns, the id first.
        keep: Ids whose rows stay; None for all.

    Attributes:
        labels: The second cell of each clip that the file held when it was opened.

    Raises:
        ValueError: The file has other columns, or a row that has not as many cells.
        OSError: It cannot be written.
    """

    def __init__(
        self, path: Path, columns: Sequence[str], *, keep: Collection[str] | None = None
    ) -> None:
        self.path = path
        self._num_cells = len(columns)
        self._header = csv_line(map(safe_text, columns)).encode()
        path.touch()
        self._file = path.open("r+b", buffering=0)  # a write that fails leaves nothing behind
        self._synced = time.monotonic()
        self._end = 0
        self.labels: dict[str, str] = {}
        with ExitStack() as stack:
            stack.callback(self.close)
            self._rows = self._read()
            if keep is not None and not self._rows.keys() <= set(keep):
                self.sort([video_id for video_id in self._rows if video_id in keep])
            stack.pop_all()

    @property
    def ids(self) -> Collection[str]:
        """The clips that have rows."""
        return self._rows.keys()

    def append(self, video_id: str, rows: Iterable[Sequence[str]]) -> None:
        """Add the rows of a clip, without their first cell; a crash from now on leaves them."""
        first = safe_text(video_id)
        start = self._end
        self._write("".join(csv_line([first, *row]) for row in rows).encode())
        self._rows[video_id] = (start, self._end - start)
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            os.fsync(self._file.fileno())
            self._synced = time.monotonic()

    def sort(self, order: Iterable[str]) -> None:
        """Keep the clips of `order` alone, in that order; the file changes in one step."""
        wanted = [video_id for video_id in order if video_id in self._rows]
        if wanted == list(self._rows):
            os.fsync(self._file.fileno())
            return
        partial = self.path.with_name(f".{self.path.name}.{os.getpid()}.partial")
        try:
            self._rows = self._copy(partial, wanted)
            partial.replace(self.path)
            sync(self.path.parent)
        finally:
            partial.unlink(missing_ok=True)
        self._file.close()
        self._file = self.path.open("r+b", buffering=0)
        self._end = self.path.stat().st_size

    def _copy(self, partial: Path, wanted: Sequence[str]) -> dict[str, tuple[int, int]]:
        rows = {}
        with partial.open("wb") as out:
            out.write(self._header)
            for video_id in wanted:
                start, length = self._rows[video_id]
                rows[video_id] = (out.tell(), length)
                out.writelines(self._blocks(start, length))
            out.flush()
            os.fsync(out.fileno())
        return rows

    def _blocks(self, start: int, length: int) -> Iterator[bytes]:
        self._file.seek(start)
        while length and (block := self._file.read(min(length, _COPY_BYTES))):
            yield block
            length -= len(block)

    def _read(self) -> dict[str, tuple[int, int]]:
        """Find each clip's rows; cut off what follows the last line end."""
        rows: dict[str, tuple[int, int]] = {}
        with self.path.open("rb") as file:
            header = file.readline()
            if header.endswith(b"\n") and header != self._header:
                raise ValueError(
                    f"{self.path} has other columns than these predictions: {header[:200]!r}; "
                    f"{_REMEDY}"
                )
            if header == self._header:
                self._end = len(header)
                for number, line in enumerate(file, start=1):
                    if not line.endswith(b"\n"):
                        break
                    self._count(rows, number, line)
        self._file.truncate(self._end)
        if not self._end:
            self._write(self._header)
        return rows

    def _count(self, rows: dict[str, tuple[int, int]], number: int, line: bytes) -> None:
        cells = self._cells(number, line)
        video_id = plain_text(cells[0])
        start, length = rows.get(video_id, (self._end, 0))
        rows[video_id] = (start, length + len(line))
        self.labels.setdefault(video_id, cells[1])
        self._end += len(line)

    def _cells(self, number: int, line: bytes) -> list[str]:
        try:
            cells = next(csv.reader([line.decode()]))
            problem = f"has {len(cells)} cells, expected {self._num_cells}"
        except (UnicodeDecodeError, csv.Error) as error:
            cells, problem = [], f"is no line of a UTF-8 table ({error})"
        if len(cells) != self._num_cells:
            raise ValueError(
                f"{self.path}: row {number} (counted from 1, below the header) {problem}: "
                f"{line[:200]!r}; {_REMEDY}"
            )
        return cells

    def _write(self, content: bytes) -> None:
        """Write behind what is known to be whole."""
        self._file.seek(self._end)
        left = memoryview(content)
        while left:
            left = left[self._file.write(left) or 0 :]
        self._end += len(content)

    def close(self) -> None:
        """Close the file."""
        self._file.close()
