"""What a terminal shows: tables, facts, durations; and how numbers are written."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Table:
    """Names of columns, and the rows below them."""

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]


def table_of(records: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of one or more records that have the same keys."""
    return Table(tuple(records[0]), tuple(tuple(record.values()) for record in records))


def fact_lines(facts: Mapping[str, Any]) -> list[str]:
    """Return facts as lines of a name and a value."""
    return [f"{name.replace('_', ' '):<28} {_words(value)}" for name, value in facts.items()]


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_number(number)}" for key, number in value.items()) or "none"
    if isinstance(value, list | tuple):
        return "; ".join(str(item) for item in value) or "none"
    return _number(value)


def _number(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def duration(seconds: float) -> str:
    """Return a time as people say it.

    Examples
    --------
    >>> duration(59), duration(600), duration(9000)
    ('59 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def plain(value: Any) -> Any:
    """Return a value without NaN and infinities, which JSON lacks: they become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def unique(names: Sequence[str]) -> list[str]:
    """Return names of which none is lost as a key: the second ``a`` becomes ``a_2``."""
    return [name if name not in names[:at] else f"{name}_{names[:at].count(name) + 1}" for at, name in enumerate(names)]
