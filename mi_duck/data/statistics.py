"""What footers and one pass over gene, label and group say of a dataset: sizes, kinds of features, warnings."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mi_duck.data.columns import some_names
from mi_duck.data.database import SQL_BYTES, Database
from mi_duck.data.dataset import Dataset
from mi_duck.data.genes import GeneCounts, index_genes
from mi_duck.data.identical import identical_words
from mi_duck.data.made import date_text
from mi_duck.data.parquet import UNREADABLE, DataFile, damaged, metadata_of, row_group_batches
from mi_duck.data.values import numbers
from mi_duck.errors import DataError
from mi_duck.run.encoding import SENTINEL
from mi_duck.run.made import Dates, Made, dates_in, made_by_feature

EXACT_IN_FLOAT32 = 1 << 24
LARGEST_POSITION = float(1 << 62)
LARGEST_FLOAT32 = float(np.finfo(np.float32).max)
MOST_OF_ONE_GROUP = 0.5  # of the rows
LEAST_EFFECTIVE = 0.1  # of the number of fold groups; genes of usual, lognormal sizes are at .25 to .5
ROUNDING = 1e-6  # a base score may leave 0 to 1 by: sums of float32 probabilities do
LEAST_ROWS_OF_IDS, ROWS_OF_IDS, CELLS_OF_IDS = 200, 10_000, 4_000_000  # among which ids are looked for
ROWS_COMPARED = 50_000  # among which positions with rows of several classes are counted


@dataclass(frozen=True, slots=True)
class Inspection:
    """What `inspect` found: the dataset, its genes, quantiles of rows per gene, features by kind, warnings."""

    dataset: Dataset
    genes: GeneCounts
    quantiles: dict[str, int]
    kinds: dict[str, int]
    warnings: tuple[str, ...]


def inspect(dataset: Dataset, *, threads: int, seed: int) -> Inspection:
    """Describe a dataset from its footers and one pass over gene, label and group."""
    with Database(threads=threads, memory_bytes=SQL_BYTES) as db:
        genes = index_genes(db, dataset, seed=seed)
        statistics = read_statistics(db, dataset)
        rows = db.read("gene_index")["n_rows"].to_numpy()
        warnings = dataset.warnings + warnings_of(db, dataset, statistics, genes) + id_warnings(dataset, statistics)
    unfit = unfit_values(dataset, statistics, layout="auto")
    if unfit:
        warnings += (f"a plan would be refused: {unfit}",)
    dataset.check_unchanged()
    small, wide = split_features(dataset, statistics)
    quantiles = {
        f"{share:.0%}": int(np.quantile(rows, share, method="lower")) for share in (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
    }
    kinds = {"whole numbers 0 to 255 (one byte)": len(small), "other numbers (float32)": len(wide)}
    return Inspection(dataset, genes, quantiles, kinds, warnings)


def read_statistics(db: Database, dataset: Dataset) -> dict[str, dict[str, Any]]:
    """Return what the footers say of the values of each column: lines of ``sql/column_statistics.sql`` by column."""
    found = {row["name"]: row for row in db.rows("column_statistics", files=Database.patterns(dataset.files))}
    found |= {name: _made_facts(name, one) for name, one in made_by_feature(dataset.made).items()}
    positions = [dataset.position_column] if dataset.position_column else []
    absent = [name for name in (*dataset.features, *positions) if name not in found]
    if absent:
        raise DataError(
            f"the footers of {dataset.location} say nothing of {some_names(absent)}; a file is damaged: write it again"
        )
    return found


def _kinds(dataset: Dataset) -> dict[str, pa.DataType]:
    """Return the type of every feature."""
    made = made_by_feature(dataset.made)
    floats = {name for one in dates_in(dataset.made) for name in one.features[:2]}  # days and year
    return {
        name: pa.float32() if name in floats else pa.uint8() if name in made else dataset.schema.field(name).type
        for name in dataset.features
    }


def _made_facts(name: str, made: Made) -> dict[str, Any]:
    """Return what is known of a feature that is made of texts or dates, as of a column of a file."""
    low, high, n_nulls = 0, 1, 0
    if isinstance(made, Dates):
        years = tuple(int(date_text(day)[:4]) for day in (made.first, made.last))
        ranges = ((made.first, made.last + 1), years, (1, 12), (1, 31), (0, 6))
        (low, high), n_nulls = dict(zip(made.features, ranges, strict=True))[name], made.n_missing
    return {"name": name, "is_known": True, "low": low, "high": high, "n_nulls": n_nulls}


def fits_byte(facts: Mapping[str, Any]) -> bool:
    """Return whether the footers say that all values of a column are 0 to 255, nulls apart."""
    return bool(facts["is_known"] and facts["low"] is not None and facts["low"] >= 0 and facts["high"] <= 255)


def split_features(
    dataset: Dataset, statistics: Mapping[str, Mapping[str, Any]]
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the features that fit one byte, by their footers, and the others."""
    kinds = _kinds(dataset)
    small: list[str] = []
    wide: list[str] = []
    for name in dataset.features:
        facts, kind = statistics[name], kinds[name]
        is_small = facts["is_known"] if pa.types.is_boolean(kind) else pa.types.is_integer(kind) and fits_byte(facts)
        (small if is_small and facts["n_nulls"] == 0 else wide).append(name)
    return tuple(small), tuple(wide)


def warnings_of(
    db: Database, dataset: Dataset, statistics: Mapping[str, Mapping[str, Any]], genes: GeneCounts
) -> tuple[str, ...]:
    """Return what the user may want to change: in genes and positions, then in features."""
    return gene_warnings(db, dataset, genes) + data_warnings(dataset, statistics)


def data_warnings(dataset: Dataset, statistics: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Return what the user may want to change, from the footers alone."""
    kinds = _kinds(dataset)
    large, empty, constant = [], [], []
    for name in dataset.features:
        facts = statistics[name]
        if not facts["is_known"]:
            continue
        if facts["low"] is None and facts["n_nulls"] == dataset.n_rows:
            empty.append(name)
        elif facts["low"] is not None and facts["low"] == facts["high"] and facts["n_nulls"] == 0:
            constant.append(name)
        elif pa.types.is_integer(kinds[name]) and max(-facts["low"], facts["high"]) > EXACT_IN_FLOAT32:
            large.append(name)
    found = {
        "whole numbers beyond 2^24 lose their last digits as float32": large,
        "features without any value": empty,
        "features with one value only": constant,
    }
    return tuple(f"{words}: {some_names(names)}" for words, names in found.items() if names)


def id_warnings(dataset: Dataset, statistics: Mapping[str, Mapping[str, Any]]) -> tuple[str, ...]:
    """Name features that are whole numbers and differ in every row looked at, as ids and positions do.

    Only columns whose footers span at least as many numbers as there are rows are looked at.
    """
    made = made_by_feature(dataset.made)
    names = [
        name
        for name in dataset.features
        for facts in [statistics[name]]
        if name not in made
        and None not in (facts["low"], facts["high"])  # of columns with infinite values
        and facts["high"] - facts["low"] + 1 >= dataset.n_rows - float(facts["n_nulls"])
    ]
    most_rows = min(ROWS_OF_IDS, CELLS_OF_IDS // max(len(names), 1))
    seen: dict[str, list[NDArray[np.float64]]] = {name: [] for name in names}
    n_rows = 0
    for file in dataset.files if names else ():
        for _, batch in row_group_batches(file, names, batch_rows=most_rows):
            for name in list(seen):
                values = numbers(batch[name]).astype(np.float64)
                values = values[~np.isnan(values)]
                if len(np.unique(values)) < len(values) or not np.array_equal(values, np.trunc(values)):
                    del seen[name]
                else:
                    seen[name].append(values)
            n_rows += batch.num_rows
            if n_rows >= most_rows or not seen:
                break
        if n_rows >= most_rows or not seen:
            break
    found = []
    for name, parts in seen.items():
        values = np.concatenate(parts)
        if LEAST_ROWS_OF_IDS <= len(values) == len(np.unique(values)):
            found.append(name)
    if not found:
        return ()
    return (
        f"{some_names(found)}: a different whole number in each of {n_rows:,} rows looked at, as ids and positions have; models "
        "learn such rows by heart: leave them out (--exclude)",
    )


def gene_warnings(db: Database, dataset: Dataset, genes: GeneCounts) -> tuple[str, ...]:
    """Return what the user may want to change in genes and positions."""
    found: list[str] = []
    (alike,) = db.rows("similar_genes")
    if alike["n_names"]:
        names = " and ".join(repr(name) for name in alike["genes"][:3])
        found.append(
            f"{alike['n_names']:,} {dataset.noun.one} name(s) are written in several ways, as {names}; each counts as one of its "
            "own, so what belongs together may be trained on and scored"
        )
    if genes.identical.n_rows and not genes.identical.n_joined:
        found.append(identical_words(genes.identical, dataset))
    (spread,) = db.rows("gene_summary")
    if spread["largest_share"] > MOST_OF_ONE_GROUP or spread["effective_groups"] < LEAST_EFFECTIVE * genes.n_groups:
        found.append(
            f"the rows are spread so unevenly that {genes.n_groups:,} fold groups of '{dataset.fold_column}' count as "
            f"{spread['effective_groups']:.1f} (Kish's effective number); {spread['largest_group']!r} has "
            f"{spread['largest_share']:.0%} of the rows: scores and intervals say little of other {dataset.noun.many}; "
            "choose a finer --fold-by"
        )
    if dataset.position_column is not None:
        before = np.cumsum(db.read("gene_index").sort_by("gene_rank")["n_rows"].to_numpy())
        n_genes = max(int(np.searchsorted(before, ROWS_COMPARED, side="right")), 1)
        (row,) = db.rows("conflicting_rows", n_genes=n_genes)
        if row["n_positions"]:
            n_rows = before[min(n_genes, len(before)) - 1]
            found.append(
                f"{row['n_positions']:,} position(s) have rows of several classes, among {n_rows:,} rows looked at; "
                f"one is {row['position']} of {dataset.noun.one} {row['gene_id']!r} in column '{dataset.position_column}'"
            )
    return tuple(found)


def unfit_values(dataset: Dataset, statistics: Mapping[str, Mapping[str, Any]], *, layout: str) -> str:
    """Return in words which column holds values that no plan can use, by the footers; empty if none does.

    Unfit are base scores outside 0 to 1, infinite values, values too large for float32, in the layout ``sentinel`` those that
    mark missing values, and a null position. Partitioning checks every value. DuckDB gives no range of a row group where one
    end is infinite, so columns without a range are looked up in the footers themselves.
    """
    position = dataset.position_column
    if position is not None and statistics[position]["n_nulls"]:
        return f"null in column '{position}' of {dataset.location}; fill it or remove the rows"
    if position is not None and (statistics[position]["high"] or 0) > LARGEST_POSITION:
        return f"column '{position}' of {dataset.location} reaches {statistics[position]['high']:.4g}, beyond 2^63; correct it"
    for name in dataset.base_scores:
        low, high = statistics[name]["low"], statistics[name]["high"]
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
            for facts in [statistics[name]]
            if facts["low"] is None or facts["high"] is None or not _is_within(facts["low"], facts["high"], low, high)
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


def most_values(dataset: Dataset, statistics: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Return how many values each feature of whole numbers has at most, by its range; others are not in it."""
    kinds = _kinds(dataset)
    return {
        name: int(facts["high"] - facts["low"]) + 1
        for name in dataset.features
        if pa.types.is_integer(kinds[name]) and (facts := statistics[name])["is_known"] and facts["low"] is not None
    }
