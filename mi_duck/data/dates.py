"""Finds the days that columns of dates reach over, and refuses columns that hold no dates."""

import math
import re
from collections.abc import Collection, Iterable, Sequence

import numpy as np
import pyarrow as pa

from mi_duck.data.columns import check_there
from mi_duck.data.made import days_of, is_date, moments
from mi_duck.data.parquet import DataFile, column_values
from mi_duck.data.text_tables import source_of
from mi_duck.errors import DataError
from mi_duck.run.made import Dates

ISO = re.compile(r"\d{4}-\d\d-\d\d(?:[T ]\d\d:\d\d(?::\d\d(?:\.\d+)?)?(?:Z|[+-]\d\d(?::?\d\d)?)?)?")


def find_dates(
    files: Sequence[DataFile], columns: Sequence[str], schema: pa.Schema, taken: Collection[str | None]
) -> tuple[Dates, ...]:
    """Return the columns of dates that ``--date-columns`` names; all their values are read.

    Parameters
    ----------
    taken
        Columns that are something else already: the gene, the label and so on.

    Raises
    ------
    DataError
        A column is absent, is something else already, holds no dates, or holds a text that is not a date in ISO form.
    """
    check_there(columns, schema, "--date-columns", taken)
    return tuple(_found(files, column, schema.field(column).type) for column in dict.fromkeys(columns))


def _found(files: Sequence[DataFile], column: str, kind: pa.DataType) -> Dates:
    if not is_date(kind):
        raise DataError(
            f"column '{column}' of --date-columns is {kind} in {source_of(files[0])}, neither a date nor text in ISO form such "
            "as 2024-01-31; cast it"
        )
    first, last, n_missing = math.inf, -math.inf, 0
    for values in column_values(files, column):
        try:
            days = days_of(moments(values))
        except ValueError as error:
            raise DataError(
                f"column '{column}' of --date-columns in {source_of(files[0])}: {error}; rewrite it"
            ) from error
        is_there = ~np.isnan(days)
        n_missing += int((~is_there).sum())
        if is_there.any():
            first, last = min(first, days[is_there].min()), max(last, days[is_there].max())
    if first > last:
        raise DataError(f"column '{column}' of --date-columns has no date in {source_of(files[0])}; leave it out")
    return Dates(column, math.floor(first), math.floor(last), n_missing)


def are_dates(texts: Iterable[str]) -> bool:
    """Return whether all texts are dates in ISO form.

    Examples
    --------
    >>> are_dates(["2024-01-31", "2024-01-31T12:30Z"]), are_dates(["2024-01-31", "31/01/2024"])
    (True, False)
    """
    return all(ISO.fullmatch(text) for text in texts)
