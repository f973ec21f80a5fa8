"""Writes, hashes and reads files: whole or absent, versioned, never pickle; the ``.miduck`` format.

A ``.miduck`` file is 8 bytes ``MIDUCK01``, the SHA-256 of all that follows, the length of the header (8 bytes, little
endian), the header (JSON: the parts with their sizes), and one zstd frame with the parts one after the other. Its hash
is checked before any parser, native or not, sees the bytes, and the header bounds what is decompressed. The hash proves
that a file is whole, not that it means well: sizes are compared with each other and with the file's before memory is taken.
"""

import csv
import errno
import hashlib
import io
import json
import os
import re
import shutil
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import zstandard

from mi_duck.errors import CheckpointError, DataError, StorageError

MAGIC = b"MIDUCK01"
LARGEST_MODEL = 8 << 30
LARGEST_HEADER = 16 << 20
FORMULA = ("=", "+", "-", "@", "\t", "\r")
DENSEST = 256  # bytes that a byte of a model may unpack to; models reach 3 to 8
FEWEST = 16 << 20  # bytes that any frame may unpack to


@contextmanager
def storage_errors(path: Path) -> Iterator[None]:
    """Turn errors of the file system into one line that names the path and the remedy."""
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
    """Write a file so that its name shows either all of it or what was there before."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storage_errors(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with temporary.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
            sync_folder(path.parent)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise


@contextmanager
def published_folder(out: Path) -> Iterator[Path]:
    """Yield a hidden folder beside ``out``; flush it and rename it to ``out`` at the end, remove it after an error.

    Raises
    ------
    DataError
        ``out`` is a file, or a folder that holds something.
    StorageError
        The disk is full, read-only, or fails.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file; choose another folder")
    with storage_errors(out):
        if out.exists() and any(out.iterdir()):
            raise DataError(f"{out} exists and is not empty; remove it or choose another folder")
        whole = out.absolute()
        partial = whole.parent / f".{whole.name}.{os.getpid()}.partial"
        try:
            partial.mkdir(parents=True)
            yield partial
            sync_files(partial)
            if out.exists():
                out.rmdir()
            partial.rename(out)
            sync_folder(whole.parent)
        finally:
            shutil.rmtree(partial, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of `write_file` that killed processes left; call it while nobody else writes there."""
    for path in folder.rglob(".*.tmp"):
        if re.fullmatch(r"\..+\.\d+\.tmp", path.name) and path.is_file():
            path.unlink(missing_ok=True)


def write_json(path: Path, values: Any) -> None:
    """Write JSON with sorted keys and without NaN, whole or not at all."""
    write_file(path, (json.dumps(values, indent=1, sort_keys=True, allow_nan=False) + "\n").encode())


def sealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return JSON values with their own SHA-256 beside them as ``seal``, so that a changed number is noticed."""
    return {**values, "seal": _digest(values)}


def unsealed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return sealed JSON values without their hash.

    Raises
    ------
    ValueError
        The hash is not theirs.
    """
    rest = {name: value for name, value in values.items() if name != "seal"}
    if values.get("seal") != _digest(rest):
        raise ValueError("it is not what was written")
    return rest


def read_sealed(path: Path) -> dict[str, Any]:
    """Read sealed JSON from a file.

    Raises
    ------
    FileNotFoundError
        There is none.
    ValueError
        It cannot be read, is torn, or is not what was written.
    """
    try:
        return unsealed(json.loads(path.read_bytes()))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise FileNotFoundError(path) from error
    except (OSError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(str(error)) from error


def _digest(values: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def sync_folder(folder: Path) -> None:
    """Make a rename inside a folder survive a power loss."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def publish(temporary: Path, target: Path) -> None:
    """Give a finished file its name, after its bytes have reached the disk."""
    handle = os.open(temporary, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
    temporary.replace(target)
    sync_folder(target.parent)


def sync_files(folder: Path) -> None:
    """Flush every file of a folder to the disk, and the folder itself."""
    for file in sorted(folder.rglob("*")):
        if file.is_file():
            handle = os.open(file, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)
    sync_folder(folder)


def write_csv(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write records as a table, whole or not at all: a line each, columns from the first.

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


def pack(parts: Mapping[str, bytes], *, level: int = 6) -> bytes:
    """Return the bytes of a ``.miduck`` file; the same parts give the same bytes.

    Level 6 of zstd takes 2.3 MiB of memory for small boosters, level 1 takes 0.4.
    """
    header = json.dumps({"format": 1, "parts": [[name, len(data)] for name, data in parts.items()]}).encode()
    body = zstandard.ZstdCompressor(level=level, write_content_size=True).compress(b"".join(parts.values()))
    rest = len(header).to_bytes(8, "little") + header + body
    return MAGIC + hashlib.sha256(rest).digest() + rest


def unpack(data: bytes, source: str) -> dict[str, bytes]:
    """Return the parts of a ``.miduck`` file.

    Parameters
    ----------
    data
        All bytes of the file.
    source
        Its name, for messages.

    Raises
    ------
    CheckpointError
        The bytes are no such file, of a newer format, or not those that were written.
    """
    if data[:6] != MAGIC[:6]:
        raise CheckpointError(f"{source} is no mi_duck model; models end in .miduck and come from 'mi-duck run'")
    if data[:8] != MAGIC:
        raise CheckpointError(f"{source} has a newer format ({data[6:8]!r}); update mi_duck")
    rest = data[40:]
    if hashlib.sha256(rest).digest() != data[8:40]:
        raise CheckpointError(f"{source} is damaged: its hash differs; copy it again or train again")
    length = int.from_bytes(rest[:8], "little")
    if length > LARGEST_HEADER:
        raise CheckpointError(f"{source} has a header of {length:,} bytes, more than any model has")
    try:
        listed = json.loads(rest[8 : 8 + length])["parts"]
        sizes = {str(name): int(n) for name, n in listed}
        size = sum(sizes.values())
        if size > LARGEST_MODEL:
            raise CheckpointError(f"{source} would unpack to {size / 1e9:.1f} GB, more than any model has")
        frame = rest[8 + length :]
        # the decompressor believes the frame's own size, so that is compared before it allocates
        if (
            min(sizes.values(), default=0) < 0
            or len(sizes) != len(listed)
            or zstandard.frame_content_size(frame) != size
            or size > max(FEWEST, DENSEST * len(frame))
        ):
            raise CheckpointError(f"{source} is no model that mi_duck wrote: its sizes contradict each other")
        body = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, zstandard.ZstdError) as error:
        raise CheckpointError(f"{source} is no model that mi_duck wrote: {error}") from error
    parts, begin = {}, 0
    for name, n in sizes.items():
        parts[name] = body[begin : begin + n]
        begin += n
    return parts


def read_parts(path: Path) -> dict[str, bytes]:
    """Read a ``.miduck`` file; see `unpack`."""
    return unpack(read_model_bytes(path), str(path))


def read_model_bytes(path: Path) -> bytes:
    """Return the bytes of a model's file, or of what holds one.

    Raises
    ------
    CheckpointError
        It cannot be read, is no ordinary file (reading a pipe or a device could go on for ever), or is larger than any model.
    """
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise CheckpointError(f"{path} is no ordinary file; give a model's file or a run folder")
        if facts.st_size > LARGEST_MODEL:
            raise CheckpointError(f"{path} has {facts.st_size / 1e9:.1f} GB, more than any model has")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
