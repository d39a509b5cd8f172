"""The run folder: made beside its place under a hidden name, and moved there whole.

The hidden name follows from what was asked for. So a run that was killed goes on where it was when
the same is asked again, and another request begins anew.
"""

import fcntl
import hashlib
import json
import math
import re
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

RUN_FORMAT = "stage2-run"
RUN_VERSION = 3
PREFIXES = {"recurrent": "", "mean_pool": "baseline_", "features": "features_"}
"""Of the columns that each model has in the tables of predictions."""
PROGRESS = "progress"
"""Folder within an unfinished run for what is needed to go on."""

_LOCK = "lock"
_PARTIAL = ".partial"
_DIGITS = 12


@contextmanager
def new_run_folder(
    path: Path, *, overwrite: bool, request: Mapping[str, Any] | None = None
) -> Iterator[Path]:
    """Yield a hidden folder that takes the name `path` once the block ends well.

    If the block is stopped (killed, Ctrl-C, full disk), the folder stays, and is yielded again for
    an equal request; so it is if another folder took the name meanwhile. After any other error it
    is removed, unless it holds finished work (`.npz` in its progress folder).

    Args:
        path: The run folder.
        overwrite: Whether it may be replaced.
        request: Everything that the result follows from.

    Raises:
        FileExistsError: `path` exists and may not be replaced; nothing is touched.
        ValueError: Another process is at the same run.
    """
    path = path.resolve()  # "." and links get the name of the folder they mean
    check_free(path, overwrite=overwrite)
    partial = path.with_name(f".{path.name}.{_digest(request or {})}{_PARTIAL}")
    with _locked(partial, path):
        try:
            (partial / PROGRESS).mkdir(exist_ok=True)
            yield partial
            check_free(path, overwrite=overwrite)  # before what is needed to go on is removed
            shutil.rmtree(partial / PROGRESS)
            (partial / _LOCK).unlink()
            _take_name(partial, path, overwrite=overwrite)
        except (OSError, MemoryError):
            raise
        except Exception:
            if not any((partial / PROGRESS).glob("*.npz")):
                shutil.rmtree(partial, ignore_errors=True)
            raise
    _remove_abandoned(path)


def _digest(request: Mapping[str, Any]) -> str:
    text = json.dumps(request, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:_DIGITS]


@contextmanager
def _locked(partial: Path, path: Path) -> Iterator[None]:
    partial.mkdir(parents=True, exist_ok=True)
    with (partial / _LOCK).open("w") as lock:
        if not _lock(lock):
            raise ValueError(
                f"another process is training {path} with the same settings; wait for it, or "
                "choose another run folder"
            )
        yield


def _lock(file: Any) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _remove_abandoned(path: Path) -> None:
    """Remove what killed runs of other settings left behind under this name, replaced runs too."""
    start = rf"\.{re.escape(path.name)}\.[0-9a-f]"
    unfinished = re.compile(rf"{start}{{{_DIGITS}}}{re.escape(_PARTIAL)}")
    replaced = re.compile(rf"{start}{{8}}\.old")
    for found in path.parent.iterdir():
        if unfinished.fullmatch(found.name):
            _remove_unless_locked(found)
        elif replaced.fullmatch(found.name):
            shutil.rmtree(found, ignore_errors=True)


def _remove_unless_locked(partial: Path) -> None:
    try:
        with (partial / _LOCK).open("w") as lock:
            if _lock(lock):
                shutil.rmtree(partial, ignore_errors=True)
    except OSError:  # its own process ended meanwhile, or it is another user's
        return


def check_free(path: Path, *, overwrite: bool) -> None:
    """Refuse a run folder that exists, unless it may be replaced and is one.

    Raises:
        FileExistsError: The folder is there.
    """
    if not path.exists():
        return
    if not overwrite:
        raise FileExistsError(f"{path} exists; choose another run folder, or give --overwrite")
    if not _is_run_folder(path):
        raise FileExistsError(f"{path} is not a run folder and is not replaced; choose another")


def _is_run_folder(path: Path) -> bool:
    try:
        settings = json.loads((path / "settings.json").read_text("utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(settings, dict) and settings.get("format") == RUN_FORMAT


def _take_name(partial: Path, path: Path, *, overwrite: bool) -> None:
    check_free(path, overwrite=overwrite)
    if path.exists():
        replace_folder(partial, path)
    else:
        partial.rename(path)


def replace_folder(partial: Path, path: Path) -> None:
    """Let a folder take the name of another, which is removed.

    A kill in between may leave the other one beside it, as `.NAME.xxxxxxxx.old`.
    """
    old = path.with_name(f".{path.name}.{secrets.token_hex(4)}.old")
    path.rename(old)
    partial.rename(path)
    shutil.rmtree(old)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write indented JSON; NaN and infinity, which JSON lacks, become null."""
    text = json.dumps(_without_nan(content), indent=2, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", "utf-8")


def _without_nan(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_nan(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
