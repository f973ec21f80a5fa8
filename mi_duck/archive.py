"""The ``.miduck`` format: named parts in one file that is checked before it is used; never pickle.

A file is 8 bytes ``MIDUCK01``, the SHA-256 of all that follows, the length of the header (8 bytes, little endian), the
header (JSON: the parts with their sizes), and one zstd frame with the parts one after the other. Its hash is checked
before any parser, native or not, reads the bytes, and the header bounds what is decompressed. The hash proves that a file
is whole, not that its author is to be trusted: sizes are compared with each other and with the file's before memory is
allocated.
"""

import hashlib
import json
import stat
from collections.abc import Mapping
from pathlib import Path

import zstandard

from mi_duck.errors import CheckpointError
from mi_duck.file_kinds import HEAD_BYTES, kind_of
from mi_duck.numbers import decimal

MAGIC = b"MIDUCK01"
LARGEST_MODEL = 8 << 30
LARGEST_HEADER = 16 << 20
DENSEST = 256  # bytes to which one byte of a model may unpack; models reach 3 to 8
FEWEST = 16 << 20  # bytes to which any frame may unpack


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

    Raises
    ------
    CheckpointError
        The bytes are not such a file, of a newer format, or not those that were written.
    """
    if data[:6] != MAGIC[:6]:
        kind = kind_of(data[:HEAD_BYTES])
        what = f" but {kind[0]}" if kind else ""
        raise CheckpointError(
            f"{source} is not a mi_duck model{what}; models end in .miduck and come from 'mi-duck run'"
        )
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
            raise CheckpointError(f"{source} would unpack to {decimal(size / 1e9, 1)} GB, more than any model has")
        frame = rest[8 + length :]
        # the decompressor allocates the size that the frame states, so that is compared first
        if (
            min(sizes.values(), default=0) < 0
            or len(sizes) != len(listed)
            or zstandard.frame_content_size(frame) != size
            or size > max(FEWEST, DENSEST * len(frame))
        ):
            raise CheckpointError(f"{source} is not a model that mi_duck wrote: its sizes contradict each other")
        body = zstandard.ZstdDecompressor().decompress(frame, allow_extra_data=False)
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError, zstandard.ZstdError) as error:
        raise CheckpointError(f"{source} is not a model that mi_duck wrote: {error}") from error
    parts, begin = {}, 0
    for name, n in sizes.items():
        parts[name] = body[begin : begin + n]
        begin += n
    return parts


def read_parts(path: Path) -> dict[str, bytes]:
    """Read a ``.miduck`` file; see `unpack`."""
    return unpack(read_model_bytes(path), str(path))


def read_model_bytes(path: Path) -> bytes:
    """Return the bytes of a model's file.

    Raises
    ------
    CheckpointError
        It cannot be read, is not an ordinary file (reading a pipe or a device might not end), or is larger than any model.
    """
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise CheckpointError(f"{path} is not an ordinary file; give a model's file or a run folder")
        if facts.st_size > LARGEST_MODEL:
            raise CheckpointError(f"{path} has {decimal(facts.st_size / 1e9, 1)} GB, more than any model has")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
