"""Command lines from dataclasses: flags over the TOML file's values over defaults.

Both packages use it. A command is a dataclass whose fields, with their docstrings, are the flags.
"""

import dataclasses
import difflib
import os
import select
import shlex
import sys
import tomllib
from collections.abc import Callable, Collection, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, TextIO, TypeVar

import tyro

from stage1_extract.addresses import Address, Location, location
from stage1_extract.help_examples import split_examples
from stage1_extract.toml_text import as_toml

EXIT_DONE = 0
EXIT_SOME_FAILED = 1
EXIT_WRONG_INPUT = 2
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141

Command = TypeVar("Command")
StorePath = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="STORE")]
ManifestPath = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="MANIFEST")]


def _read_as(read: Callable[[str], Location]) -> tyro.constructors.PrimitiveConstructorSpec[Any]:
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="PATH|ADDRESS",
        instance_from_str=lambda texts: read(texts[0]),
        is_instance=lambda value: isinstance(value, Path | Address),
        str_from_instance=lambda value: [str(value)],
    )


ManifestLocation = Annotated[
    Location, _read_as(location), tyro.conf.Positional, tyro.conf.arg(metavar="MANIFEST")
]
StoreLocation = Annotated[
    Location, _read_as(location), tyro.conf.Positional, tyro.conf.arg(metavar="STORE")
]
StoreAddress = Annotated[
    Address, _read_as(Address), tyro.conf.Positional, tyro.conf.arg(metavar="ADDRESS")
]


@dataclasses.dataclass(frozen=True)
class CommandEntry:
    """A command: its dataclass, and the function that runs it and returns the exit code."""

    arguments: type[Any]
    run: Callable[[Any], int]

    @property
    def summary(self) -> str:
        """First line of the dataclass' docstring."""
        return (self.arguments.__doc__ or "").strip().splitlines()[0]


def run_command(program: str, commands: Mapping[str, CommandEntry], argv: Sequence[str]) -> int:
    """Parse the command line, run the command, and return its exit code.

    Errors of the user's making (ValueError, OSError) are printed in plain words, exit code 2. With
    EMBED_TRACEBACK=1 in the environment they keep their traceback. Where the reader of the output
    has left (`... | head`), the command ends silently, with the exit code that SIGPIPE would give.
    """
    _open_closed_streams()
    try:
        try:
            return _run(program, commands, argv)
        finally:
            sys.stdout.flush()
    except BrokenPipeError as error:
        return _stop_output(program, error)


def _open_closed_streams() -> None:
    """Have /dev/null where stdin, stdout or stderr are closed: a shard must not become stderr."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(descriptor, True)
    os.close(descriptor)
    sys.stdout = sys.stdout or os.fdopen(1, "w")
    sys.stderr = sys.stderr or os.fdopen(2, "w")


def _run(program: str, commands: Mapping[str, CommandEntry], argv: Sequence[str]) -> int:
    if not argv or argv[0] in {"-h", "--help"}:
        sys.stdout.write(_overview(program, commands))
        return EXIT_DONE if argv else EXIT_WRONG_INPUT
    if argv[0] == "--version":
        sys.stdout.write(f"{program} {version('embed-then-sequence')}\n")
        return EXIT_DONE
    if argv[0] not in commands:
        near = difflib.get_close_matches(argv[0], commands, n=1)
        hint = f"; did you mean {near[0]}?" if near else f"; commands: {', '.join(commands)}"
        return _complain(program, f"unknown command {argv[0]!r}{hint}")
    entry = commands[argv[0]]
    try:
        arguments = parse_arguments(entry.arguments, argv[1:], program=f"{program} {argv[0]}")
        return entry.run(arguments)
    except KeyboardInterrupt:
        _complain(program, "stopped")
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        raise
    except (ValueError, OSError) as error:
        if os.environ.get("EMBED_TRACEBACK"):
            raise
        return _complain(program, str(error))


def _stop_output(program: str, error: BrokenPipeError) -> int:
    """End quietly if it is our output that nobody reads; another pipe's end is an error."""
    broken = [stream for stream in (sys.stdout, sys.stderr) if _nobody_reads(stream)]
    if not broken:
        return _complain(program, str(error))
    for stream in broken:
        # What is left in the buffer would raise again when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    return EXIT_BROKEN_PIPE


def _nobody_reads(stream: TextIO) -> bool:
    try:
        descriptor = stream.fileno()
    except OSError:  # replaced by an object in memory
        return False
    poll = select.poll()
    poll.register(descriptor, 0)
    return any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


def parse_arguments(kind: type[Command], argv: Sequence[str], *, program: str) -> Command:
    """Build a command's dataclass from its flags and from `--config FILE.toml`.

    Raises:
        SystemExit: With code 2, after a message, if a flag or a value in the file is wrong.
        ValueError: The TOML file is wrong or has an unknown key.
    """
    flags, config = _take_config(list(argv))
    typed = {word.partition("=")[0].replace("_", "-") for word in flags}
    from_file = _flags_of_file(kind, config, typed) if config else []
    description, examples = split_examples(kind)
    try:
        return tyro.cli(
            kind,
            args=[*from_file, *flags],
            prog=program,
            description=f"{description}\n\nAlso takes --config FILE.toml, whose keys are the "
            "flags' names with underscores; a flag beats the file.",
            config=(tyro.conf.OmitArgPrefixes,),
        )
    except SystemExit as stop:
        if not stop.code:  # --help
            sys.stdout.write(examples)
        elif from_file:
            sys.stderr.write(f"These flags are from {config}: {shlex.join(from_file)}\n")
        raise


def _take_config(argv: list[str]) -> tuple[list[str], Path | None]:
    for i, word in enumerate(argv):
        if word == "--config":
            if i + 1 == len(argv):
                raise ValueError("--config needs the name of a TOML file")
            return argv[:i] + argv[i + 2 :], Path(argv[i + 1])
        if word.startswith("--config="):
            return argv[:i] + argv[i + 1 :], Path(word.removeprefix("--config="))
    return argv, None


def _flags_of_file(kind: type[Any], path: Path, typed: Collection[str]) -> list[str]:
    """Turn a TOML file's keys into flags, which tyro then checks like typed ones.

    Of what may be repeated, a table gives one flag for each of its keys: `NAME = value`, in TOML.
    What may be repeated is left out if it is typed too: tyro would take both.
    """
    try:
        values = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise ValueError(f"there is no settings file at {path.absolute()}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid TOML: {error}") from error
    names = _setting_names(kind)
    flags = []
    for key, value in values.items():
        if key not in names:
            near = difflib.get_close_matches(key, names, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known: {', '.join(names)}"
            raise ValueError(f"{path}: unknown setting {key!r}{hint}")
        found = _flag(path, key, value, is_repeatable=names[key])
        flags += [] if names[key] and _name_of_flag(key) in typed else found
    return flags


def _name_of_flag(key: str) -> str:
    return "--" + key.replace("_", "-")


def _flag(path: Path, key: str, value: object, *, is_repeatable: bool) -> list[str]:
    flag = _name_of_flag(key)
    if isinstance(value, bool):
        return [flag if value else flag.replace("--", "--no-", 1)]
    if isinstance(value, str | int | float):
        return [flag, str(value)]
    if is_repeatable and isinstance(value, list) and all(map(_is_text_or_number, value)):
        return [f"{flag}={one}" for one in value]
    if is_repeatable and isinstance(value, dict):
        return [f"{flag}={name} = {as_toml(one)}" for name, one in value.items()]
    expected = "text, number or truth value"
    if is_repeatable:
        expected = "text or number, or a list of such, or a table"
    raise ValueError(f"{path}: {key} is a {type(value).__name__}; expected a {expected}")


def _is_text_or_number(value: object) -> bool:
    return isinstance(value, str | int | float) and not isinstance(value, bool)


def _setting_names(kind: type[Any]) -> dict[str, bool]:
    """Return the names of all flags, and whether they may be given repeatedly.

    They are the fields of the dataclass and of those nested in it.
    """
    names: dict[str, bool] = {}
    for field in dataclasses.fields(kind):
        marks = getattr(field.type, "__metadata__", ())
        if isinstance(field.type, type) and dataclasses.is_dataclass(field.type):
            names |= _setting_names(field.type)
        elif tyro.conf.Positional not in marks:
            names[field.name] = tyro.conf.UseAppendAction in marks
    return names


def _overview(program: str, commands: Mapping[str, CommandEntry]) -> str:
    width = max(map(len, commands))
    lines = [f"  {name:<{width}}  {entry.summary}" for name, entry in commands.items()]
    return "\n".join(
        [
            f"usage: {program} COMMAND ...",
            "",
            "commands:",
            *lines,
            "",
            f"`{program} COMMAND --help` explains one; `{program} --version` prints the version.",
            "",
        ]
    )


def _complain(program: str, message: str) -> int:
    sys.stderr.write(f"{program}: error: {message}\n")
    return EXIT_WRONG_INPUT
