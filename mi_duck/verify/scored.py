"""Checks a file of out-of-fold predictions row by row, one row group at a time."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mi_duck.database import Database
from mi_duck.train.instances import codes_of
from mi_duck.verify.findings import listed

SUM_TOLERANCE = 1e-5
LINES = pa.schema(
    [("gene_id", pa.string())] + [(name, pa.int64()) for name in ("fold", "label", "n_rows", "first_row", "last_row")]
)


@dataclass(frozen=True, slots=True)
class ScoredFile:
    """What a file of predictions holds.

    Parameters
    ----------
    problems
        What is wrong, in words.
    n_rows
        Its rows.
    label
        Class of each row, shape (n_rows,).
    chances
        Probabilities, shape (n_rows, n_classes), or (0, n_classes) where they are not kept.
    """

    problems: tuple[str, ...]
    n_rows: int
    label: NDArray[np.uint8]
    chances: NDArray[np.float32]


def read_scored(
    db: Database,
    path: Path,
    classes: Sequence[str],
    *,
    first_row: int,
    ranks: tuple[int, int],
    has_margins: bool = False,
    keeps: bool = False,
) -> ScoredFile:
    """Read a file of predictions whose hash was checked, and compare its rows with the genes of the run.

    Parameters
    ----------
    db
        Holds ``run_genes``.
    path, classes
        The file and the names of the classes.
    first_row
        The row_id that the file must begin with; each further row has the next.
    ranks
        Half-open range of the gene ranks whose rows it must hold.
    has_margins
        Whether it has margins beside the probabilities.
    keeps
        Whether to return labels and probabilities: 4 bytes a class and row, and one.
    """
    problems: list[str] = []
    names = [f"p_{name}" for name in classes]
    margins = [f"margin_{name}" for name in classes] if has_margins else []
    columns = ["row_id", "gene_id", "position", "label", "fold", *names, *margins]
    number_of = {name: number for number, name in enumerate(classes)}
    lines, labels, chances = [], [], []
    expected = first_row
    misplaced = n_bad = n_infinite = 0
    with pq.ParquetFile(path, page_checksum_verification=True) as parquet:
        if parquet.schema_arrow.names != columns:
            return ScoredFile(
                (f"its columns are {', '.join(parquet.schema_arrow.names)}",),
                *(0, np.empty(0, np.uint8), np.empty((0, len(classes)), np.float32)),
            )
        for group in range(parquet.num_row_groups):
            table = parquet.read_row_group(group)
            row_id = table["row_id"].to_numpy()
            misplaced += int(np.count_nonzero(row_id != np.arange(expected, expected + len(table))))
            expected += len(table)
            matrix = np.column_stack([table[name].to_numpy() for name in names])
            is_right = np.abs(matrix.sum(axis=1, dtype=np.float64) - 1) <= SUM_TOLERANCE
            n_bad += int(np.count_nonzero(~(is_right & (matrix >= 0).all(axis=1))))
            for name in margins:
                n_infinite += int(np.count_nonzero(~np.isfinite(table[name].to_numpy())))
            label = codes_of(table["label"].cast(pa.string()), number_of)
            lines.append(_by_gene(table, label))
            if keeps:
                labels.append(label.astype(np.uint8))
                chances.append(matrix)
    n_rows = expected - first_row
    if misplaced:
        problems.append(f"{misplaced:,} rows whose row_id is not the next from {first_row:,} on")
    if n_bad:
        problems.append(f"{n_bad:,} rows whose probabilities are not finite or do not sum to 1")
    if n_infinite:
        problems.append(f"{n_infinite:,} margins that are not finite")
    db.load("scored_rows", pa.concat_tables(lines) if lines else LINES.empty_table())
    wrong = db.rows("checks/wrong_score", first_rank=ranks[0], stop_rank=ranks[1])
    if wrong:
        words = [f"{row['gene_id']} ({row['rows_scored']} rows, {row['n_rows']} expected)" for row in wrong]
        problems.append(f"rows, fold or classes of {listed(words)} are not those of genes.parquet")
    return ScoredFile(
        tuple(problems),
        n_rows,
        np.concatenate(labels) if labels else np.empty(0, np.uint8),
        np.concatenate(chances) if chances else np.empty((0, len(classes)), np.float32),
    )


def _by_gene(table: pa.Table, label: NDArray[np.int64]) -> pa.Table:
    """Return the rows of each gene, fold and class with the first and last row_id."""
    rows = pa.table(
        {
            "gene_id": table["gene_id"].cast(pa.string()),
            "fold": table["fold"].cast(pa.int64()),
            "label": pa.array(label),
            "row_id": table["row_id"].cast(pa.int64()),
        }
    )
    counted = rows.group_by(["gene_id", "fold", "label"], use_threads=False).aggregate(
        [("row_id", "count"), ("row_id", "min"), ("row_id", "max")]
    )
    columns = ["gene_id", "fold", "label", "row_id_count", "row_id_min", "row_id_max"]
    return counted.select(columns).rename_columns(LINES.names).cast(LINES)
