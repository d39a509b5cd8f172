import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stage2_temporal.partition import load_data
from stage2_temporal.sweep_settings import SweepSettings
from stage2_temporal.sweep_storage import TrialRecord
from stage2_temporal.winner import refit_winner
from tests.stage2_temporal.synthetic import ordered, quick, write_manifest, write_store
from tests.stage2_temporal.written_sweeps import record

pytestmark = pytest.mark.slow
BASE: dict[str, Any] = {"group": "patient", "epochs": 1, "resamples": 5, "strips": False}


@dataclasses.dataclass(frozen=True)
class Sweep:
    """A folder that holds what a refit reads, and what was asked for."""

    folder: Path
    data: Path
    settings: SweepSettings

    def refit(self, best: TrialRecord, **changes: Any) -> Any:
        settings = dataclasses.replace(self.settings, **changes)
        return refit_winner(self.folder, self.data / "store", self.data / "m.csv", settings, best)

    def written(self, name: str) -> Any:
        return json.loads((self.folder / "winner" / name).read_text())


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two stores of the same clips, and their manifest."""
    folder = tmp_path_factory.mktemp("clips")
    for name, seed in (("store", 0), ("other", 1)):
        write_store(folder / name, ordered(32, seed=seed)[0])
    sequences, classes = ordered(32)
    patients = [f"p{n // 2:02d}" for n in range(32)]
    write_manifest(folder / "m.csv", list(sequences), label=classes, patient=patients)
    return folder


@pytest.fixture
def sweep(tmp_path: Path, clips: Path) -> Sweep:
    base = quick(**BASE)
    data = load_data(clips / "store", clips / "m.csv", base)
    side = np.full(32, "development")
    side[data.partition.folds[0].test] = "test"
    table = {"video_id": data.clips.video_ids, "group": "", "side": side, "fold": ""}
    pd.DataFrame(table).to_csv(tmp_path / "split.csv", index=False)
    return Sweep(tmp_path, clips, SweepSettings(base, refit_seeds=2))


def test_the_best_settings_are_trained_and_score_the_clips_kept_apart(sweep: Sweep) -> None:
    result = sweep.refit(record(7, 0.8, parameters={"units": 6, "crop": 0.9}))
    assert result.folder == sweep.folder / "winner"
    settings = sweep.written("settings.json")["settings"]
    assert (settings["units"], settings["augmentation"]["crop"], settings["repeats"]) == (6, 0.9, 2)
    kept_apart = pd.read_csv(sweep.folder / "split.csv").query("side == 'test'")["video_id"]
    split = pd.read_csv(sweep.folder / "winner/split.csv").query("split == 'test'")["video_id"]
    assert sorted(split) == sorted(kept_apart)
    assert np.isfinite(result.scores["test"]["recurrent"]["auroc"].value)
    assert "settings of trial 7" in result.notices[0]


def test_an_equal_winner_is_kept_and_another_replaced(sweep: Sweep) -> None:
    best = record(7, 0.8, parameters={"units": 6})
    first = sweep.refit(best)
    place = (sweep.folder / "winner").stat().st_ino
    again = sweep.refit(best, base=dataclasses.replace(sweep.settings.base, workers=2))
    assert (sweep.folder / "winner").stat().st_ino == place
    np.testing.assert_equal(dataclasses.asdict(again), dataclasses.asdict(first))
    sweep.refit(best, refit_seeds=1)
    assert sweep.written("settings.json")["settings"]["repeats"] == 1


def test_the_best_trials_store_is_read(sweep: Sweep) -> None:
    other = str(sweep.data / "other")
    sweep.refit(record(0, 0.8, parameters={"store": other}), refit_seeds=1)
    assert sweep.written("settings.json")["store"]["path"] == other


@pytest.mark.parametrize(
    ("side", "message"),
    [
        ("test", r"1 clips would not be tested, like clip\d+"),
        ("development", r"1 clips would be tested that the search may have seen, like clip\d+"),
    ],
)
def test_other_test_clips_are_refused_before_any_training(
    sweep: Sweep, side: str, message: str
) -> None:
    path = sweep.folder / "split.csv"
    table = pd.read_csv(path, keep_default_na=False)
    table.loc[int(np.flatnonzero(table["side"] != side)[0]), "side"] = side
    table.to_csv(path, index=False)
    with pytest.raises(ValueError, match=message):
        sweep.refit(record(0, 0.8, parameters={"units": 6}))
    assert not (sweep.folder / "winner").exists()


def test_a_folder_that_is_no_run_is_not_replaced(sweep: Sweep) -> None:
    (sweep.folder / "winner").mkdir()
    (sweep.folder / "winner/notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match="not a run folder"):
        sweep.refit(record(0, 0.8, parameters={"units": 6}))
    assert (sweep.folder / "winner/notes.txt").read_text() == "mine"
    shutil.rmtree(sweep.folder / "winner")


def test_no_refit_without_seeds(sweep: Sweep) -> None:
    with pytest.raises(ValueError, match="refit_seeds is 0"):
        sweep.refit(record(0, 0.8), refit_seeds=0)
