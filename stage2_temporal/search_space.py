"""What is searched: settings with choices or ranges, checked before anything is trained."""

import dataclasses
import itertools
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stage1_extract.toml_text import as_toml
from stage2_temporal.config import TrainSettings
from stage2_temporal.sweep_dimensions import Choices, Dimension, dimension_of, parse_text
from stage2_temporal.sweep_names import STORE, check_name, kind_of


@dataclasses.dataclass(frozen=True)
class SearchSpace:
    """The searched settings, in the order in which they were given."""

    dimensions: tuple[Dimension, ...]

    @classmethod
    def parse(
        cls, texts: Sequence[str], base: TrainSettings, *, stores: Sequence[str] = ()
    ) -> "SearchSpace":
        """Read searched settings, and try every choice and the ends of every range.

        Args:
            texts: `NAME = VALUES` each, the values in TOML.
            base: The settings that hold beside the searched ones.
            stores: The competing stores, if there are several.

        Raises:
            ValueError: A name is unknown or may not be searched, a range is contradictory, or the
                settings would refuse a value.
        """
        parsed = [parse_text(text) for text in texts]
        names = [name for name, _ in parsed]
        for name in names:
            check_name(name, base)
            if names.count(name) > 1:
                raise ValueError(f"search {name} was given {names.count(name)} times; give it once")
        dimensions = [dimension_of(name, values) for name, values in parsed]
        if len(stores) > 1:
            dimensions.append(Choices(STORE, tuple(stores)))
        if not dimensions:
            raise ValueError(
                "nothing is searched; name settings and their values: --search 'units = [16, 32]', "
                "or a table [search] in the TOML file, or --other-store"
            )
        space = cls(tuple(dimensions))
        space._check_values(base)
        return space

    @property
    def shown(self) -> dict[str, Any]:
        """Return the space for sweep.json: lists of choices and tables of ranges, by name."""
        return {dimension.name: dimension.shown for dimension in self.dimensions}

    @property
    def size(self) -> int | None:
        """How many combinations there are; None if endless."""
        points = [dimension.points() for dimension in self.dimensions]
        return None if any(p is None for p in points) else math.prod(len(p or ()) for p in points)

    def grid(self) -> Iterator[dict[str, Any]]:
        """Return every combination, the last setting changing fastest.

        Raises:
            ValueError: A range has endless values.
        """
        every = []
        for dimension in self.dimensions:
            points = dimension.points()
            if points is None:
                raise ValueError(
                    f"search {dimension.name} = {as_toml(dimension.shown)} has no list of values, "
                    "which a grid needs: give choices, or a step without log"
                )
            every.append(points)
        names = [dimension.name for dimension in self.dimensions]
        return (dict(zip(names, values, strict=True)) for values in itertools.product(*every))

    def _check_values(self, base: TrainSettings) -> None:
        """Refuse values that the settings refuse with any one other searched value beside them."""
        searched = [dimension for dimension in self.dimensions if dimension.name != STORE]
        for dimension in searched:
            others = [other for other in searched if other is not dimension]
            for value in dimension.samples:
                beside = [{o.name: v} for o in others for v in o.samples]
                _check_one(base, {dimension.name: value}, beside)


def _check_one(
    base: TrainSettings, alone: Mapping[str, Any], beside: Sequence[Mapping[str, Any]]
) -> None:
    try:
        apply_parameters(base, alone)
    except ValueError as error:
        if not any(_is_accepted(base, {**alone, **more}) for more in beside):
            ((name, value),) = alone.items()
            raise ValueError(
                f"search {name} holds {as_toml(value)}, which is refused: {error}"
            ) from error


def _is_accepted(base: TrainSettings, parameters: Mapping[str, Any]) -> bool:
    try:
        apply_parameters(base, parameters)
    except ValueError:
        return False
    return True


def apply_parameters(base: TrainSettings, parameters: Mapping[str, Any]) -> TrainSettings:
    """Return the settings with searched ones put in; a `store` among them is not a setting.

    Raises:
        ValueError: The settings refuse them.
    """
    own: dict[str, Any] = {}
    nested: dict[str, dict[str, Any]] = {}
    for name, value in parameters.items():
        if name == STORE:
            continue
        kind = kind_of(name)
        into = nested.setdefault(kind.within, {}) if kind.within else own
        into[name] = kind.as_setting(value)
    for within, values in nested.items():
        own[within] = dataclasses.replace(getattr(base, within), **values)
    return dataclasses.replace(base, **own)


def parameters_key(parameters: Mapping[str, Any]) -> str:
    """Return a text that is the same for equal parameters."""
    return json.dumps(parameters, sort_keys=True)
