"""Reading what the run folder of a sweep's winner says."""

import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stage2_temporal.config import TrainSettings
from stage2_temporal.request import CHANGES_NOTHING
from stage2_temporal.run_folder import RUN_FORMAT, RUN_VERSION
from stage2_temporal.run_shapes import SHAPES, check_shape
from stage2_temporal.run_tables import incomplete

WINNER = "winner"


@dataclasses.dataclass(frozen=True)
class WinnerFiles:
    """What the files of a winner's run folder say.

    Attributes:
        settings: `settings.json`.
        data: `data.json`.
        metrics: `metrics.json`.
    """

    settings: dict[str, Any]
    data: dict[str, Any]
    metrics: dict[str, Any]


def plain_settings(settings: TrainSettings) -> dict[str, Any]:
    """Return settings as a run's `settings.json` has them."""
    text = json.dumps(dataclasses.asdict(settings), default=lambda path: str(path.absolute()))
    plain: dict[str, Any] = json.loads(text)
    return plain


def comparable(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the settings that change what is learned and how it is scored."""
    return {name: settings[name] for name in settings if name not in CHANGES_NOTHING}


def read_winner(winner: Path) -> WinnerFiles:
    """Read what a winner's run folder says.

    Raises:
        ValueError: A file is not what a complete run holds.
    """
    found: dict[str, dict[str, Any]] = {}
    for name in ("settings", "data", "metrics"):
        path = winner / f"{name}.json"
        try:
            found[name] = json.loads(path.read_text("utf-8"))
        except ValueError as error:
            raise incomplete(path, f"not JSON ({error})") from error
        if name == "settings":
            _check_version(path, found[name])
        check_shape(path, found[name], SHAPES[path.name])
    return WinnerFiles(**found)


def _check_version(path: Path, settings: dict[str, Any]) -> None:
    got = (settings.get("format"), settings.get("format_version"))
    if got != (RUN_FORMAT, RUN_VERSION):
        raise incomplete(path, f"expected {RUN_FORMAT}, version {RUN_VERSION}, got {got}")
