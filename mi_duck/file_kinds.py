"""What a file is, by its first bytes, and what of mi-duck takes it: for messages where another kind of file was expected."""

import csv
import gzip
import io
import zlib
from pathlib import Path

GZIP = b"\x1f\x8b"
HEAD_BYTES = 4096
"""Bytes that `kind_of` looks at."""

_DATASET = "convert it to Parquet, or write it as CSV"
_READERS = {
    "h5": "pandas.read_hdf(FILE).to_parquet('FILE.parquet')",
    "arrow": "pandas.read_feather(FILE).to_parquet('FILE.parquet')",
    "orc": "pandas.read_orc(FILE).to_parquet('FILE.parquet')",
}
_ALIGNMENTS = "no command of mi-duck takes alignments; give the genome as FASTA, or features as a table"
_PICTURE = "no command of mi-duck takes it; name the data themselves"
_BASE_SCORES = "'mi-duck build' takes it as --base-scores"
_BINARY: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"PAR1", "Parquet", "it is a dataset, or the --base-scores of 'mi-duck build'"),
    (0, b"MIDUCK", "a model of mi-duck", "'mi-duck predict' takes it in place of a run"),
    (0, b"PK\x03\x04", "a zip archive", "unpack it (unzip FILE) and name what was in it"),
    (0, b"BZh", "packed by bzip2", "unpack it first (bunzip2 -k FILE)"),
    (0, b"\xfd7zXZ\x00", "packed by xz", "unpack it first (xz -dk FILE)"),
    (0, b"\x28\xb5\x2f\xfd", "packed by zstd", "unpack it first (zstd -d FILE)"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", "unpack it first (7z x FILE)"),
    (257, b"ustar", "a tar archive", "unpack it (tar -xf FILE) and name what was in it"),
    (0, b"BAM\x01", "BAM", _ALIGNMENTS),
    (0, b"CRAM", "CRAM", _ALIGNMENTS),
    (0, b"TBI\x01", "an index of tabix", "name the file that it is the index of"),
    (0, b"\x26\xfc\x8f\x88", "bigWig", f"{_BASE_SCORES}, such as donor+=FILE"),
    (0, b"\x88\x8f\xfc\x26", "bigWig", f"{_BASE_SCORES}, such as donor+=FILE"),
    (0, b"\xeb\xf2\x89\x87", "bigBed", "write it as BED (bigBedToBed FILE FILE.bed)"),
    (0, b"\x43\x27\x41\x1a", "a genome in 2bit", "write it as FASTA (twoBitToFa FILE FILE.fa)"),
    (0, b"\x89HDF\r\n\x1a\n", "HDF5", f"{_DATASET}, such as {_READERS['h5']} in Python"),
    (0, b"ARROW1", "Arrow IPC (Feather)", f"{_DATASET}, such as {_READERS['arrow']} in Python"),
    (0, b"FEA1", "Feather", f"{_DATASET}, such as {_READERS['arrow']} in Python"),
    (0, b"ORC", "ORC", f"{_DATASET}, such as {_READERS['orc']} in Python"),
    (0, b"Obj\x01", "Avro", _DATASET),
    (0, b"\x93NUMPY", "an array of NumPy", f"{_DATASET}, with a name for each column"),
    (0, b"RDX", "data of R", f"{_DATASET}, such as arrow::write_parquet(table, 'FILE.parquet') in R"),
    (0, b"SQLite format 3\x00", "an SQLite database", "write its table as CSV (sqlite3 -csv -header)"),
    (8, b"DUCK", "a DuckDB database", "write its table as Parquet (copy TABLE to 'FILE.parquet')"),
    (0, b"%PDF", "a PDF document", _PICTURE),
    (0, b"\x89PNG", "a picture", _PICTURE),
    (0, b"\xff\xd8\xff", "a picture", _PICTURE),
    (0, b"\x7fELF", "a program", _PICTURE),
)
"""Offset, bytes that stand there, what the file is, what to do with it."""

_TEXT: tuple[tuple[str, str, str], ...] = (
    (
        "version https://git-lfs",
        "a pointer of Git LFS and not the data",
        "fetch the data with 'git lfs pull', and run the same command again",
    ),
    ("/annex/objects/", "a pointer of git-annex and not the data", "fetch the data with 'git annex get FILE'"),
    ("<!doctype html", "a web page", "a download went wrong; download the file itself"),
    ("<html", "a web page", "a download went wrong; download the file itself"),
    ("<?xml", "XML", _DATASET),
    ("##fileformat=vcf", "VCF", "it has variants, not features of positions, and no command of mi-duck takes it"),
    ("##gff-version", "GFF3", "'mi-duck build' takes it as --annotation"),
    ("#!genome-build", "GTF", "'mi-duck build' takes it as --annotation"),
    ("@hd\t", "SAM", _ALIGNMENTS),
    ("@sq\t", "SAM", _ALIGNMENTS),
    ("locus  ", "GenBank", "write it as FASTA and GFF3 for 'mi-duck build'"),
    ("id   ", "EMBL", "write it as FASTA and GFF3 for 'mi-duck build'"),
    (">", "FASTA", "'mi-duck build' takes it as --fasta"),
    ("track ", "a track of a genome browser", _BASE_SCORES),
    ("browser ", "a track of a genome browser", _BASE_SCORES),
    ("fixedstep ", "a wiggle track", "write it as bigWig or bedGraph for --base-scores of 'mi-duck build'"),
    ("variablestep ", "a wiggle track", "write it as bigWig or bedGraph for --base-scores of 'mi-duck build'"),
    ("{", "JSON", _DATASET),
    ("[{", "JSON", _DATASET),
)
"""How a text begins, in lower case; what it is; what to do with it."""


def head_of(file: Path) -> bytes:
    """Return the first bytes of a file, at most `HEAD_BYTES`."""
    with file.open("rb") as stream:
        return stream.read(HEAD_BYTES)


def kind_of(head: bytes) -> tuple[str, str] | None:
    """Return what a file is and what to do with it, in words, by its first bytes; None where they tell nothing.

    What is packed by gzip is looked into.

    Examples
    --------
    >>> kind_of(b">chr1")
    ('FASTA', "'mi-duck build' takes it as --fasta")
    """
    if not head:
        return "empty (0 bytes)", "it may not have been written or downloaded to its end; make it again"
    if head.startswith(GZIP):
        inner = kind_of(unpacked(head))
        return inner and (inner[0] if inner[0] == "BAM" else f"{inner[0]}, packed by gzip", inner[1])
    for offset, magic, name, use in _BINARY:
        if head[offset:].startswith(magic):
            if magic == b"PK\x03\x04" and b"[Content_Types].xml" in head:
                return "a workbook of Excel", "save its sheet as CSV"
            return name, use
    return _kind_of_text(head)


def unpacked(head: bytes) -> bytes:
    """Return what the first bytes of a file unpack to, if it is packed by gzip; a space, which is no kind, where they cannot."""
    if not head.startswith(GZIP):
        return head
    try:
        return zlib.decompressobj(wbits=31).decompress(head, HEAD_BYTES) or b" "
    except zlib.error:
        return b" "


def _kind_of_text(head: bytes) -> tuple[str, str] | None:
    if b"\0" in head:
        return None
    text = head.decode("utf-8-sig", "replace").lstrip()
    found = next(((name, use) for begin, name, use in _TEXT if text.lower().startswith(begin)), None)
    if found:
        return found
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    cells = lines[0].split("\t") if lines else []
    if len(cells) == 9 and cells[3].isdigit() and cells[4].isdigit():
        return "GTF or GFF3", "'mi-duck build' takes it as --annotation"
    if len(cells) in (3, 4, 6) and cells[1].isdigit() and cells[2].isdigit():
        return "BED or bedGraph", _BASE_SCORES
    if text.startswith("@") and len(lines) > 2 and lines[2].startswith("+"):
        return "FASTQ", "no command of mi-duck takes reads"
    delimiter = max("\t,;", key=lines[0].count) if lines else ","
    if lines and lines[0].count(delimiter):
        name = "TSV" if delimiter == "\t" else "CSV"
        return f"a table in text ({name})", f"name it with the ending .{name.lower()}, so that it is read as a dataset"
    return None


def wrong_kind(file: object, head: bytes, wanted: str) -> str:
    """Return in words what a file is instead of what is wanted, and what takes it; empty where its first bytes do not tell."""
    found = kind_of(head)
    if found is None:
        return ""
    return f"{file} is {found[0]}, not {wanted}; {found[1].replace('FILE', Path(str(file)).name)}"


def odd_line(file: Path, delimiter: str) -> tuple[str, str] | None:
    """Return where a table has another number of cells than in its first line, and what is there; None where it has not."""
    with file.open("rb") as raw, gzip.open(raw) if raw.peek(2).startswith(GZIP) else raw as stream:
        lines = csv.reader(io.TextIOWrapper(stream, "utf-8", errors="replace", newline=""), delimiter=delimiter)
        n_cells = len(next(lines, []))
        for cells in lines:
            if len(cells) != n_cells:
                return f"line {lines.line_num} of {file}", f"has {len(cells)} cells, its first line {n_cells}"
    return None
