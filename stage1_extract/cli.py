"""The command `stage1-extract`: a thin shell over the library."""

import dataclasses
import json
import sys
from typing import Any

from stage1_extract.command import (
    EXIT_DONE,
    EXIT_SOME_FAILED,
    CommandEntry,
    ManifestPath,
    StorePath,
    run_command,
)
from stage1_extract.config import ExtractSettings

_SHOWN = 10


@dataclasses.dataclass(frozen=True)
class Run:
    """Embed the videos of a manifest into a store; videos that it holds already are skipped."""

    manifest: ManifestPath
    """CSV or Parquet with a column `path`, one clip a row."""
    store: StorePath
    """Folder of the store; made if it is not there."""
    settings: ExtractSettings


@dataclasses.dataclass(frozen=True)
class Info:
    """Show what a store holds and how it was made."""

    store: StorePath
    """Folder of the store, or one shard."""
    json: bool = False
    """Print JSON."""


@dataclasses.dataclass(frozen=True)
class Verify:
    """Read every embedding of a store and compare its checksum."""

    store: StorePath
    """Folder of the store, or one shard."""
    json: bool = False
    """Print JSON."""


def run(arguments: Run) -> int:
    """Run the extraction and print its summary."""
    from stage1_extract.extract import extract

    try:
        summary = extract(
            arguments.manifest, arguments.store, arguments.settings, show_progress=True
        )
    except KeyboardInterrupt:
        print("What was finished is kept; run it again to go on.", file=sys.stderr)
        raise
    speed = summary.num_frames / max(summary.seconds, 1e-9)
    print(
        f"{summary.num_clips} clips: {summary.num_stored} embedded now, {summary.num_present} "
        f"already there, {len(summary.failures)} failed; {summary.num_frames} frames in "
        f"{summary.seconds:.1f} s ({speed:.0f} frames/s)"
    )
    if summary.num_not_tried:
        print(f"Stopped at the first failure: {summary.num_not_tried} clips were not tried.")
    _print_some("to look at", summary.notes)
    _print_some("failed", [f"{f.video_id}: {f.reason}" for f in summary.failures])
    if summary.failures:
        print(f"All failures: {arguments.store}/failures.jsonl; --retry-failed tries them again.")
    print(f"Store: {arguments.store} (fingerprint {summary.fingerprint})")
    return EXIT_SOME_FAILED if summary.failures else EXIT_DONE


def info(arguments: Info) -> int:
    """Print a store's description."""
    from stage1_extract.upkeep import describe_store

    description = describe_store(arguments.store)
    print(json.dumps(description, indent=2) if arguments.json else _as_text(description))
    return EXIT_DONE


def verify(arguments: Verify) -> int:
    """Verify a store and print what is wrong with it."""
    from stage1_extract.upkeep import verify_store

    result = verify_store(arguments.store)
    if arguments.json:
        print(json.dumps({**dataclasses.asdict(result), "sound": result.sound}, indent=2))
    elif result.sound:
        print(f"{result.num_sequences} sequences, every checksum right")
    else:
        _print_some("unreadable shards", result.bad_shards)
        _print_some("sequences whose embeddings changed", result.bad_sequences)
        print("Move the named shards away and run `stage1-extract run` again.")
    return EXIT_DONE if result.sound else EXIT_SOME_FAILED


COMMANDS = {
    "run": CommandEntry(Run, run),
    "info": CommandEntry(Info, info),
    "verify": CommandEntry(Verify, verify),
}


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command("stage1-extract", COMMANDS, sys.argv[1:] if argv is None else argv)


def _print_some(title: str, lines: "tuple[str, ...] | list[str]") -> None:
    if not lines:
        return
    print(f"{len(lines)} {title}:")
    for line in lines[:_SHOWN]:
        print(f"  {line}")
    if len(lines) > _SHOWN:
        print(f"  and {len(lines) - _SHOWN} more")


def _as_text(values: dict[str, Any], indent: str = "") -> str:
    lines = []
    for name, value in values.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name}:", _as_text(value, indent + "  ")]
        else:
            lines.append(f"{indent}{name}: {value}")
    return "\n".join(lines)
