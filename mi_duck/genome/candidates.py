"""Which positions of a gene become rows: all its splice sites, and random negatives, some of them hard."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mi_duck.data.dataset import CLASSES
from mi_duck.errors import DataError
from mi_duck.genome.annotation import Gene, StrandSites
from mi_duck.genome.sequence import Letters, reverse_complement, stretch

LARGEST_COMPLETE_GENE = 20_000

_NEAR = 50
_AG = (0, 2)
_GT = (2, 3)


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """The rows of one gene, in the order of the transcript.

    Attributes
    ----------
    offsets
        (n,) int64, 0-based distance from the first base of the gene, along its strand, ascending.
    labels
        (n,) int8, index into `CLASSES`.
    """

    offsets: NDArray[np.int64]
    labels: NDArray[np.int8]


def gene_key(gene_id: str, seed: int) -> int:
    """Return the 128-bit number that orders genes and seeds their draws: md5 of seed and gene id."""
    return int(hashlib.md5(f"{seed}:{gene_id}".encode()).hexdigest(), 16)


def complete_genes(genes: Sequence[Gene], n_genes: int, seed: int) -> frozenset[str]:
    """Choose the genes of which every position becomes a row.

    Parameters
    ----------
    genes
        Genes of the dataset.
    n_genes
        How many.
    seed
        Any integer.

    Returns
    -------
    frozenset of str
        Ids of those with the smallest `gene_key` among the genes of at most 20,000 nt.

    Raises
    ------
    DataError
        There are fewer such genes.
    """
    short = [gene.gene_id for gene in genes if gene.end - gene.start < LARGEST_COMPLETE_GENE]
    if n_genes > len(short):
        raise DataError(
            f"all positions of {n_genes:,} genes are asked for, but only {len(short):,} genes have at most "
            f"{LARGEST_COMPLETE_GENE:,} nt; ask for {len(short):,} or fewer"
        )
    return frozenset(sorted(short, key=lambda gene_id: (gene_key(gene_id, seed), gene_id))[:n_genes])


def draw_candidates(
    gene: Gene,
    letters: Letters,
    sites: StrandSites,
    *,
    negatives_per_site: float,
    hard_negatives: float,
    is_complete: bool,
    seed: int,
) -> Candidates:
    """Choose the rows of a gene.

    Parameters
    ----------
    gene
        The gene; its span is within the contig.
    letters
        (n_letters,) uint8, forward strand of its contig.
    sites
        Sites of any gene on its strand of the contig.
    negatives_per_site
        Negatives per donor or acceptor within the span; rounded to whole negatives per gene.
    hard_negatives
        Share of the negatives that is hard, 0 to 1.
    is_complete
        Take every position of the span as a row instead.
    seed
        Any integer; the draw depends on it and the gene id alone.

    Returns
    -------
    Candidates
        Every site of the strand within the span, and the negatives. Positions that are donor and acceptor at
        once are never rows.

    Notes
    -----
    Negatives are positions of the span that are a site of no gene on the strand. Half of the hard ones are
    decoys (followed by GT, as donors are, or preceded by AG, as acceptors are), half lie within 50 nt of a
    site. What one kind lacks comes from all remaining positions; a gene that is too short gives all it has.
    """
    length = gene.end - gene.start + 1
    donors, acceptors, ambiguous = (
        _offsets(gene, positions) for positions in (sites.donors, sites.acceptors, sites.ambiguous)
    )
    labels = np.zeros(length, np.int8)
    labels[donors] = CLASSES.index("donor")
    labels[acceptors] = CLASSES.index("acceptor")
    is_free = labels == 0
    is_free[ambiguous] = False
    is_row = labels > 0
    if is_complete:
        is_row |= is_free
    else:
        n_negatives = round(negatives_per_site * (donors.size + acceptors.size))
        n_hard = round(hard_negatives * n_negatives)
        rng = np.random.default_rng(gene_key(gene.gene_id, seed))
        for pool, n_wanted in (
            (_decoys(gene, letters), n_hard - n_hard // 2),
            (_near(length, np.concatenate([donors, acceptors])), n_hard // 2),
        ):
            drawn = _drawn(rng, np.flatnonzero(pool & is_free), n_wanted)
            is_row[drawn], is_free[drawn] = True, False
            n_negatives -= drawn.size
        is_row[_drawn(rng, np.flatnonzero(is_free), n_negatives)] = True
    offsets = np.flatnonzero(is_row)
    return Candidates(offsets, labels[offsets])


def _offsets(gene: Gene, positions: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the positions within the span as offsets along the strand."""
    first, stop = np.searchsorted(positions, [gene.start, gene.end + 1])
    within = positions[first:stop]
    return within - gene.start if gene.strand == "+" else gene.end - within


def _decoys(gene: Gene, letters: Letters) -> NDArray[np.bool_]:
    """Mark the positions followed by GT or preceded by AG, along the strand."""
    piece = stretch(letters, gene.start - 2, gene.end + 2)
    piece = piece if gene.strand == "+" else reverse_complement(piece)
    is_gt = (piece[:-1] == _GT[0]) & (piece[1:] == _GT[1])
    is_ag = (piece[:-1] == _AG[0]) & (piece[1:] == _AG[1])
    # piece[i] is offset i - 2: the pair at i + 3 follows offset i, the pair at i precedes it
    return np.asarray(is_gt[3:] | is_ag[:-3])


def _near(length: int, offsets: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Mark the positions within 50 nt of one of the offsets."""
    steps = np.zeros(length + 1, np.int64)
    np.add.at(steps, np.maximum(offsets - _NEAR, 0), 1)
    np.add.at(steps, np.minimum(offsets + _NEAR + 1, length), -1)
    return np.cumsum(steps[:-1]) > 0


def _drawn(rng: np.random.Generator, pool: NDArray[np.int64], n_wanted: int) -> NDArray[np.int64]:
    """Draw without replacement: the positions with the smallest of independent random numbers."""
    if n_wanted >= pool.size:
        return pool
    return pool[np.argpartition(rng.random(pool.size), n_wanted)[:n_wanted]]
