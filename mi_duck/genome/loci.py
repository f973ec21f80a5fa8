"""Genes on the genome: their splice sites, the clusters they form and how many overlap each of them."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Gene:
    """One gene at one place.

    Attributes
    ----------
    gene_id, gene_name, gene_type
        Text; name and type are empty where the annotation does not give them.
    chrom, strand
        Contig name, and ``+`` or ``-``.
    start, end
        Span of the exons, 1-based, inclusive.
    n_transcripts, n_exons
        Transcripts, and different exons.
    introns
        Different introns, ascending: last base of the exon to the left and first base of the exon to the
        right on the forward strand (1-based), whatever the gene's strand.
    """

    gene_id: str
    gene_name: str
    gene_type: str
    chrom: str
    strand: str
    start: int
    end: int
    n_transcripts: int
    n_exons: int
    introns: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True, eq=False)
class StrandSites:
    """The splice sites of one strand of a chromosome, ascending 1-based positions, (n,) int64 each.

    A donor is the last base of the exon before an intron, an acceptor the first base of the exon after it.
    Positions that are both are in ``ambiguous`` only.
    """

    donors: NDArray[np.int64]
    acceptors: NDArray[np.int64]
    ambiguous: NDArray[np.int64]


def strand_sites(genes: Iterable[Gene]) -> dict[tuple[str, str], StrandSites]:
    """Unite the splice sites of all transcripts of all genes of each strand.

    Parameters
    ----------
    genes
        Every annotated gene.

    Returns
    -------
    dict
        (chromosome, strand) to its sites; strands without introns are absent.
    """
    donors: dict[tuple[str, str], set[int]] = defaultdict(set)
    acceptors: dict[tuple[str, str], set[int]] = defaultdict(set)
    for gene in genes:
        place = (gene.chrom, gene.strand)
        for left, right in gene.introns:
            donors[place].add(left if gene.strand == "+" else right)
            acceptors[place].add(right if gene.strand == "+" else left)
    return {
        place: StrandSites(
            *(
                np.array(sorted(positions), np.int64)
                for positions in (
                    donors[place] - acceptors[place],
                    acceptors[place] - donors[place],
                    donors[place] & acceptors[place],
                )
            )
        )
        for place in donors
    }


def overlap_clusters(genes: Sequence[Gene], padding: int) -> tuple[str, ...]:
    """Name the cluster of each gene: genes linked by overlaps of their padded spans, on either strand.

    Parameters
    ----------
    genes
        In any order.
    padding
        Nucleotides added to both ends of every span, 0 or more; half a window makes the windows of different
        clusters disjoint.

    Returns
    -------
    tuple of str
        In the order of ``genes``: ``chromosome:start-end`` of the whole cluster, without the padding.
    """
    order = sorted(range(len(genes)), key=lambda index: (genes[index].chrom, genes[index].start))
    clusters: list[list[int]] = []
    chrom, end = "", 0
    for index in order:
        gene = genes[index]
        if clusters and gene.chrom == chrom and gene.start - padding <= end + padding:
            clusters[-1].append(index)
            end = max(end, gene.end)
        else:
            clusters.append([index])
            chrom, end = gene.chrom, gene.end
    names = [""] * len(genes)
    for members in clusters:
        first = genes[members[0]]
        name = f"{first.chrom}:{first.start}-{max(genes[member].end for member in members)}"
        for member in members:
            names[member] = name
    return tuple(names)


def count_overlaps(genes: Sequence[Gene]) -> NDArray[np.int32]:
    """Count, for each gene, the other genes whose spans share a base with it, on either strand.

    Returns
    -------
    (n_genes,) int32
        In the order of ``genes``.

    Notes
    -----
    Genes that start before this one ends, less those that end before it starts, less itself.
    """
    counts = np.zeros(len(genes), np.int32)
    by_chrom: dict[str, list[int]] = defaultdict(list)
    for index, gene in enumerate(genes):
        by_chrom[gene.chrom].append(index)
    for indices in by_chrom.values():
        starts = np.array([genes[index].start for index in indices])
        ends = np.array([genes[index].end for index in indices])
        begun = np.searchsorted(np.sort(starts), ends, side="right")
        over = np.searchsorted(np.sort(ends), starts, side="left")
        counts[indices] = begun - over - 1
    return counts
