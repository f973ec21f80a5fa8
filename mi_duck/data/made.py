"""Makes features of columns of texts and dates, where rows are read and wherever a model predicts."""

import re
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from mi_duck.data.values import coded, is_day, is_text, text_counts, value_type
from mi_duck.run.made import Dates, Levels, Made

MICROSECONDS_OF_A_DAY = 86_400_000_000
ZONE = r":\d\d(\.\d+)?(Z|[+-]\d\d(:?\d\d)?)$"
"""How a time with a zone ends, and no date."""


def made_columns(column: pa.Array, made: Made) -> dict[str, NDArray[Any]]:
    """Return the features of a column by their names, as `level_columns` or `date_columns` makes them."""
    return level_columns(column, made) if isinstance(made, Levels) else date_columns(column, made)


def n_unseen(column: pa.Array, made: Made) -> int:
    """Return how many rows have a level, or a date outside the days, that training has not seen."""
    if isinstance(made, Levels):
        return n_new_levels(column, made)
    days = days_of(moments(column))
    return int(((days < made.first) | (days >= made.last + 1)).sum())


# ---- texts --------------------------------------------------------------------------------------------------------------


def level_columns(column: pa.Array, levels: Levels) -> dict[str, NDArray[np.uint8]]:
    """Return the features of a text column by their names: 1 where a row has the level, else 0.

    Raises
    ------
    TypeError
        The column holds no texts.
    """
    if not (is_text(column.type) or pa.types.is_null(column.type)):
        raise TypeError(f"its values are {column.type}, not text as in training")
    texts, indices = coded(column)
    index = {text: number for number, text in enumerate(levels.levels)}
    n_levels = len(levels.levels)
    of_entry = np.array([*(index.get(str(text), n_levels) if text is not None else -1 for text in texts), -1])
    codes = of_entry[indices.cast(pa.int64()).fill_null(len(texts)).to_numpy(zero_copy_only=False)]
    return {name: (codes == number).astype(np.uint8) for number, name in enumerate(levels.features)}


def n_new_levels(column: pa.Array, levels: Levels) -> int:
    """Return how many rows have a level that training has not seen; 0 where rarer levels share a feature, and may be meant."""
    if levels.other is not None:
        return 0
    known = set(levels.levels)
    return sum(n for text, n in text_counts(column).items() if text is not None and text not in known)


# ---- dates --------------------------------------------------------------------------------------------------------------


def date_columns(column: pa.Array, dates: Dates) -> dict[str, NDArray[np.float32]]:
    """Return the features of a column of dates by their names, NaN where a row has none.

    They are the days since 1970-01-01 with the time of day as a fraction, the year, the month, the day of the month, and the
    weekday from 0, Monday. Times with a zone count in UTC.

    Raises
    ------
    TypeError
        The column holds no dates.
    ValueError
        A text is not a date in ISO form.
    """
    found = moments(column)
    parts = (pc.year(found), pc.month(found), pc.day(found), pc.day_of_week(found))
    days = days_of(found).astype(np.float32)
    others = (part.cast(pa.float32()).to_numpy(zero_copy_only=False) for part in parts)
    return dict(zip(dates.features, (days, *others), strict=True))


def days_of(found: pa.Array) -> NDArray[np.float64]:
    """Return the days since 1970-01-01 of moments, the time of day as a fraction; NaN for null."""
    whole: NDArray[np.float64] = found.cast(pa.int64()).cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    return whole / MICROSECONDS_OF_A_DAY


def moments(column: pa.Array) -> pa.Array:
    """Return dates, times or texts in ISO form as microseconds since 1970, those with a zone in UTC.

    Raises
    ------
    TypeError
        The column holds no dates.
    ValueError
        A text is not a date in ISO form.
    """
    if not is_date(column.type):
        raise TypeError(f"its values are {column.type}, neither dates nor text in ISO form such as 2024-01-31")
    if pa.types.is_dictionary(column.type):
        return moments(column.dictionary_decode())
    kind = column.type
    if is_text(kind):
        return _of_texts(column.cast(pa.string()))
    if pa.types.is_timestamp(kind) and kind.tz is not None:
        column = column.cast(pa.timestamp(kind.unit, "UTC")).cast(pa.timestamp(kind.unit))
    return column.cast(pa.timestamp("us"), safe=False)


def is_date(kind: pa.DataType) -> bool:
    """Return whether a column of this type may hold dates: dates, times with a date, or texts."""
    values = value_type(kind)
    return is_day(values) or is_text(values) or bool(pa.types.is_null(values))


def _of_texts(column: pa.Array) -> pa.Array:
    has_zone = pc.fill_null(pc.match_substring_regex(column, ZONE), False)
    try:
        plain = pc.if_else(has_zone, None, column).cast(pa.timestamp("us"))
        if not pc.any(has_zone).as_py():
            return plain
        # of times with a zone Arrow makes a type that has one, and of no others
        zoned = pc.if_else(has_zone, column, None).cast(pa.timestamp("us", "UTC"))
    except pa.ArrowInvalid as error:
        wrong = re.search("Failed to parse string: '(.*?)' as a scalar", str(error), re.DOTALL)
        what = repr(wrong[1])[:60] if wrong else "a text"
        raise ValueError(f"{what} is not a date in ISO form, such as 2024-01-31 or 2024-01-31 12:30") from error
    return pc.coalesce(plain, zoned.cast(pa.timestamp("us")))


def date_text(day: int) -> str:
    """Return a day as text.

    Examples
    --------
    >>> date_text(19753)
    '2024-01-31'
    """
    return str(np.datetime64(day, "D"))
