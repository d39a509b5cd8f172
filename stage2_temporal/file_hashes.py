"""Hashes of the files that predictions depend on, so that a run folder altered later is noticed."""

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path

from stage2_temporal.run_folder import write_json

FILE_HASHES = "files.json"
_HASHED = ("settings.json", "data.json", "model*.keras", "features*.json")


def write_file_hashes(run_folder: Path) -> None:
    """Write `files.json`: SHA-256 of settings, data, models and feature scalers."""
    found = sorted(path for pattern in _HASHED for path in run_folder.glob(pattern))
    write_json(run_folder / FILE_HASHES, {"sha256": {path.name: _hash(path) for path in found}})


def check_file_hashes(run_folder: Path, names: Iterable[str] | None = None) -> None:
    """Compare the files of a run folder with what they were when the run ended.

    Args:
        run_folder: The run folder.
        names: Files to check; None for all.

    Raises:
        FileNotFoundError: `files.json` is missing.
        ValueError: It cannot be read, or files are missing or altered; all of them are named.
    """
    known = _read(run_folder / FILE_HASHES)
    wanted = known if names is None else list(names)
    missing = [name for name in wanted if not (run_folder / name).is_file()]
    altered = [
        name
        for name in wanted
        if name not in missing and _hash(run_folder / name) != known.get(name)
    ]
    problems = [
        f"{what}: {', '.join(found)}"
        for what, found in (("missing", missing), ("altered", altered))
        if found
    ]
    if problems:
        raise ValueError(
            f"{run_folder} is not the run that was trained ({'; '.join(problems)}); copy the whole "
            "folder again, or train again"
        )


def _read(path: Path) -> dict[str, str]:
    if not path.is_file():
        raise FileNotFoundError(
            f"no {path.name} in {path.parent}; expected the whole folder that `stage2-temporal "
            "train` made"
        )
    try:
        found = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} is not JSON: {error}; copy the run folder again") from error
    hashes = found.get("sha256") if isinstance(found, dict) else None
    if not isinstance(hashes, dict) or not all(isinstance(v, str) for v in hashes.values()):
        raise ValueError(f"{path} holds no table of hashes `sha256`; copy the run folder again")
    return hashes


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
