"""What the sweep's report says of the winner: its test scores, and whether it is still the best."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stage2_temporal.report_words import count, verdict
from stage2_temporal.search_space import apply_parameters
from stage2_temporal.sweep_names import STORE
from stage2_temporal.sweep_report_data import SweepView
from stage2_temporal.sweep_report_winner_files import (
    WINNER,
    WinnerFiles,
    comparable,
    plain_settings,
    read_winner,
)
from stage2_temporal.sweep_report_words import base_of
from stage2_temporal.sweep_storage import TrialRecord

_MODELS = {
    "recurrent": "winner",
    "mean_pool": "mean-pool baseline",
    "features": "features-alone baseline",
}


@dataclass(frozen=True)
class WinnerView:
    """The winner as the page shows it.

    Attributes:
        files: Of its run folder.
        scores: The first target's part of `metrics.json`.
        metric: The score that the sweep optimised.
        models: What to call the models that were scored.
        clips: Test clips.
        verdict: Whether the order of frames helped, from the test clips.
        outdated: Whether it was trained from other settings than the best trial's.
    """

    files: WinnerFiles
    scores: dict[str, Any]
    metric: str
    models: dict[str, str]
    clips: str
    verdict: str
    outdated: bool

    @property
    def repeats(self) -> int:
        """From how many seeds it was trained."""
        return int(self.files.data["repeats"])


def winner_view(folder: Path, view: SweepView) -> WinnerView | None:
    """Return what there is to show of a sweep's winner; None where there is none."""
    if not (folder / WINNER / "settings.json").is_file():
        return None
    files = read_winner(folder / WINNER)
    name = files.data["targets"][0]["name"]
    scores = files.metrics["targets"][name]
    return WinnerView(
        files=files,
        scores=scores,
        metric=view.document.metric,
        models={model: text for model, text in _MODELS.items() if model in scores["test"]},
        clips=count(files.data["folds"][0]["test"]["clips"], "test clip"),
        verdict=verdict(scores, "winner"),
        outdated=_is_outdated(files, view),
    )


def _is_outdated(files: WinnerFiles, view: SweepView) -> bool:
    if view.best is None:
        return True
    trained = comparable(files.settings["settings"])
    asked = comparable(plain_settings(apply_parameters(base_of(view), view.best.parameters)))
    changed = any(trained.get(name) != asked[name] for name in asked if name != "repeats")
    return changed or files.settings["store"]["path"] != _store_of(view, view.best)


def _store_of(view: SweepView, record: TrialRecord) -> str:
    """Return the path of the store that a trial read."""
    if STORE not in record.parameters:
        return view.document.stores[0]
    names: list[str] = view.document.search[STORE]
    return view.document.stores[names.index(record.parameters[STORE])]
