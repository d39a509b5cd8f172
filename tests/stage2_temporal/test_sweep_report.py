import dataclasses
import html
import re
import shlex
import time
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import create_trial

from stage2_temporal.search_space import SearchSpace
from stage2_temporal.sweep_report import write_sweep_report
from stage2_temporal.sweep_report_data import (
    SweepView,
    best_so_far,
    evenly,
    limits_of,
    setting_of,
    steps_of_fold,
)
from stage2_temporal.sweep_report_importance import importances_of
from stage2_temporal.sweep_report_winner_files import plain_settings
from stage2_temporal.sweep_report_words import base_of, duration, timing
from stage2_temporal.sweep_storage import SweepDocument, TrialRecord, read_sweep
from tests.stage2_temporal.test_report import Page, svgs_of
from tests.stage2_temporal.written_runs import edit, make_run
from tests.stage2_temporal.written_sweeps import BEGAN, SEARCH, document, record, write_sweep


def trials(count: int, seed: int = 0) -> list[TrialRecord]:
    """Complete trials, every seventh pruned and every ninth failed; small rates are good."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        rate = float(10 ** rng.uniform(-4, -2))
        parameters = {
            "learning_rate": rate,
            "units": [16, 32, 64][int(rng.integers(3))],
            "head": ["gru", "lstm"][int(rng.integers(2))],
        }
        value = 0.8 - 0.02 * np.log10(rate / 1e-4) + float(rng.normal(0, 0.002))
        one = record(number, value, parameters=parameters, kept_baseline=number % 3)
        if number % 9 == 8:
            one = record(number, parameters=parameters, reason=f"reason {number}")
        elif number % 7 == 6:
            part = {step: v for step, v in one.intermediate.items() if step < 9}
            one = record(number, parameters=parameters, state="pruned", intermediate=part)
        found.append(one)
    return found


def view_of(records: list[TrialRecord], search: Any = SEARCH, **changes: Any) -> SweepView:
    written = document(search, **changes)
    names = [field.name for field in dataclasses.fields(SweepDocument)]
    return SweepView.of(SweepDocument(**{name: written[name] for name in names}), records)


SWEEPS: list[tuple[list[TrialRecord], dict[str, Any]]] = [
    ([], {}),
    ([record(0), record(1, state="pruned")], {}),
    ([record(0, 0.8)], {}),
    ([record(n, 0.8) for n in range(4)], {"search": {"units": [16, 32]}}),
    (trials(40), {}),
    (trials(12), {"validation_folds": 1}),
    (trials(12), {"metric": "mae", "higher_is_better": False, "stores": ["/a", "/b"]}),
]


@pytest.mark.parametrize(("records", "changes"), SWEEPS)
def test_page_is_well_formed_and_loads_nothing(
    tmp_path: Path, records: list[TrialRecord], changes: dict[str, Any]
) -> None:
    search = changes.get("search", SEARCH)
    kept = [
        dataclasses.replace(r, parameters={n: v for n, v in r.parameters.items() if n in search})
        for r in records
    ]
    path = write_sweep_report(write_sweep(tmp_path, kept, **changes))
    page = Page(path)
    assert path == tmp_path / "report.html"
    assert all(image["alt"] for image in page.images)
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert not page.scripts
    assert page.policy.startswith("default-src 'none';")
    assert "script-src" not in page.policy
    assert not re.search(r"https?://|url\(|@import", page.source)
    assert bool(page.images) == any(r.value is not None or r.intermediate for r in kept)


def test_page_says_what_was_asked_and_found(tmp_path: Path) -> None:
    records = [
        record(0, 0.70, parameters={"learning_rate": 1e-3, "units": 16, "head": "gru"}),
        record(1, 0.875, parameters={"learning_rate": 2e-3, "units": 64, "head": "lstm"}),
        record(2, 0.75, kept_baseline=5, epochs=[0] * 5),
        record(3, reason="diverged"),
    ]
    text = Page(write_sweep_report(write_sweep(tmp_path, records))).text
    for expected in (
        "Search for abnormal: 4 trials of 3 settings",
        "3 complete, 1 failed",
        "AUROC, on 5 folds of 203 development clips, pooled",
        "best trial (1) 0.875 mean-pool baseline 0.750",
        "The best trial is 0.125 better than the mean-pool baseline",
        "it is the best of 3 trials, chosen by the very clips that it is measured on",
        "No winner has been trained yet",
        "group patient",
        "development clips 203 of 61 groups test clips 47 of 17 groups",
        "learning_rate 0.0001 to 0.01, logarithmic 0.002",
        "units 16, 32, 64 64",
        "5 of 15 trainings in complete trials kept the mean-pool baseline",
        "so did all trainings of 1 of 3 trials",
        "1 1 0.875 0.750 0.125 0.855 to 0.895 0.002 64 lstm 0 of 5 120 s",
        "3 diverged",
        "clip_8 ended early",
        "keras 3.12.7",
        "stage2-temporal sweep /stores/a /clips.csv",
    ):
        assert expected in text, expected


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", '"><img src=x>', "$x_{", "=A1"])
def test_hostile_texts_are_escaped(tmp_path: Path, hostile: str) -> None:
    records = [
        record(n, 0.7 + n / 100, parameters={"head": h}) for n, h in enumerate(["gru", hostile])
    ]
    records.append(record(2, parameters={"head": hostile}, reason=hostile))
    search = {"head": ["gru", hostile]}
    page = Page(
        write_sweep_report(write_sweep(tmp_path, records, search=search, notices=[hostile]))
    )
    assert hostile in page.text
    assert not page.scripts
    assert "<script" not in "".join(svgs_of(page))
    assert all((image["src"] or "").startswith("data:") for image in page.images)


def test_the_command_reads_back_as_the_same_search(tmp_path: Path) -> None:
    write_sweep(tmp_path, trials(3), pruner="median")
    page = Page(write_sweep_report(tmp_path))
    words = shlex.split(html.unescape(page.source.split("<pre><code>")[1].split("<")[0]))
    searched = [word.removeprefix("--search=") for word in words if word.startswith("--search=")]
    base = base_of(SweepView.of(read_sweep(tmp_path), []))
    assert SearchSpace.parse(searched, base).shown == SEARCH
    assert words[:2] == ["stage2-temporal", "sweep"]
    assert {"--target=abnormal", "--group=patient", "--pruner=median"} <= set(words)


def with_winner(folder: Path, **settings: Any) -> Path:
    write_sweep(folder, [record(0, 0.8, parameters={"units": 32}), record(1, 0.7)])
    (folder / "winner").mkdir()
    make_run(folder / "winner", repeats=3)
    plain = plain_settings(base_of(SweepView.of(read_sweep(folder), [])))
    edit(folder / "winner/settings.json", "settings", value=plain | {"units": 32} | settings)
    edit(folder / "winner/settings.json", "store", "path", value="/stores/a")
    return folder


def test_the_winners_test_scores_are_shown_with_intervals(tmp_path: Path) -> None:
    text = Page(write_sweep_report(with_winner(tmp_path))).text
    assert "AUROC, on 19 test clips that the search never saw, mean of 3 seeds" in text
    assert "winner 0.912 95% interval 0.843 to 0.964" in text
    assert "AUROC 0.912 [0.843, 0.964] 0.876 [0.790, 0.940] 0.036 [-0.021, 0.093]" in text
    assert "The test score is not: those clips took no part in choosing settings." in text
    assert "other settings than those of the best trial" not in text


@pytest.mark.parametrize("changed", [{"units": 16}, {"head": "lstm"}])
def test_a_winner_of_other_settings_is_said_to_be_outdated(
    tmp_path: Path, changed: dict[str, Any]
) -> None:
    text = Page(write_sweep_report(with_winner(tmp_path, **changed))).text
    assert "other settings than those of the best trial" in text


def test_a_damaged_winner_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    with_winner(tmp_path)
    (tmp_path / "winner/metrics.json").write_text("{}")
    with pytest.raises(ValueError, match=r"metrics\.json"):
        write_sweep_report(tmp_path)


def test_the_same_sweep_is_the_same_page(tmp_path: Path) -> None:
    write_sweep(tmp_path, trials(30))
    pages = [write_sweep_report(tmp_path).read_bytes() for _ in range(2)]
    assert pages[0] == pages[1]


@pytest.mark.slow
def test_thousands_of_trials_make_a_page_of_moderate_size(tmp_path: Path) -> None:
    short = [dataclasses.replace(r, intermediate={0: 0.5, 4: 0.6}) for r in trials(5000)]
    write_sweep(tmp_path, short)
    start = time.process_time()
    path = write_sweep_report(tmp_path)
    assert path.stat().st_size < 5_000_000
    assert time.process_time() - start < 120
    text = Page(path).text
    assert "The best 50 of " in text
    assert "Drawn: 1,500 of " in text


def study_of(count: int, value: Any) -> list[Any]:
    rng = np.random.default_rng(0)
    kinds = {
        "rate": FloatDistribution(1e-4, 1.0, log=True),
        "head": CategoricalDistribution(["a", "b"]),
        "width": IntDistribution(1, 8),
    }
    study = optuna.create_study()
    for _ in range(count):
        params = {
            "rate": float(10 ** rng.uniform(-4, 0)),
            "head": "ab"[int(rng.integers(2))],
            "width": int(rng.integers(1, 9)),
        }
        study.add_trial(create_trial(params=params, distributions=kinds, value=value(params)))
    return list(study.trials)


def test_importances_are_the_planted_shares_of_the_variance() -> None:
    # log10(rate) is uniform over 4 decades, of variance 16/12; a choice of 0 or 2 has variance 1.
    found = importances_of(study_of(150, lambda p: np.log10(p["rate"]) + 2 * (p["head"] == "a")))
    assert found.shares["rate"] == pytest.approx(4 / 7, abs=0.1)
    assert found.shares["head"] == pytest.approx(3 / 7, abs=0.1)
    assert found.shares["width"] < 0.05
    assert list(found.shares)[-1] == "width"


@pytest.mark.parametrize(
    ("count", "value", "why"),
    [
        (0, lambda _: 1.0, "there are 0"),
        (1, lambda _: 1.0, "there are 1"),
        (5, lambda _: 1.0, "all 5 complete trials have the same value"),
    ],
)
def test_missing_importances_say_why(count: int, value: Any, why: str) -> None:
    found = importances_of(study_of(count, value))
    assert not found.shares
    assert why in found.why_missing


def test_best_so_far_changes_where_a_better_value_comes() -> None:
    numbers, values = np.arange(6), np.array([3.0, 2.0, 5.0, 4.0, 6.0, 1.0])
    rising = best_so_far(numbers, values, higher_is_better=True)
    assert [list(part) for part in rising] == [[0, 2, 4, 5], [3, 5, 6, 6]]
    falling = best_so_far(numbers, values, higher_is_better=False)
    assert [list(part) for part in falling] == [[0, 1, 5], [3, 2, 1]]


def test_far_out_values_do_not_stretch_an_axis() -> None:
    values = np.array([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 1000.0])
    low, high = limits_of(values, None) or (0, 0)
    assert (low, high) == pytest.approx((0.7, 7.3))  # 5 % beyond 1 and 7
    assert limits_of(values[:3], 9.0) == pytest.approx((0.6, 9.4))
    assert limits_of(np.array([np.nan]), None) is None


def test_evenly_keeps_the_ends() -> None:
    assert evenly(range(10), 4) == [0, 3, 6, 9]
    assert evenly("abc", 4) == ["a", "b", "c"]


def test_a_setting_that_a_trial_lacks_is_a_gap() -> None:
    records = [record(0, 0.8, parameters={"head": "lstm"}), record(1, 0.8, parameters={})]
    choices = setting_of("head", ["gru", "lstm"], records)
    np.testing.assert_array_equal(choices.values, [1, np.nan])
    lists = setting_of("feature", [["a", "b"], []], [record(0, 0.8, parameters={"feature": []})])
    assert lists.labels == ["a, b", "none"]
    assert lists.values.tolist() == [1]
    rates = [record(n, 0.8, parameters={"rate": 10.0**-n}) for n in (2, 4, 3)]
    share = setting_of("rate", SEARCH["learning_rate"], rates).share
    assert share == pytest.approx([1, 0, 0.5])


def test_steps_of_a_fold_follow_from_complete_trials() -> None:
    assert steps_of_fold(view_of([record(0, 0.8)])) == 4  # 20 reports in 5 folds
    assert steps_of_fold(view_of([record(0)])) is None


def test_timing_counts_work_and_not_breaks() -> None:
    two_at_once = [record(n, 0.8, started=BEGAN, seconds=1800.0) for n in range(2)]
    next_day = record(2, 0.8, started=BEGAN + timedelta(days=1), seconds=1800.0)
    text = timing(view_of([*two_at_once, next_day]))
    # Three trials in an hour of work, of 1.5 hours of training.
    assert text.startswith("3 trials ended in 1 h 0 min of work, 3 an hour, 1.5 at the same time")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(3.21, "3.2 s"), (59.0, "59 s"), (200.4, "3 min 20 s"), (7500, "2 h 5 min")],
)
def test_durations_are_words(seconds: float, text: str) -> None:
    assert duration(seconds) == text
