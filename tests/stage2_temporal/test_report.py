import base64
import hashlib
import re
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stage2_temporal.report import write_report
from stage2_temporal.report_mistakes import most_wrong
from stage2_temporal.report_words import (
    display_name,
    features_verdict,
    format_number,
    score_name,
    verdict,
)
from stage2_temporal.shown_clips import ShownClips
from tests.marks import slow, xslow
from tests.stage2_temporal.written_runs import FILES, edit, make_many, make_run, score, write_clips

VOID = {"meta", "img", "br", "link", "input", "hr"}
SCORES = ("targets", "abnormal", "test")


class Page(HTMLParser):
    """The text, images and resource addresses of a page whose every tag is closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open_tags: list[str] = []
        self.addresses: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.cells: list[str] = []
        self.scripts: list[str] = []
        self.policy = ""
        self.source = path.read_text(encoding="utf-8")
        self.feed(self.source)
        self.close()
        assert self.open_tags == []
        self.text = " ".join(" ".join(self.cells).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in VOID:
            self.open_tags.append(tag)
        if tag == "img":
            self.images.append(dict(attrs))
        loads = {"src", "href", "srcset", "action", "data", "poster"}
        self.addresses += [value or "" for name, value in attrs if name in loads]
        if tag == "meta" and dict(attrs).get("http-equiv"):
            self.policy = dict(attrs)["content"] or ""
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags.pop() == tag

    def handle_data(self, data: str) -> None:
        if "script" in self.open_tags:
            self.scripts.append(data)
        elif "style" not in self.open_tags:
            self.cells.append(data)


def svgs_of(page: Page) -> list[str]:
    found = [address for address in page.addresses if address.startswith("data:image/svg")]
    return [base64.b64decode(address.split(",")[1]).decode("utf-8") for address in found]


RUNS: list[tuple[str, dict[str, Any]]] = [
    ("binary", {}),
    ("binary", {"folds": 3, "repeats": 2, "features": True, "second": "regression"}),
    ("multiclass", {"classes": ["covid", "pneumonia", "healthy", "other"], "members": 3}),
    ("multiclass", {"classes": [f"action {i}" for i in range(30)]}),
    ("multilabel", {"classes": ["cough", "fever", "a+b"]}),
    ("regression", {"folds": 25, "group": None, "second": "multilabel"}),
]


@pytest.mark.parametrize(("task", "options"), RUNS)
def test_page_is_well_formed_and_loads_nothing(
    tmp_path: Path, task: str, options: dict[str, Any]
) -> None:
    path = write_report(make_run(tmp_path, task, **options))
    page = Page(path)
    assert path == tmp_path / "report.html"
    assert page.images
    assert all(image["alt"] for image in page.images)
    assert all(address.startswith(("data:image/", "#")) for address in page.addresses)
    assert not re.search(r"https?://|url\(|@import", page.source)
    assert path.stat().st_size < 1_000_000


def test_one_script_alone_may_run(tmp_path: Path) -> None:
    page = Page(write_report(make_run(tmp_path)))
    [script] = page.scripts
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{digest}'" in page.policy
    assert page.policy.startswith("default-src 'none';")
    assert "unsafe-inline' script" not in page.policy


def test_contents_lead_to_sections(tmp_path: Path) -> None:
    for second in (None, "regression"):
        page = Page(write_report(make_run(tmp_path, second=second)))
        anchors = [address[1:] for address in page.addresses if address.startswith("#")]
        assert len(anchors) >= 7
        assert all(f'id="{anchor}"' in page.source for anchor in anchors)


def test_images_load_nothing_either(tmp_path: Path) -> None:
    for svg in svgs_of(Page(write_report(make_run(tmp_path)))):
        assert not re.search(r"(href|src)=\"https?:|url\(http|@import|<script", svg)


def test_page_shows_what_the_run_holds(tmp_path: Path) -> None:
    text = Page(write_report(make_run(tmp_path))).text
    for expected in (
        "abnormal from 130 clips, grouped by patient",  # 90 + 21 + 19
        "0.912 [0.843, 0.964]",
        "0.876 [0.790, 0.940]",
        "without intervals. score recurrent model mean-pool baseline AUROC 0.800",
        "by the mean prediction of its clips: 13 of them, 2 more left out",
        "fold 0 90 (51) 21 (11) 19 (13)",
        "class train validation test 0 21 22 23",
        "oversample abnormal: 31 -> 59",
        "No two clips of different groups and sides have mean embeddings with a cosine of 0.999",
        "A clip is positive from a probability of 0.5",
        "The weights of epoch 2 were kept",
        "blank target 7",
        "clip_8 ended early",
        "min 12, median 48.5, max 96",
        "lo 31 59",
        "units 64",
        "positive none",
        "backbone MobileNetV2",
        "keras 3.12.7",
        "5plit5ha",
        "f1nger",
        "mani5ha",
        "stage2-temporal train S M R --target abnormal",
        "No clear difference: the recurrent model minus the average of the frames is 0.036",
    ):
        assert expected in text


def test_folds_and_repeats_are_shown(tmp_path: Path) -> None:
    run = make_run(tmp_path, folds=3, repeats=2, members=2)
    edit(run / "metrics.json", *SCORES, "recurrent", "auroc", "spread", value=0.0123)
    text = Page(write_report(run)).text
    for expected in (
        "AUROC, 21 test clips, 3 folds, mean of 2 repeats",
        "± 0.012 over 2 repeats",
        "Cross-validation in 3 folds: each clip is tested once; no patient is on two sides",
        "In each fold 2 models trained",
        "Of 2 repeats, the first is shown",
        "fold 2 1 0.520 0.520",  # repeat 1 of the last fold
        "Of 12 trainings, the weights of epoch 2 were kept",
        "fold 1 1 0 2 3 0.600",  # fold, member, repeat, kept and last epoch, its loss
    ):
        assert expected in text


def test_figures_count_each_clip_once(tmp_path: Path) -> None:
    # In repeat 0 all clips are predicted as class 0, in repeat 1 all as class 1.
    images = Page(write_report(make_run(tmp_path, folds=2, repeats=2))).images
    [matrix] = [i["alt"] for i in images if i["alt"] and "Confusion" in i["alt"]]
    assert matrix is not None
    assert "Rows: [[6, 0], [8, 0]]" in matrix


def test_many_folds_are_summarised(tmp_path: Path) -> None:
    run = make_run(tmp_path, folds=25)
    edit(run / "data.json", "folds", 7, "test", value={"clips": 3, "groups": 1})
    table = pd.read_csv(run / "scores_by_fold.csv")
    table.loc[table["fold"] == 4, "value"] = np.nan
    table.to_csv(run / "scores_by_fold.csv", index=False)
    text = Page(write_report(run)).text
    assert "fewest test clips fold 7 90 (51) 21 (11) 3 (1)" in text
    assert "lowest 0.500 0.500" in text
    assert "highest 0.740 0.740" in text
    assert "undefined in 1 1" in text


def test_side_features_have_a_baseline_of_their_own(tmp_path: Path) -> None:
    text = Page(write_report(make_run(tmp_path, features=True))).text
    assert "features-alone baseline 0.712 95% interval 0.600 to 0.800" in text
    assert "The video beside the side features appears to help" in text
    assert "the order of frames, or the side features that the baseline lacks, helps" in text


def test_further_targets_have_sections(tmp_path: Path) -> None:
    text = Page(write_report(make_run(tmp_path, second="regression"))).text
    assert "abnormal and other from 130 clips" in text
    section = text[text.index("Target: other") :]
    assert "many 77 5 0.456 0.456 few 3 0 undefined undefined" in section
    assert "Every test clip, the most wrong first. clip patient target predicted error" in section


def test_clips_without_a_target_are_counted(tmp_path: Path) -> None:
    path = make_run(tmp_path) / "predictions.csv"
    table = pd.read_csv(path, dtype=str)
    table.loc[1:2, "target"] = ""
    table.to_csv(path, index=False)
    text = Page(write_report(tmp_path)).text
    assert "2 test clips are not shown: they lack this target." in text


def test_labels_are_counted_one_by_one(tmp_path: Path) -> None:
    run = make_run(tmp_path, "multilabel", ["cough", "fever", "a+b"])
    edit(run / "data.json", "targets", 0, "labelled", value=130)
    table = pd.read_csv(run / "predictions.csv", dtype=str)
    table["target"] = ["", "cough", "cough+fever", "fever+a+b", "a+b", "", "cough", "cough"]
    table["prediction"] = ["", "cough", "cough", "a+b", "a+b", "fever", "", ""]
    table.to_csv(run / "predictions.csv", index=False)
    text = Page(write_report(run)).text
    # Label, test clips that have it, that are predicted to, and both: of the seven test clips.
    for row in ("cough 4 2 2", "fever 2 1 0", "a+b 2 2 2"):
        assert row in text
    assert "Confusion" not in text
    assert "clip_5 p05 none fever 1" in text


def test_look_alikes_are_listed(tmp_path: Path) -> None:
    pair = {"first": "a", "second": "b", "first_side": "train", "second_side": "test"}
    run = make_run(tmp_path, near_duplicates=[pair | {"cosine": 0.99912}])
    text = Page(write_report(run)).text
    assert "1 pair of clips on two sides look alike" in text
    assert "a train b test 0.9991" in text


def test_a_falling_learning_rate_is_drawn(tmp_path: Path) -> None:
    path = make_run(tmp_path) / "history.csv"
    assert "Learning rate" not in Page(write_report(tmp_path)).text
    pd.read_csv(path).assign(learning_rate=[np.nan, 0.1, 0.01, 0]).to_csv(path, index=False)
    assert "Learning rate against epochs" in Page(write_report(tmp_path)).text


def test_a_run_without_groups_names_none(tmp_path: Path) -> None:
    run = make_run(tmp_path, group=None)
    edit(run / "metrics.json", "targets", "abnormal", "subjects", value=None)
    text = Page(write_report(run)).text
    assert "grouped by" not in text
    assert "13 groups" not in text


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_missing_scores_are_undefined(tmp_path: Path, value: float | None) -> None:
    metrics = make_run(tmp_path) / "metrics.json"
    for column in ("recurrent", "difference"):
        edit(metrics, *SCORES, column, "auroc", value=score(value, value, value))
    text = Page(write_report(tmp_path)).text
    assert "AUROC undefined 0.876" in text
    assert "Brier score ↓ undefined undefined" in text
    assert "Undecided" in text
    assert "nan" not in text.lower().split()


def test_a_score_without_interval_shows_its_value_alone(tmp_path: Path) -> None:
    metrics = make_run(tmp_path) / "metrics.json"
    edit(metrics, *SCORES, "recurrent", "auroc", value=score(0.625))
    text = Page(write_report(tmp_path)).text
    assert "recurrent model 0.625 mean-pool baseline" in text
    assert "AUROC 0.625 0.876 [0.790, 0.940]" in text


def test_differences_of_rounding_are_none(tmp_path: Path) -> None:
    metrics = make_run(tmp_path) / "metrics.json"
    edit(metrics, *SCORES, "difference", "auroc", value=score(2e-9, 1e-9, 3e-9))
    text = Page(write_report(tmp_path)).text
    assert "No clear difference" in text
    assert "is 0.000 (paired interval 0.000 to 0.000)" in text


def test_untrusted_text_is_escaped(tmp_path: Path) -> None:
    bad = "<script>alert('$a_1$')</script>"
    run = make_run(tmp_path, "binary", [bad, "$x"], group=bad, notices=[bad], left_out={bad: 1})
    edit(run / "settings.json", "settings", value={bad: bad, "threshold": bad})
    edit(run / "settings.json", "command", value=bad)
    edit(run / "data.json", "folds", 0, "name", value=bad)
    edit(run / "data.json", "balance", "description", value=bad)
    for key, value in (("name", bad), ("labels", [bad, "$x"])):
        edit(run / "data.json", "balance", "distributions", 0, key, value=value)
    table = pd.read_csv(run / "predictions.csv").assign(video_id=bad, group=bad)
    table["video_id"] += table.index.astype(str)
    table.to_csv(run / "predictions.csv", index=False)
    write_clips(run)
    page = Page(write_report(run))
    assert page.source.count("<script") == len(page.scripts) == 1
    assert page.text.count(bad) > 12


@pytest.mark.parametrize("label", ["NA", "01", "1e3", "x" * 3000, "動作", "a\x00b\nc"])
def test_strange_labels_stay_text(tmp_path: Path, label: str) -> None:
    page = Page(write_report(make_run(tmp_path, "multiclass", ["other", label, "third"])))
    start = label[:50].split("\x00", maxsplit=1)[0]
    assert f"clip_1 p01 {start}" in page.text
    assert "x" * 130 not in page.source
    assert "\x00" not in page.source


def test_more_classes_than_a_matrix_can_show_become_pairs(tmp_path: Path) -> None:
    classes = [f"action {i}" for i in range(30)]
    text = Page(write_report(make_run(tmp_path, "multiclass", classes))).text
    assert "Most frequent confusions" in text
    assert "action 3 action 0 1" in text


def test_a_page_of_a_thousand_clips_is_small(tmp_path: Path) -> None:
    """With twelve strips as large as they may be."""
    assert write_report(make_many(tmp_path, 1000)).stat().st_size < 5_000_000


@pytest.mark.parametrize(("num_clips", "num_classes"), [*xslow((8, 10_000)), *slow((10_000, 4))])
def test_large_runs_make_small_pages(tmp_path: Path, num_clips: int, num_classes: int) -> None:
    classes = [f"class {i}" for i in range(num_classes)]
    counts = {"labels": classes, "before": [1] * num_classes, "after": [2] * num_classes}
    balance = {"kind": "oversample", "description": "x"}
    distributions = [{"name": "abnormal", **counts}]
    run = make_run(
        tmp_path, "multiclass", classes, balance=balance | {"distributions": distributions}
    )
    table = pd.read_csv(run / "predictions.csv", dtype=str)
    table = pd.concat([table] * (num_clips // 8), ignore_index=True)
    table["video_id"] = [f"clip {i}" for i in range(len(table))]
    table.to_csv(run / "predictions.csv", index=False)
    write_clips(run)
    start = time.process_time()
    size = write_report(run).stat().st_size
    assert size < 2_000_000
    assert time.process_time() - start < 30


def test_writing_replaces_the_page_and_leaves_nothing_else(tmp_path: Path) -> None:
    make_run(tmp_path)
    (tmp_path / "report.html").write_text("old")
    first = write_report(tmp_path).read_bytes()
    assert write_report(tmp_path).read_bytes() == first
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*FILES, "report.html"])


def test_failing_keeps_the_old_page(tmp_path: Path) -> None:
    make_run(tmp_path)
    (tmp_path / "report.html").write_text("old")
    (tmp_path / "data.json").write_text("{}")
    with pytest.raises(ValueError, match=r"data\.json"):
        write_report(tmp_path)
    assert (tmp_path / "report.html").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted([*FILES, "report.html"])


@pytest.mark.parametrize(
    ("primary", "difference", "expected"),
    [
        ("auroc", (0.2, 0.1, 0.3), "appears to help: .* is 0.200 .*0.100 to 0.300"),
        ("auroc", (-0.2, -0.3, -0.1), "did not help"),
        ("auroc", (0.1, -0.02, 0.3), "No clear difference"),
        ("auroc", (0.1, 0.0, 0.3), "No clear difference"),
        ("mae", (-2.0, -3.0, -1.0), "appears to help"),
        ("mae", (2.0, 1.0, 3.0), "did not help"),
        ("auroc", (None, None, None), "Undecided"),
        ("auroc", (0.2, None, None), "Undecided"),
    ],
)
def test_verdict(primary: str, difference: Any, expected: str) -> None:
    found = {primary: score(*difference)}
    test: dict[str, Any] = {"difference": found}
    assert re.search(expected, verdict({"primary": primary, "test": test}))
    assert features_verdict({"primary": primary, "test": test}) == ""
    test |= {"features": {}, "difference_features": found}
    assert re.search(expected, features_verdict({"primary": primary, "test": test}))


def clips_of(task: str, classes: Any, target: Any, predicted: Any, values: Any) -> ShownClips:
    ids = np.array([f"clip {i}" for i in range(len(target))], object)
    probabilities = {} if values is None else {"recurrent": np.array(values)}
    found = {"recurrent": np.array(predicted)}
    return ShownClips(task, classes, ids, ids, np.array(target), found, probabilities, 0)


@pytest.mark.parametrize(
    ("clips", "rows"),
    [
        # Right, slightly wrong, very wrong: by what is left for the true class.
        (
            clips_of(
                "binary",
                ("a", "b"),
                ["a", "b", "a"],
                ["a", "a", "b"],
                [[0.9, 0.1], [0.6, 0.4], [0.05, 0.95]],
            ),
            [2, 1],
        ),
        (
            clips_of(
                "multilabel",
                ("a", "b"),
                [[1, 1], [0, 0], [1, 0]],
                [[1, 0], [1, 1], [1, 0]],
                [[0, 0]] * 3,
            ),
            [1, 0],
        ),
        (clips_of("regression", (), [1.0, 2.0, 3.0], [1.5, -8.0, 5.0], None), [1, 2, 0]),
    ],
)
def test_most_wrong_clips_come_first(clips: ShownClips, rows: list[int]) -> None:
    assert most_wrong(clips).tolist() == rows


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.91251, "0.913"), (0.0, "0.000"), (0.00123, "0.00123"), (1234.56, "1235"), (-0.5, "-0.500")],
)
def test_numbers_keep_their_meaning(value: float, text: str) -> None:
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("name", "text"),
    [("ece", "ECE ↓"), ("auprc_macro", "AUPRC (macro)"), ("hamming_loss", "Hamming loss ↓")],
)
def test_scores_are_spelled_as_usual(name: str, text: str) -> None:
    assert score_name(name) == text
    assert display_name(name) == text.removesuffix(" ↓")
