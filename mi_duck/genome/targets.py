"""Which positions of a genome are to be scored: those of genes, of regions, or of both strands of whole contigs.

Where there are no genes, targets of a strand do not overlap, so every position is scored once. Genes overlap, and a position
is scored once for each of them, because features of the gene differ.
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from mi_duck.errors import DataError
from mi_duck.genome.annotation import Gene, count_overlaps, read_annotation
from mi_duck.genome.sequence import read_fasta, reading
from mi_duck.genome.survey import check_ends, check_names

REGIONS = ("BED or bedGraph", "a track of a genome browser")
MOST_NAMES = 3

Lengths = Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Target:
    """Consecutive positions of one strand.

    Attributes
    ----------
    start, end
        1-based, inclusive, on the forward strand.
    gene_id
        None where there is no gene.
    facts
        Of the gene: ``start``, ``end``, ``num_overlaps``, ``n_transcripts``, ``n_exons``, ``n_introns``.
    """

    chrom: str
    strand: str
    start: int
    end: int
    gene_id: str | None = None
    facts: Mapping[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return self.end - self.start + 1


@dataclass(frozen=True, slots=True)
class Targets:
    """All targets of a genome.

    Attributes
    ----------
    by_contig
        In the order of the FASTA file; those of the forward strand first, by start.
    lengths
        Of all contigs of the FASTA file, in its order.
    warnings
        What was left out, in words.
    """

    by_contig: Mapping[str, tuple[Target, ...]]
    lengths: Lengths
    warnings: tuple[str, ...] = ()

    @property
    def n_positions(self) -> int:
        """Positions of all targets."""
        return sum(map(len, self))

    def __iter__(self) -> Iterator[Target]:
        return (target for targets in self.by_contig.values() for target in targets)


def contig_lengths(fasta: Path) -> dict[str, int]:
    """Return the length of every contig; reads the whole file, which is checked by that."""
    return {contig.name: int(contig.letters.size) for contig in read_fasta(fasta)}


def gene_targets(fasta: Path, annotation: Path) -> Targets:
    """Return every gene of an annotation whose contig has a sequence, also those without introns.

    Raises
    ------
    DataError
        A file cannot be used, no contig is in both, or a gene ends beyond its contig.
    """
    annotated = read_annotation(annotation)
    lengths = contig_lengths(fasta)
    check_names(fasta, list(dict.fromkeys(gene.chrom for gene in annotated.genes)), lengths)
    there = [gene for gene in annotated.genes if gene.chrom in lengths]
    # over the origin of a circle, as `mi_duck.genome.survey.survey` leaves them out
    beyond = {gene.gene_id for gene in there if gene.chrom in annotated.circular and gene.end > lengths[gene.chrom]}
    genes = [gene for gene in there if gene.gene_id not in beyond]
    warnings = []
    if n_missing := len(annotated.genes) - len(there):
        warnings.append(f"genes on contigs that {fasta} does not have, left out: {n_missing:,}")
    if beyond:
        warnings.append(f"genes that end beyond their circular contig, left out: {len(beyond):,}")
    return targets_of_genes(fasta, genes, lengths, tuple(warnings))


def targets_of_genes(fasta: Path, genes: Sequence[Gene], lengths: Lengths, warnings: tuple[str, ...] = ()) -> Targets:
    """Return genes as targets; overlaps are counted among them."""
    by_contig: dict[str, list[Target]] = defaultdict(list)
    ends: dict[str, list[Gene]] = defaultdict(list)
    for gene, n_overlaps in zip(genes, count_overlaps(genes).tolist(), strict=True):
        ends[gene.chrom].append(gene)
        facts = {name: getattr(gene, name) for name in ("start", "end", "n_transcripts", "n_exons")}
        facts |= {"n_introns": len(gene.introns), "num_overlaps": n_overlaps}
        by_contig[gene.chrom].append(Target(gene.chrom, gene.strand, gene.start, gene.end, gene.gene_id, facts))
    for chrom, local in ends.items():
        check_ends(fasta, local, lengths[chrom])
    return Targets(_ordered(by_contig, lengths), lengths, warnings)


def region_targets(fasta: Path, regions: Path) -> Targets:
    """Return the regions of a BED file, united where they overlap on a strand; both strands of those that name none.

    Raises
    ------
    DataError
        A file cannot be used, a line is not BED, no contig is in both files, or a region ends beyond its contig.
    """
    lengths = contig_lengths(fasta)
    spans: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    names: dict[str, int] = {}
    for number, chrom, start, stop, strand in _bed_lines(regions):
        names.setdefault(chrom, number)
        if chrom in lengths and stop > lengths[chrom]:
            raise DataError(
                f"line {number} of {regions} ends at {stop:,}, but contig {chrom} in {fasta} has {lengths[chrom]:,} nt; "
                "give regions of the same assembly"
            )
        for one in strand:
            spans[chrom, one].append((start + 1, stop))
    check_names(fasta, list(names), lengths, what="the regions")
    missing = [name for name in names if name not in lengths]
    by_contig: dict[str, list[Target]] = defaultdict(list)
    for (chrom, strand), several in spans.items():
        if chrom in lengths:
            by_contig[chrom] += [Target(chrom, strand, start, end) for start, end in _united(several)]
    more = f" and {len(missing) - MOST_NAMES:,} more" if len(missing) > MOST_NAMES else ""
    warnings = [f"regions on contigs that {fasta} does not have, left out: {', '.join(missing[:MOST_NAMES])}{more}"]
    return Targets(_ordered(by_contig, lengths), lengths, tuple(warnings if missing else ()))


def contig_targets(fasta: Path) -> Targets:
    """Return both strands of every contig."""
    lengths = contig_lengths(fasta)
    by_contig = {
        name: tuple(Target(name, strand, 1, length) for strand in "+-") for name, length in lengths.items() if length
    }
    return Targets(by_contig, lengths)


def _ordered(by_contig: Mapping[str, Sequence[Target]], lengths: Lengths) -> dict[str, tuple[Target, ...]]:
    return {
        name: tuple(sorted(by_contig[name], key=lambda one: (one.strand, one.start, one.end, one.gene_id or "")))
        for name in lengths
        if by_contig.get(name)
    }


def _united(spans: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """Unite spans that overlap or touch; ascending."""
    found: list[tuple[int, int]] = []
    for start, end in sorted(spans):
        if found and start <= found[-1][1] + 1:
            found[-1] = (found[-1][0], max(found[-1][1], end))
        else:
            found.append((start, end))
    return found


def _bed_lines(path: Path) -> Iterator[tuple[int, str, int, int, str]]:
    """Yield (line, contig, start, stop, strands) of a BED file; start counts from 0, stop is not included."""
    n_lines = 0
    with reading(path, "regions in BED", *REGIONS) as stream:
        for number, raw in enumerate(stream, 1):
            line = raw.decode("utf-8-sig", "replace").rstrip("\r\n")
            if not line.strip() or line.startswith(("#", "track", "browser")):
                continue
            cells = line.split("\t") if "\t" in line else line.split()
            try:
                start, stop = int(cells[1]), int(cells[2])
            except (IndexError, ValueError) as error:
                raise DataError(
                    f"line {number} of {path} is not BED: contig, start and stop between tabs are needed"
                ) from error
            if not 0 <= start < stop:
                raise DataError(f"line {number} of {path}: start {start}, stop {stop}; 0 <= start < stop is needed")
            strand = cells[5] if len(cells) > 5 else "."
            if strand not in ("+", "-", "."):
                raise DataError(f"line {number} of {path}: strand {strand!r} in column 6; +, - or . is needed")
            n_lines += 1
            yield number, cells[0], start, stop, "+-" if strand == "." else strand
    if not n_lines:
        raise DataError(f"no region in {path}; give BED lines: contig, start and stop between tabs")
