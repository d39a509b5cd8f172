"""Every command of the README exists and runs, on small videos and with random weights."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from tests.commands import PROGRAMS, ROOT, code_of, commands_of, run, write_inputs

README = (ROOT / "README.md").read_text("utf-8")
COMMANDS = [
    *commands_of(README),
    *re.findall(rf"`((?:{'|'.join(PROGRAMS)}) [a-z]+ [^`]+)`", README),
]
MAKE = re.findall(r"^    (make .+)$|`(make [a-z-]+)`", README, re.MULTILINE)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README's commands name, made in their order: videos.csv, a store, a run."""
    folder = tmp_path_factory.mktemp("readme")
    write_inputs(folder)
    (folder / "mobilenet_v2_no_top.h5").touch()
    return folder


def test_the_readme_has_commands_of_all_kinds() -> None:
    assert {command.split()[0] for command in COMMANDS} == set(PROGRAMS)
    assert MAKE


@pytest.mark.parametrize("command", ["".join(found) for found in MAKE])
def test_make_commands_exist(command: str) -> None:
    done = subprocess.run([*shlex.split(command), "-n"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert run(command.replace(" RUN", " runs/first")) == 0


@pytest.mark.slow
@pytest.mark.parametrize("document", ["README.md", "data/README.md"])
def test_python_examples_run(document: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    code = code_of((ROOT / document).read_text("utf-8"), "python")
    assert code
    for block in code:
        small = re.sub(r"^extract\(.*$", "", block, flags=re.MULTILINE).replace("clips/a", "1")
        small = small.replace('group="patient")', 'group="patient", epochs=2)')
        exec(compile(small, document, "exec"), {})  # noqa: S102
