import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from stage2_temporal.report import format_number, most_wrong, verdict, write_report

VOID = {"meta", "img", "br", "link", "input", "hr"}
FILES = ["settings.json", "data.json", "metrics.json", "history.csv", "predictions.csv"]


class Page(HTMLParser):
    """The text, images and resource addresses of a page whose every tag is closed in order."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.open_tags: list[str] = []
        self.addresses: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.cells: list[str] = []
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
        assert tag != "script"
        assert not any(name.startswith("on") for name, _ in attrs)

    def handle_endtag(self, tag: str) -> None:
        assert self.open_tags.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self.open_tags:
            self.cells.append(data)


def score(value: float | None, low: float | None, high: float | None) -> dict[str, float | None]:
    return {"value": value, "low": low, "high": high}


def documents(task: str, classes: list[str] | None, primary: str) -> dict[str, Any]:
    both = {
        "recurrent": {primary: score(0.9123, 0.8432, 0.9644), "f1": score(None, None, None)},
        "mean_pool": {primary: score(0.8765, 0.7901, 0.9402), "f1": score(float("nan"), 0, 1)},
        "difference": {primary: score(0.0358, -0.0211, 0.0933), "f1": score(None, None, None)},
    }
    return {
        "settings.json": {
            "format": "stage2-run",
            "format_version": 1,
            "created": "2025-11-21T10:12:31+00:00",
            "software": {"keras": "3.12.7"},
            "settings": {"head": "lstm", "units": 64, "max_frames": None},
            "command": "stage2-temporal train S M R --target abnormal",
            "store": {"path": "/s", "fingerprint": "f1nger", "num_sequences": 137}
            | {"embedding_dim": 1280, "dtype": "float16", "settings": {"backbone": "MobileNetV2"}},
            "manifest": {"path": "/m.csv", "sha256": "mani5ha", "num_clips": 137},
        },
        "data.json": {
            "task": task,
            "target": "abnormal",
            "classes": classes,
            "group": "patient",
            "split_sha256": "5plit5ha",
            "split": {
                "train": {"clips": 90, "groups": 51},
                "validation": {"clips": 21, "groups": 11},
                "test": {"clips": 19, "groups": 13},
            },
            "left_out": {"blank target": 7},
            "balance": "oversample",
            "distribution": {"labels": ["lo", "hi"], "before": [31, 59], "after": [59, 59]},
            "notices": ["clip_8 ended early"],
            "lengths": {"min": 12, "median": 48.5, "max": 96},
            "best_epoch": 2,
        },
        "metrics.json": {
            **{"task": task, "primary": primary, "confidence": 0.95, "resampled_by": "patient"},
            **{"num_resamples": 1000, "test": both, "validation": both},
        },
    }


def predictions(classes: list[str] | None) -> pd.DataFrame:
    ids = [f"clip_{i}" for i in range(8)]
    table = pd.DataFrame({"video_id": ids, "split": ["validation", *["test"] * 7], "group": "p01"})
    if classes is None:
        values = [10.0, 20, 30, 40, 50, 60, 70, 80]
        return table.assign(target=values, prediction=45.5, baseline_prediction=44.5)
    targets = [classes[i % len(classes)] for i in range(8)]
    table = table.assign(target=targets, prediction=classes[0], baseline_prediction=classes[-1])
    for label in classes:
        table[f"probability_{label}"] = 0.7 if label == classes[0] else 0.3 / (len(classes) - 1)
        table[f"baseline_probability_{label}"] = 1 / len(classes)
    return table


def make_run(
    folder: Path, task: str = "binary", classes: list[str] | None = None, **changes: Any
) -> Path:
    """Write a complete run; `changes` replace keys of `data.json`."""
    classes = ["0", "1"] if task == "binary" and classes is None else classes
    files = documents(task, classes, "mae" if task == "regression" else "auroc")
    files["data.json"] |= changes
    for name, document in files.items():
        (folder / name).write_text(json.dumps(document))
    history = {"epoch": [1, 2, 3], "loss": [0.7, 0.5, 0.4], "val_loss": [0.7, 0.6, 0.65]}
    pd.DataFrame(history | {"learning_rate": 0.001}).to_csv(folder / "history.csv", index=False)
    predictions(classes).to_csv(folder / "predictions.csv", index=False)
    return folder


def edit(path: Path, *keys: str, value: object) -> None:
    document = json.loads(path.read_text())
    place = document
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = value
    path.write_text(json.dumps(document))


RUNS: list[tuple[str, list[str] | None]] = [
    ("binary", ["0", "1"]),
    ("multiclass", ["covid", "pneumonia", "healthy", "other"]),
    ("multiclass", [f"action {i}" for i in range(30)]),
    ("regression", None),
]


@pytest.mark.parametrize(("task", "classes"), RUNS)
def test_page_is_well_formed_and_loads_nothing(
    tmp_path: Path, task: str, classes: list[str] | None
) -> None:
    path = write_report(make_run(tmp_path, task, classes))
    page = Page(path)
    assert path == tmp_path / "report.html"
    assert page.images
    assert all(image["alt"] for image in page.images)
    assert all(address.startswith("data:image/") for address in page.addresses)
    assert not re.search(r"https?://|url\(|@import", page.source)
    assert path.stat().st_size < 1_000_000


def test_images_load_nothing_either(tmp_path: Path) -> None:
    page = Page(write_report(make_run(tmp_path)))
    for address in page.addresses:
        svg = base64.b64decode(address.split(",")[1]).decode("utf-8")
        assert not re.search(r"(href|src)=\"https?:|url\(http|@import|<script", svg)


def test_page_shows_what_the_run_holds(tmp_path: Path) -> None:
    text = Page(write_report(make_run(tmp_path))).text
    for expected in (
        "abnormal from 130 clips, grouped by patient",  # 90 + 21 + 19
        "0.912 [0.843, 0.964]",
        "0.876 [0.790, 0.940]",
        "train 90 51",
        "validation 21 11",
        "test 19 13",
        "blank target 7",
        "clip_8 ended early",
        "min 12, median 48.5, max 96",
        "lo 31 59",
        "units 64",
        "max_frames none",
        "backbone MobileNetV2",
        "keras 3.12.7",
        "5plit5ha",
        "f1nger",
        "mani5ha",
        "stage2-temporal train S M R --target abnormal",
        "No clear difference: the recurrent model minus the average of the frames is 0.036",
    ):
        assert expected in text


def test_a_run_without_groups_names_none(tmp_path: Path) -> None:
    text = Page(write_report(make_run(tmp_path, group=None))).text
    assert "grouped by" not in text
    assert "groups" not in text


@pytest.mark.parametrize("value", [None, float("nan"), float("inf")])
def test_missing_scores_are_undefined(tmp_path: Path, value: float | None) -> None:
    metrics = make_run(tmp_path) / "metrics.json"
    for column in ("recurrent", "difference"):
        edit(metrics, "test", column, "auroc", value=score(value, value, value))
    text = Page(write_report(tmp_path)).text
    assert "AUROC undefined 0.876" in text
    assert "F1 undefined undefined" in text
    assert "Undecided" in text
    assert "nan" not in text.lower().split()


def test_untrusted_text_is_escaped(tmp_path: Path) -> None:
    bad = "<script>alert('$a_1$')</script>"
    run = make_run(tmp_path, "binary", [bad, "$x"], group=bad, target=bad, notices=[bad])
    edit(run / "settings.json", "settings", value={bad: bad})
    edit(run / "settings.json", "command", value=bad)
    edit(run / "data.json", "left_out", value={bad: 1})
    edit(run / "data.json", "distribution", "labels", value=[bad, "$x"])
    table = pd.read_csv(run / "predictions.csv").assign(video_id=bad, group=bad)
    table.to_csv(run / "predictions.csv", index=False)
    page = Page(write_report(run))  # asserts that there is no script element
    assert "<script" not in page.source
    assert page.text.count(bad) > 6


def test_labels_that_look_like_numbers_or_blanks_stay_text(tmp_path: Path) -> None:
    text = Page(write_report(make_run(tmp_path, "multiclass", ["NA", "01", "1e3"]))).text
    assert "clip_1 p01 01 NA 0.700 1e3" in text


def test_more_classes_than_a_matrix_can_show_become_pairs(tmp_path: Path) -> None:
    classes = [f"action {i}" for i in range(30)]
    text = Page(write_report(make_run(tmp_path, "multiclass", classes))).text
    assert "Most frequent confusions" in text
    assert "action 3 action 0 1" in text


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named(tmp_path: Path, name: str) -> None:
    (make_run(tmp_path) / name).unlink()
    with pytest.raises(FileNotFoundError, match=rf"{re.escape(name)}.*not a complete run"):
        write_report(tmp_path)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe\x00", b'a,b\n"1,2\n'])
def test_garbled_file_is_named(tmp_path: Path, name: str, content: bytes) -> None:
    (make_run(tmp_path) / name).write_bytes(content)
    with pytest.raises(ValueError, match=rf"{re.escape(name)}.*not a complete run"):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("name", "keys", "value", "message"),
    [
        ("settings.json", ["format_version"], 2, "version 2"),
        ("settings.json", ["store"], None, "store"),
        ("data.json", ["split", "test"], {"clips": 3}, "split.test.groups is missing"),
        ("data.json", ["distribution", "after"], [1], "differ in length"),
        ("data.json", ["best_epoch"], 9, "epoch 9"),
        ("data.json", ["classes"], ["0", "2"], "probability_2"),
        ("metrics.json", ["primary"], "f2", "f2"),
        ("metrics.json", ["test", "recurrent", "auroc"], 0.9, "0.9"),
        ("metrics.json", ["test", "recurrent", "auroc", "low"], "x", "'x'"),
    ],
)
def test_wrong_content_is_shown(
    tmp_path: Path, name: str, keys: list[str], value: object, message: str
) -> None:
    edit(make_run(tmp_path) / name, *keys, value=value)
    with pytest.raises(ValueError, match=re.escape(message)):
        write_report(tmp_path)


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("split", "train", "no row of split 'test'"),
        ("target", "2", r"labels \['2'\]"),
        ("probability_1", "high", "a number was expected"),
        ("probability_1", "", "blank or infinite"),
    ],
)
def test_wrong_predictions_are_shown(tmp_path: Path, column: str, value: str, message: str) -> None:
    path = make_run(tmp_path) / "predictions.csv"
    pd.read_csv(path, dtype=str).assign(**{column: value}).to_csv(path, index=False)
    with pytest.raises(ValueError, match=message):
        write_report(tmp_path)


def test_history_without_epoch_numbers_is_shown(tmp_path: Path) -> None:
    (make_run(tmp_path) / "history.csv").write_text("epoch,loss,val_loss\n1,1,1\n,2,2\n")
    with pytest.raises(ValueError, match=r"history\.csv: the column epoch"):
        write_report(tmp_path)


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
    test = {"difference": {primary: score(*difference)}}
    assert re.search(expected, verdict({"primary": primary, "test": test}))


def test_most_wrong_clips_come_first() -> None:
    columns = ["video_id", "target", "prediction", "probability_a", "probability_b"]
    rows = [
        ("right", "a", "a", 0.9, 0.1),
        ("slightly", "b", "a", 0.6, 0.4),
        ("very", "a", "b", 0.05, 0.95),
    ]
    table = pd.DataFrame(rows, columns=columns).assign(group="", baseline_prediction="a")
    found = most_wrong(table, ["a", "b"])
    assert [(row["video_id"], row["confidence"]) for row in found] == [
        ("very", 0.95),
        ("slightly", 0.6),
    ]


def test_largest_errors_come_first_in_regression() -> None:
    table = pd.DataFrame({"video_id": ["a", "b", "c"], "target": [1.0, 2.0, 3.0]})
    found = most_wrong(table.assign(prediction=[1.5, -8.0, 5.0]), [], count=2)
    assert [(row["video_id"], row["error"]) for row in found] == [("b", -10.0), ("c", 2.0)]


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.91251, "0.913"), (0.0, "0.000"), (0.00123, "0.00123"), (1234.56, "1235"), (-0.5, "-0.500")],
)
def test_numbers_keep_their_meaning(value: float, text: str) -> None:
    assert format_number(value) == text
