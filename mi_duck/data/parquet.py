"""The Parquet files of a dataset, on disk or in an object store: which there are, whether they changed, their rows.

A file of an object store is ``s3://bucket/key``, on Amazon S3 or any server that speaks its protocol. Arrow's own client
reads it, for SQL too, so that DuckDB needs no extension. Credentials are those of every AWS tool: ``AWS_ACCESS_KEY_ID`` and
``AWS_SECRET_ACCESS_KEY``, ``AWS_PROFILE``, or the role of the machine; ``AWS_ENDPOINT_URL`` names another server. They are
never written anywhere. Failed requests are tried three times.

A Parquet file may carry a checksum of every page of every column; none covers its footer. So footers are hashed when a
dataset is opened, and pages are verified by every reader here. DuckDB verifies nothing, so `verify_pages` reads what SQL is
about to read. Files without checksums are covered by ``--full-hash`` alone, from the plan on.

**Why.** Of 300 single flipped bits in a file without checksums, 201 (written by pyarrow) or 245 (by DuckDB) changed the plan
or the rows silently; in a file with checksums, none: ``benchmarks/bench_bit_flips.py``. Verifying gene, group, label,
position and two scores of 4,100,000 rows takes 0.33 s.
"""

import hashlib
import os
import re
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mi_duck.data.made import made_columns
from mi_duck.data.values import plain
from mi_duck.errors import DataError, MiDuckError, StorageError
from mi_duck.file_kinds import HEAD_BYTES, wrong_kind
from mi_duck.run.made import Made, made_by_feature

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
SECONDS_TO_CONNECT = 10.0
FAILED = "AWS Error"  # in Arrow's message where a request failed, and nowhere else
BATCH_ROWS = 1 << 16
BUFFER_BYTES = 64 << 20  # of the read buffers of all columns together
PIECE_BYTES = 4 << 20
FILES_AT_ONCE = 8  # each with its footer, 12 MB where it has 80,000 chunks of columns, and with buffers
UNREADABLE = (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError)  # what Arrow raises at bytes that make no sense

Stamp = tuple[int, int, str]


@dataclass(frozen=True, slots=True)
class ObjectFile:
    """A file of an object store, by its URL."""

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def parts(self) -> tuple[str, ...]:
        """What is between the slashes, as of a path."""
        return tuple(self.key.split("/"))

    @property
    def name(self) -> str:
        """The last part."""
        return self.parts[-1]

    @property
    def key(self) -> str:
        """Bucket and key, as Arrow takes them."""
        return self.url.partition("://")[2]

    @property
    def store(self) -> Any:
        """Arrow's file system for the bucket."""
        return object_store(self.parts[0])


DataFile = Path | ObjectFile


def is_url(location: str) -> bool:
    """Return whether a location names an object store rather than a path."""
    return SCHEME.match(location) is not None


def data_file(text: str) -> DataFile:
    """Return a file by the text of its path or URL."""
    return ObjectFile(text) if is_url(text) else Path(text)


@cache
def object_store(bucket: str) -> Any:
    """Return Arrow's file system for a bucket."""
    from pyarrow import fs  # takes 0.1 s, so only where it is needed

    endpoint = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    region = os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")
    with read_errors(f"s3://{bucket}"):
        return fs.S3FileSystem(
            endpoint_override=endpoint,
            region=region or (None if endpoint else fs.resolve_s3_region(bucket)),
            connect_timeout=SECONDS_TO_CONNECT,
        )


@contextmanager
def read_errors(what: str) -> Iterator[None]:
    """Turn errors of requests into one line: a `DataError` where nothing is there, else a `StorageError`."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"nothing is at {what}; check its name") from error
    except OSError as error:
        words = one_line(error)
        if "NO_SUCH_BUCKET" in words or ("Bucket '" in words and "not found" in words):
            raise DataError(f"nothing is at {what}: there is no such bucket; check its name") from error
        raise unreachable(what, error) from error


def unreachable(what: object, error: Exception) -> StorageError:
    """Return the error to raise where a request failed."""
    words = one_line(error)
    return StorageError(
        f"cannot read {what}: {words.rpartition(FAILED)[2].strip() or words}; check the credentials (AWS_ACCESS_KEY_ID, "
        "AWS_PROFILE), the region (AWS_REGION), the server (AWS_ENDPOINT_URL) and the network, and run the same command again"
    )


def sql_file_system(bucket: str) -> Any:
    """Return the file system by which DuckDB reads ``s3://`` of a bucket."""
    try:
        from fsspec.implementations.arrow import ArrowFSWrapper
    except ImportError as error:
        raise DataError("to read object stores the package fsspec is needed; install mi-duck[s3]") from error

    known: dict[str, dict[str, Any]] = {}

    class Store(ArrowFSWrapper):  # type: ignore[misc]  # DuckDB takes only what inherits from fsspec
        """Keeps size and time of each file: DuckDB asks for them several times per query."""

        protocol = ("s3",)

        def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
            """Return size and time of a file."""
            if path not in known:
                known[path] = super().info(path, **kwargs)
            return known[path]

        def modified(self, path: str) -> Any:
            """Return the time of its last change."""
            return self.info(path)["mtime"]

    return Store(object_store(bucket), skip_instance_cache=True)


def folder_values(file: DataFile, names: Collection[str]) -> dict[str, str]:
    """Return the values of Hive partition folders (``key=value``) over a file, except for columns that the file has."""
    pairs = (part.split("=", 1) for part in file.parts[:-1] if "=" in part)
    return {key: unquote(value) for key, value in pairs if key not in names}


def stamp(file: DataFile) -> Stamp:
    """Return the size of a file in bytes, the time of its last change in nanoseconds, and the store's tag of its bytes."""
    if isinstance(file, ObjectFile):
        with read_errors(file.url), file.store.open_input_stream(file.key) as stream:
            info = file.store.get_file_info(file.key)
            tag = (stream.metadata() or {}).get("ETag", b"")
            return int(info.size), int(info.mtime_ns or 0), bytes(tag).decode("ascii", "replace").strip('"')
    try:
        facts = file.stat()
    except OSError as error:
        raise StorageError(f"cannot read {file}: {error.strerror}") from error
    return facts.st_size, facts.st_mtime_ns, ""


def check_stamps(files: Sequence[DataFile], stamps: Sequence[Stamp]) -> None:
    """Refuse files that changed or went since their stamps were taken, before they were read."""
    for file, before in zip(files, stamps, strict=True):
        if (isinstance(file, Path) and not file.is_file()) or stamp(file) != before:
            raise DataError(f"{file} changed while it was read; run the same command again when nothing writes to it")


def footer(file: DataFile) -> bytes:
    """Return the bytes of a Parquet file's footer: schema, offsets and statistics; refuse a file that is torn or encrypted."""
    size = stamp(file)[0]
    with _opened(file) as handle:
        handle.seek(max(size - 8, 0))
        tail = handle.read(8)
        if tail[4:] == b"PARE":
            raise DataError(f"{file} is encrypted; write it without encryption")
        if size < 12 or tail[4:] != b"PAR1":
            handle.seek(0)
            raise DataError(_not_parquet(file, size, bytes(handle.read(HEAD_BYTES))))
        length = int.from_bytes(tail[:4], "little")
        if length > size - 12:
            raise DataError(
                f"{file} is cut off: its footer says {length:,} bytes of {size:,}; copy it again from its source"
            )
        handle.seek(size - 8 - length)
        return bytes(handle.read(length))


def _not_parquet(file: DataFile, size: int, head: bytes) -> str:
    """Return in words what a file without the end of a Parquet file is, and what to do with it."""
    if head.startswith(b"PAR1"):
        return (
            f"{file} ({size:,} bytes) is not a complete Parquet file: it begins as one and has no end; copy it again from its "
            "source, or take it out of the dataset"
        )
    return wrong_kind(file, head, "Parquet") or (
        f"{file} ({size:,} bytes) is not Parquet, and its first bytes {head[:8]!r} are of no kind that mi-duck knows; name a "
        "Parquet, CSV or TSV file, or a folder of them"
    )


@contextmanager
def _opened(file: DataFile) -> Iterator[Any]:
    """Open a file to read bytes at any offset; what fails is a `StorageError`."""
    if isinstance(file, ObjectFile):
        with read_errors(file.url), file.store.open_input_file(file.key) as handle:
            yield handle
        return
    try:
        with file.open("rb") as handle:
            yield handle
    except OSError as error:
        raise StorageError(f"cannot read {file}: {error.strerror}") from error


def open_parquet(
    file: DataFile,
    *,
    buffer_size: int = 0,
    metadata: pq.FileMetaData | None = None,
    read_dictionary: Sequence[str] = (),
) -> pq.ParquetFile:
    """Open a Parquet file whose pages are verified as they are read; to read rows, see `row_group_batches`.

    From an object store, the pages of all columns that are read of a row group are fetched together: one request per column
    would be a thousand for a thousand columns. So read one row group at a time.

    Parameters
    ----------
    buffer_size
        Bytes per column of a local file that are read at once; 0 for all of a row group.
    read_dictionary
        Text columns to keep as dictionary codes.
    """
    is_object = isinstance(file, ObjectFile)
    path, store = _arrow_path(file)
    return pq.ParquetFile(
        path,
        metadata=metadata,
        filesystem=store,
        buffer_size=0 if is_object else buffer_size,
        pre_buffer=is_object,
        page_checksum_verification=True,
        read_dictionary=list(read_dictionary),
    )


def _arrow_path(file: DataFile) -> tuple[Any, Any]:
    """Return a file as Arrow takes it: its path or key, and the file system of an object."""
    return (file.key, file.store) if isinstance(file, ObjectFile) else (file, None)


def schema_of(file: DataFile) -> pa.Schema:
    """Return names and types of the columns of a Parquet file."""
    path, store = _arrow_path(file)
    return pq.read_schema(path, filesystem=store)


def metadata_of(file: DataFile) -> pq.FileMetaData:
    """Return the footer of a Parquet file."""
    path, store = _arrow_path(file)
    return pq.read_metadata(path, filesystem=store)


def row_groups(files: Sequence[DataFile]) -> pa.Table:
    """Return a line for each row group that has rows; Arrow reads a wide footer in a tenth of DuckDB's time.

    Columns: ``file``, ``row_group`` (its number in the file), ``first_row`` (rows of the file before it), ``n_rows``.
    """
    found: list[dict[str, Any]] = []
    for file in files:
        try:
            facts = metadata_of(file)
            sizes = [facts.row_group(number).num_rows for number in range(facts.num_row_groups)]
        except UNREADABLE as error:
            raise damaged(file, error) from error
        first = 0
        for number, n_rows in enumerate(sizes):
            if n_rows > 0:
                found.append({"file": str(file), "row_group": number, "first_row": first, "n_rows": n_rows})
            first += n_rows
    kinds = {"file": pa.string(), "row_group": pa.int64(), "first_row": pa.int64(), "n_rows": pa.int64()}
    return pa.Table.from_pylist(found, schema=pa.schema(kinds))


def whole_hash(file: DataFile) -> str:
    """Return the SHA-256 of every byte of a file as hexadecimal text."""
    digest = hashlib.sha256()
    with _opened(file) as handle:
        while piece := handle.read(PIECE_BYTES):
            digest.update(piece)
    return digest.hexdigest()


def row_group_batches(
    file: DataFile,
    columns: Sequence[str],
    groups: Iterable[int] | None = None,
    *,
    batch_rows: int = BATCH_ROWS,
    as_codes: bool = False,
    made: Sequence[Made] = (),
    is_ahead: bool = False,
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the number of each row group of a Parquet file with its rows, batch by batch; every page is verified.

    Parameters
    ----------
    columns
        Names; a name that the file lacks is skipped.
    groups
        Numbers of the row groups, from 0, or None for all.
    batch_rows
        Most rows per batch; a batch lies within one row group.
    as_codes
        Whether text columns come as dictionary arrays, whose texts are not decoded.
    made
        Columns of texts and dates of which features among ``columns`` are made here.
    is_ahead
        Whether the next batch is read while the last one is used, by as many threads as Arrow has. Who stops early waits
        for the batch that is being read.

    Raises
    ------
    DataError
        The file is damaged: a page is not what was written, or a row group has another number of rows than its footer says.
    StorageError
        The object store does not answer.
    """
    batches = _batches(file, columns, groups, batch_rows, as_codes, made, is_ahead)
    if not is_ahead:
        yield from batches
        return
    with ThreadPoolExecutor(1) as pool:
        ahead = pool.submit(next, batches, None)
        while (found := ahead.result()) is not None:
            ahead = pool.submit(next, batches, None)
            yield found


def _batches(
    file: DataFile,
    columns: Sequence[str],
    groups: Iterable[int] | None,
    batch_rows: int,
    as_codes: bool,
    made: Sequence[Made],
    is_parallel: bool,
) -> Iterator[tuple[int, pa.RecordBatch]]:
    by_feature = made_by_feature(made)
    sources = {by_feature[name].column: by_feature[name] for name in columns if name in by_feature}
    wanted = list(dict.fromkeys(columns))
    names = list(dict.fromkeys([*(name for name in wanted if name not in by_feature), *sources]))
    group, metadata, codes = None, None, list(sources)
    try:
        if as_codes:
            with open_parquet(file) as parquet:
                # not the schema of the footer: each would keep the other, megabytes per file, until garbage is collected
                metadata, kinds = parquet.metadata, {field.name: field.type for field in parquet.schema_arrow}
            codes = [name for name in names if name in kinds and not pa.types.is_nested(kinds[name])]
        buffer = int(np.clip(BUFFER_BYTES // max(len(names), 1), 1 << 13, 1 << 20))
        with open_parquet(file, buffer_size=buffer, metadata=metadata, read_dictionary=codes) as parquet:
            for group in range(parquet.num_row_groups) if groups is None else groups:
                n_rows = 0
                for batch in parquet.iter_batches(
                    batch_rows, row_groups=[group], columns=names, use_threads=is_parallel
                ):
                    n_rows += batch.num_rows
                    yield group, _with_made(plain(batch), wanted, sources.values(), file) if sources else plain(batch)
                expected = parquet.metadata.row_group(group).num_rows
                if n_rows != expected:
                    raise DataError(
                        f"{file} is damaged in row group {group}: {n_rows:,} rows, {expected:,} in its footer; write it again"
                    )
    except UNREADABLE as error:
        raise damaged(file, error, "" if group is None else f" in row group {group}") from error


def column_values(files: Sequence[DataFile], column: str) -> Iterator[pa.Array]:
    """Yield the values of a column of several files, piece by piece, texts as dictionary arrays."""
    for file in files:
        for _, batch in row_group_batches(file, [column], as_codes=True):
            yield batch.column(0)


def _with_made(batch: pa.RecordBatch, wanted: Sequence[str], sources: Iterable[Made], file: DataFile) -> pa.RecordBatch:
    """Return the wanted columns of a batch, features made of the texts and dates in it among them."""
    columns: dict[str, Any] = dict(zip(batch.schema.names, batch.columns, strict=True))
    for one in sources:
        try:
            columns |= {name: pa.array(values) for name, values in made_columns(batch[one.column], one).items()}
        except (TypeError, ValueError) as error:
            raise DataError(f"column '{one.column}' of {file}: {error}; correct it") from error
    there = [name for name in wanted if name in columns]
    return pa.RecordBatch.from_arrays([columns[name] for name in there], names=there)


def verify_pages(files: Sequence[DataFile], columns: Sequence[str], *, threads: int = 1) -> None:
    """Verify the checksum of every page of some columns that has one, and the number of rows; see `row_group_batches`.

    With several threads as many files are read at once, at most `FILES_AT_ONCE`; the first in their order that is damaged is
    named.
    """
    ended = Event()

    def verify(file: DataFile) -> None:
        for _ in row_group_batches(file, columns, as_codes=True):
            if ended.is_set():
                return

    with ThreadPoolExecutor(max(1, min(threads, len(files), FILES_AT_ONCE))) as pool:
        try:
            deque(pool.map(verify, files), maxlen=0)  # raises what is wrong with a file
        finally:
            ended.set()  # so that after an error or an interruption nobody waits for whole files


def one_line(error: Exception) -> str:
    """Return the message of an error in one line."""
    return " ".join(str(error).split())


def damaged(file: DataFile | str, error: Exception, where: str = "") -> MiDuckError:
    """Return the error to raise for a file that Arrow cannot read: it is damaged, or its store does not give it."""
    if FAILED in str(error):
        return unreachable(file, error)
    return DataError(f"{file} is damaged{where} ({one_line(error)}); write it again")
