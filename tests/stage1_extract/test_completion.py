"""Completion scripts, in the shells themselves: what is offered when Tab is pressed."""

import dataclasses
import os
import select
import shlex
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Annotated, ClassVar, Literal

import pytest
import tyro

from stage1_extract import cli as stage1
from stage1_extract.command import CommandEntry, run_command
from stage1_extract.completion import Shell, completion_script, with_completion
from stage1_extract.help_examples import split_examples
from stage2_temporal import cli as stage2

Complete = Callable[[str], set[str]]


@dataclasses.dataclass(frozen=True)
class Look:
    """Settings of the look."""

    CHOICES: ClassVar = {"colour": ("red", "rosy", "blue")}
    colour: str = "red"
    """Colour, of 100 % strength; "quoted" & $odd `signs` (all) [of] them: fine."""
    size: int | Literal["auto"] = "auto"
    """Size."""
    word: tyro.conf.UseAppendAction[Sequence[str]] = ()
    """A word."""
    weights: str = "imagenet"
    """Text or file."""
    place: Path | None = None
    """File."""
    keep_all: bool = False
    """Keep all."""


@dataclasses.dataclass(frozen=True)
class Paint:
    """Paint a picture."""

    picture: Annotated[Path, tyro.conf.Positional]
    """What is painted."""
    style: Literal["plain", "ornate"]
    """How."""
    look: Look


@dataclasses.dataclass(frozen=True)
class Frame:
    """Frame it."""


COMMANDS = {"paint": CommandEntry(Paint, lambda _: 0), "frame": CommandEntry(Frame, lambda _: 0)}
PROGRAMS = {
    "my-prog": COMMANDS,
    "stage1-extract": stage1.COMMANDS,
    "stage2-temporal": stage2.COMMANDS,
}


def script_for(program: str, shell: Shell, folder: Path) -> Path:
    path = folder / f"script.{shell}"
    commands = with_completion(program, PROGRAMS[program])
    path.write_text(completion_script(program, commands, shell))
    return path


def offered_by_bash(line: str, folder: Path) -> set[str]:
    """Return what bash would offer at the end of a line, with the function registered for it."""
    words = [*shlex.split(line), *([""] if line.endswith(" ") else [])]
    commands = f"""
        set -u
        source {shlex.quote(str(script_for(words[0], "bash", folder)))}
        [[ "$(complete -p {words[0]})" =~ -F\\ ([^ ]+) ]]
        COMP_WORDS=({shlex.join(words)}) COMP_CWORD={len(words) - 1}
        "${{BASH_REMATCH[1]}}"
        (( ${{#COMPREPLY[@]}} == 0 )) || printf '%s\\n' "${{COMPREPLY[@]}}"
    """
    return run(["bash", "--norc", "-c", commands], folder)


def offered_by_fish(line: str, folder: Path) -> set[str]:
    script = script_for(line.split()[0], "fish", folder)
    asked = f"source {shlex.quote(str(script))}; complete -C {shlex.quote(line)}"
    return {found.partition("\t")[0] for found in run(["fish", "--no-config", "-c", asked], folder)}


def run(command: list[str], folder: Path) -> set[str]:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return set(done.stdout.splitlines())


@pytest.fixture(params=["bash", "fish"])
def complete(request: pytest.FixtureRequest, tmp_path: Path) -> Complete:
    """Ask a shell in a folder that holds a picture."""
    if shutil.which(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    (tmp_path / "picture.png").touch()
    ask = offered_by_bash if request.param == "bash" else offered_by_fish
    return lambda line: ask(line, tmp_path)


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("my-prog ", {"paint", "frame", "completion"}),
        ("my-prog fr", {"frame"}),
        ("my-prog paint pict", {"picture.png"}),
        ("my-prog paint --style ", {"plain", "ornate"}),
        ("my-prog paint --style or", {"ornate"}),
        ("my-prog paint --colour r", {"red", "rosy"}),
        ("my-prog paint --keep-all --colour b", {"blue"}),
        ("my-prog paint --size ", {"auto"}),
        ("my-prog paint --place pict", {"picture.png"}),
        ("my-prog paint --weights pict", {"picture.png"}),
        ("my-prog paint --config pict", {"picture.png"}),
        ("my-prog paint --word a --word b --place pict", {"picture.png"}),
        ("my-prog completion z", {"zsh"}),
    ],
)
def test_the_shell_offers(complete: Complete, line: str, offered: set[str]) -> None:
    assert complete(line) == offered


def test_the_shell_offers_every_flag(complete: Complete) -> None:
    assert complete("my-prog paint --") >= {
        *("--style", "--colour", "--size", "--word", "--weights", "--place", "--config", "--help"),
        *("--keep-all", "--no-keep-all"),
    }
    assert "--style" not in complete("my-prog frame --")


def typed_in_zsh(setup: str, line: str, wanted: str, seconds: float = 120.0) -> str:
    """Type a line and Tab into an interactive zsh; return its terminal once it shows `wanted`."""
    terminal, ours = os.openpty()
    shell = subprocess.Popen(
        ["zsh", "-f", "-i"],
        stdin=ours,
        stdout=ours,
        stderr=ours,
        env={**os.environ, "TERM": "dumb"},
        start_new_session=True,
    )
    os.close(ours)
    try:
        os.write(terminal, f"{setup}; print rea''dy\n".encode())
        shown = _read_until(terminal, "ready\r", seconds)
        os.write(terminal, f"{line}\t".encode())
        return shown + _read_until(terminal, wanted, seconds)
    finally:
        shell.kill()
        shell.wait()
        os.close(terminal)


def _read_until(terminal: int, wanted: str, seconds: float) -> str:
    shown, end = "", time.monotonic() + seconds
    while wanted not in shown and time.monotonic() < end:
        if select.select([terminal], [], [], 0.1)[0]:
            shown += os.read(terminal, 65536).decode(errors="replace")
    return shown


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("zsh") is None, reason="zsh is not installed")
@pytest.mark.parametrize(
    ("line", "completed"),
    [
        ("my-prog pai", "my-prog paint "),
        ("my-prog paint --styl", "my-prog paint --style "),
        ("my-prog paint --style or", "my-prog paint --style ornate "),
        ("my-prog paint --colour ro", "my-prog paint --colour rosy "),
    ],
)
def test_zsh_completes(tmp_path: Path, line: str, completed: str) -> None:
    script = shlex.quote(str(script_for("my-prog", "zsh", tmp_path)))
    setup = f'autoload -Uz compinit; compinit -u -D; eval "$(cat {script})"'
    assert completed in typed_in_zsh(setup, line, completed)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
@pytest.mark.parametrize("program", ["stage1-extract", "stage2-temporal"])
def test_both_programs_print_a_script(
    program: str, shell: Shell, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli = stage1 if program == "stage1-extract" else stage2
    assert cli.main(["completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(name in script for name in (*cli.COMMANDS, "completion"))
    if shutil.which(shell) is not None:
        (tmp_path / "script").write_text(script)
        run([shell, "-n", str(tmp_path / "script")], tmp_path)


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("stage1-extract run m.csv s --backbone MobileNetV", {"MobileNetV2", "MobileNetV3Large"}),
        ("stage1-extract run m.csv s --fit ", {"squash", "crop", "pad"}),
        ("stage1-extract manifest . out.csv --layout u", {"ucf101"}),
        ("stage2-temporal train s m.csv run --pooling ", {"last", "mean", "max", "attention"}),
        ("stage2-temporal train s m.csv run --target a --task mul", {"multiclass"}),
        ("stage2-temporal train s m.csv run --backend j", {"jax"}),
    ],
)
def test_the_programs_complete_what_their_settings_allow(
    line: str, offered: set[str], tmp_path: Path
) -> None:
    assert offered <= offered_by_bash(line, tmp_path)


def test_the_command_is_listed_and_takes_known_shells_alone(
    capsys: pytest.CaptureFixture[str],
) -> None:
    commands = with_completion("my-prog", COMMANDS)
    assert run_command("my-prog", commands, ["--help"]) == 0
    assert "  completion  Print a script" in capsys.readouterr().out
    with pytest.raises(SystemExit) as stopped:
        run_command("my-prog", commands, ["completion", "cmd.exe"])
    assert stopped.value.code == 2
    assert "cmd.exe" in capsys.readouterr().err


def test_its_examples_name_the_program() -> None:
    _, examples = split_examples(with_completion("my-prog", COMMANDS)["completion"].arguments)
    assert "    my-prog completion bash > ~/" in examples
