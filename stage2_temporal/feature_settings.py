"""Settings of the import of side features."""

import dataclasses
from collections.abc import Sequence

import tyro


@dataclasses.dataclass(frozen=True)
class FeatureImportSettings:
    """How the columns of a table become side features."""

    id_column: str = "video_id"
    """Column that names the clip, as `video_id` does in the manifest."""
    drop: tyro.conf.UseAppendAction[Sequence[str]] = ()
    """Column to leave out (notes, dates, the label itself); repeat it for several."""
    category: tyro.conf.UseAppendAction[Sequence[str]] = ()
    """Column of numbers that are names (a scanner, a site); texts are taken so by themselves."""
    max_categories: int = 32
    """A column may have so many distinct texts; each becomes a feature of its own, 0 or 1."""
    overwrite: bool = False
    """Replace the file if it exists."""

    def __post_init__(self) -> None:
        for name in ("drop", "category"):
            values = getattr(self, name)
            several = (values,) if isinstance(values, str) else tuple(values)
            object.__setattr__(self, name, several)
        if self.max_categories < 1:
            raise ValueError(f"max_categories is {self.max_categories}; expected 1 or more")
        if self.id_column in {*self.drop, *self.category}:
            raise ValueError(
                f"id_column {self.id_column!r} names the clips; it cannot be dropped or a category"
            )
        if both := sorted({*self.drop} & {*self.category}):
            raise ValueError(f"{both} are to be dropped and to be categories; choose one")
