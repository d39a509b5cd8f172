import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import pytest

from stage1_extract import scratch
from stage1_extract.scratch import ScratchFolder, remove_stale

HOLD = """
import sys, time
from pathlib import Path
from stage1_extract.scratch import ScratchFolder
folder = ScratchFolder(Path(sys.argv[1]))
(folder.path / "clip.mp4").write_text("x")
print(folder.path, flush=True)
time.sleep(600)
"""


def test_it_is_gone_with_its_content_after_the_block(tmp_path: Path) -> None:
    with ScratchFolder(tmp_path / "new") as made:
        (made.path / "a.mp4").touch()
        assert made.path.parent == tmp_path / "new"
    assert not list((tmp_path / "new").iterdir())


def test_the_system_says_where_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    with ScratchFolder() as made:
        assert made.path.parent == tmp_path


def test_that_of_a_killed_process_goes_and_that_of_a_living_one_stays(tmp_path: Path) -> None:
    command = [sys.executable, "-c", HOLD, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        held = Path(process.stdout.readline().strip())
        remove_stale(tmp_path)
        assert (held / "clip.mp4").exists()
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    (tmp_path / "other").mkdir()
    with ScratchFolder(tmp_path) as made:
        assert sorted(tmp_path.iterdir()) == sorted([made.path, tmp_path / "other"])


def test_a_folder_that_is_not_there_holds_nothing_stale(tmp_path: Path) -> None:
    remove_stale(tmp_path / "missing")


@pytest.mark.parametrize("module", ["os", "fcntl"])
def test_one_that_another_process_removes_before_it_is_locked_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: str
) -> None:
    name = {"os": "open", "fcntl": "flock"}[module]
    made, action = list[Path](), getattr(getattr(scratch, module), name)

    def remove_first(*arguments: Any) -> Any:
        if not made:
            made.extend(tmp_path.iterdir())
            made[0].rmdir()  # as `remove_stale` of another process
        return action(*arguments)

    monkeypatch.setattr(getattr(scratch, module), name, remove_first)
    with ScratchFolder(tmp_path) as folder:
        assert list(tmp_path.iterdir()) == [folder.path]
        assert folder.path != made[0]
