"""What the footers of a dataset say of the values of its columns: ranges, which features fit a byte, what no plan can use."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from mi_duck.data.columns import some_names
from mi_duck.data.database import Database
from mi_duck.data.dataset import Dataset
from mi_duck.data.made import date_text
from mi_duck.data.parquet import UNREADABLE, DataFile, damaged, metadata_of, row_group_batches
from mi_duck.errors import DataError
from mi_duck.run.encoding import SENTINEL
from mi_duck.run.made import Dates, Made, made_by_feature

LARGEST_POSITION = float(1 << 62)
LARGEST_FLOAT32 = float(np.finfo(np.float32).max)
ROUNDING = 1e-6  # a base score may leave 0 to 1 by: sums of float32 probabilities do


@dataclass(frozen=True, slots=True)
class ColumnFacts:
    """What the footers say of the values of a column.

    Parameters
    ----------
    kind
        Its type.
    is_known
        Whether every row group says how many nulls it has, and its smallest value unless all are null.
    low, high
        Smallest and largest value; None where no row group gives a number.
    n_nulls
        Of the row groups that say so.
    is_made
        Whether it is a feature made of texts or dates, of which this is known from reading these.
    """

    kind: pa.DataType
    is_known: bool
    low: float | None
    high: float | None
    n_nulls: int
    is_made: bool = False

    @property
    def fits_byte(self) -> bool:
        """Whether all values are known to be 0 to 255, nulls apart."""
        return self.is_known and self.low is not None and self.high is not None and self.low >= 0 and self.high <= 255

    @property
    def is_integer(self) -> bool:
        """Whether they are whole numbers by their type."""
        return bool(pa.types.is_integer(self.kind))


FactsByName = Mapping[str, ColumnFacts]
"""Of the columns of a dataset, and of the features that are made of some."""


def footer_facts(db: Database, files: Sequence[DataFile], schema: pa.Schema) -> dict[str, ColumnFacts]:
    """Return what the footers of files say of each column of their schema of which they say anything."""
    rows = {row.pop("name"): row for row in db.rows("column_statistics", files=Database.patterns(files))}
    return {field.name: ColumnFacts(field.type, **rows[field.name]) for field in schema if field.name in rows}


def column_facts(db: Database, dataset: Dataset) -> dict[str, ColumnFacts]:
    """Return what is known of the values of each column, and of each feature that is made of one."""
    found = footer_facts(db, dataset.files, dataset.schema)
    found |= {name: _made_facts(name, one) for name, one in made_by_feature(dataset.made).items()}
    positions = [dataset.position_column] if dataset.position_column else []
    absent = [name for name in (*dataset.features, *positions) if name not in found]
    if absent:
        raise DataError(
            f"the footers of {dataset.location} say nothing of {some_names(absent)}; a file is damaged: write it again"
        )
    return found


def _made_facts(name: str, made: Made) -> ColumnFacts:
    """Return what is known of a feature that is made of texts or dates, as of a column of a file."""
    low, high, n_nulls, kind = 0, 1, 0, pa.uint8()
    if isinstance(made, Dates):
        years = tuple(int(date_text(day)[:4]) for day in (made.first, made.last))
        ranges = ((made.first, made.last + 1), years, (1, 12), (1, 31), (0, 6))
        (low, high), n_nulls = dict(zip(made.features, ranges, strict=True))[name], made.n_missing
        if name in made.features[:2]:  # days and year
            kind = pa.float32()
    return ColumnFacts(kind, True, float(low), float(high), n_nulls, is_made=True)


def split_features(features: Sequence[str], columns: FactsByName) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the features that fit one byte, by their footers, and the others."""
    small: list[str] = []
    wide: list[str] = []
    for name in features:
        facts = columns[name]
        is_small = facts.is_known if pa.types.is_boolean(facts.kind) else facts.is_integer and facts.fits_byte
        (small if is_small and facts.n_nulls == 0 else wide).append(name)
    return tuple(small), tuple(wide)


def unfit_values(dataset: Dataset, columns: FactsByName, *, layout: str) -> str:
    """Return in words which column holds values that no plan can use, by the footers; empty if none does.

    Unfit are base scores outside 0 to 1, infinite values, values too large for float32, in the layout ``sentinel`` those that
    mark missing values, and a null position. Partitioning checks every value. DuckDB gives no range of a row group where one
    end is infinite, so columns without a range are looked up in the footers themselves.
    """
    position = dataset.position_column
    if position is not None and columns[position].n_nulls:
        return f"null in column '{position}' of {dataset.location}; fill it or remove the rows"
    if position is not None and (columns[position].high or 0) > LARGEST_POSITION:
        return (
            f"column '{position}' of {dataset.location} reaches {columns[position].high:.4g}, beyond 2^63; correct it"
        )
    for name in dataset.base_scores:
        low, high = columns[name].low, columns[name].high
        if low is not None and high is not None and not (low >= -ROUNDING and high <= 1 + ROUNDING):
            return no_probabilities(name, low, high, dataset.location)
    lowest = SENTINEL if layout == "sentinel" else -LARGEST_FLOAT32
    for low, high, words in (
        (-LARGEST_FLOAT32, LARGEST_FLOAT32, "an infinite value, or one too large for float32"),
        (lowest, LARGEST_FLOAT32, f"a value of {SENTINEL:g} or less, which --layout sentinel keeps for missing ones"),
    ):
        names = [
            name
            for name in dataset.features
            for facts in [columns[name]]
            if facts.low is None or facts.high is None or not _is_within(facts.low, facts.high, low, high)
        ]
        for file in dataset.files if names else ():
            name = _outside(file, names, low, high)
            if name:
                return f"{words}, in column '{name}' of {file}; replace it by null or leave the column out (--exclude)"
    return ""


def no_probabilities(name: str, low: float, high: float, where: str) -> str:
    """Return in words that a column of base scores leaves the range from 0 to 1."""
    return (
        f"base scores from {low:g} to {high:g} in column '{name}' of {where}; they are compared as probabilities, so they must "
        "lie from 0 to 1: rescale them, or rename the column or name others (--base-score-columns) to use it as a feature alone"
    )


def _is_within(least: float, most: float, low: float, high: float) -> bool:
    """Return whether values lie in a range; its lower end belongs to it only where it is the lowest float32."""
    return (low <= least if low == -LARGEST_FLOAT32 else low < least) and most <= high


def _outside(file: DataFile, names: Sequence[str], low: float, high: float) -> str:
    """Return the first column that leaves a range, by the footer of a file; empty if none does."""
    # an encrypted column is met by reading it; to ask for its statistics would end the process
    next(row_group_batches(file, names, batch_rows=1), None)
    try:
        metadata = metadata_of(file)
    except UNREADABLE as error:
        raise damaged(file, error) from error
    groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
    # not by the schema of the footer: see `mi_duck.data.parquet.row_group_batches`
    index_of = {groups[0].column(at).path_in_schema: at for at in range(metadata.num_columns)} if groups else {}
    for group in groups:
        for name in names:
            facts = group.column(index_of[name]).statistics
            if facts is not None and facts.has_min_max and not _is_within(facts.min, facts.max, low, high):
                return name
    return ""


def most_values(features: Sequence[str], columns: FactsByName) -> dict[str, int]:
    """Return how many values each feature of whole numbers has at most, by its range; others are not in it."""
    return {
        name: int(facts.high - facts.low) + 1
        for name in features
        for facts in [columns[name]]
        if facts.is_integer and facts.is_known and facts.low is not None and facts.high is not None
    }
