"""A file system for tests, far://, whose files lie in a local folder and whose network can fail.

`far:///tmp/x/a.mp4` is /tmp/x/a.mp4, reached as remote files are: block by block, with a callback.
Every process finds it as it finds an installed package (see `install`). What goes wrong is told by
files beside: `a.mp4.trouble` holds lines such as `drop 2`: the first two transfers break off.
Every call is noted in the folder's `calls.log`.
"""

import os
import re
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
from fsspec.implementations.local import LocalFileSystem
from fsspec.spec import AbstractFileSystem

BLOCK_BYTES = 64 * 1024


class FarError(Exception):
    """What a network library raises: no OSError."""


class FarFileSystem(AbstractFileSystem):  # type: ignore[misc]
    """Serves a local folder with the troubles that are written there."""

    protocol = "far"
    blocksize = BLOCK_BYTES
    cachable = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._local = LocalFileSystem()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(path).removeprefix("far://").rstrip("/")

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        path = self._strip_protocol(path)
        self._note("info", path)
        found: dict[str, Any] = self._local.info(path)
        if (Path(path).parent / "no-times").exists():
            found.pop("mtime")
        return {**found, "name": path}

    def ls(self, path: str, detail: bool = True, **_: Any) -> list[Any]:
        path = self._strip_protocol(path)
        self._note("ls", path)
        return [self.info(entry) if detail else entry for entry in self._local.ls(path, False)]

    def get_file(self, rpath: str, lpath: str, callback: Any = None, **_: Any) -> None:
        rpath = self._strip_protocol(rpath)
        self._note("get", rpath)
        trouble = self._trouble(rpath)
        with open(rpath, "rb") as source, open(lpath, "wb") as target:  # noqa: PTH123
            for block in _blocks(source):
                target.write(block)
                callback.relative_update(len(block))
                _suffer(trouble)

    def put_file(self, lpath: str, rpath: str, **_: Any) -> None:
        rpath = self._strip_protocol(rpath)
        self._note("put", rpath)
        trouble = self._trouble(rpath)
        Path(rpath).parent.mkdir(parents=True, exist_ok=True)
        with open(lpath, "rb") as source, open(rpath, "wb") as target:  # noqa: PTH123
            for block in _blocks(source):
                target.write(block)
                target.flush()
                _suffer(trouble)

    def cat_file(self, path: str, start: Any = None, end: Any = None, **_: Any) -> bytes:
        path = self._strip_protocol(path)
        self._note("cat", path)
        return Path(path).read_bytes()[start:end]

    def _open(self, path: str, mode: str = "rb", **_: Any) -> Any:
        self._note("open", path)
        return open(path, mode)  # noqa: PTH123

    def mv(self, path1: str, path2: str, **_: Any) -> None:
        Path(self._strip_protocol(path1)).replace(self._strip_protocol(path2))

    def rm_file(self, path: str) -> None:
        self._note("rm", path)
        Path(self._strip_protocol(path)).unlink()

    def _trouble(self, path: str) -> str:
        """Return what goes wrong now; each line of the file counts down how often."""
        file = Path(re.sub(r"\.\w{8}\.partial$", ".partial", path) + ".trouble")
        if not file.exists():
            return ""
        what, times = file.read_text().split()
        if int(times) == 0:
            return ""
        write_trouble(file, what, int(times) - 1)
        return what

    def _note(self, call: str, path: str) -> None:
        if log := os.environ.get("FAR_LOG"):
            with Path(log).open("a") as file:
                file.write(f"{call} {Path(path).name}\n")


def write_trouble(file: Path, what: str, times: int) -> None:
    """Say what goes wrong, and how often; other threads read it whole."""
    new = file.with_suffix(".new")
    new.write_text(f"{what} {times}")
    new.replace(file)


def _blocks(file: Any) -> Iterator[bytes]:
    while block := file.read(BLOCK_BYTES):
        yield block


def _suffer(trouble: str) -> None:
    if trouble == "drop":
        raise FarError("connection reset")
    if trouble == "forbid":
        raise PermissionError("access denied")
    if trouble == "hang":
        time.sleep(600)
    if trouble == "slow":
        time.sleep(0.15)


def install(folder: Path) -> None:
    """Make far:// known to this process and, by a package in the folder, to those it starts."""
    (folder / "far_files.py").write_text(Path(__file__).read_text("utf-8"), "utf-8")
    package = folder / "far_files-1.dist-info"
    package.mkdir(parents=True)
    (package / "METADATA").write_text("Metadata-Version: 2.1\nName: far-files\nVersion: 1\n")
    (package / "entry_points.txt").write_text("[fsspec.specs]\nfar = far_files:FarFileSystem\n")
    sys.path.append(str(folder))
    fsspec.register_implementation("far", FarFileSystem, clobber=True)
