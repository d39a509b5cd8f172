"""A sweep: which trials are run, what is recorded of them, and how it goes on after a stop."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from stage1_extract.cluster_settings import ClusterSettings
from stage2_temporal import sweep_driver
from stage2_temporal.config import TrainSettings
from stage2_temporal.search_space import SearchSpace, apply_parameters
from stage2_temporal.sweep_settings import SweepSettings
from stage2_temporal.sweep_storage import TrialRecord, best_trial, read_sweep, read_trials
from stage2_temporal.sweeping import SweepResult, sweep, sweep_notices
from tests.stage2_temporal.sweep_fakes import (
    NUM_FOLDS,
    WAITS,
    computed,
    is_gone,
    pids,
    run_fake,
    score,
    sweep_settings,
)

SEARCH = ("dropout = {low = 0.0, high = 0.9}", "units = [8, 16, 32, 64]")


def told(folder: Path) -> list[tuple[Any, ...]]:
    """What matters of the trials."""
    return [(r.number, r.state, r.value, r.parameters) for r in read_trials(folder)]


def test_trials_are_recorded_with_what_they_found(tmp_path: Path) -> None:
    assert run_fake(tmp_path, sweep_settings(*SEARCH, trials=12, sampler="random"))
    records = read_trials(tmp_path)
    assert [record.number for record in records] == list(range(12))
    base = TrainSettings(target=["label"])
    for record in records:
        expected = score(apply_parameters(base, record.parameters))
        assert (record.state, record.value) == ("complete", expected)
        assert record.by_fold == [expected] * NUM_FOLDS
        assert record.intermediate == dict.fromkeys(range(NUM_FOLDS), expected)
        assert (record.baseline, record.num_trainings, record.reason) == (0.5, NUM_FOLDS, "")
        assert record.scores == {"recurrent": {"accuracy": expected}}
    best = best_trial(records, higher_is_better=True)
    assert best is not None
    assert best.value == max(record.value or 0 for record in records)
    assert not list((tmp_path / "trials").iterdir())


def test_the_same_seed_searches_the_same(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        run_fake(tmp_path / name, sweep_settings(*SEARCH, trials=14, base={"seed": seed}))
    assert told(tmp_path / "a") == told(tmp_path / "b") != told(tmp_path / "c")


def test_the_sampler_learns(tmp_path: Path) -> None:
    """Late trials of TPE are better than its first ones, which are drawn at random."""
    run_fake(tmp_path, sweep_settings(*SEARCH, trials=40))
    values = [record.value or 0 for record in read_trials(tmp_path)]
    assert sum(values[-10:]) > sum(values[:10])


@pytest.mark.parametrize("sampler", ["tpe", "random"])
def test_going_on_is_like_never_having_stopped(tmp_path: Path, sampler: str) -> None:
    for limit in (3, 12, 14):
        run_fake(tmp_path / "parts", sweep_settings(*SEARCH, trials=limit, sampler=sampler))
        assert len(read_trials(tmp_path / "parts")) == limit
    run_fake(tmp_path / "whole", sweep_settings(*SEARCH, trials=14, sampler=sampler))
    assert told(tmp_path / "parts") == told(tmp_path / "whole")


def test_enough_trials_are_enough(tmp_path: Path) -> None:
    run_fake(tmp_path, sweep_settings(*SEARCH, trials=3))
    before = computed(tmp_path)
    assert run_fake(tmp_path, sweep_settings(*SEARCH, trials=2))
    assert computed(tmp_path) == before


# grids, repetitions


def test_a_grid_is_gone_through_in_order_and_may_be_cut(tmp_path: Path) -> None:
    search = ("units = [8, 32]", "dropout = {low = 0.0, high = 0.5, step = 0.25}")
    run_fake(tmp_path, sweep_settings(*search, sampler="grid", trials=2))
    assert len(read_trials(tmp_path)) == 2
    run_fake(tmp_path, sweep_settings(*search, sampler="grid"))
    found = [tuple(record.parameters.values()) for record in read_trials(tmp_path)]
    assert found == [(8, 0.0), (8, 0.25), (8, 0.5), (32, 0.0), (32, 0.25), (32, 0.5)]
    assert all(record.state == "complete" for record in read_trials(tmp_path))


@pytest.mark.parametrize("jobs", [1, 3])
def test_equal_settings_are_trained_once_and_a_searched_out_space_ends(
    tmp_path: Path, jobs: int
) -> None:
    settings = sweep_settings("units = [8, 16, 32]", trials=40, sampler="random", jobs=jobs)
    run_fake(tmp_path, settings, seconds=0.02)
    records = read_trials(tmp_path)
    assert sorted({record.parameters["units"] for record in records}) == [8, 16, 32]
    assert len(computed(tmp_path)) == 3 * NUM_FOLDS
    assert 3 <= len(records) < 40
    first: dict[int, TrialRecord] = {}
    for record in records:
        earlier = first.setdefault(record.parameters["units"], record)
        assert (record.state, record.value) == ("complete", earlier.value)
        if record is not earlier:
            assert record.reason.startswith(f"same settings as trial {earlier.number},")
            assert record.seconds == 0


def test_lists_and_stores_are_searched(tmp_path: Path) -> None:
    search = ("loss-weight = [[1], [2.5]]", "feature_table = ['', 'x.h5']")
    settings = sweep_settings(*search, sampler="grid", other_store=["second"])
    run_fake(tmp_path, settings)
    found = [record.parameters for record in read_trials(tmp_path)]
    assert found[0] == {"loss_weight": [1.0], "feature_table": "", "store": "first"}
    assert found[-1] == {"loss_weight": [2.5], "feature_table": "x.h5", "store": "second"}
    stores = [line.split()[-1] for line in (tmp_path / "computed").read_text().splitlines()]
    assert stores == [*["first"] * 3, *["second"] * 3] * 4


def test_settings_that_only_together_are_refused_fail_with_the_reason(tmp_path: Path) -> None:
    search = ('head = ["gru", "transformer"]', "bidirectional = [false, true]")
    run_fake(tmp_path, sweep_settings(*search, sampler="grid"))
    assert [record.state for record in read_trials(tmp_path)] == [*["complete"] * 3, "failed"]
    assert "a transformer always reads both ways" in read_trials(tmp_path)[-1].reason


# pruning


@pytest.mark.parametrize("pruner", ["median", "hyperband"])
def test_bad_trials_end_early(tmp_path: Path, pruner: str) -> None:
    values = ", ".join(str(value) for value in [32, *range(40, 600, 40)])
    settings = sweep_settings(f"units = [{values}]", sampler="grid", pruner=pruner)
    run_fake(tmp_path, settings)
    states = [record.state for record in read_trials(tmp_path)]
    assert states[0] == "complete"
    assert "pruned" in states[5:]
    for record in read_trials(tmp_path):
        if record.state == "pruned":
            assert record.value is None
            assert len(record.intermediate) < NUM_FOLDS or pruner == "median"
            assert "ended early" in record.reason


def test_without_a_pruner_none_ends_early(tmp_path: Path) -> None:
    run_fake(tmp_path, sweep_settings("units = [32, 40, 80, 160, 320, 640, 800]", sampler="grid"))
    assert all(record.state == "complete" for record in read_trials(tmp_path))


# processes


def test_processes_share_the_trials(tmp_path: Path) -> None:
    run_fake(tmp_path, sweep_settings(*SEARCH, trials=6, jobs=2), seconds=0.1)
    assert len(read_trials(tmp_path)) == 6
    assert len(set(pids(tmp_path))) == 2
    assert os.getpid() not in pids(tmp_path)


def test_no_more_processes_than_trials_are_started(tmp_path: Path) -> None:
    run_fake(tmp_path, sweep_settings(*SEARCH, trials=1, jobs=8))
    assert len(set(pids(tmp_path))) == 1


def test_a_worker_that_grew_is_replaced_after_its_trial(tmp_path: Path) -> None:
    settings = sweep_settings(*SEARCH, trials=4, jobs=1)
    assert run_fake(tmp_path, settings, one_trial_each=True)
    assert [record.state for record in read_trials(tmp_path)] == ["complete"] * 4
    assert len(set(pids(tmp_path))) == 4


# stops


def test_when_the_time_is_up_trials_wait_for_the_next_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    settings: dict[str, Any] = {"trials": 2, "hours": 1.0, "sampler": "grid"}
    search = f"units = [{WAITS}, 32]"

    def later() -> float:
        return time.monotonic() + 7200 * ((0, 1) in computed(tmp_path / "sweep"))

    with monkeypatch.context() as patch:
        patch.setattr(sweep_driver, "time", SimpleNamespace(monotonic=later))
        assert not run_fake(tmp_path / "sweep", sweep_settings(search, **settings), gate=gate)
    (record,) = read_trials(tmp_path / "sweep")
    assert (record.state, record.value, record.reason) == ("running", None, "")
    assert computed(tmp_path / "sweep") == [(0, 0), (0, 1)]
    gate.touch()
    assert run_fake(tmp_path / "sweep", sweep_settings(search, **settings), gate=gate)
    assert [record.state for record in read_trials(tmp_path / "sweep")] == ["complete"] * 2
    folds = [(0, 0), (0, 1), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]
    assert computed(tmp_path / "sweep") == folds  # what was done is not done again


def start_and_stop(folder: Path, number: signal.Signals, jobs: int) -> list[int]:
    """Stop a sweep within its third trial; return its processes."""
    argv = [sys.executable, "-m", "tests.stage2_temporal.sweep_fakes", str(folder)]
    with subprocess.Popen(
        [*argv, str(jobs), *SEARCH],
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    ) as process:
        until = time.monotonic() + 180
        while (2, 1) not in computed(folder):  # where it stands still
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.01)
        process.send_signal(number)
        process.wait(120)
    return pids(folder)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_sweep_goes_on_where_it_was(
    tmp_path: Path, number: signal.Signals, jobs: int
) -> None:
    workers = start_and_stop(tmp_path / "killed", number, jobs)
    until = time.monotonic() + 120
    while not all(map(is_gone, workers)):
        assert time.monotonic() < until, "a worker outlived its sweep"
        time.sleep(0.01)
    before = computed(tmp_path / "killed")
    assert "running" in [record.state for record in read_trials(tmp_path / "killed")]
    run_fake(tmp_path / "killed", sweep_settings(*SEARCH, trials=6, jobs=jobs))
    assert [record.state for record in read_trials(tmp_path / "killed")] == ["complete"] * 6
    again = computed(tmp_path / "killed")[len(before) :]
    assert (2, 0) not in again
    assert not list((tmp_path / "killed" / "trials").iterdir())
    if jobs == 1:
        run_fake(tmp_path / "whole", sweep_settings(*SEARCH, trials=6))
        assert told(tmp_path / "killed") == told(tmp_path / "whole")


@pytest.mark.slow
def test_ctrl_c_stops_workers_and_keeps_everything(tmp_path: Path) -> None:
    workers = start_and_stop(tmp_path / "sweep", signal.SIGINT, 2)
    assert all(map(is_gone, workers))
    run_fake(tmp_path / "sweep", sweep_settings(*SEARCH, trials=6, jobs=2))
    assert [record.state for record in read_trials(tmp_path / "sweep")] == ["complete"] * 6


# what is told


def test_each_trial_is_told_as_it_ends(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = sweep_settings("units = [32, 904]", sampler="grid")
    run_fake(tmp_path, settings, show_progress=True)
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "sweep: 2 trials (grid) of 2 combinations, 1 at a time"
    assert lines[1] == "trial 0: accuracy 0.96 (baseline 0.5) with units=32"
    assert lines[2].startswith("trial 1: failed with units=904: the loss was no number any more")


def test_without_progress_nothing_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_fake(tmp_path, sweep_settings(*SEARCH, trials=2))
    captured = capsys.readouterr()
    assert captured.out + captured.err == ""


@pytest.mark.parametrize(("kept", "is_told"), [(0, False), (1, False), (2, True)])
def test_settings_without_effect_are_told_of(tmp_path: Path, kept: int, is_told: bool) -> None:
    run_fake(tmp_path, sweep_settings(*SEARCH, trials=2), kept=kept)
    notices = sweep_notices(read_trials(tmp_path))
    assert bool(notices) is is_told
    assert not is_told or "--gain-confidence 0" in notices[0]


# settings


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trials": 0}, "trials is 0; expected 1 or more"),
        ({"jobs": 0}, "jobs is 0; expected 1 or more"),
        ({"hours": 0.0}, "hours is 0.0; expected more than 0"),
        ({"hours": float("nan")}, "hours is nan"),
        ({"refit_seeds": -1}, "refit_seeds is -1; expected 0 or more"),
        ({"validation_folds": 0}, "validation_folds is 0"),
        ({"sampler": "cma"}, "sampler is 'cma'; expected one of tpe, random, grid"),
        ({"pruner": "asha"}, "pruner is 'asha'; expected one of none, median, hyperband"),
    ],
)
def test_wrong_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        SweepSettings(TrainSettings(target=["label"]), **changes)


@pytest.mark.parametrize(
    ("base", "message"),
    [
        ({"validation": "kfold"}, "a sweep keeps one test side for the end"),
        ({"overwrite": True}, "leave --overwrite out"),
    ],
)
def test_base_settings_that_contradict_a_sweep_are_refused(
    base: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        sweep_settings(*SEARCH, base=base)


def test_devices_and_a_cluster_exclude_each_other() -> None:
    with pytest.raises(ValueError, match=r"devices is '0,1', and trials on a Ray cluster.*--ray"):
        sweep_settings(*SEARCH, base={"devices": "0,1"}, cluster=ClusterSettings(ray="auto"))


# from store and manifest to the winner

WHOLE: dict[str, Any] = {"trials": 3, "jobs": 1, "validation_folds": 2, "refit_seeds": 1}
BASE: dict[str, Any] = {
    **{"target": ["label"], "group": "patient", "gain_confidence": 0.0, "skip": False},
    **{"units": 4, "epochs": 3, "batch_size": 8, "resamples": 20, "layer_norm": False},
}
WHOLE_SEARCH = ("learning_rate = [0.001, 0.01]", 'feature_table = ["", "table.h5"]')


def whole_sweep(data: Path, folder: Path, base: dict[str, Any], **more: Any) -> SweepResult:
    settings = SweepSettings(TrainSettings(**base), WHOLE_SEARCH, **{**WHOLE, **more})
    return sweep(data / "store", data / "m.csv", folder, settings)


@pytest.fixture(scope="module")
def swept(whole_data: Path) -> Iterator[tuple[Path, SweepResult]]:
    """A sweep over learning rates, with and without side features, and what it returned."""
    with contextlib.chdir(whole_data):
        yield whole_data, whole_sweep(whole_data, whole_data / "sweep", BASE)


@pytest.mark.slow
def test_a_sweep_ends_with_a_winner(swept: tuple[Path, SweepResult]) -> None:
    _, result = swept
    assert (result.num_complete, result.num_pruned, result.num_failed) == (3, 0, 0)
    found = {path.name for path in result.folder.iterdir()}
    files = {"sweep.json", "split.csv", "optuna.log", "leaderboard.csv", "report.html", "winner"}
    assert files <= found
    assert result.best == best_trial(read_trials(result.folder), higher_is_better=True)
    assert result.winner is not None
    split = pd.read_csv(result.folder / "split.csv", dtype=str, keep_default_na=False)
    tested = pd.read_csv(result.folder / "winner" / "predictions.csv", dtype=str)
    tested = tested[tested["split"] == "test"]
    assert set(tested["video_id"]) == set(split.loc[split["side"] == "test", "video_id"])
    document = read_sweep(result.folder)
    assert document.search["feature_table"] == ["", "table.h5"]
    assert document.sides["test"]["clips"] == len(tested)
    assert document.metric == "auroc"


def test_trials_are_told_of_full_paths_and_the_search_keeps_what_was_written(
    whole_data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster's machines run programs in another folder than the command."""
    found: dict[str, Any] = {}

    def run_trials(folder: Path, space: SearchSpace, *arguments: Any, **more: Any) -> bool:
        found.update(more, folder=folder, space=space, setup=arguments[1])
        raise InterruptedError

    monkeypatch.setattr("stage2_temporal.sweeping.run_trials", run_trials)
    monkeypatch.setattr("stage2_temporal.sweeping._Call.write_tables", lambda _: None)
    monkeypatch.chdir(tmp_path)
    data = Path(os.path.relpath(whole_data, tmp_path))
    table = str(data / "table.h5")
    search = (f'feature_table = ["", "{table}"]',)
    settings = SweepSettings(TrainSettings(**BASE), search, **WHOLE)
    with pytest.raises(InterruptedError):
        sweep(data / "store", data / "m.csv", "swept", settings)
    store, manifest, _, cache = found["setup"].arguments
    assert found["folder"] == tmp_path / "swept"
    assert cache == tmp_path / "swept" / "cache"
    assert all(Path(path).is_absolute() and Path(path).exists() for path in (store, manifest))
    read = [path.resolve() for path in found["sources"]]
    assert read == [(whole_data / name).resolve() for name in ("store", "m.csv", "table.h5")]
    assert read_sweep(tmp_path / "swept").search == {"feature_table": ["", table]}
    (point,) = (point for point in found["space"].grid() if point["feature_table"])
    taken = apply_parameters(settings.base, point).feature_table
    assert taken is not None
    assert (taken.is_absolute(), taken.exists()) == (True, True)


@pytest.mark.slow
def test_the_test_side_waits_while_the_search_is_not_over(
    swept: tuple[Path, SweepResult], monkeypatch: pytest.MonkeyPatch
) -> None:
    data, result = swept
    made = (result.folder / "winner" / "metrics.json").stat().st_mtime_ns
    monkeypatch.setattr("stage2_temporal.sweeping.run_trials", lambda *_, **__: False)
    stopped = whole_sweep(data, result.folder, BASE, trials=9, refit_seeds=2)
    assert (stopped.winner, stopped.best) == (None, result.best)
    assert any("the time was up" in notice for notice in stopped.notices)
    assert (result.folder / "winner" / "metrics.json").stat().st_mtime_ns == made


@pytest.mark.slow
def test_a_split_that_changed_meanwhile_is_refused(swept: tuple[Path, SweepResult]) -> None:
    data, result = swept
    path = result.folder / "split.csv"
    before = path.read_text()
    path.write_text(before.replace("development", "test", 1))
    with pytest.raises(ValueError, match=r"split\.csv keeps other clips apart"):
        whole_sweep(data, result.folder, BASE)
    path.write_text(before)


@pytest.mark.slow
def test_the_same_command_finds_everything_done(swept: tuple[Path, SweepResult]) -> None:
    data, result = swept
    before = told(result.folder)
    made = (result.folder / "winner" / "metrics.json").stat().st_mtime_ns
    again = whole_sweep(data, result.folder, {**BASE, "workers": 2})
    assert (again.best, told(result.folder)) == (result.best, before)
    assert (result.folder / "winner" / "metrics.json").stat().st_mtime_ns == made
    more = whole_sweep(data, result.folder, BASE, trials=4, jobs=2, refit_seeds=0)
    assert (more.num_complete, more.winner) == (4, None)
    assert told(result.folder)[:3] == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("base", "more", "difference"),
    [
        ({"units": 8}, {}, "settings.units: 4 there, 8 now"),
        ({"seed": 1}, {}, "settings.seed: 0 there, 1 now"),
        ({}, {"validation_folds": 3}, "validation_folds: 2 there, 3 now"),
        ({}, {"metric": "accuracy"}, 'metric: "auroc" there, "accuracy" now'),
        ({}, {"sampler": "random"}, 'sampler: "tpe" there, "random" now'),
    ],
)
def test_another_search_in_the_same_folder_is_refused(
    swept: tuple[Path, SweepResult], base: dict[str, Any], more: dict[str, Any], difference: str
) -> None:
    data, result = swept
    before = (result.folder / "optuna.log").read_bytes()
    with pytest.raises(ValueError, match=difference):
        whole_sweep(data, result.folder, {**BASE, **base}, **more)
    assert (result.folder / "optuna.log").read_bytes() == before


@pytest.mark.parametrize(
    ("base", "more", "message"),
    [
        ({"target": ["nonsense"]}, {}, "nonsense"),
        ({}, {"metric": "speed"}, "metric 'speed' is no score"),
        ({"units": 4, "learning_rate": 0.1}, {}, "learning_rate is 0.1 for all trials"),
    ],
)
def test_wrong_data_leave_no_folder(
    whole_data: Path, tmp_path: Path, base: dict[str, Any], more: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        whole_sweep(whole_data, tmp_path / "sweep", {**BASE, **base}, **more)
    assert not (tmp_path / "sweep").exists()
