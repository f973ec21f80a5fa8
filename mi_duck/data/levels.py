"""Finds the levels of text columns that become features."""

import re
from collections import Counter
from collections.abc import Sequence

from mi_duck.data.dates import are_dates
from mi_duck.data.parquet import DataFile, column_values
from mi_duck.data.values import text_counts
from mi_duck.errors import DataError
from mi_duck.run.made import Levels, Made

MOST_COUNTED = 100_000
"""Different texts of a column above which no more are counted: it holds ids or free text."""
SHARE_OF_TEXTS = 0.5
"""Of the rows: a column with as many different texts says what a row is and nothing of rows like it."""
MOST_CODES = 20
"""Different texts of a column up to which ``1,2`` is taken for a code, and above which for a number."""
OTHER = "other"


def find_levels(
    files: Sequence[DataFile], columns: Sequence[str], most: int
) -> tuple[tuple[Levels, ...], dict[str, str]]:
    """Return the levels of text columns, and why some columns have none, by column.

    Parameters
    ----------
    most
        Levels of a column with a feature of their own: the most frequent ones; the others share one.
    """
    found: list[Levels] = []
    reasons: dict[str, str] = {}
    for column in columns:
        n_rows = _counted(files, column)
        if _are_numbers_with_commas(files, column, n_rows):
            reasons[column] = "numbers with decimal commas, which are text here: write points, as in 1.5"
        elif n_rows and are_dates(n_rows):
            reasons[column] = "dates in text, of which --date-columns makes features"
        elif n_rows is None or len(n_rows) > max(SHARE_OF_TEXTS * sum(n_rows.values()), 2):
            reasons[column] = "text that differs in most rows, as ids and free text do"
        elif len(n_rows) < 2:
            reasons[column] = "text that is the same in all rows" if n_rows else "text without a value"
        else:
            ordered = sorted(n_rows, key=lambda text: (-n_rows[text], text))
            kept = tuple(sorted(ordered[:most]))
            other = None if len(ordered) <= most else OTHER if OTHER not in kept else f"({OTHER})"
            found.append(Levels(column, kept, other))
    return tuple(found), reasons


def _counted(files: Sequence[DataFile], column: str) -> Counter[str] | None:
    """Return the rows of every text in a column; None where there are too many."""
    found: Counter[str] = Counter()
    for values in column_values(files, column):
        found.update({text: n for text, n in text_counts(values).items() if text is not None})
        if len(found) > MOST_COUNTED:
            return None
    return found


def _are_numbers_with_commas(files: Sequence[DataFile], column: str, n_rows: Counter[str] | None) -> bool:
    """Return whether texts are numbers, some with a comma for the point, and more than a column of codes such as ``1,2`` has.

    ``n_rows`` are the rows of every text; where these are too many, the first piece of the column is looked at.
    """
    texts = list(n_rows or ())
    if n_rows is None:
        texts = [text for text in text_counts(next(column_values(files, column))) if text is not None]
    return (
        len(texts) > MOST_CODES
        and any("," in text for text in texts)
        and all(re.fullmatch(r"[+-]?\d+(,\d+)?", text.strip()) for text in texts)
    )


def check_made_names(made: Sequence[Made], names: Sequence[str]) -> None:
    """Refuse features that are made where they have the name of a column, or of another feature."""
    every = [name for one in made for name in one.features]
    doubled = sorted({name for name in every if every.count(name) > 1} | (set(every) & set(names)))
    if doubled:
        raise DataError(
            f"the feature '{doubled[0]}' of a column of texts or dates has the name of another column; rename it, or leave text "
            "columns out (--max-levels 0)"
        )
