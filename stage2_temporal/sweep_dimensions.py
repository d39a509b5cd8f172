"""One searched setting: a list of choices or a range, read from `NAME = VALUES` and checked."""

import dataclasses
import math
import tomllib
from typing import Any

from stage1_extract.toml_text import as_toml
from stage2_temporal.sweep_names import SettingKind, kind_of

_RANGE_KEYS = {"low", "high", "log", "step"}


@dataclasses.dataclass(frozen=True)
class Choices:
    """A setting with a list of values, as they were written."""

    name: str
    values: tuple[Any, ...]

    @property
    def shown(self) -> list[Any]:
        """What sweep.json says of it."""
        return list(self.values)

    @property
    def samples(self) -> tuple[Any, ...]:
        """Values that stand for all: all."""
        return self.values

    def points(self) -> tuple[Any, ...]:
        """Return all values."""
        return self.values


@dataclasses.dataclass(frozen=True)
class Range:
    """A number between two bounds, both included.

    Attributes:
        name: The setting.
        low: Least value.
        high: Largest value.
        log: Whether it is searched by its logarithm.
        step: Distance of the values from `low` on; None for any.
        is_whole: Whether the setting takes whole numbers only.
    """

    name: str
    low: float
    high: float
    log: bool = False
    step: float | None = None
    is_whole: bool = False

    @property
    def shown(self) -> dict[str, Any]:
        """What sweep.json says of it."""
        shown: dict[str, Any] = {"low": self.low, "high": self.high}
        if self.log:
            shown["log"] = True
        return shown if self.step is None else {**shown, "step": self.step}

    @property
    def samples(self) -> tuple[float, ...]:
        """Values that stand for all: the ends."""
        return (self.low, self.high)

    def points(self) -> tuple[float, ...] | None:
        """Return all values; None if they are endless, or too many to be meant."""
        step = self.step or (1 if self.is_whole else None)
        if self.low == self.high:
            return (self.low,)
        if step is None or self.log:
            return None
        count = math.floor((self.high - self.low) / step + 1e-9) + 1
        if self.is_whole:
            return tuple(self.low + i * step for i in range(count))
        return tuple(tidy(self.low + i * step) for i in range(count))


Dimension = Choices | Range


def tidy(number: float) -> float:
    """Return a number to twelve digits: multiples of a step come out as 0.30000000000000004."""
    return float(f"{number:.12g}")


def parse_text(text: str) -> tuple[str, Any]:
    """Return name and values of `NAME = VALUES`.

    Raises:
        ValueError: It is written otherwise.
    """
    name, equals, values = (part.strip() for part in text.partition("="))
    if not equals or not name:
        raise ValueError(f"search {text!r} is no NAME = VALUES, like 'units = [16, 32]'")
    try:
        (value,) = tomllib.loads(f"values = {values}").values()
    except (tomllib.TOMLDecodeError, ValueError) as error:
        raise ValueError(
            f"search {text!r}: the values are not valid TOML ({error}); expected a list such as "
            '[16, 32] or ["gru", "lstm"], or a range such as {low = 1, high = 8}'
        ) from error
    return name.replace("-", "_"), value


def dimension_of(name: str, values: Any) -> Dimension:
    """Return a searched setting from its values in TOML.

    Raises:
        ValueError: They are no list or range, or contradictory, or of another type.
    """
    kind = kind_of(name)
    if isinstance(values, list):
        return _choices(name, kind, values)
    if isinstance(values, dict):
        return _range(name, kind, values)
    raise ValueError(
        f"search {name} is {as_toml(values)}; expected a list of choices or a range {{low = ..., "
        f"high = ...}}; a value that all trials share is given as --{name.replace('_', '-')}"
    )


def _choices(name: str, kind: SettingKind, values: list[Any]) -> Choices:
    if not values:
        raise ValueError(f"search {name} is an empty list; give it values to choose from")
    checked = [kind.checked(name, value) for value in values]
    for number, value in enumerate(checked):
        if value in checked[:number]:
            raise ValueError(f"search {name} lists {as_toml(value)} twice")
    return Choices(name, tuple(checked))


def _range(name: str, kind: SettingKind, values: dict[str, Any]) -> Range:
    if kind.type not in (int, float):
        raise ValueError(
            f"search {name} = {as_toml(values)} is a range, but the setting is no number; give "
            "a list"
        )
    unknown = sorted(values.keys() - _RANGE_KEYS)
    if unknown or not {"low", "high"} <= values.keys():
        raise ValueError(
            f"search {name} = {as_toml(values)}; expected low and high, and if wanted log or step"
        )
    log = values.get("log", False)
    if log not in (True, False):
        raise ValueError(f"search {name}: log is {as_toml(log)}; expected true or false")
    numbers = {key: kind.checked(name, values[key]) for key in values if key != "log"}
    found = Range(name, log=log, is_whole=kind.type is int, **numbers)
    _check_range(found)
    return found


def _check_range(found: Range) -> None:
    told = f"search {found.name} = {as_toml(found.shown)}"
    if not (math.isfinite(found.low) and math.isfinite(found.high)):
        raise ValueError(f"{told} has no end; give finite numbers")
    if found.low > found.high:
        raise ValueError(f"{told} is empty: low is above high")
    if found.log and not found.low > 0:
        raise ValueError(f"{told} has a logarithm of {found.low}; low must be above 0, or no log")
    if found.step is None:
        return
    if found.log:
        raise ValueError(f"{told} has both log and step; leave one out, or list the values")
    if not found.step > 0:
        raise ValueError(f"{told} has a step of {found.step}; expected more than 0")
    if found.step > found.high - found.low:
        raise ValueError(f"{told} has a step larger than the range, so only {found.low} is in it")
    whole = round((found.high - found.low) / found.step)
    if not math.isclose(found.low + whole * found.step, found.high, rel_tol=1e-9, abs_tol=1e-12):
        raise ValueError(f"{told}: no step meets high; choose one that divides high - low")
