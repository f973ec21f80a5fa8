"""From a dataset to the rows that are explained: which ones, by SQL, and their features, from their row groups alone."""

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

BATCH_BYTES = 128 << 20  # if every value had 8 bytes; most have one


@dataclass(frozen=True, slots=True)
class SampledRows:
    """Rows of a dataset, those of one cluster together.

    Parameters
    ----------
    gene_id, cluster, position, label
        Of each row: the gene, the number of its unit of independence, its place in the gene (None where the data have
        none), its class.
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
    dataset
        The dataset.
    features
        Columns of the matrix, in this order.
    n_rows
        Rows of each sample; all rows where the dataset has fewer.
    seed
        Seed of the first sample; the next ones follow it.
    threads
        Threads of the SQL.
    report
        Told (stage, row groups read, all that hold a chosen row).

    Raises
    ------
    DataError
        A row has no gene or an unknown label, a feature is missing or no number, a file is damaged.

    Notes
    -----
    All rows stand in one list: by class, inside a class by the seed's order of fold groups and genes, inside a gene by
    position. Every (N / n)-th is taken. So every row of the dataset has the same probability, each class and each gene has its
    share to within one row, and a plain mean over the sample estimates the mean over the dataset.
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
    together = pa.concat_tables(tables)
    matrix = _read_features(together, features, report)
    dataset.check_unchanged()
    samples = []
    first = 0
    for table in tables:
        groups = table["fold_group"].to_pylist()
        numbers = {group: number for number, group in enumerate(dict.fromkeys(groups))}
        samples.append(
            SampledRows(
                gene_id=tuple(table["gene_id"].to_pylist()),
                cluster=np.array([numbers[group] for group in groups], dtype=np.int64),
                position=tuple(table["position"].to_pylist()),
                label=table["label"].to_numpy().astype(np.int64),
                matrix=matrix[first : first + len(table)],
            )
        )
        first += len(table)
    return samples


def _read_features(chosen: pa.Table, features: Sequence[str], report: Report) -> NDArray[np.float32]:
    """Read the features of chosen rows, a few thousand rows of a row group at a time."""
    matrix = np.empty((len(chosen), len(features)), dtype=np.float32)
    rows_of: dict[str, list[tuple[int, int]]] = {}
    for place, (file, row) in enumerate(zip(chosen["file"].to_pylist(), chosen["row_number"].to_pylist(), strict=True)):
        rows_of.setdefault(file, []).append((row, place))
    batch_rows = max(256, BATCH_BYTES // (8 * len(features)))
    for done, (file, pairs) in enumerate(sorted(rows_of.items())):
        report("reading the rows to explain", done, len(rows_of))
        pairs.sort()
        numbers = np.array([row for row, _ in pairs])
        places = np.array([place for _, place in pairs])
        try:
            with open_parquet(data_file(file)) as parquet:
                _check_columns(parquet.schema_arrow, features, file)
                begin = 0
                found: list[pa.RecordBatch] = []
                for group in range(parquet.num_row_groups):
                    stop = begin + parquet.metadata.row_group(group).num_rows
                    if np.searchsorted(numbers, begin) < np.searchsorted(numbers, stop):
                        for batch in parquet.iter_batches(batch_rows, row_groups=[group], columns=list(features)):
                            inside = slice(*np.searchsorted(numbers, [begin, begin + batch.num_rows]))
                            if inside.start < inside.stop:
                                found.append(batch.take(pa.array(numbers[inside] - begin)))
                            begin += batch.num_rows
                    begin = stop
                matrix[places] = feature_matrix(pa.Table.from_batches(found), features)
        except UNREADABLE as error:
            raise damaged(file, error) from error
    report("reading the rows to explain", len(rows_of), len(rows_of))
    return matrix


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
