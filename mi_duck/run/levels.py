"""Text columns as features: which levels of a column have a feature of their own."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


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

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "Levels":
        """Read the record from JSON."""
        return cls(values["column"], tuple(values["levels"]), values["other"])


def column_of(levels: Sequence[Levels]) -> dict[str, Levels]:
    """Return for each feature that is a level the record of its column."""
    return {name: one for one in levels for name in one.features}
