"""CSV and TSV as a dataset: written once as Parquet, with page checksums, into ``.mi_duck/`` beside the tables, then read there.

The Parquet file is used again while the tables have the same bytes. Types are found by looking at every row, so no value
that comes late is met by a wrong one. Columns of names stay texts: gene 007 is not gene 7.
"""

import csv
import gzip
import hashlib
import json
import os
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mi_duck.atomic_files import file_sha256, published_file, read_sealed, sealed, storage_errors, write_json
from mi_duck.data.database import Database
from mi_duck.data.parquet import folder_values
from mi_duck.errors import DataError
from mi_duck.file_kinds import GZIP, head_of, kind_of, unpacked

NAMES = ("gene_id", "gene_name", "gene_type", "transcript_id", "chrom", "strand", "overlap_cluster", "paralog_group")
"""Columns that are always read as texts, besides those that a command takes for genes and fold groups."""
FOLDER = ".mi_duck"
DIGITS = 8  # of a hash in the names of its files; those of tables in memory have more
BATCH_ROWS = 4096  # per row group: 32 MB at a thousand columns
MEMORY_BYTES = 512 << 20


def source_of(file: object) -> object:
    """Return what a Parquet file in `FOLDER` was made from: a table in text, or a table in memory; any other file as it is."""
    path = Path(str(file))
    if path.parent.name != FOLDER or path.name.count(".") < 2:
        return file
    name, digest, _ = path.name.rsplit(".", 2)
    return path.parent.parent / name if len(digest) == DIGITS else "the table in memory"


def parquet_of(files: Sequence[Path], as_text: Iterable[str] = (), *, label: str | None = None) -> Path:
    """Return the Parquet file with the rows of tables in text, which is made where it is not there.

    Parameters
    ----------
    files
        CSV or TSV, plain or gzip, all with the same columns; their first line names these.
    as_text
        Columns that are read as texts whatever is in them, besides `NAMES`; one that the files lack may be the key of the
        partition folders (``key=value``) over them.
    label
        A column whose words are classes: yes and no stay texts, while they are truth values elsewhere.

    Raises
    ------
    DataError
        A file is of another kind, its lines do not fit its header, or files lie under partition folders of other keys.
    StorageError
        The folder of the first file cannot be written.
    """
    names, delimiter = _header(files[0])
    other = next((file for file in files if _header(file) != (names, delimiter)), None)
    if other:
        raise DataError(f"{other} has another header or delimiter than {files[0]}; give all tables the same columns")
    needed = set(as_text)
    texts = sorted({*NAMES, *needed})
    folders = {file: folder_values(file, names).keys() for file in files}
    keys = sorted(needed & set().union(*folders.values()))
    other = next((file for file, there in folders.items() if not set(keys) <= there), None)
    if other:
        raise DataError(f"{other} does not lie under folders {keys[0]}=..., as other tables do; give all the same keys")
    root = files[0].parent
    named = json.dumps([[os.path.relpath(file, root) for file in files], texts, label])
    folder = root / FOLDER
    target = folder / f"{files[0].name}.{hashlib.sha256(named.encode()).hexdigest()[:DIGITS]}.parquet"
    with storage_errors(folder):
        folder.mkdir(exist_ok=True)
        stamps = [[facts.st_size, facts.st_mtime_ns] for facts in (file.stat() for file in files)]
        record = target.with_suffix(".json")
        known = _known(record) if target.is_file() else {}
        if known.get("stamps") == stamps:
            return target
        hashes = [file_sha256(file) for file in files]
        if known.get("sha256") != hashes:
            _write(files, texts, target, delimiter, keys, label)
            if stamps != [[facts.st_size, facts.st_mtime_ns] for facts in (file.stat() for file in files)]:
                raise DataError(f"{files[0]} changed while it was read; run the same command again")
        write_json(record, sealed({"stamps": stamps, "sha256": hashes}))
    return target


def _known(record: Path) -> dict[str, Any]:
    """Return what a Parquet file was made from; nothing where that is not known, so that it is made anew."""
    try:
        return read_sealed(record)
    except (FileNotFoundError, ValueError):
        return {}


def _header(file: Path) -> tuple[list[str], str]:
    """Return the names of the columns of a table in text, and what stands between cells; refuse a file of another kind."""
    with storage_errors(file):
        head = head_of(file)
        is_packed, kind = head.startswith(GZIP), kind_of(unpacked(head))
        if kind and not kind[0].startswith("a table in text"):
            raise DataError(f"{file} is {kind[0]}, not a table; {kind[1].replace('FILE', file.name)}")
        with file.open("rb") as raw, gzip.open(raw) if is_packed else raw as stream:
            line = stream.readline()
    try:
        text = line.decode("utf-8-sig").rstrip("\r\n")
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 in its first line; save it as UTF-8") from error
    delimiter = max(("\t", ",", ";"), key=text.count)
    names = next(csv.reader([text], delimiter=delimiter), [])
    for name in names:
        if not name or [one.lower() for one in names].count(name.lower()) > 1:
            raise DataError(
                f"the first line of {file} must name every column once; {name!r} is empty or stands there twice: correct it"
            )
    return names, delimiter


def _write(
    files: Sequence[Path],
    texts: Collection[str],
    target: Path,
    delimiter: str,
    keys: Sequence[str],
    label: str | None,
) -> None:
    with published_file(target) as temporary, Database(threads=1, memory_bytes=MEMORY_BYTES) as db:
        schema, batches = db.read_texts(
            files, texts, delimiter=delimiter, batch_rows=BATCH_ROWS, folder_keys=keys, label=label
        )
        with pq.ParquetWriter(temporary, schema, compression="zstd", write_page_checksum=True) as writer:
            for batch in batches:
                writer.write_batch(batch)
