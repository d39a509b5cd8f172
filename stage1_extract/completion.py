"""Shell completion of both programs: commands, flags, choices and files, as a script to source."""

import argparse
import dataclasses
import sys
import textwrap
import types
import typing
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import tyro

from stage1_extract.command import EXIT_DONE, CommandEntry

Shell = Literal["bash", "zsh", "fish"]
COMMAND = "completion"
_FILE_NAMES = {"weights", "scratch"}
"""Settings that may name a file although their type is text."""


def with_completion(program: str, commands: Mapping[str, CommandEntry]) -> dict[str, CommandEntry]:
    """Return the commands and one more, which prints the script that completes them all."""

    @dataclasses.dataclass(frozen=True)
    class Completion:
        shell: Annotated[Shell, tyro.conf.Positional]
        """The shell you type in."""

    Completion.__doc__ = (
        "Print a script that lets the shell complete commands, flags, choices and files.\n\n"
        "Examples:\n"
        f"    {program} {COMMAND} bash > ~/.local/share/bash-completion/completions/{program}\n"
        f"    {program} {COMMAND} fish > ~/.config/fish/completions/{program}.fish\n"
        f'    eval "$({program} {COMMAND} zsh)"   # in ~/.zshrc, after compinit\n'
    )

    def run(arguments: Completion) -> int:
        sys.stdout.write(completion_script(program, everything, arguments.shell))
        return EXIT_DONE

    everything = {**commands, COMMAND: CommandEntry(Completion, run)}
    return everything


def completion_script(program: str, commands: Mapping[str, CommandEntry], shell: Shell) -> str:
    """Return the script for a shell; it needs no Python when it completes.

    Choices are a field's `Literal`, or what its dataclass names in a class variable `CHOICES`, a
    mapping from field name to texts.
    """
    import shtab

    script: str = shtab.complete(_parser(program, commands), shell=shell)
    return f"{script.rstrip()}\n"


def _parser(program: str, commands: Mapping[str, CommandEntry]) -> argparse.ArgumentParser:
    """Describe a program to shtab, which reads argparse parsers (tyro's own is to be removed)."""
    parser = argparse.ArgumentParser(prog=program)
    parser.add_argument("--version", action="version", version="", help="print the version")
    children = parser.add_subparsers(metavar="COMMAND")
    for name, entry in commands.items():
        child = children.add_parser(name, help=_plain(entry.summary))
        for field in _fields(entry.arguments):
            _add_field(child, field)
        _complete_files(child.add_argument("--config", help="TOML file of settings"))
    return parser


@dataclasses.dataclass(frozen=True)
class _Field:
    """One flag or positional argument, as far as completion knows it."""

    name: str
    types: tuple[Any, ...]
    """What its annotation is made of, the union, the list and the markers taken apart."""
    help: str
    choices: tuple[str, ...]
    marks: tuple[Any, ...]
    """Of tyro: positional, repeatable."""

    @property
    def flag(self) -> str:
        """Its name on the command line."""
        return self.name.replace("_", "-")


def _fields(kind: type[Any]) -> Iterator[_Field]:
    """Yield the fields of a command's dataclass and of those nested in it."""
    from docstring_parser import parse_from_object

    hints = typing.get_type_hints(kind, include_extras=True)
    helps = {found.arg_name: found.description for found in parse_from_object(kind).params}
    choices: Mapping[str, Any] = getattr(kind, "CHOICES", {})
    for field in dataclasses.fields(kind):
        parts = tuple(_parts(hints[field.name]))
        if dataclasses.is_dataclass(parts[0]):
            yield from _fields(parts[0])  # type: ignore[arg-type]
            continue
        literal = [part for part in parts if isinstance(part, str | int)]
        yield _Field(
            field.name,
            parts,
            _plain(helps.get(field.name) or ""),
            tuple(map(str, choices.get(field.name, literal))),
            getattr(hints[field.name], "__metadata__", ()),
        )


def _parts(hint: Any) -> Iterator[Any]:
    """Yield the types and literal values of an annotation: `Path | None` is Path and NoneType."""
    origin = get_origin(hint)
    if origin is Literal:
        yield from get_args(hint)
    elif origin is Annotated:
        yield from _parts(get_args(hint)[0])
    elif origin is not None or isinstance(hint, types.UnionType):
        for part in get_args(hint):
            yield from _parts(part)
    else:
        yield hint


def _add_field(parser: argparse.ArgumentParser, field: _Field) -> None:
    if bool in field.types:
        flags = f"--{field.flag}", f"--no-{field.flag}"
        parser.add_argument(*flags, action="store_true", help=field.help)
        return
    if tyro.conf.Positional in field.marks:
        nargs = "*" if Ellipsis in field.types else None
        action = parser.add_argument(field.name, nargs=nargs, help=field.help)
    else:
        how = "append" if tyro.conf.UseAppendAction in field.marks else "store"
        action = parser.add_argument(f"--{field.flag}", action=how, help=field.help)
    if field.choices:
        action.choices = field.choices
    elif Path in field.types or field.name in _FILE_NAMES:
        _complete_files(action)


def _complete_files(action: argparse.Action) -> None:
    import shtab

    action.complete = shtab.FILE  # type: ignore[attr-defined]


def _plain(text: str) -> str:
    """Return a short line as argparse takes it, where a % is written twice."""
    return textwrap.shorten(text, 100, placeholder=" ...").rstrip(".").replace("%", "%%")
