"""First pass over the genome: checks that it belongs to the annotation, and counts letters at splice sites."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mi_duck.errors import DataError
from mi_duck.genome.annotation import Annotation, Gene, OddIntron, overlap_clusters, strand_sites
from mi_duck.genome.base_scores import (
    ACCEPTOR_OFFSETS,
    DONOR_OFFSETS,
    N_FOLDS,
    SiteMatrices,
    cluster_fold,
    fit_matrices,
    letter_counts,
)
from mi_duck.genome.sequence import Letters, encode, read_fasta, windows
from mi_duck.processes import Report

_COMPOSITION_BLOCK = 1 << 20
_LISTED_NAMES = 3
# of nearly all introns: the major ones (the first two) and those of the minor spliceosome
_KNOWN_ENDS = (("GT", "AG"), ("GC", "AG"), ("AT", "AC"))


@dataclass(frozen=True, slots=True, eq=False)
class Survey:
    """What the first pass found.

    Attributes
    ----------
    genes
        Every gene whose contig has a sequence, in the order of contigs in the FASTA file, then start, gene
        id.
    contig_lengths
        Contig name to length in nt, for contigs with genes.
    clusters
        Gene id to overlap cluster, for the genes with introns.
    matrices
        Base-score matrices of each fold.
    n_introns
        Different (chromosome, strand, start, end).
    gt_ag_fraction
        Share of the introns that begin GT and end AG: 0.97 to 0.99 in most genomes; far less says that FASTA
        and annotation do not belong together.
    n_contigs_without_sequence, n_genes_without_sequence
        Annotated contigs that the FASTA file lacks, and the genes on them.
    beyond_origin
        Genes that end beyond their contig, a circle: they lie over its origin and are left out.
    """

    genes: tuple[Gene, ...]
    contig_lengths: dict[str, int]
    clusters: dict[str, str]
    matrices: SiteMatrices
    n_introns: int
    gt_ag_fraction: float
    n_contigs_without_sequence: int
    n_genes_without_sequence: int
    beyond_origin: tuple[str, ...]


def survey(
    fasta: Path,
    annotation: Annotation,
    *,
    padding: int,
    seed: int,
    report: Report | None = None,
) -> Survey:
    """Read the genome once, and fit the base scores.

    Parameters
    ----------
    fasta
        The genome.
    padding
        Half a window, nt: genes closer than twice this are in one cluster.
    seed
        Any integer; chooses the folds of the clusters.
    report
        Called with ("splice sites", genes done, genes).

    Raises
    ------
    DataError
        The FASTA file cannot be used, shares no contig name with the annotation, a gene ends beyond its
        contig, or no gene with a sequence has an intron.
    """
    genes = annotation.genes
    by_contig: dict[str, list[Gene]] = defaultdict(list)
    for gene in genes:
        by_contig[gene.chrom].append(gene)
    with_introns = [gene for gene in genes if gene.introns]
    names_of_clusters = overlap_clusters(with_introns, padding)
    clusters = {gene.gene_id: name for gene, name in zip(with_introns, names_of_clusters, strict=True)}
    folds = {gene_id: cluster_fold(cluster, seed) for gene_id, cluster in clusters.items()}
    ordered: list[Gene] = []
    beyond: list[str] = []
    names: list[str] = []
    lengths: dict[str, int] = {}
    found = _Counts()
    for contig in read_fasta(fasta):
        names.append(contig.name)
        local = by_contig.get(contig.name)
        if local is None:
            continue
        lengths[contig.name] = contig.letters.size
        if contig.name in annotation.circular:
            beyond += [gene.gene_id for gene in local if gene.end > contig.letters.size]
            local = [gene for gene in local if gene.end <= contig.letters.size]
        check_ends(fasta, local, contig.letters.size)
        ordered.extend(sorted(local, key=lambda gene: (gene.start, gene.gene_id)))
        found.add(contig.letters, local, folds)
        if report is not None:
            report("splice sites", len(ordered), len(genes))
    check_names(fasta, list(by_contig), names)
    if not found.n_introns:
        raise DataError(f"none of the {len(ordered):,} genes with a sequence in {fasta} has an intron")
    spans = np.zeros(N_FOLDS, np.int64)
    for gene in ordered:
        if gene.introns:
            spans[folds[gene.gene_id]] += gene.end - gene.start + 1
    return Survey(
        genes=tuple(ordered),
        contig_lengths=lengths,
        clusters={gene.gene_id: clusters[gene.gene_id] for gene in ordered if gene.introns},
        matrices=fit_matrices(found.donors, found.acceptors, found.composition, spans),
        n_introns=found.n_introns,
        gt_ag_fraction=found.n_gt_ag / found.n_introns,
        n_contigs_without_sequence=len(by_contig) - len(lengths),
        n_genes_without_sequence=len(genes) - len(ordered) - len(beyond),
        beyond_origin=tuple(beyond),
    )


class _Counts:
    """Letters at the splice sites of each fold, letters of the genome, and introns, summed over contigs."""

    def __init__(self) -> None:
        self.donors = np.zeros((N_FOLDS, _width(DONOR_OFFSETS), 5), np.int64)
        self.acceptors = np.zeros((N_FOLDS, _width(ACCEPTOR_OFFSETS), 5), np.int64)
        self.composition = np.zeros(4, np.int64)
        self.n_introns = self.n_gt_ag = 0

    def add(self, letters: Letters, genes: Sequence[Gene], folds: Mapping[str, int]) -> None:
        """Count one contig and its genes; ``folds`` has the fold of each gene with introns."""
        self.composition += _composition(letters)
        for (_, strand), sites in strand_sites(genes).items():
            spliced = [gene for gene in genes if gene.strand == strand and gene.introns]
            positions, site_folds = _site_folds(spliced, folds)
            for counts, of_kind, offsets in (
                (self.donors, sites.donors, DONOR_OFFSETS),
                (self.acceptors, sites.acceptors, ACCEPTOR_OFFSETS),
            ):
                of_fold = site_folds[np.searchsorted(positions, of_kind)]
                counts += letter_counts(_around(letters, of_kind, strand, offsets), of_fold)
            introns = np.array(sorted({intron for gene in spliced for intron in gene.introns}), np.int64)
            self.n_introns += len(introns)
            self.n_gt_ag += _count_gt_ag(letters, introns, strand)


def _width(offsets: tuple[int, int]) -> int:
    return offsets[1] - offsets[0] + 1


def check_ends(fasta: Path, genes: Sequence[Gene], length: int) -> None:
    """Refuse genes that end beyond their contig."""
    last = max(genes, key=lambda gene: gene.end, default=None)
    if last is not None and last.end > length:
        raise DataError(
            f"gene {last.gene_id} ends at {last.end:,}, but contig {last.chrom} in {fasta} has {length:,} nt"
            "; give the FASTA file of the annotation's assembly"
        )


def check_names(fasta: Path, wanted: Sequence[str], names: Collection[str], *, what: str = "the annotation") -> None:
    """Refuse a genome that has none of the contigs that something else names."""
    if not set(wanted).isdisjoint(names):
        return
    sides = []
    for side in (list(wanted), list(names)):
        more = f" and {len(side) - _LISTED_NAMES:,} more" if len(side) > _LISTED_NAMES else ""
        sides.append(", ".join(side[:_LISTED_NAMES]) + more)
    verb = "have" if what.endswith("s") else "has"
    raise DataError(
        f"no contig of {fasta} is in {what}, which {verb} {sides[0]}; the FASTA file has {sides[1]}; "
        "use files with the same names"
    )


def _composition(letters: Letters) -> NDArray[np.int64]:
    """Count A, C, G, T by blocks: bincount widens its input to 8 bytes per letter."""
    counts = np.zeros(5, np.int64)
    for first in range(0, letters.size, _COMPOSITION_BLOCK):
        counts += np.bincount(letters[first : first + _COMPOSITION_BLOCK], minlength=5)
    return counts[:4]


def _site_folds(genes: Sequence[Gene], folds: Mapping[str, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the ends of all introns, ascending, and their folds; genes that share a site share a cluster."""
    fold_of = {end: folds[gene.gene_id] for gene in genes for intron in gene.introns for end in intron}
    positions = np.array(sorted(fold_of), np.int64)
    return positions, np.array([fold_of[position] for position in positions.tolist()], np.int64)


def _around(letters: Letters, positions: NDArray[np.int64], strand: str, offsets: tuple[int, int]) -> Letters:
    """Cut the letters at the offsets from each position, along the strand."""
    half = max(-offsets[0], offsets[1] + 1)
    return windows(letters, positions, strand, 2 * half)[:, half + offsets[0] : half + offsets[1] + 1]


def _count_gt_ag(letters: Letters, introns: NDArray[np.int64], strand: str) -> int:
    """Count the introns (n, 2) of a strand whose first two letters are GT and whose last two are AG."""
    begins, ends = _ends(letters, introns, strand)
    return int(((begins == encode("GT")).all(axis=1) & (ends == encode("AG")).all(axis=1)).sum())


def without_known_ends(fasta: Path, introns: Sequence[OddIntron]) -> list[OddIntron]:
    """Return the introns that do not begin and end as nearly all do; those beyond their contig are for `survey` to refuse."""
    of_contig: dict[str, list[OddIntron]] = defaultdict(list)
    for intron in introns:
        of_contig[intron.chrom].append(intron)
    return [
        one
        for contig in read_fasta(fasta)
        for one in of_contig[contig.name]
        if one.right <= contig.letters.size and not _has_known_ends(contig.letters, one)
    ]


def _has_known_ends(letters: Letters, intron: OddIntron) -> bool:
    begins, ends = _ends(letters, np.array([[intron.left, intron.right]]), intron.strand)
    return any((begins == encode(first)).all() and (ends == encode(last)).all() for first, last in _KNOWN_ENDS)


def _ends(letters: Letters, introns: NDArray[np.int64], strand: str) -> tuple[Letters, Letters]:
    """Return the first two and the last two letters of introns (n, 2) along the strand, (n, 2) each."""
    left, right = introns.T
    donor, acceptor = (left, right) if strand == "+" else (right, left)
    return _around(letters, donor, strand, (1, 2)), _around(letters, acceptor, strand, (-2, -1))
