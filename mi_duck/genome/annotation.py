"""GTF or GFF3 to genes, their splice sites, and clusters of overlapping genes.

The lines are read here; attributes, transcripts, introns and genes are made in SQL (``sql/annotation_*.sql``). Compression
is recognised by the content, and the format of each line by its attributes, never by the name of the file. RefSeq, Ensembl,
GENCODE, AUGUSTUS and JGI flavours are read.

Choices, each the same for every flavour:

- A gene is (gene id, chromosome, strand, location). A gene id found on two strands or chromosomes, or more than 10,000 nt
  apart on one (copies, genes of the pseudo-autosomal regions), becomes one gene for each, named ``id@chromosome:strand``,
  with ``:start`` where one strand has several.
- A transcript is (gene, transcript id, chromosome, strand), because ids such as ``unassigned_transcript_1`` are used by
  many genes. Without exon lines its exons are the union of its coding sequence, UTRs and codons.
- An intron lies between neighbouring exons of one transcript in one location: not between the parts of a gene that is
  spliced in trans or lies over the origin of a circle, nor between copies that share an id.
- The span of a gene is that of its exons.
- Gaps of fewer than 20 nt between exons are alignment gaps or frame shifts, not introns.
"""

import io
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mi_duck.data.database import Database
from mi_duck.errors import DataError
from mi_duck.genome.sequence import reading

SHORTEST_INTRON = 20
LONGEST_INTRON = 1_000_000  # of introns that nobody need look at: the longest known human ones have 1.1 Mb
LONGEST_GAP = 10_000  # between transcripts of one gene that share no base

LINES = pa.schema(
    [("line", pa.int64()), ("chrom", pa.string()), ("kind", pa.string()), ("start", pa.int64()), ("stop", pa.int64())]
    + [("strand", pa.string()), ("attributes", pa.string())]
)
ANNOTATIONS = ("GTF", "GFF3", "GTF or GFF3", "a track of a genome browser")
_BATCH = 20_000
# lines that are neither exons nor parents of exons, and many
_UNUSED = frozenset(
    ("region", "chromosome", "contig", "supercontig", "scaffold", "polypeptide", "intron")
    + ("cDNA_match", "match", "match_part", "expressed_sequence_match")
)


@dataclass(frozen=True, slots=True)
class Gene:
    """One gene on one strand of one chromosome.

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


@dataclass(frozen=True, slots=True, order=True)
class OddIntron:
    """An intron that spans a whole other gene of its strand, or is longer than 1 Mb.

    Attributes
    ----------
    left, right
        As in `Gene`.
    gene_id
        A gene that has it.
    spans_gene
        Whether another gene of the strand lies between its ends.
    """

    chrom: str
    strand: str
    left: int
    right: int
    gene_id: str
    spans_gene: bool

    @property
    def is_long(self) -> bool:
        """Whether it is longer than any intron that nobody need look at."""
        return self.right - self.left - 1 > LONGEST_INTRON

    def __str__(self) -> str:
        return f"{self.gene_id} ({self.chrom}:{self.left + 1:,}-{self.right - 1:,})"


@dataclass(frozen=True, slots=True, eq=False)
class StrandSites:
    """The splice sites of one strand of a chromosome, ascending 1-based positions, (n,) int64 each.

    A donor is the last base of the exon before an intron, an acceptor the first base of the exon after it.
    Positions that are both are in ``ambiguous`` only.
    """

    donors: NDArray[np.int64]
    acceptors: NDArray[np.int64]
    ambiguous: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Annotation:
    """The genes of an annotation file, and what was ignored or is worth a look.

    Attributes
    ----------
    genes
        Every gene, also those without introns, ordered by chromosome, start and gene id.
    n_exon_lines, n_coding_lines, n_transcripts
        What the file has.
    n_transcripts_of_pieces
        Transcripts whose exons were made of coding sequence and UTRs, because they have no exon lines.
    n_short_introns
        Gaps between exons of fewer than 20 nt, ignored (different ones per gene).
    n_exons_without_strand, n_exons_without_gene
        Exon and CDS lines that were ignored because strand or gene id is missing.
    split_genes
        Gene ids found in several locations, each of which became a gene.
    genes_in_parts
        Genes with a transcript in several parts, between which no intron was made.
    mixed_genes
        Genes with overlapping exons and no transcript ids: isoforms that cannot be told apart, so that sites are missing.
    odd_introns
        Introns to look at, among those of ``genes``.
    left_out
        Introns that were not made.
    circular
        Contigs that the annotation says are circles.
    """

    genes: tuple[Gene, ...]
    n_exon_lines: int
    n_coding_lines: int
    n_transcripts: int
    n_transcripts_of_pieces: int
    n_short_introns: int
    n_exons_without_strand: int
    n_exons_without_gene: int
    split_genes: tuple[str, ...]
    genes_in_parts: tuple[str, ...]
    mixed_genes: tuple[str, ...]
    odd_introns: tuple[OddIntron, ...]
    left_out: tuple[OddIntron, ...]
    circular: frozenset[str]


def read_annotation(
    path: Path, *, implausible: Callable[[Sequence[OddIntron]], Sequence[OddIntron]] | None = None
) -> Annotation:
    """Read the genes of a GTF or GFF3 file, plain or compressed.

    Parameters
    ----------
    path
        The annotation; lines may come in any order.
    implausible
        Returns which of the introns that span a whole gene are not to be made: where one lies, a transcript is in two parts.

    Raises
    ------
    DataError
        No such file, a malformed line (with its number), or no usable exon or CDS line.
    """
    faults: list[DataError] = []
    lines = pa.RecordBatchReader.from_batches(LINES, _batches(path, faults))
    with Database() as db:
        db.table_from("annotation_features", "annotation_lines", lines)
        if faults:
            raise faults[0]
        db.table("annotation_ancestors")
        for row in db.read("annotation_ancestors").to_pylist():
            if row["is_endless"]:
                raise DataError(f"feature {row['transcript']} is its own ancestor in {path}; correct its Parent")
        db.table("annotation_exons")
        db.table("annotation_spans")
        odd = _assemble(db, ())
        spanning = [one for one in odd if one.spans_gene]
        left_out = tuple(implausible(spanning)) if spanning and implausible is not None else ()
        if left_out:
            odd = _assemble(db, left_out)
        (counts,) = db.rows("annotation_counts")
        remarks: dict[str, list[str]] = defaultdict(list)
        for row in db.rows("annotation_remarks"):
            remarks[row["remark"]].append(row["gene"])
        circular = frozenset(row["chrom"] for row in db.rows("annotation_circles"))
        genes = tuple(_genes(db))
    ignored = counts["n_exons_without_strand"] + counts["n_exons_without_gene"]
    if not genes:
        more = f" with a gene id and a strand ({ignored} without)" if ignored else ""
        raise DataError(f"no exon or CDS lines{more} in {path}; give a GTF or GFF3 annotation with exons")
    return Annotation(
        genes=genes,
        **counts,
        split_genes=tuple(remarks["several_locations"]),
        genes_in_parts=tuple(remarks["in_parts"]),
        mixed_genes=tuple(remarks["mixed"]),
        odd_introns=odd,
        left_out=left_out,
        circular=circular,
    )


def _assemble(db: Database, left_out: Sequence[OddIntron]) -> tuple[OddIntron, ...]:
    """Make genes and introns of exons, without some introns; return those to look at."""
    db.load("left_out_introns", _ends_of(left_out))
    db.table("annotation_blocks")
    db.table("annotation_loci", longest_gap=LONGEST_GAP)
    db.table("annotation_introns", shortest_intron=SHORTEST_INTRON)
    db.table("annotation_genes")
    return tuple(
        OddIntron(
            row["chrom"],
            row["strand"],
            row["left_end"],
            row["right_start"],
            row["gene_id"],
            spans_gene=row["n_spanned"] > 0,
        )
        for row in db.rows("annotation_odd_introns", longest_intron=LONGEST_INTRON)
    )


def _ends_of(introns: Sequence[OddIntron]) -> pa.Table:
    return pa.table(
        {
            "chrom": pa.array([one.chrom for one in introns], pa.string()),
            "strand": pa.array([one.strand for one in introns], pa.string()),
            "left_end": pa.array([one.left for one in introns], pa.int64()),
            "right_start": pa.array([one.right for one in introns], pa.int64()),
        }
    )


def _genes(db: Database) -> Iterator[Gene]:
    for row in db.read("annotation_genes").to_pylist():
        yield Gene(
            gene_id=row["gene_id"],
            gene_name=row["gene_name"],
            gene_type=row["gene_type"],
            chrom=row["chrom"],
            strand=row["strand"],
            start=row["start"],
            end=row["stop"],
            n_transcripts=row["n_transcripts"],
            n_exons=row["n_exons"],
            introns=tuple(zip(row["left_ends"], row["right_starts"], strict=True)),
        )


def _batches(path: Path, faults: list[DataError]) -> Iterator[pa.RecordBatch]:
    """Yield the lines in pieces; a fault ends them and is kept, because DuckDB, which reads them, would wrap it."""
    lines = _feature_lines(path)
    try:
        while chunk := list(islice(lines, _BATCH)):
            columns = zip(*chunk, strict=True)
            arrays = [pa.array(values, field.type) for values, field in zip(columns, LINES, strict=True)]
            yield pa.RecordBatch.from_arrays(arrays, schema=LINES)
    except DataError as fault:
        faults.append(fault)


def _feature_lines(path: Path) -> Iterator[tuple[int, str, str, int, int, str, str]]:
    """Yield the values of `LINES` for each line that may matter."""
    with (
        reading(path, "an annotation in GTF or GFF3", *ANNOTATIONS) as stream,
        io.TextIOWrapper(stream, "utf-8-sig", errors="replace") as text,
    ):
        for number, line in enumerate(text, 1):
            if line.startswith("#"):
                if line.startswith("##FASTA"):
                    return
                continue
            line = line.rstrip("\r\n")
            if not line.strip() or line.startswith(("track ", "browser ")):
                continue
            if line.startswith(">"):
                return
            fields = line.split("\t")
            if len(fields) != len(LINES) + 2:
                raise DataError(
                    f"line {number} of {path} has {len(fields)} columns between tabs, not 9; give GTF or GFF3"
                )
            chrom, _, kind, start, end, _, strand, _, attributes = fields
            if kind in _UNUSED and "Is_circular" not in attributes:
                continue
            first, last = _span(path, number, start, end, strand)
            yield number, chrom, kind, first, last, strand, attributes


def _span(path: Path, number: int, start: str, end: str, strand: str) -> tuple[int, int]:
    """Return start and end of a line, checked."""
    try:
        first, last = int(start), int(end)
    except ValueError as error:
        raise DataError(f"line {number} of {path}: start {start!r} and end {end!r} are not integers") from error
    if not 1 <= first <= last:
        raise DataError(f"line {number} of {path}: start {start}, end {end}; 1 <= start <= end is needed")
    if strand not in ("+", "-", ".", "?"):
        raise DataError(f"line {number} of {path}: strand {strand!r}; + or - is needed")
    return first, last


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
        strand = (gene.chrom, gene.strand)
        for left, right in gene.introns:
            donors[strand].add(left if gene.strand == "+" else right)
            acceptors[strand].add(right if gene.strand == "+" else left)
    return {
        strand: StrandSites(
            *(
                np.array(sorted(positions), np.int64)
                for positions in (
                    donors[strand] - acceptors[strand],
                    acceptors[strand] - donors[strand],
                    donors[strand] & acceptors[strand],
                )
            )
        )
        for strand in donors
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
