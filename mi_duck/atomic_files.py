"""Writes files and folders whole or not at all, and hashes them; JSON and CSV as text that is the same for equal values."""

import csv
import errno
import fcntl
import hashlib
import io
import json
import os
import re
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from math import isfinite
from pathlib import Path
from typing import Any

from mi_duck.errors import DataError, StorageError

PARTIAL = ".partial"
"""Of the folder that `published_folder` yields, whose name holds the number of the process."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Raise errors of the file system as `StorageError`, with the path and the remedy in one line."""
    try:
        yield
    except OSError as error:
        where = error.filename or path
        advice = {
            errno.ENOSPC: "free some space and run the same command again",
            errno.EDQUOT: "raise the quota and run the same command again",
            errno.EROFS: "choose another --out",
            errno.EACCES: "change the permissions or choose another --out",
            errno.ENOLCK: "mount this file system with locks or choose another --out",
            errno.ENOSYS: "mount this file system with locks or choose another --out",
            errno.EPERM: "change the permissions or choose another --out",
        }.get(error.errno or 0, "check the path and the disk")
        raise StorageError(f"cannot write {where}: {error.strerror or error}; {advice}") from error


def free_bytes(folder: Path) -> int:
    """Return the free space of the disk that holds a folder."""
    return shutil.disk_usage(folder).free


def write_file(path: Path, data: bytes) -> None:
    """Write a file so that its name has either all of it or what it had before."""
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with published_file(path) as temporary:
            temporary.write_bytes(data)


@contextmanager
def published_file(path: Path) -> Iterator[Path]:
    """Yield a name beside a file for what is to be written there; it takes the place of the file, or is gone after an error."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        yield temporary
        publish(temporary, path)
    except BaseException:
        with suppress(OSError):  # what went wrong is more than what is left
            temporary.unlink(missing_ok=True)
        raise


@contextmanager
def published_folder(out: Path) -> Iterator[Path]:
    """Yield a hidden folder; rename it to ``out``, absent or empty, at the end, and remove it after an error.

    What a killed process left of the same folder is removed first: what no process has locked. So where locks do not reach over
    machines, only one of them may make a folder.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; choose another folder")
    with storage_errors(out):
        if out.exists() and any(out.iterdir()):
            raise DataError(f"{out} exists and is not empty; remove it or choose another folder")
        whole = out.absolute()
        partial = whole.parent / f".{whole.name}.{os.getpid()}{PARTIAL}"
        _remove_abandoned(whole)
        lock = _made_and_locked(partial)
        try:
            yield partial
            sync_files(partial)
            if out.exists():
                out.rmdir()
            partial.rename(out)
            sync_folder(whole.parent)
        finally:
            os.close(lock)
            shutil.rmtree(partial, ignore_errors=True)


def _made_and_locked(folder: Path) -> int:
    """Make a folder and return the open file that locks it; another process may delete one that is not locked yet."""
    while True:
        folder.mkdir(parents=True)
        with suppress(FileNotFoundError):
            lock = os.open(folder, os.O_RDONLY)
            with suppress(OSError):  # a file system without locks: then nothing is ever taken for abandoned
                fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.is_dir():
                return lock
            os.close(lock)


def _remove_abandoned(out: Path) -> None:
    """Delete what killed processes left of a folder to be published: what no process holds locked."""
    for path in out.parent.glob(f".*{PARTIAL}"):
        if re.fullmatch(rf"\.{re.escape(out.name)}\.\d+{re.escape(PARTIAL)}", path.name):
            with suppress(OSError):
                lock = os.open(path, os.O_RDONLY)
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(path, ignore_errors=True)
                finally:
                    os.close(lock)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of `published_file` that killed processes left; no other process may write there."""
    for path in folder.rglob(".*.tmp"):
        if re.fullmatch(r"\..+\.\d+\.tmp", path.name) and path.is_file():
            path.unlink(missing_ok=True)


def write_json(path: Path, values: Any) -> None:
    """Write JSON with sorted keys and without NaN, whole or not at all."""
    write_file(path, (json.dumps(values, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())


def strict_json(data: str | bytes) -> Any:
    """Read JSON; raise ValueError for text that is not JSON, a key that occurs twice, NaN or infinity."""
    return json.loads(data, object_pairs_hook=_once, parse_constant=_refused, parse_float=_finite)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        doubled = next(key for key, n in Counter(key for key, _ in pairs).items() if n > 1)
        raise ValueError(f"the key {doubled!r:.40} stands twice, and could mean either value")
    return found


def _refused(word: str) -> None:
    raise ValueError(f"it holds {word:.40}, which is not a number")


def _finite(text: str) -> float:
    if not isfinite(value := float(text)):
        _refused(text)
    return value


def digest_of(values: Any) -> str:
    """Return the SHA-256 of JSON values."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return JSON values with their own SHA-256 beside them as ``seal``, so that a changed number is noticed."""
    return {**values, "seal": digest_of(values)}


def unsealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return sealed JSON values without their hash; raise ValueError where it is not theirs."""
    rest = {name: value for name, value in values.items() if name != "seal"}
    if values.get("seal") != digest_of(rest):
        raise ValueError("it is not what was written")
    return rest


def read_sealed(path: Path) -> dict[str, Any]:
    """Read sealed JSON from a file; raise FileNotFoundError, or ValueError where it is torn or was changed."""
    try:
        return unsealed(json.loads(path.read_bytes()))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(path) from error
    except (OSError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def sync_folder(folder: Path) -> None:
    """Flush a folder to the disk, so that a rename inside it survives a power loss."""
    _sync(folder)


def sync_files(folder: Path) -> None:
    """Flush every file of a folder to the disk, and the folder itself."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            _sync(file)
    _sync(folder)


def publish(temporary: Path, target: Path) -> None:
    """Give a finished file its name, after its bytes have reached the disk."""
    _sync(temporary)
    temporary.replace(target)
    sync_folder(target.parent)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write records as a table, whole or not at all: one line per record, columns from the first record.

    Real numbers are written so that they read back the same. Text that a spreadsheet would run as a formula gets an
    apostrophe in front.
    """
    text = io.StringIO()
    names = list(rows[0]) if rows else []
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writerow({name: _cell(name) for name in names})
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    write_file(path, text.getvalue().encode())


def _cell(value: Any) -> Any:
    if isinstance(value, float):  # NumPy's too: its repr would name the type
        return repr(float(value))
    if isinstance(value, bool):
        return int(value)
    if isinstance(value, str) and value[:1] in FORMULA:
        return f"'{value}"
    return value


def unguarded(text: str) -> str:
    """Take back the apostrophe that `write_csv` puts before a name which a spreadsheet would run as a formula."""
    return text[1:] if text[:1] == "'" and text[1:2] in FORMULA else text


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file as hexadecimal text."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
