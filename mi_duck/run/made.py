"""Columns of texts and of dates, of which features are made: which features, and of what."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

DATE_PARTS = ("days", "year", "month", "day", "weekday")


@dataclass(frozen=True, slots=True)
class Levels:
    """A text column whose levels are features, one of 0 and 1 for each, named ``column=level``.

    Parameters
    ----------
    levels
        Those with a feature of their own, sorted.
    other
        The word by which all others share a feature, such as ``other``; None where there are no others. A row without a
        value has 0 in all features of the column.
    """

    column: str
    levels: tuple[str, ...]
    other: str | None = None

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features, that of the others last."""
        words = self.levels if self.other is None else (*self.levels, self.other)
        return tuple(f"{self.column}={word}" for word in words)

    def to_dict(self) -> dict[str, Any]:
        """Return the record for JSON."""
        return {"column": self.column, "levels": list(self.levels), "other": self.other}


@dataclass(frozen=True, slots=True)
class Dates:
    """A column of dates or times whose days and parts are features, named ``column:days``, ``column:year`` and so on.

    Parameters
    ----------
    first, last
        Days since 1970-01-01 of the first and the last date of training.
    n_missing
        Rows of training without a date; they have no value in any feature of the column.
    """

    column: str
    first: int
    last: int
    n_missing: int

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features: days since 1970 with the time of day as fraction, year, month, day of the month, weekday."""
        return tuple(f"{self.column}:{part}" for part in DATE_PARTS)

    def to_dict(self) -> dict[str, Any]:
        """Return the record for JSON."""
        return {"column": self.column, "first": self.first, "last": self.last, "n_missing": self.n_missing}


Made = Levels | Dates
"""A column of which features are made."""


def read_made(values: Mapping[str, Any]) -> Made:
    """Read a record from JSON."""
    if "levels" in values:
        return Levels(values["column"], tuple(values["levels"]), values["other"])
    return Dates(values["column"], values["first"], values["last"], values["n_missing"])


def levels_in(made: Sequence[Made]) -> tuple[Levels, ...]:
    """Return the text columns among them."""
    return tuple(one for one in made if isinstance(one, Levels))


def dates_in(made: Sequence[Made]) -> tuple[Dates, ...]:
    """Return the columns of dates among them."""
    return tuple(one for one in made if isinstance(one, Dates))


def made_by_feature(made: Sequence[Made], features: Collection[str] | None = None) -> dict[str, Made]:
    """Return for each feature that is made the record of its column; of some features, where they are given."""
    wanted = None if features is None else set(features)
    return {name: one for one in made for name in one.features if wanted is None or name in wanted}
