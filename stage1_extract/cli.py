"""The command `stage1-extract`: a thin shell over the library."""

import contextlib
import dataclasses
import json
import sys
from pathlib import Path
from typing import Annotated, Any

import tyro

from stage1_extract import printing
from stage1_extract.command import (
    EXIT_DONE,
    EXIT_SOME_FAILED,
    CommandEntry,
    ManifestLocation,
    StoreAddress,
    StoreLocation,
    StorePath,
    run_command,
)
from stage1_extract.compact import SHARD_BYTES
from stage1_extract.completion import with_completion
from stage1_extract.config import ExtractSettings
from stage1_extract.layouts import LayoutName

FolderPath = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
OutPath = Annotated[Path, tyro.conf.Positional, tyro.conf.arg(metavar="OUT.csv")]


@dataclasses.dataclass(frozen=True)
class Run:
    """Embed the videos of a manifest into a store; videos that it holds already are skipped.

    Examples:
        stage1-extract run videos.csv store
        stage1-extract run videos.csv store_fps --backbone MobileNet --alpha 0.5 --sampling fps:5
        stage1-extract run videos.csv store --config extract.toml --retry-failed
    """

    manifest: ManifestLocation
    """CSV or Parquet with a column `path`, one clip a row; both may be addresses (s3://...)."""
    store: StoreLocation
    """Folder of the store, or its address; made if it is not there."""
    settings: ExtractSettings
    json: bool = False
    """Print one JSON object instead of text."""


@dataclasses.dataclass(frozen=True)
class Info:
    """Show what a store holds and how it was made.

    Examples:
        stage1-extract info store
        stage1-extract info store --json
    """

    store: StorePath
    """Folder of the store, or one shard."""
    json: bool = False
    """Print JSON."""


@dataclasses.dataclass(frozen=True)
class Verify:
    """Read every embedding of a store and compare its checksum.

    One that was broken off goes on where it was. One that found damage is not repeated in full by
    --repair.

    Examples:
        stage1-extract verify store
        stage1-extract verify store --repair
        stage1-extract verify store --restart --processes 4
    """

    store: StorePath
    """Folder of the store, or one shard."""
    repair: bool = False
    """Move damaged shards into the store's folder `quarantine`; their sound sequences stay."""
    restart: bool = False
    """Read again what a verification that was broken off, within a week, had found sound."""
    processes: int | None = None
    """How many read at the same time; default: one a core."""
    json: bool = False
    """Print JSON."""


@dataclasses.dataclass(frozen=True)
class Compact:
    """Merge the small shards of a store into large ones.

    Examples:
        stage1-extract compact store
    """

    store: StorePath
    """Folder of the store."""
    shard_mb: int = SHARD_BYTES // 10**6
    """Wanted size of a shard, in MB; those of half of it and more stay as they are."""
    json: bool = False
    """Print JSON."""


@dataclasses.dataclass(frozen=True)
class Fetch:
    """Copy a store from an address (s3://...) to the disk, or renew such a copy.

    What is there already is not fetched again, and shards that the store holds no more are removed.

    Examples:
        stage1-extract fetch s3://bucket/store store
    """

    address: StoreAddress
    """Where the store is."""
    folder: FolderPath
    """Where the copy goes; made if it is not there."""
    json: bool = False
    """Print JSON."""


@dataclasses.dataclass(frozen=True)
class Manifest:
    """Write the manifest of a folder of videos.

    Examples:
        stage1-extract manifest clips clips.csv --layout class-folders
        stage1-extract manifest . videos.csv --layout flat --overwrite
    """

    folder: FolderPath
    """Where the videos are: files, and folders of images."""
    out: OutPath
    """The CSV to write; its paths are relative to its own folder."""
    layout: LayoutName
    """class-folders (FOLDER/<label>/...), ucf101, echonet (FileList.csv, Videos/), or flat."""
    split: int | None = None
    """Which official split of ucf101: 1, 2 or 3; default: 1, if its lists are there."""
    overwrite: bool = False
    """Replace OUT.csv if it is there."""
    json: bool = False
    """Print JSON."""


def run(arguments: Run) -> int:
    """Run the extraction and print its summary."""
    from stage1_extract.extraction import extract

    try:
        # What Keras prints (downloads) must not end up in the JSON.
        with contextlib.redirect_stdout(sys.stderr if arguments.json else sys.stdout):
            summary = extract(
                arguments.manifest, arguments.store, arguments.settings, show_progress=True
            )
    except KeyboardInterrupt:
        print("What was finished is kept; run it again to go on.", file=sys.stderr)
        raise
    if arguments.json:
        extra = {"num_not_tried": summary.num_not_tried, "store": str(arguments.store)}
        _print_json({**dataclasses.asdict(summary), **extra})
    else:
        print(printing.run_text(summary, arguments.store))
    return EXIT_SOME_FAILED if summary.failures else EXIT_DONE


def info(arguments: Info) -> int:
    """Print a store's description."""
    from stage1_extract.upkeep import describe_store

    description = describe_store(arguments.store)
    if arguments.json:
        _print_json(description)
    else:
        print(printing.info_text(description))
    return EXIT_DONE


def verify(arguments: Verify) -> int:
    """Verify or repair a store and print what is wrong with it."""
    from stage1_extract.verifying import verify_store

    result = verify_store(
        arguments.store,
        repair=arguments.repair,
        restart=arguments.restart,
        processes=arguments.processes,
        show_progress=True,
    )
    if arguments.json:
        _print_json({**dataclasses.asdict(result), "sound": result.sound})
    else:
        print(printing.verify_text(result, arguments.store, repaired=arguments.repair))
    return EXIT_DONE if result.sound else EXIT_SOME_FAILED


def compact(arguments: Compact) -> int:
    """Compact a store and print what was done."""
    from stage1_extract.compact import compact_store

    result = compact_store(arguments.store, shard_bytes=arguments.shard_mb * 10**6)
    if arguments.json:
        _print_json(dataclasses.asdict(result))
    else:
        print(printing.compact_text(result))
    return EXIT_DONE


def fetch(arguments: Fetch) -> int:
    """Fetch a store and print what came."""
    from stage1_extract.fetching import fetch_store

    result = fetch_store(arguments.address, arguments.folder, show_progress=True)
    if arguments.json:
        _print_json(dataclasses.asdict(result))
    else:
        print(printing.fetch_text(result, arguments.folder))
    return EXIT_DONE


def manifest(arguments: Manifest) -> int:
    """Write a manifest and print what is in it."""
    from stage1_extract.manifest_writing import write_manifest

    written = write_manifest(
        arguments.folder,
        arguments.out,
        layout=arguments.layout,
        split=arguments.split,
        overwrite=arguments.overwrite,
    )
    if arguments.json:
        _print_json(dataclasses.asdict(written))
    else:
        print(printing.manifest_text(written))
    return EXIT_DONE


COMMANDS = with_completion(
    "stage1-extract",
    {
        "run": CommandEntry(Run, run),
        "info": CommandEntry(Info, info),
        "verify": CommandEntry(Verify, verify),
        "compact": CommandEntry(Compact, compact),
        "fetch": CommandEntry(Fetch, fetch),
        "manifest": CommandEntry(Manifest, manifest),
    },
)


def main(argv: list[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    return run_command("stage1-extract", COMMANDS, sys.argv[1:] if argv is None else argv)


def _print_json(values: dict[str, Any]) -> None:
    print(json.dumps(values, indent=2, default=str))
