"""Names of the settings: which may be searched, why others may not, and what values they take."""

import dataclasses
import difflib
import functools
import typing
from collections.abc import Sequence
from pathlib import Path
from types import NoneType
from typing import Any

from stage1_extract.toml_text import as_toml
from stage2_temporal.config import TrainSettings

STORE = "store"
"""Name of the dimension of competing stores."""

_WHAT = "it defines what is predicted, so scores of trials could not be compared"
_WHO = "it defines which clips are trained on and scored, which is the same for all trials"
_HOW_SCORED = "it changes how predictions are scored, not what is learned"
_EQUAL = "all trials share it, so that equal settings have equal scores"
_NO_EFFECT = "it does not change what is learned"
_REASONS = {
    **dict.fromkeys(("target", "task", "positive", "label_separator"), _WHAT),
    **dict.fromkeys(("group", "blank_group", "unmatched", "blank_target", "validation"), _WHO),
    **dict.fromkeys(("split_column", "fold_column", "folds", "fold_repeats", "inner_folds"), _WHO),
    **dict.fromkeys(("test_fraction", "validation_fraction"), _WHO),
    **dict.fromkeys(("threshold", "resamples", "duplicate_cosine"), _HOW_SCORED),
    **dict.fromkeys(("seed", "repeats"), _EQUAL),
    **dict.fromkeys(("workers", "resident", "devices", "tensorboard"), _NO_EFFECT),
    **dict.fromkeys(("overwrite", "strips"), _NO_EFFECT),
    "backend": "a process has one Keras backend",
    STORE: "stores compete by --other-store",
    **dict.fromkeys(
        ("other_store", "trials", "hours", "jobs", "sampler", "pruner", "validation_folds"),
        "it is a setting of the sweep itself; in a TOML file it stands above [search]",
    ),
    **dict.fromkeys(
        ("search", "metric", "refit_seeds"),
        "it is a setting of the sweep itself; in a TOML file it stands above [search]",
    ),
}


@dataclasses.dataclass(frozen=True)
class SettingKind:
    """What values a setting takes.

    Attributes:
        type: int, float, bool, str or Path.
        is_list: Whether it takes several.
        may_lack: Whether it may be None, which a search writes as an empty text.
        within: The nested settings that hold it; blank for none.
        default: Its default.
    """

    type: type[Any]
    is_list: bool
    may_lack: bool
    within: str
    default: Any

    def checked(self, name: str, value: Any) -> Any:
        """Return a value as written in TOML, whole numbers made fractions where those are meant.

        Raises:
            ValueError: It is of another type.
        """
        if self.is_list:
            if not isinstance(value, list):
                raise ValueError(f"search {name} holds {as_toml(value)}; expected lists of values")
            return [self._checked_one(name, one) for one in value]
        return self._checked_one(name, value)

    def _checked_one(self, name: str, value: Any) -> Any:
        if self.type is float and type(value) in (int, float):
            return float(value)
        if type(value) is not (str if self.type is Path else self.type):
            expected = {int: "whole numbers", float: "numbers", bool: "true or false"}
            raise ValueError(
                f"search {name} holds {as_toml(value)}; expected {expected.get(self.type, 'texts')}"
            )
        return value

    def as_setting(self, value: Any) -> Any:
        """Return a checked value as the settings hold it."""
        if self.is_list:
            return tuple(value)
        if self.may_lack and value == "":
            return None
        # Trials may run on machines where programs begin in another folder.
        return Path(value).absolute() if self.type is Path else value


@functools.cache
def setting_kinds() -> dict[str, SettingKind]:
    """Return the kind of every setting of a training, nested ones by their own names."""
    return _kinds(TrainSettings, "")


def _kinds(settings: type[Any], within: str) -> dict[str, SettingKind]:
    hints = typing.get_type_hints(settings)
    kinds: dict[str, SettingKind] = {}
    for field in dataclasses.fields(settings):
        hint = hints[field.name]
        if isinstance(hint, type) and dataclasses.is_dataclass(hint):
            kinds |= _kinds(hint, field.name)
            continue
        is_list = typing.get_origin(hint) is Sequence
        parts = typing.get_args(hint) or (hint,)
        kinds[field.name] = SettingKind(parts[0], is_list, NoneType in parts, within, field.default)
    return kinds


def kind_of(name: str) -> SettingKind:
    """Return what values a setting takes."""
    return setting_kinds()[name]


def searchable_names() -> list[str]:
    """Return the settings that may be searched."""
    return [name for name in setting_kinds() if name not in _REASONS]


def check_name(name: str, base: TrainSettings) -> None:
    """Refuse a name that cannot be searched.

    Raises:
        ValueError: It is unknown, may not be searched, or has a value for all trials already.
    """
    if name in _REASONS:
        raise ValueError(f"{name} cannot be searched: {_REASONS[name]}")
    kinds = setting_kinds()
    if name not in kinds:
        near = difflib.get_close_matches(name, searchable_names(), n=1)
        known = f"known: {', '.join(searchable_names())}"
        hint = f"did you mean {near[0]!r}?" if near else known
        raise ValueError(f"search names the unknown setting {name!r}; {hint}")
    kind = kinds[name]
    given = getattr(getattr(base, kind.within) if kind.within else base, name)
    if given != kind.default:
        raise ValueError(
            f"{name} is {given!r} for all trials, and searched as well; leave one of them out"
        )
