"""Command lines: flag over file over default, plain errors, exit codes."""

import dataclasses
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import pytest
import tyro

from stage1_extract import cli
from stage1_extract.command import CommandEntry, parse_arguments, run_command
from stage1_extract.config import ExtractSettings


def settings_of(tmp_path: Path, toml: str | None, *flags: str) -> ExtractSettings:
    """Parse `run m.csv store` with a TOML file and flags."""
    config = []
    if toml is not None:
        (tmp_path / "c.toml").write_text(toml, "utf-8")
        config = ["--config", str(tmp_path / "c.toml")]
    words = ["m.csv", "store", *flags, *config]
    return parse_arguments(cli.Run, words, program="stage1-extract run").settings


@pytest.mark.parametrize(
    ("toml", "flags", "expected"),
    [
        (None, [], 32),
        (None, ["--batch-size", "4"], 4),
        ("batch_size = 8", [], 8),
        ("batch_size = 8", ["--batch-size", "4"], 4),
        ("batch_size = 8", ["--batch-size=4"], 4),
        ("decoders = 3", [], 32),
    ],
)
def test_flag_beats_file_beats_default(
    tmp_path: Path, toml: str | None, flags: list[str], expected: int
) -> None:
    assert settings_of(tmp_path, toml, *flags).batch_size == expected


@pytest.mark.parametrize(
    ("toml", "flags", "expected"),
    [
        ("", [], False),
        ("fail_fast = true", [], True),
        ("fail_fast = false", [], False),
        ("fail_fast = true", ["--no-fail-fast"], False),
        ("fail_fast = false", ["--fail-fast"], True),
    ],
)
def test_switches_follow_the_same_order(
    tmp_path: Path, toml: str, flags: list[str], expected: bool
) -> None:
    assert settings_of(tmp_path, toml, *flags).fail_fast is expected


def test_file_values_keep_their_meaning(tmp_path: Path) -> None:
    toml = (
        'backbone = "MobileNet"\nalpha = 0.25\nweights = "dir with space/ü.h5"\nseed = -3\n'
        'shard_seconds = 1e-7\nsampling = "fps:2.5"\ninput_size = 96\n'
    )
    assert settings_of(tmp_path, toml) == ExtractSettings(
        backbone="MobileNet",
        alpha=0.25,
        weights="dir with space/ü.h5",
        seed=-3,
        shard_seconds=1e-7,
        sampling="fps:2.5",
        input_size=96,
    )


@dataclasses.dataclass(frozen=True)
class Inner:
    """Nested settings."""

    weight: tyro.conf.UseAppendAction[Sequence[float]] = ()
    """Numbers."""


@dataclasses.dataclass(frozen=True)
class Repeated:
    """Settings of which some may be given again."""

    place: Annotated[str, tyro.conf.Positional]
    """Anything."""
    target: tyro.conf.UseAppendAction[Sequence[str]] = ()
    """Texts."""
    loss_weight: tyro.conf.UseAppendAction[Sequence[float]] = ()
    """Numbers."""
    size: int = 1
    """One number."""
    inner: Inner = dataclasses.field(default_factory=Inner)


def repeated(tmp_path: Path, toml: str, *words: str) -> Repeated:
    (tmp_path / "c.toml").write_text(toml, "utf-8")
    argv = ["--config", str(tmp_path / "c.toml"), *(words or ("place",))]
    return parse_arguments(Repeated, argv, program="prog")


@pytest.mark.parametrize(
    ("toml", "words", "expected"),
    [
        ('target = ["a", "b"]', (), ["a", "b"]),
        ('target = "a"', (), ["a"]),
        ("target = [1, 2.5]", (), ["1", "2.5"]),
        ('target = ["-x", "--size", "a b", "ü=,+", ""]', (), ["-x", "--size", "a b", "ü=,+", ""]),
        ("", ("place", "--target", "c"), ["c"]),
        ('target = ["a", "b"]', ("place", "--target", "c"), ["c"]),
        ('target = ["a", "b"]', ("place", "--target=c", "--target=d"), ["c", "d"]),
        ('target = "a"', ("place", "--target", "c"), ["c"]),
        ('target = ["a", "b"]', ("--target", "c", "place"), ["c"]),
        ('target = ["a"]', ("place", "--size", "3"), ["a"]),
        ('target = ["a"]', ("xxtarget",), ["a"]),  # no flag, though its end is one's name
    ],
)
def test_lists_follow_the_same_order(
    tmp_path: Path, toml: str, words: tuple[str, ...], expected: list[str]
) -> None:
    assert list(repeated(tmp_path, toml, *words).target) == expected


def test_a_value_of_the_wrong_type_names_the_file(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        repeated(tmp_path, 'size = "many"')
    assert f"These flags are from {tmp_path / 'c.toml'}: --size many" in capfd.readouterr().err
    with pytest.raises(SystemExit):
        repeated(tmp_path, "", "place", "--size", "many")
    assert "These flags" not in capfd.readouterr().err


def test_lists_of_numbers_and_nested_ones_are_read(tmp_path: Path) -> None:
    toml = "loss_weight = [1, -2.5, 1e-3]\nweight = [4]"
    assert list(repeated(tmp_path, toml).loss_weight) == [1, -2.5, 1e-3]
    assert list(repeated(tmp_path, toml).inner.weight) == [4]
    for flag in ("--loss-weight", "--loss_weight"):
        found = repeated(tmp_path, toml, "place", flag, "7")
        assert list(found.loss_weight) == [7]
        assert list(found.inner.weight) == [4]


def test_an_empty_list_is_nothing(tmp_path: Path) -> None:
    found = repeated(tmp_path, "target = []\nweight = []")
    assert [*found.target, *found.inner.weight] == []


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("size = [4, 8]", r"c\.toml: size is a list; expected a text, number or truth value"),
        ("size = []", "size is a list"),
        ("target = [[1]]", "target is a list; expected a text or number, or a list of such, or"),
        ("target = [true]", "target is a list; expected a text or number, or a list of such, or"),
        ("size = {a = 1}", "size is a dict; expected a text, number or truth value"),
        ("[size]\na = 1", "size is a dict"),
    ],
)
def test_lists_where_none_belong_are_refused(tmp_path: Path, toml: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        repeated(tmp_path, toml)


@pytest.mark.parametrize(
    "value",
    [
        '["gru", "ls\\"tm\\\\ü\\u007f"]',
        "{low = 1e-4, high = 1e-2, log = true}",
        '[["a", "b c"], []]',
        "[true, false]",
        "[-inf, 1e300, 0x10, 1_000]",
        '{"a b" = {"ü=" = [1]}}',
        "1979-05-27T07:32:00Z",
    ],
)
@pytest.mark.parametrize("form", ["target = {{na-me = {}}}", "[target]\nna-me = {}"])
def test_a_table_gives_a_flag_for_each_key(tmp_path: Path, form: str, value: str) -> None:
    (found,) = repeated(tmp_path, form.format(value)).target
    name, _, written = found.partition(" = ")
    assert name == "na-me"
    assert tomllib.loads(f"x = {written}") == tomllib.loads(f"x = {value}")


def test_tables_follow_the_same_order(tmp_path: Path) -> None:
    toml = "size = 2\n[target]\nb = 1\na = [2]"
    assert list(repeated(tmp_path, toml).target) == ["b = 1", "a = [2]"]
    assert repeated(tmp_path, toml).size == 2
    assert list(repeated(tmp_path, toml, "place", "--target", "c = 3").target) == ["c = 3"]
    assert list(repeated(tmp_path, "[target]").target) == []


def test_wrong_values_in_a_list_are_told_like_typed_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stopped:
        repeated(tmp_path, 'loss_weight = [1, "much"]')
    assert stopped.value.code == 2
    assert "much" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("toml", "message"),
    [
        ("batchsize = 4", r"c\.toml: unknown setting 'batchsize'; did you mean 'batch_size'"),
        ("xyzzy = 4", "unknown setting 'xyzzy'; known: .*batch_size"),
        ('store = "elsewhere"', "unknown setting 'store'"),
        ("[run]\nbatch_size = 4", "unknown setting 'run'"),
        ("batch_size = 2026-01-01", "batch_size is a date"),
        ("batch_size = {a = 1}", "batch_size is a dict"),
        ("batch_size =", r"c\.toml is not valid TOML"),
    ],
)
def test_wrong_files_are_refused_by_name(tmp_path: Path, toml: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        settings_of(tmp_path, toml)


def run_main(*words: object) -> int:
    """Return the exit code, however it comes."""
    try:
        return cli.main([str(word) for word in words])
    except SystemExit as stop:
        return int(stop.code or 0)


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        (["frobnicate"], "unknown command 'frobnicate'"),
        (["verfy", "x"], "did you mean verify"),
        (["info"], "STORE"),
        (["info", "nowhere"], "no store at nowhere"),
        (["info", "nowhere", "--jsonn"], "--json"),
        (["run", "m.csv", "s", "--batch-size", "many"], "many"),
        (["run", "m.csv", "s", "--fit", "stretch"], "stretch"),
        (["run", "m.csv", "s", "--sampling", "never"], "never"),
        (["run", "nothing.csv", "s"], "no manifest at nothing.csv"),
        (["info", "s", "--config"], "--config needs"),
        (["info", "s", "--config", "nothing.toml"], "nothing.toml"),
    ],
)
def test_wrong_use_is_told_and_exits_with_2(
    words: list[str],
    shown: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run_main(*words) == 2
    captured = capsys.readouterr()
    assert shown in captured.err + captured.out
    assert "Traceback" not in captured.err
    assert not list(tmp_path.iterdir())


@dataclasses.dataclass(frozen=True)
class Nothing:
    """Do nothing."""

    size: int = 1
    """A size."""


def failing(error: BaseException) -> dict[str, CommandEntry]:
    def run(_: Nothing) -> int:
        raise error

    return {"try": CommandEntry(Nothing, run)}


@pytest.mark.parametrize(
    ("error", "code", "shown"),
    [
        (ValueError("a wrong value"), 2, "prog: error: a wrong value\n"),
        (OSError("a full disk"), 2, "prog: error: a full disk\n"),
        (KeyboardInterrupt(), 130, "stopped"),
    ],
)
def test_foreseen_errors_become_exit_codes(
    error: BaseException, code: int, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("prog", failing(error), ["try"]) == code
    assert shown in capsys.readouterr().err


def run_in_shell(command: str) -> tuple[int, str]:
    """Return the exit code of the pipe's first command, and what all of it printed on stderr."""
    done = subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stderr


MANY_LINES = """
import dataclasses, sys
from stage1_extract.command import CommandEntry, run_command

@dataclasses.dataclass(frozen=True)
class Print:
    \"\"\"Print much.\"\"\"

    lines: int = 100_000
    \"\"\"How much.\"\"\"

def run(arguments):
    for i in range(arguments.lines):
        print(i, file=getattr(sys, sys.argv[1]))
    return 0

sys.exit(run_command("prog", {"try": CommandEntry(Print, run)}, ["try", *sys.argv[2:]]))
"""


@pytest.mark.parametrize(
    ("words", "pipe", "code"),
    [
        ("stdout", "| head -n 1", 141),
        ("stdout", "| true", 141),
        ("stderr", "2>&1 | head -n 1", 141),
        ("stdout --lines 10", "| (sleep 0.3; cat)", 0),
        ("stdout --lines 10", "| true", 141),
        ("stdout --help", "| true", 141),
    ],
)
def test_a_reader_that_leaves_ends_the_command_silently(
    tmp_path: Path, words: str, pipe: str, code: int
) -> None:
    script = tmp_path / "script.py"
    script.write_text(MANY_LINES)
    assert run_in_shell(f"{sys.executable} {script} {words} {pipe}") == (code, "")


def test_a_broken_pipe_that_is_not_our_output_is_an_error(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_command("prog", failing(BrokenPipeError("a worker is gone")), ["try"]) == 2
    assert capsys.readouterr().err == "prog: error: a worker is gone\n"


def test_unforeseen_errors_keep_their_traceback() -> None:
    with pytest.raises(RuntimeError, match="a bug"):
        run_command("prog", failing(RuntimeError("a bug")), ["try"])


def test_traceback_can_be_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMBED_TRACEBACK", "1")
    with pytest.raises(ValueError, match="a wrong value"):
        run_command("prog", failing(ValueError("a wrong value")), ["try"])


def test_without_a_command_the_overview_comes_with_code_2(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run_main() == 2
    overview = capsys.readouterr().out
    assert run_main("--help") == 0
    assert capsys.readouterr().out == overview
    assert all(name in overview for name in ("run", "info", "verify", "compact", "manifest"))


@pytest.mark.parametrize(
    "words", [["--help"], ["run", "--help"], ["info", "--help"], ["--version"]]
)
def test_help_comes_without_keras(words: list[str]) -> None:
    script = (
        "import sys\nfrom stage1_extract.cli import main\n"
        "try:\n    code = main(sys.argv[1:])\nexcept SystemExit as stop:\n    code = stop.code\n"
        "heavy = {'keras', 'tensorflow', 'torch', 'jax'} & set(sys.modules)\n"
        "sys.exit(f'loaded {heavy}' if heavy else code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *words],
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout


def test_help_shows_each_setting_with_its_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_main("run", "--help") == 0
    shown = capsys.readouterr().out
    for field in dataclasses.fields(ExtractSettings):
        nested = dataclasses.is_dataclass(field.type)
        names = [f.name for f in dataclasses.fields(field.type)] if nested else [field.name]  # type: ignore[arg-type]
        assert all(f"--{name.replace('_', '-')}" in shown for name in names)
    assert "uniform:32" in shown


def test_module_and_script_are_the_same_program(tmp_path: Path) -> None:
    for program in (
        [sys.executable, "-m", "stage1_extract"],
        [Path(sys.executable).parent / "stage1-extract"],
    ):
        done = subprocess.run(
            [*map(str, program), "info", "nowhere"],
            capture_output=True,
            text=True,
            cwd=tmp_path,
            check=False,
        )
        assert done.returncode == 2
        assert "no store at nowhere" in done.stderr


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_are_replaced(tmp_path: Path, closed: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(
        """
import dataclasses, sys
from stage1_extract.command import CommandEntry, run_command

@dataclasses.dataclass
class Look:
    \"\"\"Look.\"\"\"

def look(_):
    print("out")
    print("err", file=sys.stderr)
    with open(sys.argv[1], "w") as file:
        file.write(str(file.fileno() > 2))
    return 3

sys.exit(run_command("prog", {"look": CommandEntry(Look, look)}, ["look"]))
"""
    )
    code, _ = run_in_shell(f"{sys.executable} {script} {tmp_path / 'seen'} {closed}")
    assert code == 3
    assert (tmp_path / "seen").read_text() == "True"
