"""The report in a browser: it works, loads nothing, and nothing hostile in it is executed."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from stage2_temporal.report import write_report
from stage2_temporal.strip_files import Curve, Strip, Strips, save_strips
from tests.stage2_temporal.test_clip_strips import image
from tests.stage2_temporal.written_runs import edit, make_run, write_clips

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSER = shutil.which("chromium") or shutil.which("google-chrome")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(BROWSER is None, reason="neither chromium nor google-chrome is installed"),
]
NUM_TEST_CLIPS = 130
_LIMIT_SECONDS = 300
HOSTILE = [
    "<script>window.pwned = 1</script>",
    "<img src=x onerror='window.pwned = 1'>",
    '"><svg onload="window.pwned = 1">',
    "</title><script>window.pwned = 1</script>",
    "=cmd|' /C calc'!A0",
    "../../etc/passwd",
    "javascript:window.pwned=1",
    "動作 \N{WAVING HAND SIGN} \u202etxt",
    "x" * 10_000,
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as found:
        opened = found.chromium.launch(
            executable_path=BROWSER, args=["--no-sandbox"], timeout=_LIMIT_SECONDS * 1000
        )
        yield opened
        opened.close()


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A page of many clips with hostile ids and labels, with frames."""
    folder = make_run(tmp_path_factory.mktemp("run"), "binary", ["ok", HOSTILE[0]])
    edit(folder / "data.json", "group", value=HOSTILE[1])
    rng = np.random.default_rng(0)
    of_second = rng.random(NUM_TEST_CLIPS).round(6)
    table = pd.DataFrame({"fold": 0, "repeat": 0, "video_id": ids()})
    table = table.assign(split="test", group=[HOSTILE[i % 9] for i in range(len(table))])
    classes = np.array(["ok", HOSTILE[0]], object)
    table["target"] = classes[np.arange(len(table)) % 2]
    for prefix in ("", "baseline_"):
        table[f"{prefix}prediction"] = classes[(of_second >= 0.5).astype(int)]
        table[f"{prefix}probability_ok"] = 1 - of_second
        table[f"{prefix}probability_{HOSTILE[0]}"] = of_second
    table.to_csv(folder / "predictions.csv", index=False)
    write_clips(folder)
    save_strips(folder, Strips(tuple(strip(name) for name in HOSTILE)))
    return write_report(folder)


def ids() -> list[str]:
    return [*HOSTILE, *(f"clip {i:03d}" for i in range(NUM_TEST_CLIPS - len(HOSTILE)))]


def strip(name: str) -> Strip:
    curve = Curve(HOSTILE[2], "target", (0.1, 0.9))
    return Strip("abnormal", name, 9, (2, 6), (0.5, None), (0.3, 0.7), (1, 9), (curve,), image())


class Opened:
    """A page in the browser, and what it complained of or asked for."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.context = browser.new_context(**options)
        self.context.set_default_timeout(_LIMIT_SECONDS * 1000)
        self.page = self.context.new_page()
        self.messages: list[str] = []
        self.requests: list[str] = []
        self.page.on("console", lambda message: self.messages.append(message.text))
        self.page.on("pageerror", lambda error: self.messages.append(str(error)))
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.goto(path.as_uri())

    def __enter__(self) -> Any:
        return self.page

    def __exit__(self, *_: object) -> None:
        self.context.close()
        assert self.messages == []
        assert all(url.startswith(("file:", "data:")) for url in self.requests)
        assert sum(url.startswith("file:") for url in self.requests) == 1


def column(page: Any, number: int) -> list[str]:
    cells = f".sortable tbody tr > :nth-child({number})"
    return [str(text) for text in page.locator(cells).all_text_contents()]


def press(page: Any, name: str) -> None:
    button = page.locator(".sortable thead button").filter(has_text=re.compile(f"^{name}$"))
    button.focus()
    page.keyboard.press("Enter")


def test_nothing_hostile_is_executed(browser: Any, report: Path) -> None:
    with Opened(browser, report) as page:
        page.wait_for_timeout(200)
        assert page.evaluate("window.pwned") is None
        assert page.locator("script").count() == 1
        assert page.locator("article.clip img").count() == len(HOSTILE)
        sizes = page.eval_on_selector_all("img", "all => all.map(one => one.naturalWidth)")
        assert min(sizes) > 0


def test_columns_sort_by_number_and_text(browser: Any, report: Path) -> None:
    with Opened(browser, report) as page:
        press(page, "probability of the target")
        rising = [float(text) for text in column(page, 5)]
        assert len(rising) == 25
        assert rising == sorted(rising)
        head = page.locator("th[aria-sort]")
        assert head.get_attribute("aria-sort") == "ascending"
        press(page, "probability of the target")
        falling = [float(text) for text in column(page, 5)]
        assert falling == sorted(falling, reverse=True)
        assert falling[0] > rising[-1]
        assert head.get_attribute("aria-sort") == "descending"
        press(page, "clip")
        assert head.count() == 1
        page.get_by_label("Search").fill("clip ")
        assert column(page, 1)[:3] == ["clip 000", "clip 001", "clip 002"]


def test_rows_are_searched_filtered_and_paged(browser: Any, report: Path) -> None:
    with Opened(browser, report) as page:
        status = page.locator(".sortable [role=status]")
        assert status.text_content() == "130 of 130 clips, rows 1 to 25 shown"
        first = column(page, 1)
        for _ in range(5):
            page.get_by_role("button", name="Next").click()
        assert status.text_content() == "130 of 130 clips, rows 126 to 130 shown"
        assert page.get_by_role("button", name="Next").is_disabled()
        assert not set(first) & set(column(page, 1))
        page.get_by_label("Search").fill("CLIP 01")
        assert status.text_content() == "10 of 130 clips, rows 1 to 10 shown"
        page.get_by_label("Search").fill("nowhere")
        assert status.text_content() == "0 of 130 clips, nothing found"
        page.get_by_label("Search").fill("")
        page.get_by_label("wrong only").check()
        assert all(a != b for a, b in zip(column(page, 3), column(page, 4), strict=True))
        assert float(column(page, 5)[0]) < 0.1


def test_radio_buttons_recolour_the_map(browser: Any, report: Path) -> None:
    with Opened(browser, report, java_script_enabled=False) as page:
        names = [str(name) for name in page.locator(".map label").all_text_contents()]
        assert names == ["label", HOSTILE[1], "error"]
        for number in range(len(names)):
            page.locator(".map label").nth(number).click()
            for other in range(len(names)):
                for kind in ("g", "ul"):
                    shown = page.locator(f".stage {kind}.view-{other}").is_visible()
                    assert shown == (number == other)


def test_without_javascript_every_row_is_there(browser: Any, report: Path) -> None:
    with Opened(browser, report, java_script_enabled=False) as page:
        assert len(column(page, 1)) == NUM_TEST_CLIPS
        assert not page.get_by_label("Search").is_visible()
        assert not page.get_by_role("button", name="Next").is_visible()


@pytest.mark.parametrize("width", [320, 390, 1200, 1920])
def test_the_page_itself_does_not_scroll_sideways(browser: Any, report: Path, width: int) -> None:
    with Opened(browser, report, viewport={"width": width, "height": 800}) as page:
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.locator("nav").is_visible() == (width > 1152)
        page.emulate_media(media="print")
        assert not page.locator("nav").is_visible()
