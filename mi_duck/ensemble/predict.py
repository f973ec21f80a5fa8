"""Streams Parquet through a model to Parquet in bounded memory; every id and the order are kept."""

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mi_duck.checkpoint import publish, storage_errors
from mi_duck.children import Report
from mi_duck.data.files import (
    UNREADABLE,
    check_stamps,
    damaged,
    folder_values,
    footer,
    metadata_of,
    one_line,
    open_parquet,
    parquet_files,
    schema_of,
    stamp,
)
from mi_duck.data.stores import DataFile
from mi_duck.ensemble.ensemble import ConsolidatedMetaModel, InstanceModel
from mi_duck.ensemble.matrix import feature_matrix
from mi_duck.errors import DataError
from mi_duck.train.calibrate import probabilities

logger = logging.getLogger(__name__)

BATCH_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class PredictSummary:
    """Rows predicted, and how many features of the model its trees use and were read."""

    n_rows: int
    n_features_read: int


def predict_file(
    model: ConsolidatedMetaModel | InstanceModel, location: str, out: Path, *, report: Report
) -> PredictSummary:
    """Predict every row of a dataset into one Parquet file.

    Parameters
    ----------
    model
        The model.
    location
        Parquet file, folder or glob, or ``s3://`` of such; files in the order of their names.
    out
        Parquet file to write, whole or not at all: every column of the input that is no feature, those of folder names
        such as ``chrom=4``, as text, then ``p_<class>``, ``prediction`` (class name) and, for an ensemble,
        ``spread_<class>``, the standard deviation over its members.
    report
        Told (stage, rows done, rows of all).

    Raises
    ------
    DataError
        A feature is missing or not a number, no row is there, a file is damaged or changes while it is read.
    StorageError
        The disk is full or read-only.
    """
    files = parquet_files(location)
    stamps = [stamp(file) for file in files]
    if out.suffix != ".parquet":
        raise DataError(f"--out {out} does not end in .parquet; name one Parquet file")
    if out.resolve() in {file.resolve() for file in files if isinstance(file, Path)}:
        raise DataError(f"--out {out} is one of the input files; choose another")
    if Path(location).is_dir() and out.resolve().is_relative_to(Path(location).resolve()):
        raise DataError(f"--out {out} would become part of the dataset {location}; choose another folder")
    used = used_features(model)
    schema = _checked_schema(files, model.features)
    features = set(model.features)
    kept = [name for name in schema.names if name not in features]
    keys = set(folder_values(files[0], schema.names))
    other = next((file for file in files if set(folder_values(file, schema.names)) != keys), None)
    if other:
        raise DataError(f"{other} lies under other partition folders than {files[0]}; give all files the same keys")
    results = [
        *(f"p_{name}" for name in model.classes),
        "prediction",
        *(f"spread_{name}" for name in model.classes),
    ]
    doubled = sorted({*kept, *keys} & set(results))
    if doubled:
        raise DataError(f"column(s) {', '.join(doubled)} of {files[0]} would be written twice; rename them")
    total = sum(metadata_of(file).num_rows for file in files)
    batch_rows = max(256, BATCH_BYTES // (4 * len(model.features)))
    temporary = out.with_name(f".{out.name}.tmp")
    writer: pq.ParquetWriter | None = None
    done = 0
    with storage_errors(out):
        out.parent.mkdir(parents=True, exist_ok=True)
        try:
            for number, (file, batch) in enumerate(_batches(files, [*kept, *used], batch_rows)):
                begun = time.perf_counter()
                try:
                    table = _predicted(model, batch, kept, used, folder_values(file, schema.names))
                except DataError as error:
                    raise DataError(f"{error}, in {file}") from error
                if writer is None:
                    writer = pq.ParquetWriter(temporary, table.schema, compression="zstd", write_page_checksum=True)
                writer.write_table(table)
                done += len(table)
                logger.debug(
                    "batch %d of %s: %s rows, %.3f s", number, file, f"{len(table):,}", time.perf_counter() - begun
                )
                report("predicting", done, total)
            if writer is None:
                raise DataError(f"no rows in {location}")
            writer.close()
            check_stamps(files, stamps)
            publish(temporary, out)
        except BaseException:
            if writer is not None:
                with suppress(OSError):  # a full disk cannot take the footer either
                    writer.close()
            temporary.unlink(missing_ok=True)
            raise
    return PredictSummary(done, len(used))


def used_features(model: ConsolidatedMetaModel | InstanceModel) -> list[str]:
    """Return the features that at least one split of the model looks at; no other can change a prediction."""
    numbers = {
        int(name[1:]) for booster in model.get_base_models() for name in booster.get_score(importance_type="weight")
    }
    return [name for number, name in enumerate(model.features) if number in numbers]


def _checked_schema(files: Sequence[DataFile], features: Sequence[str]) -> pa.Schema:
    """Return the first file's schema; every file must have every feature, used or not, as a number."""
    first: pa.Schema | None = None
    wanted = set(features)
    for file in files:
        footer(file)  # says more of what is no Parquet than Arrow does
        try:
            schema = schema_of(file)
        except UNREADABLE as error:
            raise DataError(f"{file} cannot be read as Parquet ({one_line(error)}); write it again") from error
        there = set(schema.names)
        missing = [name for name in features if name not in there]
        if missing:
            raise DataError(
                f"{file} lacks {len(missing):,} of {len(features):,} features of the model: {', '.join(missing[:8])}"
            )
        if len(there) < len(schema.names):
            doubled = sorted(name for name in there if schema.names.count(name) > 1)
            raise DataError(f"{file} has two columns named {', '.join(doubled[:8])}; rename one")
        for name in features:
            kind = schema.field(name).type
            if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
                raise DataError(f"feature '{name}' is {kind} in {file}, not a number")
        if first is None:
            first = schema
        elif there != set(first.names):
            raise DataError(f"{file} has other columns than {files[0]}; give all files one schema")
        for name in (name for name in first.names if name not in wanted):
            if schema.field(name).type != first.field(name).type:
                raise DataError(
                    f"column '{name}' is {schema.field(name).type} in {file} but {first.field(name).type} in {files[0]}; "
                    "give all files one schema"
                )
    if first is None:
        raise DataError("no Parquet file given")
    return first


def _batches(
    files: Sequence[DataFile], columns: Sequence[str], batch_rows: int
) -> Iterator[tuple[DataFile, pa.RecordBatch]]:
    for file in files:
        n_rows = 0
        try:
            with open_parquet(file, buffer_size=1 << 20) as parquet:
                for groups in _groups(file, parquet.num_row_groups):
                    for batch in parquet.iter_batches(
                        batch_rows, row_groups=groups, columns=list(columns), use_threads=False
                    ):
                        n_rows += batch.num_rows
                        if batch.num_rows:
                            yield file, batch
                expected = parquet.metadata.num_rows
        except UNREADABLE as error:
            raise damaged(file, error) from error
        if n_rows != expected:
            raise DataError(f"{file} is damaged: {n_rows:,} rows, {expected:,} in its footer; write it again")


def _groups(file: DataFile, n: int) -> list[list[int]]:
    """Return which row groups are read at once: those of a store one by one, as each is fetched whole; else all."""
    return [list(range(n))] if isinstance(file, Path) else [[number] for number in range(n)]


def _predicted(
    model: ConsolidatedMetaModel | InstanceModel,
    batch: pa.RecordBatch,
    kept: Sequence[str],
    used: Sequence[str],
    of_folders: dict[str, str],
) -> pa.Table:
    """Return ids and predictions of one batch; features that no tree uses are left missing."""
    matrix = np.full((batch.num_rows, len(model.features)), np.nan, dtype=np.float32)
    places = {name: number for number, name in enumerate(model.features)}
    matrix[:, [places[name] for name in used]] = feature_matrix(batch, used)
    columns = {name: batch[name] for name in kept}
    columns |= {name: pa.array([value] * len(batch), pa.string()) for name, value in of_folders.items()}
    if isinstance(model, ConsolidatedMetaModel):
        margins = model.margins_of_members(matrix)
        members = model.chances_of_members(margins)
        chances = model.join(margins, members)
    else:
        chances = probabilities(model.margins(matrix), model.calibrators)
    names = pa.array(model.classes)
    columns |= {f"p_{name}": pa.array(chances[:, index].astype(np.float32)) for index, name in enumerate(model.classes)}
    columns["prediction"] = names.take(pa.array(chances.argmax(axis=1)))
    if isinstance(model, ConsolidatedMetaModel):
        spread = members.std(axis=0).astype(np.float32)
        columns |= {f"spread_{name}": pa.array(spread[:, index]) for index, name in enumerate(model.classes)}
    return pa.table(columns)
