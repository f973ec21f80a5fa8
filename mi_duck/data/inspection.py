"""What `mi-duck inspect` says of a dataset, and what every plan warns of: sizes, kinds of features, odd genes and columns."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mi_duck.data.columns import some_names
from mi_duck.data.database import SQL_BYTES, Database
from mi_duck.data.dataset import Dataset
from mi_duck.data.genes import GeneCounts, index_genes
from mi_duck.data.identical import identical_words
from mi_duck.data.parquet import row_group_batches
from mi_duck.data.statistics import FactsByName, column_facts, split_features, unfit_values
from mi_duck.data.values import numbers

EXACT_IN_FLOAT32 = 1 << 24
MOST_OF_ONE_GROUP = 0.5  # of the rows
LEAST_EFFECTIVE = 0.1  # of the number of fold groups; genes of usual, lognormal sizes are at .25 to .5
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
        columns = column_facts(db, dataset)
        rows = db.read("gene_index")["n_rows"].to_numpy()
        warnings = dataset.warnings + warnings_of(db, dataset, columns, genes) + id_warnings(dataset, columns)
    unfit = unfit_values(dataset, columns, layout="auto")
    if unfit:
        warnings += (f"a plan would be refused: {unfit}",)
    dataset.check_unchanged()
    small, wide = split_features(dataset.features, columns)
    quantiles = {
        f"{share:.0%}": int(np.quantile(rows, share, method="lower")) for share in (0, 0.05, 0.25, 0.5, 0.75, 0.95, 1)
    }
    kinds = {"whole numbers 0 to 255 (one byte)": len(small), "other numbers (float32)": len(wide)}
    return Inspection(dataset, genes, quantiles, kinds, warnings)


def warnings_of(db: Database, dataset: Dataset, columns: FactsByName, genes: GeneCounts) -> tuple[str, ...]:
    """Return what the user may want to change: in genes and positions, then in features."""
    return gene_warnings(db, dataset, genes) + data_warnings(dataset, columns)


def data_warnings(dataset: Dataset, columns: FactsByName) -> tuple[str, ...]:
    """Return what the user may want to change, from the footers alone."""
    large, empty, constant = [], [], []
    for name in dataset.features:
        facts = columns[name]
        if not facts.is_known:
            continue
        if facts.low is None or facts.high is None:
            if facts.n_nulls == dataset.n_rows:
                empty.append(name)
        elif facts.low == facts.high and facts.n_nulls == 0:
            constant.append(name)
        elif facts.is_integer and max(-facts.low, facts.high) > EXACT_IN_FLOAT32:
            large.append(name)
    found = {
        "whole numbers beyond 2^24 lose their last digits as float32": large,
        "features without any value": empty,
        "features with one value only": constant,
    }
    return tuple(f"{words}: {some_names(names)}" for words, names in found.items() if names)


def id_warnings(dataset: Dataset, columns: FactsByName) -> tuple[str, ...]:
    """Name features that are whole numbers and differ in every row looked at, as ids and positions do.

    Only columns whose footers span at least as many numbers as there are rows are looked at.
    """
    names = [
        name
        for name in dataset.features
        for facts in [columns[name]]
        if not (facts.is_made or facts.low is None or facts.high is None)  # of infinite values there is no range
        and facts.high - facts.low + 1 >= dataset.n_rows - facts.n_nulls
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
