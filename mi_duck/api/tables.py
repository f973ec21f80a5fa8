"""Data as Python has it, as a dataset on disk: paths stay where they are, tables in memory become one Parquet file.

A run reads its dataset again and again and from several processes, so a table in memory is written once, into ``.mi_duck/``
beside the run. The name of the file holds the hash of its bytes: the same table is the same dataset, and a run goes on with
it.
"""

import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mi_duck.api.showing import say
from mi_duck.atomic_files import file_sha256, storage_errors
from mi_duck.data.dataset import Dataset, announcement, open_columns
from mi_duck.data.text_tables import FOLDER
from mi_duck.data.values import plain, plain_schema
from mi_duck.errors import DataError
from mi_duck.settings import Asked, Columns

ROW_GROUP_BYTES = 32 << 20


def open_data(data: Any, out: Path, columns: Columns, asked: Asked) -> Dataset:
    """Open the data of a call as a dataset, and say what it is; ``data`` and ``out`` as for `location_of`."""
    dataset = open_columns(location_of(data, out), columns, holdout_genes=asked.holdout_genes)
    for line in announcement(dataset):
        say(line)
    return dataset


def location_of(data: Any, out: Path) -> str:
    """Return where the rows of some data are, as `mi_duck.data.dataset.open_dataset` takes it.

    Parameters
    ----------
    data
        A path, glob or URL; a list of paths of Parquet files; or a table: a data frame of pandas or Polars, an Arrow table or
        reader, a relation of DuckDB, anything with ``__arrow_c_stream__``. An index of pandas is not a column.
    out
        Folder of the run beside which a table is kept.

    Raises
    ------
    DataError
        The data are of another kind, or files of a list cannot be one dataset.
    """
    if isinstance(data, str | Path):
        return str(data)
    folder = out.absolute().parent / FOLDER
    if isinstance(data, list | tuple):
        if odd := {type(one).__name__ for one in data if not isinstance(one, str | Path)}:
            raise DataError(f"a list must hold paths, not {min(odd)}; for rows give a data frame or an Arrow table")
        return str(_linked([Path(one) for one in data], folder / out.name))
    return str(_written(data, folder))


def _linked(files: Sequence[Path], folder: Path) -> Path:
    """Return a folder with a link to each of several files."""
    if not files:
        raise DataError("the list of files is empty; name at least one")
    if keyed := next((file for file in files if any("=" in part for part in file.parts[:-1])), None):
        raise DataError(f"{keyed} lies under a partition folder, whose value a list would lose; give the folder above")
    if missing := next((file for file in files if not file.is_file()), None):
        raise DataError(f"no file {missing}")
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        names = [f"{number:05d}_{file.name}" for number, file in enumerate(files)]
        for old in folder.iterdir():
            if old.is_symlink() and old.name not in names:
                old.unlink()
        for name, file in zip(names, files, strict=True):
            link = folder / name
            if not (link.is_symlink() and link.resolve() == file.resolve()):
                link.unlink(missing_ok=True)
                link.symlink_to(file.absolute())
    return folder


def _written(table: Any, folder: Path) -> Path:
    """Return the Parquet file with the rows of a table, which is written unless it is there with the same bytes.

    Its name is of these bytes alone, so that runs of the same table are of the same dataset and can be compared.
    """
    reader = reader_of(table)
    with storage_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for left in folder.glob(".table.*.tmp"):  # of calls that were killed
            if not _is_running(int(left.name.split(".")[2])):
                left.unlink(missing_ok=True)
        temporary = folder / f".table.{os.getpid()}.{threading.get_ident()}.tmp"
        try:
            write_rows(reader, temporary)
            target = folder / f"table.{file_sha256(temporary)[:16]}.parquet"
            if not target.exists():
                temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
    return target


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it is somebody else's
        pass
    return True


def reader_of(table: Any) -> pa.RecordBatchReader:
    """Return the rows of a table as a stream of batches."""
    if isinstance(table, pa.RecordBatchReader):
        return table
    if hasattr(table, "iloc") and hasattr(table, "columns"):
        try:
            table = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata()
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise DataError(f"a column of the data frame holds values of several types: {error}") from error
        except (pa.ArrowNotImplementedError, ValueError) as error:  # complex numbers; two columns of one name
            raise DataError(f"the data frame is not a table of plain columns: {error}") from error
    if not hasattr(table, "__arrow_c_stream__"):
        raise DataError(
            f"data of type {type(table).__name__} are not a table; give a path, a data frame of pandas or Polars, an Arrow table "
            "or a relation of DuckDB"
        )
    return pa.RecordBatchReader.from_stream(table)


def write_rows(reader: pa.RecordBatchReader, file: Path) -> None:
    """Write batches as a Parquet file with page checksums, in row groups of about `ROW_GROUP_BYTES`."""
    schema = plain_schema(reader.schema)
    with pq.ParquetWriter(file, schema, write_page_checksum=True) as writer:
        waiting: list[pa.RecordBatch] = []
        for batch in reader:
            waiting.append(plain(batch))
            if sum(one.nbytes for one in waiting) >= ROW_GROUP_BYTES:
                _write_group(writer, waiting, schema)
                waiting = []
        _write_group(writer, waiting, schema)


def _write_group(writer: pq.ParquetWriter, batches: Sequence[pa.RecordBatch], schema: pa.Schema) -> None:
    """Write batches as one row group, or as several where one batch is as large as that."""
    table = pa.Table.from_batches(batches, schema)
    if table.num_rows:
        writer.write_table(table, row_group_size=max(1, ROW_GROUP_BYTES * table.num_rows // max(table.nbytes, 1)))
