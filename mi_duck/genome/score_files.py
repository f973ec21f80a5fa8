"""Base scores of another model, read from files and checked against the annotated sites.

Formats: Parquet, tables in text (tabs or commas), BED of six columns, bedGraph and bigWig; plain or compressed text. Several
files are united. A wrong shift of the positions is the commonest fault of such files and hard to see later, because a
model simply learns less; so every class and strand must score highest at the annotated sites themselves.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mi_duck.data.database import Database
from mi_duck.errors import DataError
from mi_duck.genome.annotation import Gene, strand_sites
from mi_duck.genome.base_scores import NEIGHBOURS, BaseScores, Floats
from mi_duck.genome.sequence import reading

SITES = ("donor", "acceptor")
SHIFTS = (-2, -1, 0, 1, 2)
SCORES = ("Parquet", "bigWig", "BED or bedGraph", "a track of a genome browser", "VCF")
"""What a file of base scores may be; VCF is met with a message of its own."""
PADDING = 8  # around genes: the neighbours of a position, shifted by the largest allowed offset
LARGEST_OFFSET = 5
LEAST_SITES = 5  # with a score, of a class and strand, to be judged by
CLEAR = 2.0  # times the mean score at every other shift, for a shift to be clearly the right one

_TABLE = ("chrom", "position", "strand", "donor_score", "acceptor_score")
_BED = ("chrom", "start", "stop", "name", "score", "strand")
_INTERVALS = ("chrom", "start", "stop", "score")
_ASKED = re.compile(r"(donor|acceptor)([+-])=(.+)")
_OFFSET = re.compile(r"(donor|acceptor)([+-]?)=([+-]?\d+)")
_NUMBER = re.compile(r"-?[0-9.]+(?:[eE][-+]?[0-9]+)?")
_BIGWIG = (b"\x26\xfc\x8f\x88", b"\x88\x8f\xfc\x26")
_STRANDS = {
    "+": {"+", "plus", "pos", "positive", "fwd", "forward", "watson"},
    "-": {"minus", "neg", "negative", "rev", "reverse", "crick"},
}
_INTERVAL_SCHEMA = pa.schema(
    [("chrom", pa.string()), ("start", pa.int64()), ("stop", pa.int64()), ("score", pa.float64())]
)

Offsets = Mapping[tuple[str, str], int]
Spans = Mapping[tuple[str, str], tuple[NDArray[np.int64], NDArray[np.int64]]]


@dataclass(frozen=True, slots=True, eq=False)
class ScoreTable:
    """Scores read from files.

    Attributes
    ----------
    name
        The files, for messages.
    strands
        (chromosome, strand) to positions (n,) int64, 1-based, ascending, and scores (n, 3) float64, columns
        donor, acceptor, neither.
    offsets
        (class, strand) to what is added to the positions of the files along the strand; absent where nothing is.
    """

    name: str
    strands: Mapping[tuple[str, str], tuple[NDArray[np.int64], Floats]]
    offsets: Offsets = field(default_factory=dict)

    def at(self, chrom: str, strand: str, positions: NDArray[np.int64]) -> Floats:
        """Return the scores at (n,) 1-based positions as (n, 3), NaN where the files have none."""
        downstream = 1 if strand == "+" else -1
        shifts = [self.offsets.get((site, strand), 0) for site in SITES]
        scores = np.full((len(positions), 3), np.nan)
        known, values = self.strands.get((chrom, strand), (np.empty(0, np.int64), np.empty((0, 3))))
        if known.size:
            for column, shift in enumerate([*shifts, 0]):
                wanted = positions - shift * downstream
                index = np.minimum(np.searchsorted(known, wanted), known.size - 1)
                found = known[index] == wanted
                scores[found, column] = values[index[found], column]
        if any(shifts):  # a score of "neither" belongs to where the others were
            scores[:, 2] = np.clip(1 - scores[:, 0] - scores[:, 1], 0, 1)
        scores[np.isnan(scores[:, :2]).any(axis=1)] = np.nan
        return scores

    def around(self, chrom: str, strand: str, positions: NDArray[np.int64]) -> BaseScores:
        """Return the scores at (n,) 1-based positions and at their neighbours along the strand."""
        own = self.at(chrom, strand, positions)
        downstream = 1 if strand == "+" else -1
        context = [self.at(chrom, strand, positions + shift * downstream)[:, :2].max(axis=1) for shift in NEIGHBOURS]
        return BaseScores(own[:, 0], own[:, 1], own[:, 2], np.stack(context, axis=1))


@dataclass(frozen=True, slots=True)
class SiteMeans:
    """Mean score of a class at the annotated sites of one strand, and beside them.

    Attributes
    ----------
    site, strand
        Class and strand.
    n_sites, n_scored
        Annotated sites, and those with a score at the site itself or beside it.
    means
        At `SHIFTS` along the strand, 0 being the site; NaN where nothing is scored. Offsets are applied.
    """

    site: str
    strand: str
    n_sites: int
    n_scored: int
    means: tuple[float, ...]

    @property
    def best_shift(self) -> int:
        """Where the mean is highest."""
        return SHIFTS[int(np.nanargmax(self.means))] if self.n_scored else 0

    @property
    def is_clear(self) -> bool:
        """Whether the mean there is `CLEAR` times that of every other shift."""
        if self.n_scored < LEAST_SITES:
            return False
        *_, second, first = np.sort(np.nan_to_num(self.means))
        return bool(first >= CLEAR * second and first > 0)


def file_of(asked: str | Path) -> Path:
    """Return the file of a text such as ``donor+=FILE``, or of a plain path."""
    match = _ASKED.fullmatch(str(asked))
    return Path(match[3] if match else asked)


def side_of(asked: str | Path) -> str:
    """Return class and strand of a text such as ``donor+=FILE``; empty for a plain path."""
    match = _ASKED.fullmatch(str(asked))
    return f"{match[1]}{match[2]}" if match else ""


def read_base_scores(files: Sequence[str | Path], genes: Sequence[Gene], offsets: Sequence[str] = ()) -> ScoreTable:
    """Read the scores of another model at the positions of genes.

    Parameters
    ----------
    files
        Each is one of

        - Parquet, or text with a header, with columns ``chrom``, ``position`` (1-based; ``absolute_position`` is preferred
          where both exist), ``strand``, ``donor_score``, ``acceptor_score`` and, if the model has it, ``neither_score``
          (else 1 - donor - acceptor). A position lacking one of the first two scores counts as not scored.
        - BED of six columns, as OpenSpliceAI writes it: the name contains "donor" or "acceptor", the score is 0 to 1 (or a
          whole number up to 1000), the start is 0-based.
        - bedGraph or bigWig of one class and strand, given as ``donor+=FILE``, or with a name that tells both.

        BED, bedGraph and bigWig: a class without a line at a position that is listed for the other one scores 0 there.
    genes
        Only positions within their spans (and 8 nt around) are kept in memory.
    offsets
        What to add to the positions of a class, along the strand, such as ``acceptor=+1`` or ``donor-=-1``; or ``auto``: a
        shift that is clearly the right one is applied.

    Returns
    -------
    ScoreTable
        Where the files have a position more than once, the larger donor and acceptor score counts.

    Raises
    ------
    DataError
        A file cannot be read or has scores of something else, lacks a column, holds scores outside 0 to 1, none of its
        positions lies in a gene, or an offset makes no sense.
    """
    given = _given_offsets(offsets)  # a wrong one is refused before gigabytes are read
    paths = [file_of(one) for one in files]
    name = " and ".join(map(str, paths))
    spans = _merged_spans(genes)
    found: dict[tuple[str, str], list[tuple[NDArray[np.int64], Floats]]] = {strand: [] for strand in spans}
    chroms: dict[str, None] = {}
    for one, path in zip(files, paths, strict=True):
        match = _ASKED.fullmatch(str(one))
        side = (match[1], match[2]) if match else None
        for chrom, strand, positions, scores in _checked(path, _blocks(path, side, spans)):
            chroms.setdefault(chrom)
            if (chrom, strand) in spans:
                starts, ends = spans[chrom, strand]
                index = np.searchsorted(starts, positions, side="right") - 1
                inside = (index >= 0) & (positions <= ends[index])
                found[chrom, strand].append((positions[inside], scores[inside]))
    strands = {strand: _united(blocks) for strand, blocks in found.items() if any(len(b[0]) for b in blocks)}
    if not strands:
        theirs = ", ".join(list(chroms)[:3]) or "none"
        ours = ", ".join(list(dict.fromkeys(chrom for chrom, _ in spans))[:3])
        raise DataError(
            f"no score of {name} lies in a gene: its chromosomes are {theirs}, those of the genes {ours}; "
            "use the same names, 1-based positions and strands + and -"
        )
    return ScoreTable(name, strands, given)


def checked_scores(
    table: ScoreTable, genes: Sequence[Gene], offsets: Sequence[str]
) -> tuple[ScoreTable, list[SiteMeans]]:
    """Return the table with its offsets as asked for, and its mean scores at and beside the annotated sites.

    Parameters
    ----------
    table
        As read.
    genes
        The annotated ones.
    offsets
        As for `read_base_scores`.

    Raises
    ------
    DataError
        A class has no score, or scores clearly highest beside the sites of a strand and ``offsets`` does not say what to do.
    """
    for column, site in enumerate(SITES):
        if not any((scores[:, column] > 0).any() for _, scores in table.strands.values()):
            raise DataError(
                f"{table.name} has no {site} score in any gene; where classes or strands have files of their own, give them all: "
                "repeat --base-scores"
            )
    means = site_means(table, genes)
    wrong = [one for one in means if one.is_clear and one.best_shift]
    if "auto" in offsets:
        more = {(one.site, one.strand): table.offsets.get((one.site, one.strand), 0) - one.best_shift for one in wrong}
        table = ScoreTable(table.name, table.strands, dict(table.offsets) | more)
        return table, site_means(table, genes)
    unsaid = [one for one in wrong if (one.site, one.strand) not in table.offsets]
    if unsaid:
        lines = [
            f"{one.site} scores on strand {one.strand}: mean {one.means[SHIFTS.index(0)]:.2f} at the {one.n_sites:,} annotated "
            f"sites, {max(one.means):.2f} at {one.best_shift:+d} nt"
            for one in unsaid
        ]
        shifts = {(one.site, one.strand): -one.best_shift for one in unsaid}
        both = {site: shifts[site, "+"] for site in SITES if shifts.get((site, "+"), 0) == shifts.get((site, "-"), 1)}
        mend = " ".join(
            [f"--base-score-offset {site}={shift:+d}" for site, shift in both.items()]
            + [f"--base-score-offset {site}{at}={shift:+d}" for (site, at), shift in shifts.items() if site not in both]
        )
        raise DataError(f"the positions of {table.name} are shifted: {'; '.join(lines)}; give {mend}, or auto")
    return table, means


def site_means(table: ScoreTable, genes: Iterable[Gene]) -> list[SiteMeans]:
    """Return the mean scores of each class and strand at and beside the annotated sites."""
    sums = {(site, strand): np.zeros((2, len(SHIFTS))) for site in SITES for strand in "+-"}
    counts = dict.fromkeys(sums, 0)
    scored = dict.fromkeys(sums, 0)
    for (chrom, strand), sites in strand_sites(genes).items():
        downstream = 1 if strand == "+" else -1
        for column, (site, positions) in enumerate(zip(SITES, (sites.donors, sites.acceptors), strict=True)):
            around = np.stack(
                [table.at(chrom, strand, positions + shift * downstream)[:, column] for shift in SHIFTS], axis=1
            )
            known = ~np.isnan(around)
            sums[site, strand] += np.stack([np.where(known, around, 0).sum(axis=0), known.sum(axis=0)])
            counts[site, strand] += len(positions)
            scored[site, strand] += int(known.any(axis=1).sum())
    return [
        SiteMeans(*key, counts[key], scored[key], tuple((total / np.where(n, n, np.nan)).tolist()))
        for key, (total, n) in sums.items()
    ]


def _given_offsets(offsets: Sequence[str]) -> dict[tuple[str, str], int]:
    found: dict[tuple[str, str], int] = {}
    for text in offsets:
        if text == "auto":
            continue
        match = _OFFSET.fullmatch(text)
        if match is None or abs(int(match[3])) > LARGEST_OFFSET:
            raise DataError(
                f"{text!r} is not an offset; give auto, or one such as acceptor=+1 or donor-=-1 of at most {LARGEST_OFFSET} nt"
            )
        found |= {(match[1], strand): int(match[3]) for strand in match[2] or "+-"}
    return found


def _merged_spans(genes: Iterable[Gene]) -> Spans:
    """Unite the spans, widened by `PADDING`, of the genes of each strand: ascending starts and ends."""
    spans: dict[tuple[str, str], list[list[int]]] = {}
    for gene in sorted(genes, key=lambda gene: gene.start):
        merged = spans.setdefault((gene.chrom, gene.strand), [])
        if merged and gene.start - PADDING <= merged[-1][1] + 1:
            merged[-1][1] = max(merged[-1][1], gene.end + PADDING)
        else:
            merged.append([gene.start - PADDING, gene.end + PADDING])
    return {
        strand: (np.array([start for start, _ in merged], np.int64), np.array([end for _, end in merged], np.int64))
        for strand, merged in spans.items()
    }


def _united(blocks: Sequence[tuple[NDArray[np.int64], Floats]]) -> tuple[NDArray[np.int64], Floats]:
    """Sort by position and unite repeated ones."""
    positions = np.concatenate([block[0] for block in blocks])
    scores = np.concatenate([block[1] for block in blocks])
    order = np.argsort(positions, kind="stable")
    positions, scores = positions[order], scores[order]
    unique, first = np.unique(positions, return_index=True)
    donor = np.fmax.reduceat(scores[:, 0], first)
    acceptor = np.fmax.reduceat(scores[:, 1], first)
    neither = np.fmin.reduceat(scores[:, 2], first)
    neither = np.where(np.isnan(neither), np.clip(1 - donor - acceptor, 0, 1), neither)
    return unique, np.stack([donor, acceptor, neither], axis=1)


_Block = tuple[str, str, NDArray[np.int64], Floats]


def _checked(path: Path, batches: Iterator[pa.RecordBatch]) -> Iterator[_Block]:
    """Yield (chromosome, strand, positions, scores (n, 3)) pieces; at the end, refuse scores that are not probabilities."""
    low, high = np.inf, -np.inf
    try:
        for batch in batches:
            chroms = batch.column("chrom").cast(pa.string()).dictionary_encode()
            strands = batch.column("strand").cast(pa.string()).to_numpy(zero_copy_only=False)
            positions = batch.column("position").cast(pa.int64()).fill_null(-1).to_numpy()
            scores = np.stack(
                [batch.column(name).cast(pa.float64()).to_numpy(zero_copy_only=False) for name in (*SITES, "neither")],
                axis=1,
            )
            if not np.isnan(scores).all():
                low, high = min(low, float(np.nanmin(scores))), max(high, float(np.nanmax(scores)))
            is_scored = ~np.isnan(scores[:, :2]).any(axis=1)
            indices = chroms.indices.fill_null(-1).to_numpy()
            for code, chrom in enumerate(chroms.dictionary.to_pylist()):
                for strand in "+-":
                    rows = np.flatnonzero((indices == code) & (strands == strand) & is_scored)
                    yield chrom, strand, positions[rows], scores[rows]
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"cannot read the scores in {path}: {str(error).splitlines()[0]}") from error
    if low < 0 or high > 1 + 1e-6:
        raise DataError(f"the scores in {path} run from {low:g} to {high:g}; give probabilities, between 0 and 1")


def _blocks(path: Path, side: tuple[str, str] | None, spans: Spans) -> Iterator[pa.RecordBatch]:
    """Yield chrom, strand, position, donor, acceptor and neither of a file of any format."""
    with reading(path, "base scores", *SCORES) as stream:
        first = stream.read(4)
    if first == b"PAR1":
        yield from _parquet(path)
        return
    with Database() as db:
        try:
            if first in _BIGWIG:
                site, strand = side or _side_of(path)
                db.load("score_lines", pa.Table.from_batches(_bigwig(path, strand, spans), _INTERVAL_SCHEMA))
                step = "scores_from_intervals"
                parameters: dict[str, Any] = {"site": site, "strand": strand}
            else:
                step, parameters = _open_text(db, path, side)
            yield from db.stream(step, **parameters)
        except DataError as error:
            words = str(error).split(" LINE ")[0]  # what follows is a line of SQL
            raise DataError(f"cannot read the scores in {path}: {words}") from error


def _open_text(db: Database, path: Path, side: tuple[str, str] | None) -> tuple[str, dict[str, Any]]:
    """Make the view ``score_lines`` over a text file; return the SQL file that reads it, and its parameters."""
    header, n_before, delimiter = _first_line(path)
    if "donor_score" in header:
        position = _named_columns(path, header)[1]
        needed = [*_TABLE, "neither_score"]
        names = dict(zip(needed, needed, strict=True))
        del names["position"]
        names[position] = "position"
        columns = [names.get(name, f"column_{index}") for index, name in enumerate(header)]
        db.open_text("score_lines", path, columns, needed, n_before=n_before, delimiter=delimiter)
        return "scores_from_table", {}
    if len(header) >= len(_BED):
        columns = [*_BED, *(f"column_{index}" for index in range(len(_BED), len(header)))]
        db.open_text("score_lines", path, columns, _BED, n_before=0, delimiter=delimiter)
        return "scores_from_bed", {}
    if len(header) == len(_INTERVALS) and all(map(_NUMBER.fullmatch, header[1:])):
        site, strand = side or _side_of(path)
        db.open_text("score_lines", path, _INTERVALS, _INTERVALS, n_before=0, delimiter=delimiter)
        return "scores_from_intervals", {"site": site, "strand": strand}
    raise DataError(
        "it is neither Parquet, nor a table with a column donor_score, nor BED of six columns, bedGraph or bigWig; "
        f"it begins with {delimiter.join(header)[:40]!r}"
    )


def _first_line(path: Path) -> tuple[list[str], int, str]:
    """Return the cells of the first line that is no comment, or of a header behind a #; lines up to a header; delimiter."""
    with reading(path, "base scores", *SCORES) as stream:
        for number, raw in enumerate(stream, 1):
            line = raw.decode("utf-8-sig", "replace").rstrip("\r\n")
            if line.startswith("##fileformat=VCF"):
                raise DataError("it is VCF, which has scores of variants, not of positions")
            if not line.strip() or line.startswith(("##", "track", "browser")):
                continue
            delimiter = "," if "\t" not in line and "," in line else "\t"
            cells = [cell.strip().strip('"') for cell in line.lstrip("#").split(delimiter)]
            if line.startswith("#") and "donor_score" not in cells:
                continue
            return cells, number, delimiter
    raise DataError("it has no line of scores")


def _side_of(path: Path) -> tuple[str, str]:
    """Return class and strand that the name of a file tells."""
    words = set(re.split(r"[^a-z+]+|(?<=[a-z])(?=\+)", path.name.lower()))
    sites = [site for site in SITES if any(word.startswith(site) for word in words)]
    strands = [strand for strand, names in _STRANDS.items() if words & names]
    if len(sites) != 1 or len(strands) != 1:
        raise DataError(
            "a bedGraph or bigWig file has the scores of one class on one strand, and its name does not tell which; "
            f"give it as donor+={path} (or donor-=, acceptor+=, acceptor-=)"
        )
    return sites[0], strands[0]


def _bigwig(path: Path, strand: str, spans: Spans) -> Iterator[pa.RecordBatch]:
    """Yield the intervals of a bigWig file that lie in genes of a strand."""
    try:
        import pybigtools
    except ImportError as error:
        raise DataError("bigWig files need pybigtools; install it with: pip install 'mi_duck[bigwig]'") from error
    with closing(pybigtools.open(str(path))) as file:
        lengths = file.chroms()
        for (chrom, of_strand), (starts, ends) in spans.items():
            if of_strand != strand or chrom not in lengths:
                continue
            for start, end in zip(starts.tolist(), ends.tolist(), strict=True):
                first, last = max(start - 1, 0), min(end, lengths[chrom])
                rows = list(file.records(chrom, first, last)) if first < last else []
                if rows:
                    begins, stops, scores = zip(*rows, strict=True)
                    yield pa.RecordBatch.from_arrays(
                        [
                            pa.array([chrom] * len(rows)),
                            pa.array(np.maximum(begins, first)),
                            pa.array(np.minimum(stops, last)),
                            pa.array(scores, pa.float64()),
                        ],
                        schema=_INTERVAL_SCHEMA,
                    )


def _named_columns(path: Path, names: Sequence[str]) -> list[str]:
    """Return the columns to read, in a fixed order, or say which one is missing."""
    position = "absolute_position" if "absolute_position" in names else "position"
    columns = ["chrom", position, "strand", "donor_score", "acceptor_score"]
    missing = [column for column in columns if column not in names]
    if missing:
        raise DataError(f"no column {missing[0]!r} in {path}; columns are {', '.join(names)}")
    return columns + (["neither_score"] if "neither_score" in names else [])


def _parquet(path: Path) -> Iterator[pa.RecordBatch]:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        columns = _named_columns(path, file.schema_arrow.names)
        for batch in file.iter_batches(columns=columns):
            arrays = [batch.column(name) for name in columns]
            if len(columns) < 6:
                arrays.append(pa.nulls(batch.num_rows, pa.float64()))
            yield pa.RecordBatch.from_arrays(arrays, names=["chrom", "position", "strand", *SITES, "neither"])
