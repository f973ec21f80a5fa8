"""Which files a dataset is: those that a path, a glob or the URL of an object store names, and what is not read beside them."""

import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar

from mi_duck.data.parquet import DataFile, ObjectFile, is_url, object_store, read_errors
from mi_duck.errors import DataError, StorageError
from mi_duck.file_kinds import head_of, kind_of

BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,62}")
PARQUET = (".parquet", ".pq", ".parq")
TEXT = tuple(f"{ending}{packed}" for ending in (".csv", ".tsv", ".tab") for packed in ("", ".gz"))
MOST_NAMED = 5

F = TypeVar("F", Path, ObjectFile)


@dataclass(frozen=True, slots=True)
class FoundFiles:
    """What a location names.

    Parameters
    ----------
    files
        Sorted by name; Parquet files, or tables in text (CSV or TSV).
    left_out
        In words, what looks like data there and is not read; one sentence per reason.
    """

    files: tuple[DataFile, ...]
    left_out: tuple[str, ...] = ()

    @property
    def are_texts(self) -> bool:
        """Whether they are tables in text, by their names."""
        return all(is_named(file.name, TEXT) for file in self.files)


def names_below(found: FoundFiles, files: Sequence[DataFile]) -> tuple[str, ...]:
    """Return how predictions name each file: by its path below the folder that holds all of them.

    ``files`` are what is read; of one table in text that is the Parquet file made of it, which goes by the name of the table.
    """
    is_one_text = found.are_texts and len(found.files) == 1
    paths = [str(file) for file in (found.files if is_one_text else files)]
    root = os.path.commonpath([os.path.dirname(path) for path in paths])
    return tuple(os.path.relpath(path, root) for path in paths)


def is_named(name: str, endings: tuple[str, ...]) -> bool:
    """Return whether a file has one of these endings, in upper or lower case."""
    return name.lower().endswith(endings)


def find_files(location: str) -> FoundFiles:
    """Return the files of a dataset.

    Of a folder these are the Parquet files of its ``master/`` where that has some, else all at any depth, else its tables in
    text. Names that begin with a dot or an underscore are passed over as by Spark; ``_key=value`` is a partition.

    Raises
    ------
    DataError
        Nothing is there, the folder has no such file, or a name is not UTF-8.
    StorageError
        The disk or the store fails.
    """
    if is_url(location):
        return _object_files(location)
    path = Path(location)
    if not location:
        raise DataError("the name of the dataset is empty; name a Parquet file, a folder of them, or a glob pattern")
    try:
        if path.is_dir():
            found = _of_folder(path)
        elif path.exists():
            found = FoundFiles((path,))
        else:
            anchor = Path(path.anchor)
            globbed = anchor.glob(str(path.relative_to(anchor))) if re.search(r"[*?\[]", location) else ()
            found = FoundFiles(tuple(sorted(globbed)))
    except OSError as error:
        raise StorageError(f"cannot read {location}: {error.strerror}") from error
    except ValueError as error:
        raise DataError(f"{location} is not a glob pattern: {error}") from error
    if not found.files:
        raise DataError(f"nothing is at {location}; name a Parquet file, a folder of them, or a glob pattern")
    for file in found.files:
        if isinstance(file, Path) and not file.is_file():
            raise DataError(f"{file} is not a regular file (a broken link, a folder or a pipe); remove it")
        if str(file).encode("utf-8", "ignore") != os.fsencode(str(file)):
            raise DataError(f"the name of {str(file)!r} is not UTF-8, so SQL cannot open it; rename it")
    return found


def _of_folder(folder: Path) -> FoundFiles:
    # master by itself too: it may be a link, which is not followed from above
    there = sorted(file for file in {*folder.rglob("*"), *(folder / "master").rglob("*")} if not file.is_dir())
    named = [(file, file.relative_to(folder).parts) for file in there if is_named(file.name, PARQUET + TEXT)]
    if (folder / "plan.json").is_file() and (folder / "genes.parquet").is_file():
        raise DataError(f"{folder} is a run of mi-duck, not a dataset; name the folder or file of the dataset")
    hidden = [file for file, parts in named if _is_hidden(parts) and file.is_file() and head_of(file)[:4] == b"PAR1"]
    found = _chosen([(file, parts) for file, parts in named if not _is_hidden(parts)], hidden)
    if not found.files:
        raise DataError(_nothing_in(folder, [file for file in there if file.is_file()]))
    return found


def _chosen(named: Sequence[tuple[F, Sequence[str]]], hidden: Sequence[F]) -> FoundFiles:
    """Return of the files in a folder, each with its parts below it, those that are the dataset."""
    parquet = [(file, parts) for file, parts in named if is_named(file.name, PARQUET)]
    texts = [file for file, _ in named if is_named(file.name, TEXT)]
    in_master = [file for file, parts in parquet if parts[0] == "master" and len(parts) > 1]
    files = in_master or [file for file, _ in parquet] or texts
    used = set(files)
    beside = [file for file, _ in parquet if file not in used]
    words = (
        (beside, "Parquet files beside the folder 'master' are not read", "name the folder of those that you mean"),
        (hidden, "files under names that begin with . or _ are not read", "rename them if they are data"),
        (
            texts if parquet else [],
            "tables in text beside Parquet files are not read",
            "name them if they are the data",
        ),
    )
    left_out = tuple(f"{what}: {_names(those)}; {advice}" for those, what, advice in words if those)
    return FoundFiles(tuple(files), left_out)


def _names(files: Sequence[DataFile]) -> str:
    more = f" and {len(files) - MOST_NAMED:,} more" if len(files) > MOST_NAMED else ""
    return ", ".join(str(file) for file in files[:MOST_NAMED]) + more


def _nothing_in(folder: Path, there: Sequence[Path]) -> str:
    """Return in words that a folder has no file of a dataset, and what the first known one is instead."""
    for file in there:
        kind = None if _is_hidden(file.relative_to(folder).parts) else kind_of(head_of(file))
        if kind:
            what = f"{file.name}, which is {kind[0]}: {kind[1].replace('FILE', file.name)}"
            return f"no *.parquet file in {folder}, which holds {what}"
    return f"no *.parquet file in {folder}; point to a folder that holds some"


def _object_files(location: str) -> FoundFiles:
    """Return the files that a URL names: one file, all below a prefix, or those that a glob pattern finds."""
    scheme, _, key = location.partition("://")
    bucket = key.partition("/")[0]
    if "@" in bucket or ":" in bucket:  # never repeated: it may be a password
        raise DataError(
            "a URL of a dataset holds a user name or a password; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY instead"
        )
    if scheme != "s3":
        raise DataError(
            f"{location} is on a store that mi-duck cannot read; give a path, or s3:// with AWS_ENDPOINT_URL naming the server"
        )
    if not BUCKET.fullmatch(bucket):
        raise DataError(f"{location} names no bucket; give s3://BUCKET/FOLDER")
    from pyarrow import fs

    store = object_store(bucket)
    key = key.rstrip("/")
    pattern = key.split("/") if re.search(r"[*?\[]", key) else []
    first = next((number for number, part in enumerate(pattern) if re.search(r"[*?\[]", part)), 0)
    folder = "/".join(pattern[:first]) if pattern else key
    with read_errors(location):
        if not pattern and "/" in key and store.get_file_info(key).type == fs.FileType.File:
            return FoundFiles((ObjectFile(f"s3://{key}"),))
        there = sorted(
            one.path.split("/")
            for one in store.get_file_info(fs.FileSelector(folder, recursive=True))
            if one.type == fs.FileType.File
        )
    files = [(ObjectFile(f"s3://{'/'.join(parts)}"), parts) for parts in there]
    if pattern:
        fits = (file for file, parts in files if len(parts) == len(pattern) and all(map(fnmatchcase, parts, pattern)))
        found = FoundFiles(tuple(fits))
    else:
        depth = len(folder.split("/"))
        named = [(file, parts[depth:]) for file, parts in files if is_named(file.name, PARQUET + TEXT)]
        hidden = [file for file, parts in named if _is_hidden(parts)]
        found = _chosen([(file, parts) for file, parts in named if not _is_hidden(parts)], hidden)
    if not found.files:
        raise DataError(f"no *.parquet file in {location}; name a file, a folder of them, or a glob pattern")
    return found


def _is_hidden(parts: Iterable[str]) -> bool:
    return any(part.startswith(".") or (part.startswith("_") and "=" not in part) for part in parts)
