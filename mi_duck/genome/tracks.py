"""Scored positions to the tracks of genome browsers: BED of the sites that are called, bigWig of all scores.

A position that overlapping genes share gets the highest of its scores. Parquet files of scores count positions from 1; BED and
bigWig count from 0 and are half-open, so position 100 is the interval from 99 to 100.
"""

import gzip
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, BinaryIO, cast

import pyarrow as pa
import pyarrow.csv

from mi_duck.atomic_files import publish
from mi_duck.data.database import Database
from mi_duck.errors import DataError
from mi_duck.genome.targets import Targets
from mi_duck.processes import Report

SITES = ("donor", "acceptor")
STRANDS = {"+": "plus", "-": "minus"}
FORMS = {".parquet": "parquet", ".bed": "bed", ".bed.gz": "bed", ".bw": "bigwig", ".bigwig": "bigwig"}
SORT_BYTES = 256 << 20
"""What DuckDB may take; what does not fit is spilled."""


def file_form(out: Path) -> str:
    """Return ``parquet``, ``bed`` or ``bigwig`` by the ending of a file; a DataError for any other."""
    for ending, form in FORMS.items():
        if out.name.lower().endswith(ending) and len(out.name) > len(ending):
            if form == "bigwig":
                _check_bigwig()
            return form
    raise DataError(f"--out {out} ends in none of {', '.join(FORMS)}; the ending says what is written")


def _check_bigwig() -> None:
    try:
        import pybigtools  # noqa: F401
    except ImportError as error:
        raise DataError("bigWig files need pybigtools; install it with: pip install 'mi_duck[bigwig]'") from error


def track_files(out: Path) -> dict[tuple[str, str], Path]:
    """Return the bigWig file of each class and strand: ``X.donor.plus.bw`` and so on beside ``X.bw``."""
    return {
        (site, strand): out.with_name(f"{out.stem}.{site}.{name}{out.suffix}")
        for site in SITES
        for strand, name in STRANDS.items()
    }


def write_tracks(
    rows: Path,
    out: Path,
    form: str,
    targets: Targets,
    least: Mapping[str, float],
    *,
    scratch: Path,
    report: Report,
) -> tuple[int, list[Path]]:
    """Write scored positions as BED or bigWig, whole or not at all; return the number of lines or scores, and the files.

    Parameters
    ----------
    rows
        Parquet file of `mi_duck.genome.scan.score_table`.
    least
        The probability from which each kind of site is written.
    scratch
        Folder on the disk of ``out`` for what is not finished, and for what DuckDB spills.
    """
    with Database(threads=2, memory_bytes=SORT_BYTES, scratch=scratch / "sql") as db:
        db.open_parquet("scored_positions", rows)
        if form == "bed":
            return _write_bed(db, out, targets, least, scratch, report), [out]
        return _write_bigwig(db, out, targets, least, scratch, report)


def _write_bed(
    db: Database, out: Path, targets: Targets, least: Mapping[str, float], scratch: Path, report: Report
) -> int:
    """Write the called sites, ordered by contig (as in the FASTA file), position and strand."""
    options = pa.csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none")
    lowest: dict[str, Any] = {f"least_{site}": least[site] for site in SITES}
    temporary = scratch / "sites.bed"
    n_lines = 0
    with ExitStack() as files:
        raw = files.enter_context(temporary.open("wb"))
        sink: BinaryIO = raw
        if out.name.lower().endswith(".gz"):  # no name and no time inside: equal scores give equal bytes
            sink = cast(BinaryIO, files.enter_context(gzip.GzipFile("", "wb", fileobj=raw, mtime=0)))
        for done, chrom in enumerate(targets.by_contig):
            for batch in db.stream("track_calls", chrom=chrom, **lowest):
                pa.csv.write_csv(batch, sink, options)
                n_lines += len(batch)
            report("writing", done + 1, len(targets.by_contig))
    publish(temporary, out)
    return n_lines


def _write_bigwig(
    db: Database, out: Path, targets: Targets, least: Mapping[str, float], scratch: Path, report: Report
) -> tuple[int, list[Path]]:
    """Write a file for each class and strand that has scores; those without are removed, so that none is of an earlier call."""
    import pybigtools

    n_scores = 0
    written = []
    for done, ((site, strand), path) in enumerate(track_files(out).items()):
        values = _scores(db, site, strand, targets, least[site])
        first = next(values, None)
        if first is None:
            path.unlink(missing_ok=True)
            continue
        counted = _Counted(first, values)
        temporary = scratch / "scores.bw"
        pybigtools.open(str(temporary), "w").write(dict(targets.lengths), iter(counted))
        publish(temporary, path)
        n_scores += counted.n
        written.append(path)
        report("writing", done + 1, len(SITES) * len(STRANDS))
    return n_scores, written


_Interval = tuple[str, int, int, float]


class _Counted:
    """Intervals, counted as they pass."""

    def __init__(self, first: _Interval, rest: Iterator[_Interval]) -> None:
        self.n = 0
        self._first, self._rest = first, rest

    def __iter__(self) -> Iterator[_Interval]:
        self.n += 1
        yield self._first
        for one in self._rest:
            self.n += 1
            yield one


def _scores(db: Database, site: str, strand: str, targets: Targets, least: float) -> Iterator[_Interval]:
    """Yield the intervals of one class and strand, contigs in the order of their names, as bigWig wants them."""
    for chrom in sorted(targets.by_contig):
        for batch in db.stream("track_scores", chrom=chrom, strand=strand, site=site, least=least):
            positions, values = batch["position"].to_pylist(), batch["score"].to_pylist()
            yield from (
                (chrom, position - 1, position, value) for position, value in zip(positions, values, strict=True)
            )
