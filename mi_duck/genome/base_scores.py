"""Base scores: how much each position looks like a donor or an acceptor, before any model is trained.

By default position weight matrices are fitted to the annotated sites themselves and cross-fitted: the scores of a gene
come from the sites of other clusters of genes only, so no score has seen the label of its own row. Or the scores of any
other model are read from a file and joined by chromosome, position and strand.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mi_duck.errors import DataError
from mi_duck.genome.annotation import Gene
from mi_duck.genome.sequence import Letters, reading

N_FOLDS = 5
# offsets from the site, first and last: 3 exonic and 6 intronic nt, 20 intronic and 3 exonic nt
DONOR_OFFSETS = (-2, 6)
ACCEPTOR_OFFSETS = (-20, 2)
NEIGHBOURS = (-2, -1, 1, 2)

_PSEUDO_COUNT = 1.0

Floats = NDArray[np.float64]
_Block = tuple[str, str, NDArray[np.int64], Floats]


@dataclass(frozen=True, slots=True, eq=False)
class SiteMatrices:
    """Position weight matrices of each fold, fitted without the sites of that fold.

    Attributes
    ----------
    donor, acceptor
        (n_folds, 9, 5) and (n_folds, 23, 5) log-odds (natural logarithm) of offset and letter; 0 for N.
    log_priors
        (n_folds, 3) logarithm of the share of donors, acceptors and other positions in gene spans.
    """

    donor: Floats
    acceptor: Floats
    log_priors: Floats


@dataclass(frozen=True, slots=True, eq=False)
class BaseScores:
    """Scores of n positions: donor, acceptor, neither (n,), and of their neighbours: context (n, 4).

    The context is max(donor, acceptor) at 2 and 1 nt upstream, 1 and 2 nt downstream: one track for every
    row. NaN where the base model has no score.
    """

    donor: Floats
    acceptor: Floats
    neither: Floats
    context: Floats


def cluster_fold(cluster: str, seed: int) -> int:
    """Return the fold, 0 to 4, of a cluster of genes: a function of its name and the seed alone."""
    return int(hashlib.md5(f"{seed}:{cluster}".encode()).hexdigest(), 16) % N_FOLDS


def letter_counts(letters: Letters, folds: NDArray[np.int64]) -> NDArray[np.int64]:
    """Count letters per fold and offset.

    Parameters
    ----------
    letters
        (n, width) uint8, one row per site.
    folds
        (n,) fold of each site.

    Returns
    -------
    (5, width, 5) int64
        Fold, offset, letter (the last is N).
    """
    width = letters.shape[1]
    cells = (folds[:, None] * width + np.arange(width)) * 5 + letters
    return np.bincount(cells.ravel(), minlength=N_FOLDS * width * 5).reshape(N_FOLDS, width, 5)


def fit_matrices(
    donors: NDArray[np.int64],
    acceptors: NDArray[np.int64],
    composition: NDArray[np.int64],
    n_positions: NDArray[np.int64],
) -> SiteMatrices:
    """Fit the matrices of each fold to the sites of the other folds.

    Parameters
    ----------
    donors, acceptors
        (5, 9, 5) and (5, 23, 5) letter counts of `letter_counts`.
    composition
        (4,) letters of the genome, forward strand; it is made equal for both strands.
    n_positions
        (5,) positions in the gene spans of each fold.

    Returns
    -------
    SiteMatrices
        If one fold holds every site, its log-odds are 0.

    Notes
    -----
    log((count + c q) / (n + c) / q) with background q and pseudo-count c = 1, the log-odds of Stormo (2000).
    The composition does not depend on labels, so the folds share it.

    References
    ----------
    Stormo, G. D. (2000). DNA binding sites: representation and discovery. Bioinformatics 16, 16-23, eq. 1.
    """
    background = composition + composition[::-1] + 1.0
    background /= background.sum()
    log_odds = []
    for counts in (donors, acceptors):
        others = (counts.sum(axis=0) - counts)[:, :, :4]
        totals = others.sum(axis=2, keepdims=True) + _PSEUDO_COUNT
        known = np.log((others + _PSEUDO_COUNT * background) / totals / background)
        log_odds.append(np.concatenate([known, np.zeros((*known.shape[:2], 1))], axis=2))
    # every site has a letter or an N at the first offset
    sites = np.stack([counts[:, 0].sum(axis=1) for counts in (donors, acceptors)], axis=1)
    sites = sites.sum(axis=0) - sites
    rest = np.maximum((n_positions.sum() - n_positions)[:, None] - sites.sum(axis=1, keepdims=True), 0)
    frequencies = np.concatenate([sites, rest], axis=1) + 1.0
    priors = np.log(frequencies / frequencies.sum(axis=1, keepdims=True))
    return SiteMatrices(log_odds[0], log_odds[1], priors)


def matrix_scores(matrices: SiteMatrices, windows: Letters, folds: NDArray[np.int64]) -> BaseScores:
    """Score positions and their neighbours by the matrices of their folds.

    Parameters
    ----------
    matrices
        Of `fit_matrices`.
    windows
        (n, window) uint8, on the transcript strand; the position is column ``window // 2`` of 44 or more.
    folds
        (n,) fold of each row's cluster.

    Returns
    -------
    BaseScores
        Probabilities; donor, acceptor and neither sum to 1. A missing letter adds 0 to the log-odds.

    Notes
    -----
    Bayes' rule for three classes: softmax of log prior + summed log-odds, neither having log-odds 0.
    """
    centre = windows.shape[1] // 2
    first = centre + NEIGHBOURS[0] + ACCEPTOR_OFFSETS[0]
    last = centre + NEIGHBOURS[-1] + DONOR_OFFSETS[1]
    # one contiguous line per offset, pointing into the flattened (fold, letter) table of that offset
    cells = np.ascontiguousarray(windows[:, first : last + 1].T).astype(np.intp) + folds * 5

    def log_odds(table: Floats, offset: int) -> Floats:
        total = np.zeros(len(windows))
        for index in range(table.shape[1]):
            total += table[:, index].ravel().take(cells[centre + offset + index - first])
        return total

    priors = matrices.log_priors[folds]

    def probabilities(shift: int) -> Floats:
        logits = np.stack(
            [
                priors[:, 0] + log_odds(matrices.donor, shift + DONOR_OFFSETS[0]),
                priors[:, 1] + log_odds(matrices.acceptor, shift + ACCEPTOR_OFFSETS[0]),
                priors[:, 2],
            ]
        )
        scores = np.exp(logits - logits.max(axis=0))
        return np.asarray(scores / scores.sum(axis=0))

    donor, acceptor, neither = probabilities(0)
    context = np.stack([probabilities(shift)[:2].max(axis=0) for shift in NEIGHBOURS], axis=1)
    return BaseScores(donor, acceptor, neither, context)


@dataclass(frozen=True, slots=True, eq=False)
class ScoreTable:
    """Scores read from a file.

    Attributes
    ----------
    path
        The file, for messages.
    strands
        (chromosome, strand) to positions (n,) int64, 1-based, ascending, and scores (n, 3) float64, columns
        donor, acceptor, neither.
    """

    path: Path
    strands: Mapping[tuple[str, str], tuple[NDArray[np.int64], Floats]]

    def at(self, chrom: str, strand: str, positions: NDArray[np.int64]) -> Floats:
        """Return the scores at (n,) 1-based positions as (n, 3), NaN where the file has none."""
        scores = np.full((len(positions), 3), np.nan)
        known, values = self.strands.get((chrom, strand), (np.empty(0, np.int64), np.empty((0, 3))))
        if known.size:
            index = np.minimum(np.searchsorted(known, positions), known.size - 1)
            found = known[index] == positions
            scores[found] = values[index[found]]
        return scores

    def around(self, chrom: str, strand: str, positions: NDArray[np.int64]) -> BaseScores:
        """Return the scores at (n,) 1-based positions and at their neighbours along the strand."""
        own = self.at(chrom, strand, positions)
        downstream = 1 if strand == "+" else -1
        context = [self.at(chrom, strand, positions + shift * downstream)[:, :2].max(axis=1) for shift in NEIGHBOURS]
        return BaseScores(own[:, 0], own[:, 1], own[:, 2], np.stack(context, axis=1))


def read_base_scores(path: Path, genes: Iterable[Gene]) -> ScoreTable:
    """Read the scores of another model at the positions of genes.

    Parameters
    ----------
    path
        Parquet, or tab-separated text with a header (gzip allowed), with columns ``chrom``, ``position``
        (1-based; ``absolute_position`` is preferred where both exist), ``strand``, ``donor_score``,
        ``acceptor_score`` and, if the model has it, ``neither_score`` (else 1 - donor - acceptor). Or BED of
        six columns, as SpliceAI-like tools write it: the name contains "donor" or "acceptor", the score is 0
        to 1 (or 0 to 1000 where one exceeds 1), the start is 0-based; a class without a line at a position
        that is listed for the other one scores 0 there.
    genes
        Only positions within their spans (and 2 nt around) are kept in memory.

    Returns
    -------
    ScoreTable
        Where the file has a position more than once, the larger donor and acceptor score counts.

    Raises
    ------
    DataError
        The file cannot be read, lacks a column, holds scores outside 0 to 1, or none of its positions lies in
        a gene.
    """
    spans = _merged_spans(genes)
    found: dict[tuple[str, str], list[tuple[NDArray[np.int64], Floats]]] = {strand: [] for strand in spans}
    chroms: dict[str, None] = {}
    for chrom, strand, positions, scores in _score_blocks(path):
        chroms.setdefault(chrom)
        if (chrom, strand) in spans:
            starts, ends = spans[chrom, strand]
            index = np.searchsorted(starts, positions, side="right") - 1
            inside = (index >= 0) & (positions <= ends[index]) & ~np.isnan(scores[:, :2]).any(axis=1)
            found[chrom, strand].append((positions[inside], scores[inside]))
    strands = {strand: _united(blocks) for strand, blocks in found.items() if any(len(b[0]) for b in blocks)}
    if not strands:
        theirs = ", ".join(list(chroms)[:3]) or "none"
        ours = ", ".join(list(dict.fromkeys(chrom for chrom, _ in spans))[:3])
        raise DataError(
            f"no score of {path} lies in a gene: its chromosomes are {theirs}, those of the genes {ours}; "
            "use the same names, 1-based positions and strands + and -"
        )
    return ScoreTable(path, strands)


def _merged_spans(
    genes: Iterable[Gene],
) -> dict[tuple[str, str], tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Unite the spans, 2 nt wider, of the genes of each strand: ascending starts and ends."""
    spans: dict[tuple[str, str], list[list[int]]] = {}
    for gene in sorted(genes, key=lambda gene: gene.start):
        merged = spans.setdefault((gene.chrom, gene.strand), [])
        if merged and gene.start - 2 <= merged[-1][1] + 1:
            merged[-1][1] = max(merged[-1][1], gene.end + 2)
        else:
            merged.append([gene.start - 2, gene.end + 2])
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


def _score_blocks(path: Path) -> Iterator[_Block]:
    """Yield (chromosome, strand, positions, scores (n, 3)) pieces of a file of any of the three formats."""
    try:
        with reading(path) as stream:
            if stream.read(4) == b"PAR1":
                yield from _parquet_blocks(path)
                return
        with reading(path) as stream:
            line = stream.readline()
            while line.startswith((b"##", b"track", b"browser")):
                line = stream.readline()
            header = line.decode("utf-8", "replace").lstrip("#").rstrip("\r\n").split("\t")
            if "donor_score" in header:
                _named_columns(path, header)
                options = pa.csv.ReadOptions(column_names=header)
                types = {"chrom": pa.string(), "strand": pa.string()}
                reader = pa.csv.open_csv(
                    stream,
                    options,
                    pa.csv.ParseOptions(delimiter="\t"),
                    pa.csv.ConvertOptions(column_types=types),
                )
                for batch in reader:
                    yield from _batch_blocks(path, batch)
            elif len(header) >= 6:
                yield from _bed_blocks(path, line, stream)
            else:
                raise DataError(
                    f"{path} is neither Parquet, nor a tab-separated table with a column donor_score, nor "
                    f"BED of six columns; it begins with {line[:40]!r}"
                )
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"cannot read the scores in {path}: {str(error).splitlines()[0]}") from error


def _named_columns(path: Path, names: Sequence[str]) -> list[str]:
    """Return the columns to read, in a fixed order, or say which one is missing."""
    position = "absolute_position" if "absolute_position" in names else "position"
    columns = ["chrom", position, "strand", "donor_score", "acceptor_score"]
    missing = [column for column in columns if column not in names]
    if missing:
        raise DataError(f"no column {missing[0]!r} in {path}; columns are {', '.join(names)}")
    return columns + (["neither_score"] if "neither_score" in names else [])


def _parquet_blocks(path: Path) -> Iterator[_Block]:
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        columns = _named_columns(path, file.schema_arrow.names)
        for batch in file.iter_batches(columns=columns):
            yield from _batch_blocks(path, batch)


def _batch_blocks(path: Path, batch: pa.RecordBatch) -> Iterator[_Block]:
    columns = _named_columns(path, batch.schema.names)
    chroms = batch.column(columns[0]).cast(pa.string()).dictionary_encode()
    strands = batch.column(columns[2]).cast(pa.string()).to_numpy(zero_copy_only=False)
    positions = batch.column(columns[1]).cast(pa.int64()).fill_null(-1).to_numpy()
    scores = np.full((batch.num_rows, 3), np.nan)
    for index, column in enumerate(columns[3:]):
        scores[:, index] = batch.column(column).cast(pa.float64()).to_numpy(zero_copy_only=False)
    _check_range(path, scores)
    indices = chroms.indices.fill_null(-1).to_numpy()
    for code, chrom in enumerate(chroms.dictionary.to_pylist()):
        for strand in "+-":
            rows = np.flatnonzero((indices == code) & (strands == strand))
            yield chrom, strand, positions[rows], scores[rows]


def _bed_blocks(path: Path, first: bytes, rest: BinaryIO) -> Iterator[_Block]:
    lines: dict[tuple[str, str], list[tuple[int, float, bool]]] = {}
    line = first
    while line:
        fields = line.decode("utf-8", "replace").rstrip("\r\n").split("\t")
        if line.strip() and not line.startswith((b"#", b"track", b"browser")):
            name = fields[3].lower() if len(fields) >= 6 else ""
            if ("donor" in name) == ("acceptor" in name):
                raise DataError(f"{line[:60]!r} in {path}: the fourth of six columns must say donor or acceptor")
            try:
                position, score = int(fields[1]) + 1, float(fields[4])
            except ValueError as error:
                raise DataError(f"{line[:60]!r} in {path}: start and score must be numbers") from error
            lines.setdefault((fields[0], fields[5]), []).append((position, score, "donor" in name))
        line = rest.readline()
    largest = max((score for values in lines.values() for _, score, _ in values), default=0.0)
    scale = 1000.0 if largest > 1 else 1.0
    for (chrom, strand), values in lines.items():
        scores = np.zeros((len(values), 3))
        for row, (_, score, is_donor) in enumerate(values):
            scores[row] = (score / scale, 0, np.nan) if is_donor else (0, score / scale, np.nan)
        _check_range(path, scores)
        yield chrom, strand, np.array([position for position, _, _ in values], np.int64), scores


def _check_range(path: Path, scores: Floats) -> None:
    """Refuse scores that are not probabilities; NaN passes."""
    if ((scores < 0) | (scores > 1 + 1e-6)).any():
        wrong = scores[(scores < 0) | (scores > 1 + 1e-6)][0]
        raise DataError(f"score {wrong:g} in {path}; scores must be probabilities between 0 and 1")
