"""From a dataset to the rows that are explained: SQL chooses them, and only their row groups are read."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mi_duck.data.database import Database
from mi_duck.data.dataset import Dataset
from mi_duck.data.parquet import UNREADABLE, damaged, data_file, open_parquet
from mi_duck.ensemble.model import feature_matrix
from mi_duck.errors import DataError
from mi_duck.processes import Report

BATCH_BYTES = 128 << 20  # of a batch whose values have 8 bytes; most have one


@dataclass(frozen=True, slots=True)
class SampledRows:
    """Rows of a dataset, those of one cluster together.

    Parameters
    ----------
    gene_id, cluster, position, label
        Of each row: the gene, the number of its fold group, its position (None where the data have none), its class.
    matrix
        Features, shape (n_rows, n_features); NaN is missing.
    """

    gene_id: tuple[str, ...]
    cluster: NDArray[np.int64]
    position: tuple[int | None, ...]
    label: NDArray[np.int64]
    matrix: NDArray[np.float32]


def sample_rows(
    dataset: Dataset,
    features: Sequence[str],
    *,
    n_rows: Sequence[int],
    seed: int,
    threads: int,
    report: Report,
) -> list[SampledRows]:
    """Choose rows of a dataset and read their features; one sample for each number of rows.

    Parameters
    ----------
    features
        Columns of the matrix, in this order.
    n_rows
        Rows of each sample; all rows where the dataset has fewer.
    seed
        Seed of the first sample; the others have the next ones.

    Raises
    ------
    DataError
        A row has no gene or an unknown label, a feature is missing or not a number, a file is damaged.

    Notes
    -----
    The rows are ordered by class, then by fold group and gene in seeded order, then by position, and every (N / n)-th is
    taken. So every row has the same probability, each class and each gene of a class its share to within one row, and a
    plain mean over the sample estimates the mean over the dataset.
    """
    with Database(threads=threads) as db:
        db.open_source(
            dataset.files,
            gene_column=dataset.gene_column,
            label_column=dataset.label_column,
            fold_column=dataset.fold_column,
            position_column=dataset.position_column,
        )
        db.table("label_counts", labels=list(dataset.labels))
        for check in ("null_gene", "null_group", "unknown_label"):
            for row in db.rows(f"checks/{check}"):
                raise DataError(
                    f"{dataset.location} has rows that cannot be sampled ({check.replace('_', ' ')}, first in "
                    f"{row['first_file']}); 'mi-duck inspect {dataset.location}' says more"
                )
        tables = [
            db.arrow("shap_sample", seed=seed + number, n_rows=min(wanted, dataset.n_rows))
            for number, wanted in enumerate(n_rows)
        ]
    matrix = _read_features(pa.concat_tables(tables), features, report)
    dataset.check_unchanged()
    parts = np.split(matrix, np.cumsum([len(table) for table in tables])[:-1])
    return [_sampled(table, part) for table, part in zip(tables, parts, strict=True)]


def _sampled(table: pa.Table, matrix: NDArray[np.float32]) -> SampledRows:
    # the rows are ordered by fold group, so numbers in order of appearance keep a cluster's rows together
    groups = table["fold_group"].combine_chunks().dictionary_encode()
    return SampledRows(
        gene_id=tuple(table["gene_id"].to_pylist()),
        cluster=groups.indices.to_numpy().astype(np.int64),
        position=tuple(table["position"].to_pylist()),
        label=table["label"].to_numpy().astype(np.int64),
        matrix=matrix,
    )


def _read_features(chosen: pa.Table, features: Sequence[str], report: Report) -> NDArray[np.float32]:
    """Read the features of chosen rows, a few thousand rows of a row group at a time."""
    matrix = np.empty((len(chosen), len(features)), dtype=np.float32)
    of_file: dict[str, list[int]] = {}
    for index, file in enumerate(chosen["file"].to_pylist()):
        of_file.setdefault(file, []).append(index)
    row_numbers = chosen["row_number"].to_numpy()
    for done, (file, found) in enumerate(sorted(of_file.items())):
        report("reading the rows to explain", done, len(of_file))
        indices = np.array(found)
        indices = indices[np.argsort(row_numbers[indices], kind="stable")]
        try:
            matrix[indices] = feature_matrix(_taken(file, row_numbers[indices], features), features)
        except UNREADABLE as error:
            raise damaged(file, error) from error
    report("reading the rows to explain", len(of_file), len(of_file))
    return matrix


def _taken(file: str, numbers: NDArray[np.int64], features: Sequence[str]) -> pa.Table:
    """Return rows of a file by their ascending numbers; row groups without one of them are not read."""
    batch_rows = max(256, BATCH_BYTES // (8 * len(features)))
    taken: list[pa.RecordBatch] = []
    with open_parquet(data_file(file)) as parquet:
        _check_columns(parquet.schema_arrow, features, file)
        begin = 0
        for group in range(parquet.num_row_groups):
            stop = begin + parquet.metadata.row_group(group).num_rows
            if np.searchsorted(numbers, begin) < np.searchsorted(numbers, stop):
                for batch in parquet.iter_batches(batch_rows, row_groups=[group], columns=list(features)):
                    inside = slice(*np.searchsorted(numbers, [begin, begin + batch.num_rows]))
                    if inside.start < inside.stop:
                        taken.append(batch.take(pa.array(numbers[inside] - begin)))
                    begin += batch.num_rows
            begin = stop
    return pa.Table.from_batches(taken)


def _check_columns(schema: pa.Schema, features: Sequence[str], file: str) -> None:
    """Refuse a file without a feature of the model, or where it is not a number."""
    names = set(schema.names)
    missing = [name for name in features if name not in names]
    if missing:
        raise DataError(
            f"{Path(file).name} lacks {len(missing)} of {len(features)} features of the model: {', '.join(missing[:8])}"
        )
    for name in features:
        kind = schema.field(name).type
        if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
            raise DataError(f"feature '{name}' is {kind} in {file}, not a number")
