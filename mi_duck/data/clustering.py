"""Finds where every row goes when a dataset is sorted by gene and position, which columns fit a byte, and what is gained."""

from collections.abc import Iterator, Mapping, Sequence
from math import lgamma
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mi_duck.atomic_files import storage_errors
from mi_duck.data.database import Database
from mi_duck.data.parquet import UNREADABLE, DataFile, damaged, data_file, open_parquet, row_groups, schema_of
from mi_duck.errors import DataError
from mi_duck.processes import Report

ROW_GROUP_ROWS = 8192
BATCH_BYTES = 16 << 20  # of a batch that is read
BUFFER_BYTES = 64 << 20  # of the reader's buffers of all columns
SQL_BYTES = 512 << 20
SAMPLE = 100  # genes of a development run, for which the gain is told


def index_rows(
    report: Report,
    files: Sequence[str],
    gene_column: str,
    label_column: str,
    labels: Sequence[str],
    fold_column: str,
    position_column: str | None,
    features: Sequence[str],
    scratch: str,
    threads: int,
) -> dict[str, Any]:
    """Find the place of every row: ``places.bin`` (int64, by file and row) and ``genes.bin`` (first place of each gene).

    Returns
    -------
    dict
        ``n_genes``, ``narrow`` (columns to store as bytes), ``row_groups`` and what is read of them now.
    """
    folder = Path(scratch)
    paths = [data_file(file) for file in files]
    with Database(threads=threads, memory_bytes=SQL_BYTES, scratch=folder / "sql") as db:
        db.open_source(
            paths,
            gene_column=gene_column,
            label_column=label_column,
            fold_column=fold_column,
            position_column=position_column,
        )
        db.table("label_counts", labels=list(labels))
        for row in db.rows("checks/null_gene"):
            raise DataError(
                f"{row['n_rows']:,} row(s) without a gene in column '{gene_column}' of {row['first_file']}; remove or name them"
            )
        report("sorting genes and positions", 0, 1)
        db.table("clustered_genes")
        db.table("row_places", files=list(files))
        db.load("row_groups", row_groups(paths))
        groups = db.arrow("group_genes")
        genes = db.read("clustered_genes")
        with storage_errors(folder):
            genes["first_row"].to_numpy().tofile(folder / "genes.bin")
            with (folder / "places.bin").open("wb") as file:
                for batch in db.stream("row_places"):
                    file.write(batch["place"].to_numpy().data)
        statistics = {row["name"]: row for row in db.rows("column_statistics", files=Database.patterns(paths))}
    rows, with_gene = groups["n_rows"].to_numpy(), groups["n_genes"].to_numpy()
    return {
        "n_genes": len(genes),
        "narrow": narrow_columns(paths, statistics, features),
        "row_groups": len(groups),
        "row_groups_per_gene": float(with_gene.sum() / len(genes)),
        "sample_read": sample_read(rows, with_gene, len(genes)),
    }


def narrow_columns(
    files: Sequence[DataFile], statistics: Mapping[str, Mapping[str, Any]], features: Sequence[str]
) -> list[str]:
    """Return the features of a wider type whose values are whole numbers from 0 to 255; none may be NaN or -0.0.

    Of whole-number types the footers tell it; columns of real numbers in that range are read until a value is not such number.
    """
    schema = schema_of(files[0])
    in_range = [
        name
        for name in features
        for facts in [statistics.get(name)]
        if facts and facts["is_known"] and facts["low"] is not None and facts["low"] >= 0 and facts["high"] <= 255
    ]
    integers = {
        name
        for name in in_range
        if pa.types.is_integer(schema.field(name).type) and schema.field(name).type.bit_width > 8
    }
    reals = [name for name in in_range if pa.types.is_floating(schema.field(name).type)]
    for file in files:
        with open_rows(file, len(reals)) as parquet:
            for group in range(parquet.num_row_groups):
                for batch in group_batches(parquet, file, reals, group, row_bytes=8 * len(reals)) if reals else ():
                    whole = {name for name in reals if _is_whole(batch[name])}
                    reals = [name for name in reals if name in whole]
    return [name for name in features if name in integers or name in set(reals)]


def _is_whole(values: pa.Array) -> bool:
    """Return whether all values of a column of real numbers are whole numbers from 0 to 255, which a byte holds."""
    numbers = values.drop_null().to_numpy(zero_copy_only=False)
    return bool(
        ((numbers >= 0) & (numbers <= 255) & (numbers == np.floor(numbers))).all() and not np.signbit(numbers).any()
    )


def sample_read(rows: NDArray[np.int64], genes: NDArray[np.int64], n_genes: int, sample: int = SAMPLE) -> float:
    """Return the share of all rows in row groups that hold one of so many genes drawn by chance, in expectation.

    Parameters
    ----------
    rows, genes
        Of each row group: its rows, and how many genes have one there.
    n_genes
        Of the dataset.
    sample
        Genes drawn without replacement; all where there are no more.
    """
    if sample >= n_genes:
        return 1.0

    def ways(n: int) -> float:
        return lgamma(n + 1) - lgamma(n - sample + 1)

    missed = [np.exp(ways(n_genes - g) - ways(n_genes)) if n_genes - g >= sample else 0.0 for g in genes.tolist()]
    return float((rows * (1 - np.array(missed))).sum() / rows.sum())


def open_rows(file: DataFile, n_columns: int) -> pq.ParquetFile:
    """Open a Parquet file with buffers that together stay small for so many columns."""
    buffer = int(np.clip(BUFFER_BYTES // max(n_columns, 1), 1 << 13, 1 << 20))
    try:
        return open_parquet(file, buffer_size=buffer)
    except UNREADABLE as error:
        raise damaged(file, error) from error


def group_batches(
    parquet: pq.ParquetFile, file: DataFile, names: Sequence[str], group: int, *, row_bytes: int
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of one row group, whose pages are verified; a row takes about so many bytes."""
    n = 0
    batch_rows = int(np.clip(BATCH_BYTES // row_bytes, 64, ROW_GROUP_ROWS))
    try:
        for batch in parquet.iter_batches(batch_rows, row_groups=[group], columns=list(names), use_threads=False):
            n += batch.num_rows
            yield batch
    except UNREADABLE as error:
        raise damaged(file, error, f" in row group {group}") from error
    if n != parquet.metadata.row_group(group).num_rows:
        raise DataError(f"{file} is damaged in row group {group}: it ends after {n:,} rows; write it again")
