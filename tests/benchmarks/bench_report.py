"""The report's page: how large it is, and how long it takes to be written and opened."""

import argparse
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from playwright.sync_api import Browser, sync_playwright

from stage2_temporal.report import write_report
from tests.benchmarks.results import record
from tests.stage2_temporal.written_runs import make_many

NUM_CLIPS = (100, 1000, 10_000)
ROUNDS = 5
LOADED = "performance.getEntriesByType('navigation')[0].loadEventEnd"


def main() -> None:
    """Measure, print and append the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dry", action="store_true", help="do not append to RESULTS.md")
    arguments = parser.parse_args()
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        raise SystemExit("neither chromium nor google-chrome is installed")
    head = "| test clips | written in s | page, MB | opened in s | sorted in s |"
    table = [head, "|---|---|---|---|---|"]
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox"])
        for number in NUM_CLIPS:
            table.append(measure(browser, Path(folder) / str(number), number))
        browser.close()
    how = (
        "`python -m tests.benchmarks.bench_report`: three classes, twelve strips of noise, medians "
        f"of {ROUNDS}; opened is until the load event, sorted a click on a column of numbers until "
        "the page has its new rows."
    )
    record("The report's page", how, table, append=not arguments.dry)


def measure(browser: Browser, folder: Path, num_clips: int) -> str:
    """Return the table's row for a run of so many test clips."""
    folder.mkdir()
    run = make_many(folder, num_clips)
    start = time.perf_counter()
    page = write_report(run)
    written = time.perf_counter() - start
    rounds = [opened_and_sorted(browser, page) for _ in range(ROUNDS)]
    opened, by_click = (statistics.median(times) for times in zip(*rounds, strict=True))
    size = page.stat().st_size / 1e6
    return f"| {num_clips:,} | {written:.1f} | {size:.2f} | {opened:.2f} | {by_click:.2f} |"


def opened_and_sorted(browser: Browser, path: Path) -> tuple[float, float]:
    """Return seconds until the page is loaded, and that sorting takes."""
    page = browser.new_page()
    page.goto(path.as_uri())
    opened = float(page.evaluate(LOADED)) / 1000
    start = time.perf_counter()
    page.locator(".sortable thead button").nth(4).click()
    page.locator("th[aria-sort=ascending]").wait_for()
    by_click = time.perf_counter() - start
    page.close()
    return opened, by_click


if __name__ == "__main__":
    main()
