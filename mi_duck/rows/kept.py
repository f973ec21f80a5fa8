"""What predictions keep of the row that they are made for: its file, its number there, and columns of the dataset.

Written beside each segment while the files are at hand, because a run goes on after training without them.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mi_duck.data.columns import SOURCE_COLUMNS
from mi_duck.data.database import Database
from mi_duck.data.dataset import Dataset
from mi_duck.data.parquet import verify_pages
from mi_duck.errors import DataError
from mi_duck.run.plan import PlannedData, Segment

KEPT = "kept.parquet"
SOURCE = np.dtype([("file", "<i4"), ("row", "<i8")])
"""Where a row is: the index of its file among those of the dataset, and its number in it, from 0."""
ROWS_AT_ONCE = 1 << 16


def write_kept(
    db: Database,
    dataset: Dataset,
    data: PlannedData,
    segments: Sequence[Segment],
    folder: Path,
    sources: Sequence[Path],
) -> None:
    """Write ``kept.parquet`` of some segments: ``source_file``, ``source_row`` and ``data.kept`` of each row, in its order.

    Parameters
    ----------
    db
        Without tables of these names: ``row_sources``, ``source_columns``.
    sources
        For each segment a file with the `SOURCE` of its rows.

    Raises
    ------
    DataError
        A page of a kept column is damaged, or the files have other rows than before.
    """
    names = pa.array(dataset.file_names, pa.string())
    found = np.concatenate([np.fromfile(path, dtype=SOURCE) for path in sources])
    fields = list(zip(SOURCE_COLUMNS, (pa.dictionary(pa.int32(), pa.string()), pa.int64()), strict=True))
    kept = None
    if data.kept:
        types, batches = _kept_columns(db, dataset, data, found)
        kept = _Rows(batches)
        fields += zip(data.kept, types, strict=True)
    stop = 0
    for segment in segments:
        first, stop = stop, stop + segment.n_rows
        target = folder / segment.name / KEPT
        with pq.ParquetWriter(target, pa.schema(fields), compression="zstd", write_page_checksum=True) as writer:
            for begin in range(first, stop, ROWS_AT_ONCE):
                own = found[begin : min(begin + ROWS_AT_ONCE, stop)]
                file = pa.DictionaryArray.from_arrays(pa.array(np.ascontiguousarray(own["file"])), names)
                columns = [file, pa.array(np.ascontiguousarray(own["row"]))]
                columns += kept.take(len(own)).columns[1:] if kept else []
                writer.write_table(pa.table(columns, schema=pa.schema(fields)))


def with_kept(table: pa.Table, kept: pa.Table) -> pa.Table:
    """Return predictions with what is kept of their rows."""
    for name in kept.column_names:
        table = table.append_column(name, kept[name])
    return table


def read_kept(folder: Path, segment: Segment) -> pa.Table:
    """Return what is kept of the rows of a segment, in their order."""
    return pq.read_table(folder / segment.name / KEPT)


def _kept_columns(
    db: Database, dataset: Dataset, data: PlannedData, found: NDArray[np.void]
) -> tuple[list[pa.DataType], Iterator[pa.RecordBatch]]:
    """Return the types of the kept columns, and their values in the order of the sources."""
    verify_pages(dataset.files, [name for name in data.kept if name in dataset.schema.names])
    schema = db.open_all_columns(dataset.files, data.kept, gene_column=data.gene_column)
    file = pa.DictionaryArray.from_arrays(
        pa.array(np.ascontiguousarray(found["file"])), pa.array([str(one) for one in dataset.files])
    )
    columns = {
        "number": pa.array(np.arange(len(found))),
        "file": file,
        "row_number": pa.array(np.ascontiguousarray(found["row"])),
    }
    db.load("row_sources", pa.table(columns))
    types = [schema.field(f"column_{number}").type for number in range(len(data.kept))]
    return types, db.stream("kept_rows")


class _Rows:
    """The rows of batches, to be taken in tables of any size."""

    def __init__(self, batches: Iterator[pa.RecordBatch]) -> None:
        self._batches = batches
        self._waiting: list[pa.RecordBatch] = []

    def take(self, n: int) -> pa.Table:
        """Return the next rows."""
        while sum(one.num_rows for one in self._waiting) < n:
            batch = next(self._batches, None)
            if batch is None:
                raise DataError("files of the dataset have fewer rows than when the plan was made; plan anew")
            self._waiting.append(batch)
        table = pa.Table.from_batches(self._waiting)
        self._waiting = table.slice(n).to_batches()
        return table.slice(0, n)
