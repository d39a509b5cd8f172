"""Fixtures of stage one: a file system whose network can fail."""

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from stage1_extract import address_lease, remote_calls
from stage1_extract.addresses import Address
from stage1_extract.decoder_handle import DecoderHandle
from stage1_extract.sources import VideoError
from tests.stage1_extract import far_files


@dataclasses.dataclass(frozen=True)
class Far:
    """Files at far://, which lie in `folder`."""

    folder: Path
    log: Path

    def url(self, name: str) -> str:
        return f"far://{self.folder / name}"

    def address(self, name: str) -> Address:
        return Address(self.url(name))

    def put(self, name: str, content: bytes = b"content") -> Address:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_bytes(content)
        return self.address(name)

    def trouble(self, name: str, what: str, times: int = 1000) -> None:
        far_files.write_trouble(self.folder / f"{name}.trouble", what, times)

    def calls(self, kind: str) -> list[str]:
        """Return the names of the files that were asked for by such calls."""
        lines = self.log.read_text().splitlines() if self.log.exists() else []
        return [line.removeprefix(f"{kind} ") for line in lines if line.startswith(f"{kind} ")]


@pytest.fixture
def far(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Far]:
    """An empty folder at far://, known to decoder processes too."""
    remote_calls.scheme_problem.cache_clear()
    monkeypatch.setattr(remote_calls, "WAITS_SECONDS", (0.01, 0.01, 0.01))
    monkeypatch.setattr(remote_calls, "UPLOAD_WAITS_SECONDS", (0.01, 0.01))
    monkeypatch.setattr(address_lease, "SETTLE_SECONDS", 0.05)
    monkeypatch.setattr(sys, "path", list(sys.path))
    site, folder = tmp_path / "site", tmp_path / "far"
    site.mkdir()
    folder.mkdir()
    far_files.install(site)
    monkeypatch.setenv("FAR_LOG", str(tmp_path / "calls.log"))
    yield Far(folder, tmp_path / "calls.log")
    remote_calls.scheme_problem.cache_clear()


@pytest.fixture
def held_up_is_not_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Count against decoders only the time in which SIGSTOP holds them: a machine may be busy."""
    overdue = DecoderHandle.overdue

    def overdue_if_stopped(handle: DecoderHandle) -> VideoError | None:
        is_stopped = psutil.Process(handle.process.pid).status() == psutil.STATUS_STOPPED
        return overdue(handle) if is_stopped else None

    monkeypatch.setattr(DecoderHandle, "overdue", overdue_if_stopped)
