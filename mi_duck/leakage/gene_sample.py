"""Samples whole genes for the leakage report and reads their rows.

Row groups are drawn by seed, and of the genes that lie entirely in them those of the lowest ranks are taken, so that only
a part of a table of any size is read. Where rows are so mixed that too few genes are whole, a few genes are read from all
row groups.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mi_duck.data.database import Database
from mi_duck.data.dataset import Dataset
from mi_duck.data.parquet import UNREADABLE, damaged, data_file, open_parquet, row_groups
from mi_duck.errors import DataError
from mi_duck.processes import Report

MOST_GENES, LEAST_GENES = 200, 60
MOST_ROWS = 60_000
ROWS_READ = 100_000  # of all row groups that are read: 3 s at a thousand features
MOST_CELLS = 20_000_000  # of columns that are not 8-bit, for time and memory: 80 MB
BATCH_ROWS = 4096


@dataclass(frozen=True, slots=True)
class Sample:
    """Rows of whole genes.

    Parameters
    ----------
    columns
        Values of each feature, shape (n_rows,): uint8, or float32 with NaN for missing.
    label, gene
        Of each row, as numbers from 0, shape (n_rows,).
    group
        Fold group of each gene, as a number from 0, shape (n_genes,).
    """

    columns: dict[str, NDArray[np.uint8] | NDArray[np.float32]]
    label: NDArray[np.int64]
    gene: NDArray[np.int64]
    group: NDArray[np.int64]


def sample_runs(db: Database, dataset: Dataset, *, n_wide: int, seed: int) -> list[dict[str, Any]]:
    """Return which rows the sampled genes have: lines of ``sql/leakage_rows.sql``.

    Parameters
    ----------
    db
        Database with ``source_rows`` and ``gene_index``.
    n_wide
        Features that are not 8-bit; the more there are, the fewer rows are taken.
    seed
        Chooses the row groups.
    """
    db.load("row_groups", row_groups(dataset.files))
    runs = db.rows("leakage_rows", seed=seed, rows_read=ROWS_READ, n_first=None)
    n_genes = len(db.read("gene_index"))
    if len({run["gene_rank"] for run in runs}) < min(LEAST_GENES, n_genes):
        runs = db.rows("leakage_rows", seed=seed, rows_read=None, n_first=LEAST_GENES)
    rows_of: dict[int, int] = {}
    for run in runs:
        rows_of[run["gene_rank"]] = rows_of.get(run["gene_rank"], 0) + run["n_rows"]
    most_rows = min(MOST_ROWS, MOST_CELLS // max(n_wide, 1))
    chosen: set[int] = set()
    n_rows = 0
    for rank in sorted(rows_of)[:MOST_GENES]:
        if not chosen or n_rows + rows_of[rank] <= most_rows:
            chosen.add(rank)
            n_rows += rows_of[rank]
    return [run for run in runs if run["gene_rank"] in chosen]


def read_sample(
    runs: Sequence[Mapping[str, Any]],
    features: Sequence[str],
    small: Sequence[str],
    label_column: str,
    labels: Sequence[str],
    report: Report,
) -> Sample:
    """Read the rows of the sampled genes, row group by row group; ``small`` are the features that fit one byte.

    Raises
    ------
    DataError
        A file is damaged or has changed.
    """
    as_bytes = set(small)
    code = {text: number for number, text in enumerate(labels)}
    parts: dict[str, list[Any]] = {name: [] for name in features}
    label, rank = [], []
    total, done = sum(run["n_rows"] for run in runs), 0
    for file, batch, wanted, ranks in _batches(runs, [*features, label_column]):
        rows = np.flatnonzero(wanted)
        try:
            label += [code[str(text)] for text in batch[label_column].take(pa.array(rows)).to_pylist()]
        except KeyError as error:
            raise DataError(f"unknown label {error} in column '{label_column}' of {file}; the file changed") from error
        rank.append(ranks)
        for name in features:
            values = batch[name].to_numpy(zero_copy_only=False)[rows]
            with np.errstate(over="ignore"):
                parts[name].append(values.astype(np.uint8 if name in as_bytes else np.float32))
        done += len(rows)
        report("reading genes to look for leaks", done, total)
    gene_rank, gene = np.unique(np.concatenate(rank), return_inverse=True)
    group_of = {run["gene_rank"]: run["fold_group"] for run in runs}
    group = np.unique([group_of[number] for number in gene_rank.tolist()], return_inverse=True)[1]
    columns = {name: np.concatenate(parts.pop(name)) for name in features}  # pop: not every column twice in memory
    return Sample(columns, np.array(label, dtype=np.int64), gene.astype(np.int64), group.astype(np.int64))


def _batches(
    runs: Sequence[Mapping[str, Any]], columns: Sequence[str]
) -> Iterator[tuple[str, pa.RecordBatch, NDArray[np.bool_], NDArray[np.int64]]]:
    """Yield (file, batch, which of its rows are wanted, gene ranks of these) for all batches with a wanted row."""
    for (file, row_group), of_group in groupby(runs, key=lambda run: (run["file"], run["row_group"])):
        pieces = list(of_group)
        n = max(run["first_row"] + run["n_rows"] for run in pieces)
        rank = np.full(n, -1, dtype=np.int64)
        for run in pieces:
            rank[run["first_row"] : run["first_row"] + run["n_rows"]] = run["gene_rank"]
        first = 0
        try:
            with open_parquet(data_file(file), buffer_size=1 << 20) as parquet:
                for batch in parquet.iter_batches(
                    BATCH_ROWS, row_groups=[row_group], columns=list(dict.fromkeys(columns)), use_threads=False
                ):
                    ranks = rank[first : first + batch.num_rows]
                    first += batch.num_rows
                    if (ranks >= 0).any():
                        yield file, batch, ranks >= 0, ranks[ranks >= 0]
                    if first >= n:
                        break
            if first < n:
                raise DataError(
                    f"{file} is damaged in row group {row_group}: it ends after {first:,} rows; write it again"
                )
        except UNREADABLE as error:
            raise damaged(file, error, f" in row group {row_group}") from error
