"""Files of an object store: ``s3://bucket/key`` on Amazon S3 and on every server that speaks its protocol.

Arrow's own client reads them, for SQL too, so that DuckDB needs no extension. Who may read is taken from where every tool
of AWS takes it: ``AWS_ACCESS_KEY_ID`` and ``AWS_SECRET_ACCESS_KEY``, ``AWS_PROFILE``, or the machine's role; another server
than Amazon's is named by ``AWS_ENDPOINT_URL``. Nothing of it is ever written down. Requests that fail are tried three times.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cache
from pathlib import Path
from typing import Any

from mi_duck.errors import DataError, StorageError

SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://")
BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{2,62}")
SECONDS_TO_CONNECT = 10.0
FAILED = "AWS Error"  # in the words of Arrow where a request failed, and nowhere else


@dataclass(frozen=True, slots=True)
class ObjectFile:
    """A file of an object store, by its URL."""

    url: str

    def __str__(self) -> str:
        return self.url

    @property
    def parts(self) -> tuple[str, ...]:
        """What stands between slashes, as of a path."""
        return tuple(self.key.split("/"))

    @property
    def name(self) -> str:
        """The last part."""
        return self.parts[-1]

    @property
    def key(self) -> str:
        """Bucket and key, as Arrow wants them."""
        return self.url.partition("://")[2]

    @property
    def store(self) -> Any:
        """Arrow's file system for the bucket."""
        return _store(self.parts[0])


DataFile = Path | ObjectFile


def is_url(location: str) -> bool:
    """Return whether a location names an object store rather than a path."""
    return SCHEME.match(location) is not None


def data_file(text: str) -> DataFile:
    """Return a file by the text of its path or URL."""
    return ObjectFile(text) if is_url(text) else Path(text)


@cache
def _store(bucket: str) -> Any:
    from pyarrow import fs  # a tenth of a second that only these files are worth

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
    """Turn errors of requests into one line that names the file and the remedy.

    Raises
    ------
    DataError
        There is no such bucket or file.
    StorageError
        The store refuses, or does not answer.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"nothing is at {what}; check its name") from error
    except OSError as error:
        words = " ".join(str(error).split())
        if "NO_SUCH_BUCKET" in words or ("Bucket '" in words and "not found" in words):
            raise DataError(f"nothing is at {what}: there is no such bucket; check its name") from error
        raise unreachable(what, error) from error


def unreachable(what: object, error: Exception) -> StorageError:
    """Return the error to raise where a request failed."""
    words = " ".join(str(error).split())
    return StorageError(
        f"cannot read {what}: {words.rpartition(FAILED)[2].strip() or words}; check the credentials (AWS_ACCESS_KEY_ID, "
        "AWS_PROFILE), the region (AWS_REGION), the server (AWS_ENDPOINT_URL) and the network, and run the same command again"
    )


def object_files(location: str) -> tuple[ObjectFile, ...]:
    """Return the Parquet files that a URL names: one file, all below a prefix, or those that a glob pattern finds.

    Raises
    ------
    DataError
        It is no URL of S3, it carries a password, or nothing is there.
    StorageError
        The store refuses, or does not answer.
    """
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

    store = _store(bucket)
    key = key.rstrip("/")
    pattern = key.split("/") if re.search(r"[*?\[]", key) else []
    plain = next((number for number, part in enumerate(pattern) if re.search(r"[*?\[]", part)), 0)
    folder = "/".join(pattern[:plain]) if pattern else key
    with read_errors(location):
        if not pattern and "/" in key and store.get_file_info(key).type == fs.FileType.File:
            return (ObjectFile(f"s3://{key}"),)
        there = [
            one.path
            for one in store.get_file_info(fs.FileSelector(folder, recursive=True))
            if one.type == fs.FileType.File
        ]
    if pattern:
        found = [
            path
            for path in there
            if len(path.split("/")) == len(pattern) and all(map(fnmatchcase, path.split("/"), pattern))
        ]
    else:
        if any(path.startswith(f"{folder}/master/") for path in there):
            folder += "/master"
        found = [
            path
            for path in there
            if path.startswith(f"{folder}/")
            and path.endswith(".parquet")
            and not any(part.startswith((".", "_")) for part in path[len(folder) + 1 :].split("/"))
        ]
    if not found:
        raise DataError(f"no *.parquet file in {location}; name a file, a folder of them, or a glob pattern")
    return tuple(ObjectFile(f"s3://{path}") for path in sorted(found, key=lambda path: path.split("/")))


def object_stamp(file: ObjectFile) -> tuple[int, int, str]:
    """Return the size of a file, the time of its last change in nanoseconds, and what the store says identifies its bytes."""
    with read_errors(file.url), file.store.open_input_stream(file.key) as stream:
        info = file.store.get_file_info(file.key)
        tag = (stream.metadata() or {}).get("ETag", b"")
        return int(info.size), int(info.mtime_ns or 0), bytes(tag).decode("ascii", "replace").strip('"')


def sql_file_system(bucket: str) -> Any:
    """Return the file system by which DuckDB reads ``s3://`` of a bucket.

    Raises
    ------
    DataError
        The package that hands it over is not installed.
    """
    try:
        from fsspec.implementations.arrow import ArrowFSWrapper
    except ImportError as error:
        raise DataError("to read object stores the package fsspec is needed; install mi-duck[s3]") from error

    known: dict[str, dict[str, Any]] = {}

    class Store(ArrowFSWrapper):  # type: ignore[misc]  # DuckDB takes nothing but what inherits from fsspec
        """Asks for the facts of each file once: DuckDB asks several times for every query."""

        protocol = ("s3",)

        def info(self, path: str, **kwargs: Any) -> dict[str, Any]:
            """Return size and time of a file."""
            if path not in known:
                known[path] = super().info(path, **kwargs)
            return known[path]

        def modified(self, path: str) -> Any:
            """Return the time of its last change."""
            return self.info(path)["mtime"]

    return Store(_store(bucket), skip_instance_cache=True)
