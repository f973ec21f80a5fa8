"""Rewrites a dataset so that it is read fastest and checked best: sorted by gene and position, with page checksums.

SQL finds the place of every row; Arrow then reads the rows once, puts them in order (`mi_duck.data.ordering`) and writes
them. Every column and value stays. What changes is how they are stored: feature columns of whole numbers from 0 to 255 take
a byte a value whatever type they had, and names of folders such as ``chrom=4`` become text columns.

**Why not** ``copy (select ... order by) to``: DuckDB writes no page checksums. Arrow sorts *A. thaliana* (703,180 rows of
1,149 columns) in 33 CPU seconds (user) and 790 MiB: ``benchmarks/bench_prepare.py``.
"""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mi_duck.atomic_files import free_bytes, published_folder, storage_errors, write_json
from mi_duck.data.clustering import ROW_GROUP_ROWS, group_batches, index_rows, open_rows, sample_read
from mi_duck.data.dataset import Dataset
from mi_duck.data.ordering import in_order
from mi_duck.data.parquet import DataFile, data_file, folder_values, schema_of, stamp
from mi_duck.errors import DataError, StorageError
from mi_duck.processes import Context, Report, in_child

GROUP_BYTES = 64 << 20  # of a row group at most, where rows are very wide
NO_FOLDER = "__HIVE_DEFAULT_PARTITION__"  # how Hive names the folder of missing values


@dataclass(frozen=True, slots=True)
class PrepareSummary:
    """What was done.

    Attributes
    ----------
    n_rows, n_genes
        Of the dataset.
    n_files
        Parquet files written.
    n_narrowed
        Feature columns that now take a byte a value and took more.
    bytes_before, bytes_after
        Of the Parquet files.
    row_groups_before, row_groups_after
        Row groups.
    row_groups_per_gene_before, row_groups_per_gene_after
        Row groups in which a gene has rows, mean over genes.
    sample_read_before, sample_read_after
        Share of all rows that must be read for 100 genes drawn by chance, in expectation.
    """

    n_rows: int
    n_genes: int
    n_files: int
    n_narrowed: int
    bytes_before: int
    bytes_after: int
    row_groups_before: int
    row_groups_after: int
    row_groups_per_gene_before: float
    row_groups_per_gene_after: float
    sample_read_before: float
    sample_read_after: float


def prepare(dataset: Dataset, out: Path, context: Context, *, genes_per_file: int = 500) -> PrepareSummary:
    """Write a dataset anew, clustered by gene.

    Parameters
    ----------
    dataset
        The dataset.
    out
        Folder to make, absent or empty; gets ``master/part-00000.parquet`` and so on, and ``prepare.json``. Appears whole
        or not at all.
    genes_per_file
        Genes a Parquet file.
    context
        Its threads run the SQL; reading and sorting take one, compressing another.

    Returns
    -------
    PrepareSummary
        Counts, and what a run gains.

    Raises
    ------
    DataError
        A row without a gene, a damaged file, files that change meanwhile, folder names that differ in their keys, an
        ``out`` that holds something.
    StorageError
        The disk is too small or fails.

    Notes
    -----
    Rows are in the order of gene names, positions, and, where both are equal, of the files. Row groups have 8,192 rows,
    fewer where a row takes more than 8 KiB; each file has the rows of whole genes. Null stays null and NaN stays NaN.
    """
    files = [str(file) for file in dataset.files]
    with published_folder(out) as folder:
        scratch = folder / ".scratch"
        scratch.mkdir()
        index = in_child(index_rows, context)(
            files=files,
            gene_column=dataset.gene_column,
            label_column=dataset.label_column,
            labels=list(dataset.labels),
            fold_column=dataset.fold_column,
            position_column=dataset.position_column,
            features=list(dataset.features),
            scratch=str(scratch),
            threads=context.threads,
        ).value
        written = in_child(rewrite, context)(
            files=files,
            folder=str(folder),
            gene_column=dataset.gene_column,
            position_column=dataset.position_column,
            narrow=index["narrow"],
            genes_per_file=genes_per_file,
        ).value
        dataset.check_unchanged()
        shutil.rmtree(scratch)
        written_bytes = sum(file.stat().st_size for file in folder.rglob("*.parquet"))
        summary = PrepareSummary(
            n_rows=dataset.n_rows,
            n_genes=index["n_genes"],
            n_narrowed=len(index["narrow"]),
            bytes_before=sum(size for size, _, _ in dataset.stamps),
            bytes_after=written_bytes,
            row_groups_before=index["row_groups"],
            row_groups_per_gene_before=index["row_groups_per_gene"],
            sample_read_before=index["sample_read"],
            **written,
        )
        record = {
            "format": 1,
            "dataset_fingerprint": dataset.fingerprint,
            "settings": {"genes_per_file": genes_per_file},
            "narrowed": index["narrow"],
            "counts": asdict(summary),
        }
        write_json(folder / "prepare.json", record)
    return summary


def rewrite(
    report: Report,
    files: Sequence[str],
    folder: str,
    gene_column: str,
    position_column: str | None,
    narrow: Sequence[str],
    genes_per_file: int,
) -> dict[str, Any]:
    """Write the rows of all files in the order of their places; returns fields of `PrepareSummary`."""
    target = Path(folder)
    scratch = target / ".scratch"
    paths = [data_file(file) for file in files]
    first_rows = np.fromfile(scratch / "genes.bin", dtype=np.int64)
    places = np.memmap(scratch / "places.bin", dtype=np.int64, mode="r")
    n_rows = len(places)
    schema = _schema(paths, narrow)
    batches = _batches(paths, schema, places, report)
    with storage_errors(target), ExitStack() as stack:
        (target / "master").mkdir()
        first = next(batches)
        row_bytes = max(first.nbytes / first.num_rows, 1.0)
        needed = int(n_rows * row_bytes) + sum(stamp(file)[0] for file in paths)
        if needed > free_bytes(target):
            raise StorageError(
                f"up to {needed / 1e9:.2f} GB are needed in {target.parent}, where {free_bytes(target) / 1e9:.2f} GB are free; "
                "free the rest or choose another --out"
            )
        stack.callback(shutil.rmtree, scratch / "rows", ignore_errors=True)
        group_rows = int(np.clip(GROUP_BYTES // row_bytes, 64, ROW_GROUP_ROWS))
        ordered = in_order(_again(first, batches), scratch / "rows", first=0, stop=n_rows, batch_rows=group_rows)
        edges = np.append(first_rows[::genes_per_file], n_rows)
        groups = _row_groups(ordered, edges, group_rows)
        sizes = _write(groups, target / "master", _final(schema, paths), (gene_column, position_column), n_rows, report)
    begins = np.concatenate([[0], np.cumsum(sizes)[:-1]])
    with_gene = (
        np.searchsorted(first_rows, begins + sizes, side="left") - np.searchsorted(first_rows, begins, side="right") + 1
    )
    return {
        "n_files": len(edges) - 1,
        "row_groups_after": len(sizes),
        "row_groups_per_gene_after": float(with_gene.sum() / len(first_rows)),
        "sample_read_after": sample_read(np.array(sizes), with_gene, len(first_rows)),
    }


def _schema(files: Sequence[DataFile], narrow: Sequence[str]) -> pa.Schema:
    """Return names and types of the rows on their way: folder names last, dictionaries as their values."""
    schema = schema_of(files[0]).remove_metadata()
    small = set(narrow)
    fields = []
    for field in schema:
        kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
        fields.append(pa.field(field.name, pa.uint8() if field.name in small else kind, nullable=field.nullable))
    keys = {file: tuple(folder_values(file, schema.names)) for file in files}
    other = next((file for file in files if keys[file] != keys[files[0]]), None)
    if other:
        raise DataError(f"{other} lies under other partition folders than {files[0]}; give all files the same keys")
    return pa.schema([*fields, *(pa.field(name, pa.string()) for name in keys[files[0]])])


def _final(schema: pa.Schema, files: Sequence[DataFile]) -> pa.Schema:
    """Return names and types as they are written: dictionaries are dictionaries again."""
    source = schema_of(files[0])
    return pa.schema(
        [
            field.with_type(source.field(field.name).type)
            if field.name in source.names and pa.types.is_dictionary(source.field(field.name).type)
            else field
            for field in schema
        ]
    )


def _batches(
    files: Sequence[DataFile], schema: pa.Schema, places: NDArray[np.int64], report: Report
) -> Iterator[pa.RecordBatch]:
    """Yield all rows of all files in small types, the place of each in a last column."""
    wide = pa.schema([*schema, pa.field("place", pa.int64())])
    source = schema_of(files[0])
    row_bytes = 1 + sum(field.type.bit_width if pa.types.is_primitive(field.type) else 128 for field in source) // 8
    done = 0
    for file in files:
        with open_rows(file, len(schema)) as parquet:
            there = set(parquet.schema_arrow.names)
            own = [name for name in schema.names if name in there]
            texts = folder_values(file, own)
            for group in range(parquet.num_row_groups):
                for batch in group_batches(parquet, file, own, group, row_bytes=row_bytes):
                    columns = [
                        _as(batch[field.name], field, file)
                        if field.name not in texts
                        else pa.array([None if texts[field.name] == NO_FOLDER else texts[field.name]] * len(batch))
                        for field in schema
                    ]
                    stop = done + batch.num_rows
                    columns.append(pa.array(places[done:stop]))
                    yield pa.RecordBatch.from_arrays(columns, schema=wide)
                    done = stop
                    report("reading rows", done, len(places))


def _as(values: pa.Array, field: pa.Field, file: DataFile) -> pa.Array:
    """Return a column in the type it is kept in."""
    if values.type.equals(field.type):
        return values
    if pa.types.is_dictionary(values.type):
        return values.dictionary_decode()
    try:
        return pc.cast(values, field.type, safe=True)
    except pa.ArrowInvalid as error:
        raise DataError(f"column '{field.name}' of {file} leaves 0..255, though its footer says it does not") from error


def _again(first: pa.RecordBatch, rest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from rest


def _row_groups(
    ordered: Iterable[pa.RecordBatch], edges: NDArray[np.int64], group_rows: int
) -> Iterator[tuple[int, pa.Table]]:
    """Join rows to row groups: yield the number of the file, and rows of it; the last ones of a file may be fewer."""
    held: list[pa.RecordBatch] = []
    n_held, file, begin = 0, 0, 0
    for batch in ordered:
        while batch.num_rows:
            n = min(batch.num_rows, group_rows - n_held, int(edges[file + 1]) - begin)
            held.append(batch.slice(0, n))
            batch = batch.slice(n)
            n_held, begin = n_held + n, begin + n
            if n_held == group_rows or begin == edges[file + 1]:
                yield file, pa.Table.from_batches(held)
                held, n_held = [], 0
                file += int(begin == edges[file + 1])


def _write(
    groups: Iterable[tuple[int, pa.Table]],
    folder: Path,
    schema: pa.Schema,
    order: tuple[str, str | None],
    n_rows: int,
    report: Report,
) -> list[int]:
    """Write row groups to files and return their rows; a second thread compresses one while the next is sorted."""
    texts = [
        field.name for field in schema if not (pa.types.is_integer(field.type) or pa.types.is_floating(field.type))
    ]
    sorted_by = [
        pq.SortingColumn(schema.get_field_index(name), nulls_first=True)
        for name in order
        if name is not None and pa.types.is_string(schema.field(order[0]).type)
    ]
    sizes: list[int] = []
    current = -1
    with ExitStack() as files, ThreadPoolExecutor(1) as pool:
        writing: Future[None] | None = None
        for file, table in groups:
            if writing is not None:
                writing.result()
            if file != current:
                files.close()
                current = file
                writer = files.enter_context(
                    pq.ParquetWriter(
                        folder / f"part-{file:05d}.parquet",
                        schema,
                        compression="zstd",
                        compression_level=1,
                        use_dictionary=texts,
                        # small counts: smaller, and half the time to read of plain ones
                        column_encoding={
                            field.name: "DELTA_BINARY_PACKED" for field in schema if field.type == pa.uint8()
                        },
                        sorting_columns=sorted_by or None,
                        write_page_checksum=True,
                    )
                )
            writing = pool.submit(writer.write_table, _with_dictionaries(table, schema), len(table))
            sizes.append(len(table))
            report("writing rows", sum(sizes), n_rows)
        if writing is not None:
            writing.result()
    return sizes


def _with_dictionaries(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """Return the columns that were dictionaries as such."""
    return pa.table(
        [
            column if column.type.equals(field.type) else column.dictionary_encode().cast(field.type)
            for column, field in zip(table.columns, schema, strict=True)
        ],
        schema=schema,
    )
