"""Rewrites a dataset so that it is read fastest and checked best: sorted by gene and position, with page checksums.

Arrow reads every page once, which verifies its checksum and finds the columns of counts. DuckDB sorts the rows and spills
what does not fit into memory. Arrow writes them, because DuckDB writes no page checksums. Every column and value stays; only
the storage changes: features that hold whole numbers from 0 to 255 take one byte per value whatever type they had, and names
of folders such as ``chrom=4`` become text columns.

**Why** DuckDB may take more memory where there are more columns, and two threads at most sort: each pins blocks of every
column, and of every sorted run that was spilled. At 1,167 columns 256 MB were enough for one thread and 512 MB for 8, not for
16; at 5,000 columns 768 MB for one and 1 GB for two; 1 GB of rows of 40 columns took 128 MB and 192 MB, 4 GB 192 MB for one.
A sort written for this in Arrow gave the same files; DuckDB takes 0.8 to 1.3 times its CPU seconds and 1.1 to 1.7 times its
peak memory.
"""

import shutil
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from math import lgamma
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mi_duck.atomic_files import free_bytes, published_folder, storage_errors, write_json
from mi_duck.data.columns import check_folders
from mi_duck.data.database import Database
from mi_duck.data.dataset import Dataset
from mi_duck.data.genes import refuse_unnamed_genes
from mi_duck.data.parquet import DataFile, data_file, folder_values, row_group_batches, row_groups, schema_of, stamp
from mi_duck.data.statistics import FactsByName, footer_facts
from mi_duck.errors import DataError, StorageError
from mi_duck.numbers import decimal
from mi_duck.processes import Context, Report, in_child
from mi_duck.run.recipe import copy_record, record_beside

ROW_GROUP_ROWS = 8192
GROUP_BYTES = 64 << 20  # per row group at most, where rows are very wide
BATCH_BYTES = 16 << 20  # per batch that is read
SORT_THREADS = 2
SORT_BYTES = 512 << 20  # that DuckDB may take, at least
SORT_BYTES_PER_COLUMN = 224 << 10
SORT_BYTES_PER_ROOT = 8000  # times the square root of the bytes of all rows
SAMPLE = 100  # genes of a development run, for which the gain is reported
NO_FOLDER = "__HIVE_DEFAULT_PARTITION__"  # how Hive names the folder of missing values


@dataclass(frozen=True, slots=True)
class PrepareSummary:
    """What was done.

    Attributes
    ----------
    n_narrowed
        Feature columns that took more than one byte per value and now take one.
    bytes_before, bytes_after
        Of the Parquet files.
    row_groups_per_gene_before, row_groups_per_gene_after
        Row groups in which a gene has rows, mean over genes.
    sample_read_before, sample_read_after
        Expected share of all rows that must be read for 100 genes drawn at random, 0 to 1.
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
    """Write a dataset anew, sorted by gene.

    Parameters
    ----------
    out
        Folder to make, absent or empty; gets ``master/part-00000.parquet`` and so on, ``prepare.json``, and the
        ``build.json`` of a dataset that was built. Appears whole or not at all.
    context
        Threads, and the progress callback, called with (stage, rows done, rows of all).

    Raises
    ------
    DataError
        A row without a gene, a damaged file, files that change meanwhile, folder names that differ in their keys, a column
        of a type that DuckDB does not keep exactly, an ``out`` that is not empty.
    StorageError
        The disk is too small or fails.
    MemoryBudgetError
        DuckDB needs more memory than it may use.

    Notes
    -----
    Rows are in the order of gene names, positions, and, where both are equal, of the files. Row groups have 8,192 rows,
    fewer where a row takes more than 8 KiB; each file has the rows of whole genes. Null stays null and NaN stays NaN.
    """
    with published_folder(out) as folder:
        (folder / ".scratch").mkdir()
        done = in_child(rewrite, context)(
            files=[str(file) for file in dataset.files],
            folder=str(folder),
            gene_column=dataset.gene_column,
            label_column=dataset.label_column,
            labels=list(dataset.labels),
            fold_column=dataset.fold_column,
            position_column=dataset.position_column,
            features=list(dataset.features),
            n_rows=dataset.n_rows,
            genes_per_file=genes_per_file,
            threads=min(context.threads, SORT_THREADS),
        ).value
        dataset.check_unchanged()
        shutil.rmtree(folder / ".scratch")
        if record_of_build := record_beside(dataset.files):
            copy_record(record_of_build, folder)
        narrowed = done.pop("narrowed")
        summary = PrepareSummary(
            n_rows=dataset.n_rows,
            n_narrowed=len(narrowed),
            bytes_before=sum(size for size, _, _ in dataset.stamps),
            bytes_after=sum(file.stat().st_size for file in folder.rglob("*.parquet")),
            **done,
        )
        record = {
            "format": 1,
            "dataset_fingerprint": dataset.fingerprint,
            "settings": {"genes_per_file": genes_per_file},
            "narrowed": narrowed,
            "counts": asdict(summary),
        }
        write_json(folder / "prepare.json", record)
    return summary


def rewrite(
    report: Report,
    files: Sequence[str],
    folder: str,
    gene_column: str,
    label_column: str,
    labels: Sequence[str],
    fold_column: str,
    position_column: str | None,
    features: Sequence[str],
    n_rows: int,
    genes_per_file: int,
    threads: int,
) -> dict[str, Any]:
    """Sort and write the rows of all files; return the names of narrowed columns and fields of `PrepareSummary`."""
    target = Path(folder)
    paths = [data_file(file) for file in files]
    source = schema_of(paths[0]).remove_metadata()
    of_size = int(SORT_BYTES_PER_ROOT * (n_rows * _row_bytes(source)) ** 0.5)
    memory = max(SORT_BYTES, SORT_BYTES_PER_COLUMN * len(source), of_size)
    with Database(threads=threads, memory_bytes=memory, scratch=target / ".scratch" / "sql") as db:
        db.open_source(
            paths,
            gene_column=gene_column,
            label_column=label_column,
            fold_column=fold_column,
            position_column=position_column,
        )
        genes, groups = _count_genes(db, paths, labels, gene_column)
        narrowed = narrow_columns(paths, source, footer_facts(db, paths, source), features, report)
        schema = _schema(paths, source, narrowed, gene_column)
        given = db.open_all_columns(
            paths, source.names, gene_column=gene_column, position_column=position_column, as_bytes=narrowed
        )
        _check_types(source, narrowed, [given.field(f"column_{number}").type for number in range(len(source))])
        first_rows = genes["first_row"].to_numpy()
        edges = np.append(first_rows[::genes_per_file], n_rows)
        with storage_errors(target):
            order = (gene_column, position_column)
            sizes = np.array(_sort(db, paths, schema, edges, order, target, report))
    return {
        "narrowed": narrowed,
        "n_genes": len(genes),
        "n_files": len(edges) - 1,
        **_reading("before", groups["n_rows"].to_numpy(), groups["n_genes"].to_numpy(), len(genes)),
        **_reading("after", sizes, _genes_of(sizes, first_rows), len(genes)),
    }


def _count_genes(
    db: Database, files: Sequence[DataFile], labels: Sequence[str], gene_column: str
) -> tuple[pa.Table, pa.Table]:
    """Return the genes in order with their rows, and the rows and genes of every row group; refuse rows without a gene."""
    db.table("label_counts", labels=list(labels))
    refuse_unnamed_genes(db, gene_column)
    db.load("row_groups", row_groups(files))
    return db.arrow("clustered_genes"), db.arrow("group_genes")


def narrow_columns(
    files: Sequence[DataFile],
    schema: pa.Schema,
    columns: FactsByName,
    features: Sequence[str],
    report: Report,
) -> list[str]:
    """Read all pages, and return the features of a wider type whose values are whole numbers from 0 to 255.

    Of columns of whole numbers the footers give the range. Columns of real numbers are checked value by value; null is
    allowed, NaN and -0.0 are not. Every page of every column is read, because DuckDB verifies no checksum.
    """
    kinds = {name: columns[name].kind for name in features if name in columns and columns[name].fits_byte}
    integers = {name for name, kind in kinds.items() if pa.types.is_integer(kind) and kind.bit_width > 8}
    reals = {name for name, kind in kinds.items() if pa.types.is_floating(kind)}
    batch_rows = int(np.clip(BATCH_BYTES // _row_bytes(schema), 64, ROW_GROUP_ROWS))
    for done, file in enumerate(files):
        report("reading files", done, len(files))
        for _, batch in row_group_batches(file, schema.names, batch_rows=batch_rows, as_codes=True):
            reals = {name for name in reals if _is_whole(batch[name])}
    return [name for name in features if name in integers or name in reals]


def _is_whole(values: pa.Array) -> bool:
    """Return whether all values of a column of real numbers are whole numbers from 0 to 255, and none is -0.0."""
    numbers = values.drop_null().to_numpy(zero_copy_only=False)
    return bool(((numbers <= 255) & (numbers == np.floor(numbers)) & ~np.signbit(numbers)).all())


def _schema(files: Sequence[DataFile], source: pa.Schema, narrowed: Sequence[str], gene_column: str) -> pa.Schema:
    """Return names and types of the columns to write: those of the files, then those of folder names."""
    check_folders(files, source.names)
    doubled = sorted(set(folder_values(files[0], ())) & set(source.names))
    if doubled and gene_column not in source.names:
        # DuckDB would take the folder's value of both columns
        raise DataError(f"'{doubled[0]}' is a column of {files[0]} and a folder over it; rename the folder")
    small = set(narrowed)
    fields = [field.with_type(pa.uint8()) if field.name in small else field for field in source]
    return pa.schema([*fields, *(pa.field(name, pa.string()) for name in folder_values(files[0], source.names))])


def _check_types(source: pa.Schema, narrowed: Sequence[str], given: Sequence[pa.DataType]) -> None:
    """Refuse columns whose values DuckDB returns in a type that does not hold them exactly."""
    small = set(narrowed)
    for field, kind in zip(source, given, strict=True):
        wanted = str(field.type.value_type if pa.types.is_dictionary(field.type) else field.type)
        is_changed = "decimal256" in wanted or ("[ns" in wanted and "[us" in str(kind)) or "extension" in wanted
        if is_changed and field.name not in small:
            raise DataError(
                f"column '{field.name}' is {field.type}, which SQL does not keep exactly; cast it or leave it out"
            )


def _sort(
    db: Database,
    files: Sequence[DataFile],
    schema: pa.Schema,
    edges: NDArray[np.int64],
    order: tuple[str, str | None],
    target: Path,
    report: Report,
) -> list[int]:
    """Sort the rows of ``source_columns`` and write them to files that begin at these rows; return rows per row group."""
    n_rows, row_bytes = int(edges[-1]), _row_bytes(schema)
    needed = n_rows * row_bytes + sum(stamp(file)[0] for file in files)  # of spilled and of written rows
    if needed > free_bytes(target):
        raise StorageError(
            f"up to {decimal(needed / 1e9, 2)} GB are needed in {target.parent}, where {decimal(free_bytes(target) / 1e9, 2)} GB "
            "are free; free the rest or choose another --out"
        )
    (target / "master").mkdir()
    group_rows = int(np.clip(GROUP_BYTES // row_bytes, 64, ROW_GROUP_ROWS))
    report("sorting rows", 0, n_rows)
    sorted_rows = db.stream("sorted_rows", batch_rows=group_rows, files=[str(file) for file in files])
    groups = _row_groups(_in_types(sorted_rows, schema, files), edges, group_rows)
    return _write(groups, target / "master", schema, order, n_rows, report)


def _row_bytes(schema: pa.Schema) -> int:
    """Return about how many bytes a row takes in memory; texts and lists count as 16."""
    widths = [field.type.bit_width if pa.types.is_primitive(field.type) else 128 for field in schema]
    return sum(widths) // 8 + 1


def _in_types(
    batches: Iterable[pa.RecordBatch], schema: pa.Schema, files: Sequence[DataFile]
) -> Iterator[pa.RecordBatch]:
    """Yield lines of ``sql/sorted_rows.sql`` as rows to write: names and types of the dataset, and folder names."""
    of_folders = [folder_values(file, ()) for file in files]
    for batch in batches:
        file_number, _, *columns = batch.columns
        values = [
            (column.dictionary_encode() if pa.types.is_dictionary(field.type) else column).cast(field.type)
            for column, field in zip(columns, schema, strict=False)
        ]
        for name in schema.names[len(columns) :]:
            texts = pa.array([None if of[name] == NO_FOLDER else of[name] for of in of_folders], pa.string())
            values.append(texts.take(file_number))
        yield pa.RecordBatch.from_arrays(values, schema=schema)


def _row_groups(
    batches: Iterable[pa.RecordBatch], edges: NDArray[np.int64], group_rows: int
) -> Iterator[tuple[int, pa.Table]]:
    """Cut sorted rows into row groups: yield the number of the file, and its rows.

    At ``edges`` files begin; the last is the number of rows. The last row group of a file may have fewer rows.
    """
    changed = DataError("a file of the dataset changed while it was read; run the same command again")
    held: list[pa.RecordBatch] = []
    n_held, file, begin = 0, 0, 0
    for batch in batches:
        while batch.num_rows:
            if begin == edges[-1]:
                raise changed
            n = min(batch.num_rows, group_rows - n_held, int(edges[file + 1]) - begin)
            held.append(batch.slice(0, n))
            batch = batch.slice(n)
            n_held, begin = n_held + n, begin + n
            if n_held == group_rows or begin == edges[file + 1]:
                yield file, pa.Table.from_batches(held)
                held, n_held = [], 0
                file += int(begin == edges[file + 1])
    if begin != edges[-1]:
        raise changed


def _write(
    groups: Iterable[tuple[int, pa.Table]],
    folder: Path,
    schema: pa.Schema,
    order: tuple[str, str | None],
    n_rows: int,
    report: Report,
) -> list[int]:
    """Write row groups to files and return their rows; a second thread compresses one while the next is fetched."""
    texts = [
        field.name for field in schema if not (pa.types.is_integer(field.type) or pa.types.is_floating(field.type))
    ]
    options: dict[str, Any] = {
        "compression": "zstd",
        "compression_level": 1,
        "use_dictionary": texts,
        # counts: smaller, and read in half the time of plain ones
        "column_encoding": {field.name: "DELTA_BINARY_PACKED" for field in schema if field.type == pa.uint8()},
        # Parquet orders integers as numbers, the rows are in the order of gene names
        "sorting_columns": [pq.SortingColumn(schema.get_field_index(name), nulls_first=True) for name in order if name]
        if pa.types.is_string(schema.field(order[0]).type)
        else None,
        "write_page_checksum": True,
    }
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
                writer = files.enter_context(pq.ParquetWriter(folder / f"part-{file:05d}.parquet", schema, **options))
            writing = pool.submit(writer.write_table, table, len(table))
            sizes.append(len(table))
            report("writing rows", sum(sizes), n_rows)
        if writing is not None:
            writing.result()
    return sizes


def _genes_of(sizes: NDArray[np.int64], first_rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many genes have rows in each row group, from its rows and the first row of every gene."""
    stops = np.cumsum(sizes)
    after = np.searchsorted(first_rows, stops, side="left")
    genes: NDArray[np.int64] = after - np.searchsorted(first_rows, stops - sizes, side="right") + 1
    return genes


def _reading(when: str, rows: NDArray[np.int64], genes: NDArray[np.int64], n_genes: int) -> dict[str, Any]:
    """Return what must be read before or after, from the rows and genes of every row group, as fields of `PrepareSummary`."""
    return {
        f"row_groups_{when}": len(rows),
        f"row_groups_per_gene_{when}": float(genes.sum() / n_genes),
        f"sample_read_{when}": sample_read(rows, genes, n_genes),
    }


def sample_read(rows: NDArray[np.int64], genes: NDArray[np.int64], n_genes: int, sample: int = SAMPLE) -> float:
    """Return the expected share of all rows, 0 to 1, in row groups that hold a row of some randomly drawn genes.

    Parameters
    ----------
    rows, genes
        Of each row group, shape (n_row_groups,): its rows, and how many genes have rows in it.
    sample
        Genes drawn without replacement; all where there are not more.
    """
    if sample >= n_genes:
        return 1.0

    def ways(n: int) -> float:
        return lgamma(n + 1) - lgamma(n - sample + 1)

    missed = [np.exp(ways(n_genes - g) - ways(n_genes)) if n_genes - g >= sample else 0.0 for g in genes.tolist()]
    return float((rows * (1 - np.array(missed))).sum() / rows.sum())
