"""FASTA to letters as small integers, and letters to k-mer counts.

Genomes are read one contig at a time, so memory is bounded by the longest one. Letters are ``uint8``: A, C,
G, T are 0 to 3, everything else that IUPAC allows is 4 ("N"), which belongs to no k-mer and no score.
"""

import gzip
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from mi_duck.errors import DataError
from mi_duck.file_kinds import GZIP, HEAD_BYTES, kind_of, unpacked, wrong_kind

Letters = NDArray[np.uint8]

KMER_LENGTHS = (3, 5)
N = 4

_BLOCK_BYTES = 1 << 22
_WHITESPACE = b" \t\r\n\v\f"
_INVALID = 255
# count_kmers works on this many rows at once: counts and indices of one batch stay in the processor's cache
_BATCH_ROWS = 256


def _letter_codes() -> bytes:
    """Return the code of each of the 256 bytes; U is T, ambiguity letters and gaps are N."""
    codes = bytearray([_INVALID] * 256)
    for letter in "RYSWKMBDHVNX-.*":
        codes[ord(letter)] = codes[ord(letter.lower())] = N
    for code, letters in enumerate(("A", "C", "G", "TU")):
        for letter in letters:
            codes[ord(letter)] = codes[ord(letter.lower())] = code
    return bytes(codes)


_CODES = _letter_codes()
_LETTERS = b"ACGTN".ljust(256, b"N")
_COMPLEMENT = np.array([3, 2, 1, 0, N], np.uint8)


@dataclass(frozen=True, slots=True, eq=False)
class Contig:
    """One sequence of a FASTA file: its name (first word of the header) and its letters, uint8 0 to 4."""

    name: str
    letters: Letters


@contextmanager
def reading(path: Path, wanted: str, *allowed: str) -> Iterator[BinaryIO]:
    """Open a plain or gzip-compressed file, recognised by the first two bytes, not by the name.

    Parameters
    ----------
    wanted
        What the file should be, for the message.
    allowed
        Kinds of `mi_duck.file_kinds.kind_of` that are taken, besides tables in text and what it does not know.

    Yields
    ------
    BinaryIO
        The uncompressed bytes.

    Raises
    ------
    DataError
        No such file, a folder, not readable, a file of another kind, or a gzip stream that is damaged or cut off.
    """
    if not path.exists():
        raise DataError(f"no such file: {path}")
    if path.is_dir():
        raise DataError(f"{path} is a folder; give the file itself")
    try:
        with path.open("rb") as raw:
            head = raw.read(HEAD_BYTES)
            raw.seek(0)
            kind = kind_of(unpacked(head))
            if kind and kind[0] not in allowed and not kind[0].startswith("a table in text"):
                raise DataError(wrong_kind(path, head, wanted))
            if head.startswith(GZIP):
                with gzip.open(raw, "rb") as stream:
                    yield cast(BinaryIO, stream)
            else:
                yield raw
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"damaged gzip data in {path}: {error}; download or compress it again") from error
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error


def read_fasta(path: Path) -> Iterator[Contig]:
    """Read a FASTA file, plain or gzip, one contig at a time.

    Parameters
    ----------
    path
        Nucleotide FASTA; lower case, line length, blank lines and Windows line ends do not matter.

    Yields
    ------
    Contig
        In the order of the file; a letter takes one byte. While a contig is read, only the one that the
        caller still holds is in memory beside it.

    Raises
    ------
    DataError
        The file is missing, empty, not FASTA, has a contig twice or without a name, or letters that are
        not nucleotides (with the contig's name).
    """
    seen: set[str] = set()
    name: str | None = None
    letters = bytearray()
    with reading(path, "FASTA", "FASTA") as stream:
        while block := stream.read(_BLOCK_BYTES):
            block += stream.readline()  # so that a header is never cut in two
            position = 0
            while position < len(block):
                header = block.find(b">", position)
                body = block[position:] if header < 0 else block[position:header]
                letters += body.translate(_CODES, _WHITESPACE)
                if letters and name is None:
                    raise DataError(f"{path} is not FASTA: it begins with {body.strip()[:20]!r}, not '>'")
                if header < 0:
                    break
                if header > 0 and block[header - 1] not in b"\n\r":
                    raise DataError(f"{path} is not FASTA: '>' within a sequence line of contig {name}")
                if name is not None:
                    yield _contig(path, name, letters)
                    letters = bytearray()
                line_end = block.find(b"\n", header)
                line_end = len(block) if line_end < 0 else line_end
                words = block[header + 1 : line_end].decode("utf-8", "replace").split(maxsplit=1)
                if not words:
                    raise DataError(f"a contig without a name in {path}, after contig {name}")
                name = words[0]
                if name in seen:
                    raise DataError(f"contig {name} twice in {path}; keep one of them")
                seen.add(name)
                position = line_end + 1
    if name is None:
        raise DataError(f"no sequence in {path}: the file is empty")
    yield _contig(path, name, letters)


def _contig(path: Path, name: str, codes: bytearray) -> Contig:
    letters = np.frombuffer(codes, np.uint8)
    if letters.size and int(letters.max()) == _INVALID:
        number = int(np.argmax(letters == _INVALID)) + 1
        raise DataError(f"letter {number} of contig {name} in {path} is not a nucleotide; give nucleotide FASTA")
    return Contig(name, letters)


def encode(text: str) -> Letters:
    """Return letters as codes.

    Parameters
    ----------
    text
        Nucleotides in either case.

    Returns
    -------
    (len(text),) uint8
        0 to 3 for A, C, G, T and 4 for every other letter.

    Examples
    --------
    >>> encode("ACgtN").tolist()
    [0, 1, 2, 3, 4]
    """
    return np.minimum(np.frombuffer(text.encode("ascii").translate(_CODES), np.uint8), np.uint8(N))


def decode(letters: Letters) -> str:
    """Return codes as letters.

    Examples
    --------
    >>> decode(encode("ACgtN"))
    'ACGTN'
    """
    return letters.tobytes().translate(_LETTERS).decode("ascii")


def reverse_complement(letters: Letters) -> Letters:
    """Return the other strand, read in its own direction, along the last axis.

    Examples
    --------
    >>> reverse_complement(encode("AACGN")).tolist()  # NCGTT
    [4, 1, 2, 3, 3]
    """
    return _COMPLEMENT[letters[..., ::-1]]


def stretch(letters: Letters, start: int, end: int) -> Letters:
    """Cut a piece of the forward strand.

    Parameters
    ----------
    letters
        (n_letters,) uint8, the contig.
    start, end
        1-based, inclusive, at least partly on the contig.

    Returns
    -------
    (end - start + 1,) uint8
        N beyond the ends of the contig.
    """
    piece = letters[max(start - 1, 0) : end]
    if start < 1 or end > letters.size:
        piece = np.pad(piece, (max(1 - start, 0), max(end - letters.size, 0)), constant_values=N)
    return piece


def windows(letters: Letters, positions: NDArray[np.int64], strand: str, window: int) -> Letters:
    """Cut the window round each position, on the transcript strand.

    Parameters
    ----------
    letters
        (n_letters,) uint8, the contig's forward strand.
    positions
        (n,) 1-based positions, all of them on the contig.
    strand
        ``+`` or ``-``.
    window
        Number of letters, even.

    Returns
    -------
    (n, window) uint8
        Column ``window // 2`` is the position itself; ``window // 2`` letters lie upstream of it. Letters
        beyond an end of the contig are N.
    """
    # 0-based left end: on the minus strand the position is column window - 1 - window // 2 from the left
    first = positions - 1 - window // 2 if strand == "+" else positions - window + window // 2
    if not positions.size:
        return np.empty((0, window), np.uint8)
    start = int(first.min())
    piece = stretch(letters, start + 1, int(first.max()) + window)
    cut = np.lib.stride_tricks.sliding_window_view(piece, window)[first - start]
    return cut if strand == "+" else reverse_complement(cut)


def kmer_names() -> tuple[str, ...]:
    """Name the 1,088 k-mer columns: all 3-mers, then all 5-mers, letters in the order A, C, G, T.

    Examples
    --------
    >>> names = kmer_names()
    >>> len(names), names[0], names[1], names[63], names[64], names[-1]
    (1088, '3mer_AAA', '3mer_AAC', '3mer_TTT', '5mer_AAAAA', '5mer_TTTTT')
    """
    return tuple(f"{k}mer_{''.join(kmer)}" for k in KMER_LENGTHS for kmer in product("ACGT", repeat=k))


def count_kmers(letters: Letters) -> NDArray[np.uint8]:
    """Count the 3-mers and 5-mers of each row of letters.

    Parameters
    ----------
    letters
        (n, length) uint8, 0 to 4, such as `windows` returns.

    Returns
    -------
    (n, 1088) uint8
        Overlapping occurrences in the order of `kmer_names`; a k-mer with an N is not counted; counts above
        255 are given as 255 (only a window of more than 255 letters of one repeat reaches it).

    Notes
    -----
    A k-mer is read as a number to base 4, and `numpy.bincount` counts the numbers
    ``row * (4**k + 1) + k-mer`` of a batch of rows at once; number ``4**k`` collects the k-mers with N and is
    cut off.
    """
    n_rows, length = letters.shape
    counts = np.empty((n_rows, sum(4**k for k in KMER_LENGTHS)), np.uint8)
    for first in range(0, n_rows, _BATCH_ROWS):
        batch = letters[first : first + _BATCH_ROWS]
        column = 0
        for k in KMER_LENGTHS:
            n_kmers, width = 4**k, length - k + 1
            target = counts[first : first + len(batch), column : column + n_kmers]
            column += n_kmers
            if width < 1:
                target[:] = 0
                continue
            numbers = kmer_numbers(batch, k)
            rows = np.arange(len(batch), dtype=np.intp)[:, None] * (n_kmers + 1)
            found = np.bincount(np.add(numbers, rows).ravel(), minlength=len(batch) * (n_kmers + 1))
            found = found.reshape(len(batch), n_kmers + 1)[:, :n_kmers]
            np.minimum(found, 255, out=target, casting="unsafe")
    return counts


def kmer_numbers(letters: Letters, k: int) -> NDArray[np.uint16]:
    """Return each k-mer as a number to base 4, (n, length - k + 1); those with an N are ``4**k``."""
    width = letters.shape[1] - k + 1
    numbers = letters[:, :width].astype(np.uint16)
    for offset in range(1, k):
        numbers *= 4
        numbers += letters[:, offset : offset + width]
    unknown = letters > 3
    if unknown.any():
        for offset in range(k):
            numbers[unknown[:, offset : offset + width]] = 4**k
    return numbers
