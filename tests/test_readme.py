"""Every command of the README exists and runs, on small videos and with random weights."""

import re
import shlex
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest

from stage1_extract import cli as stage1
from stage2_temporal import cli as stage2

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PROGRAMS = {"stage1-extract": stage1, "stage2-temporal": stage2}
COMMANDS = [
    *re.findall(r"^    ((?:stage1-extract|stage2-temporal|make) .+)$", README, re.MULTILINE),
    *re.findall(r"`((?:stage1-extract|stage2-temporal) [a-z]+ [^`]+|make [a-z-]+)`", README),
]
# Small enough for a test; a later flag beats an earlier one.
STAGE1_FLAGS = (
    "--backbone MobileNet --alpha 0.25 --input-size 32 --weights random --dtype float32 "
    "--sampling uniform:4"
)
STAGE2_FLAGS = "--epochs 2 --units 4 --resamples 20 --repeats 1"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the README's commands name: videos.csv, a store, a run."""
    folder = tmp_path_factory.mktemp("readme")
    rng = np.random.default_rng(0)
    rows, measurements = ["path,abnormal,patient,age"], ["video_id,weight"]
    for number in range(24):
        name = f"{number}.mp4"
        writer = cv2.VideoWriter(str(folder / name), cv2.VideoWriter.fourcc(*"mp4v"), 10, (32, 32))
        for _ in range(5):
            writer.write(rng.integers(0, 256, (32, 32, 3), dtype=np.uint8))
        writer.release()
        rows.append(f"{name},{number % 2},pat_{number // 2},{30.5 + number if number % 5 else ''}")
        measurements.append(f"{number},{60 + number % 7}")
    (folder / "measurements.csv").write_text("\n".join(measurements) + "\n")
    (folder / "videos.csv").write_text("\n".join(rows) + "\n")
    return folder


def test_the_readme_has_commands_of_all_kinds() -> None:
    assert {command.split()[0] for command in COMMANDS} == {*PROGRAMS, "make"}


@pytest.mark.parametrize("command", [c for c in COMMANDS if c.startswith("make")])
def test_make_commands_exist(command: str) -> None:
    done = subprocess.run([*shlex.split(command), "-n"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", [c for c in COMMANDS if not c.startswith("make")])
def test_commands_run(command: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    program, *words = shlex.split(command, comments=True)
    (folder / "mobilenet_v2_no_top.h5").touch()
    flags = {"run": STAGE1_FLAGS, "train": STAGE2_FLAGS + " --overwrite"}.get(words[0], "")
    if "kfold" in words:
        flags += " --folds 2"
    if "RUN" in words:
        words[words.index("RUN")] = "runs/first"
    assert PROGRAMS[program].main([*words, *shlex.split(flags)]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("document", ["README.md", "data/README.md"])
def test_python_examples_run(document: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    text = (ROOT / document).read_text("utf-8")
    code = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert code
    for block in code:
        small = re.sub(r"^extract\(.*$", "", block, flags=re.MULTILINE).replace("clips/a", "1")
        small = small.replace('group="patient")', 'group="patient", epochs=2)')
        exec(compile(small, document, "exec"), {})  # noqa: S102
