"""The run folder: written beside its place and moved there whole."""

import json
import math
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

RUN_FORMAT = "stage2-run"


@contextmanager
def new_run_folder(path: Path, *, overwrite: bool) -> Iterator[Path]:
    """Yield a hidden folder that takes the name `path` once the block ends well.

    Raises:
        FileExistsError: `path` exists and may not be replaced; nothing is touched.
    """
    path = path.resolve()  # "." and links get the name of the folder they mean
    check_free(path, overwrite=overwrite)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}.partial")
    partial.mkdir()
    try:
        yield partial
        _take_name(partial, path, overwrite=overwrite)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


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
        old = path.with_name(f".{path.name}.{secrets.token_hex(4)}.old")
        path.rename(old)
        partial.rename(path)
        shutil.rmtree(old)
    else:
        partial.rename(path)


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
