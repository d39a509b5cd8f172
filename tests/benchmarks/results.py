"""Where measurements are kept: RESULTS.md, with date, processor and versions."""

import platform
import sys
from collections.abc import Mapping, Sequence
from datetime import date
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

RESULTS = Path(__file__).with_name("RESULTS.md")
_PACKAGES = ("tensorflow", "keras", "jax", "torch", "openvino", "opencv-python-headless", "numpy")


def record(title: str, how: str, table: list[str], *, append: bool = True) -> None:
    """Print a section with a table, and append it to RESULTS.md."""
    where = f"{processor()}; Python {platform.python_version()}, {versions()}"
    lines = [f"## {title}, {date.today().isoformat()}", "", f"{how} {where}.", "", *table, ""]
    print("\n".join(lines))
    if append:
        with RESULTS.open("a", encoding="utf-8") as file:
            file.write("\n" + "\n".join(lines))


def ways_at_hand(ways: Sequence[str], needs: Mapping[str, tuple[str, str]]) -> list[str]:
    """Return the ways that can be measured here, and say what the others lack.

    Args:
        ways: Those that are wanted.
        needs: What those to compare with need beyond the extra dev: a module, and what to install.
    """
    lacking = {way: needs[way][1] for way in ways if way in needs and not find_spec(needs[way][0])}
    for way, package in lacking.items():
        print(f"{way} is left out: it needs pip install '{package}'", file=sys.stderr)
    return [way for way in ways if way not in lacking]


def processor() -> str:
    """Return the processor's name and the number of cores."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]}, {len(names)} cores" if names else f"{platform.processor()} {sys.platform}"


def versions() -> str:
    """Return the installed versions of what the speed depends on."""
    found = []
    for name in _PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)
