"""GTF or GFF3 to genes, their splice sites, and clusters of overlapping genes.

Format and compression are recognised by the content, never by the file name. RefSeq, Ensembl, GENCODE and
AUGUSTUS flavours are read; only exon lines count (CDS lines for a transcript without exon lines).

Choices, each the same for every flavour:

- A gene is (gene id, chromosome, strand). A gene id found on two strands or chromosomes (trans-splicing,
  genes of the pseudo-autosomal regions) becomes one gene per strand and chromosome, named ``id@chromosome:strand``.
- A transcript is (gene, transcript id, chromosome, strand), because ids such as
  ``unassigned_transcript_1`` are used by many genes.
- The span of a gene is that of its exons.
- Gaps of fewer than 20 nt between exons are alignment gaps or frame shifts, not introns.
"""

import io
import re
from array import array
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TypeAlias
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from mi_duck.errors import DataError
from mi_duck.genome.sequence import reading

SHORTEST_INTRON = 20

# (gene, transcript, chromosome, strand) to start, end, start, end, ... (1-based, inclusive)
_Spans: TypeAlias = "dict[tuple[str, str, str, str], array[int]]"

_GTF_GENE = re.compile(r'(?:^|[;\s])gene_id\s+"?([^";]*)')
_GTF_TRANSCRIPT = re.compile(r'(?:^|[;\s])transcript_id\s+"?([^";]*)')
_GTF_PAIR = re.compile(r'([\w.-]+)\s+(?:"([^"]*)"|([^";\s]+))')
_GFF3_PAIR = re.compile(r"^\s*[\w.-]+=")
_GENE_KEYS = ("gene_id", "geneID", "gene")
_NAME_KEYS = ("gene_name", "gene_symbol", "Name", "gene")
_TYPE_KEYS = ("gene_type", "gene_biotype", "biotype")
# lines of GFF3 that are neither exons nor parents of exons, and many
_NOT_PARENTS = frozenset(
    ("region", "chromosome", "contig", "supercontig", "scaffold", "polypeptide", "intron")
    + ("cDNA_match", "match", "match_part", "expressed_sequence_match", "start_codon", "stop_codon")
    + ("five_prime_UTR", "three_prime_UTR", "UTR")
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
    """The genes of an annotation file, and counts of what was ignored.

    Attributes
    ----------
    genes
        Every gene, also those without introns, ordered by chromosome, start, gene id, strand.
    n_short_introns
        Gaps between exons of fewer than 20 nt, ignored (different ones per gene).
    n_exons_without_strand, n_exons_without_gene
        Exon and CDS lines that were ignored because strand or gene id is missing.
    n_split_genes
        Gene ids found at more than one (chromosome, strand).
    """

    genes: tuple[Gene, ...]
    n_short_introns: int
    n_exons_without_strand: int
    n_exons_without_gene: int
    n_split_genes: int


@dataclass(slots=True)
class _Lines:
    """What is collected while reading lines."""

    exons: _Spans
    coding: _Spans
    names: dict[str, tuple[str, str]]
    without_strand: int = 0
    without_gene: int = 0


@dataclass(frozen=True, slots=True)
class _Node:
    """One line of GFF3 that may be the parent of others."""

    is_gene: bool
    parents: tuple[str, ...]
    gene_id: str
    gene_name: str
    gene_type: str


def read_annotation(path: Path) -> Annotation:
    """Read the genes of a GTF or GFF3 file, plain or gzip.

    Parameters
    ----------
    path
        The annotation; exon lines may come in any order.

    Raises
    ------
    DataError
        No such file, a malformed line (with its number), or no usable exon or CDS line.
    """
    with reading(path) as stream, io.TextIOWrapper(stream, "utf-8-sig", errors="replace") as text:
        lines = _feature_lines(path, text)
        first: list[tuple[int, list[str]]] = []
        is_gff3 = False
        for number, fields in lines:
            first.append((number, fields))
            is_gff3 = number == 0 or _GFF3_PAIR.match(fields[8]) is not None
            # AUGUSTUS begins with lines whose last column is a bare name, so the next line decides
            if is_gff3 or _GTF_PAIR.match(fields[8].lstrip()):
                break
        rows = (line for line in chain(first, lines) if line[0] > 0)
        collected = _read_gff3(path, rows) if is_gff3 else _read_gtf(path, rows)
    if not collected.exons and not collected.coding:
        ignored = collected.without_strand + collected.without_gene
        more = f" with a gene id and a strand ({ignored} without)" if ignored else ""
        raise DataError(f"no exon or CDS lines{more} in {path}; give a GTF or GFF3 annotation with exons")
    return _genes(collected)


def _feature_lines(path: Path, text: Iterable[str]) -> Iterator[tuple[int, list[str]]]:
    """Yield (line number, nine columns); a GFF3 header is yielded as line 0 with empty columns."""
    for number, line in enumerate(text, 1):
        if line.startswith("#"):
            if line.startswith("##FASTA"):
                return
            if line.startswith("##gff-version") and line.split()[1:2] == ["3"]:
                yield 0, [""] * 9
            continue
        line = line.rstrip("\r\n")
        if not line.strip() or line.startswith(("track ", "browser ")):
            continue
        if line.startswith(">"):
            if number == 1:
                raise DataError(f"{path} is FASTA, not an annotation; give a GTF or GFF3 file")
            return
        fields = line.split("\t")
        if len(fields) != 9:
            raise DataError(f"line {number} of {path} has {len(fields)} columns between tabs, not 9; give GTF or GFF3")
        yield number, fields


def _span(path: Path, number: int, fields: list[str]) -> tuple[int, int]:
    """Return start and end of a line, checked."""
    try:
        start, end = int(fields[3]), int(fields[4])
    except ValueError as error:
        message = f"line {number} of {path}: start {fields[3]!r} and end {fields[4]!r} are not integers"
        raise DataError(message) from error
    if not 1 <= start <= end:
        raise DataError(f"line {number} of {path}: start {start}, end {end}; 1 <= start <= end is needed")
    if fields[6] not in ("+", "-", ".", "?"):
        raise DataError(f"line {number} of {path}: strand {fields[6]!r}; + or - is needed")
    return start, end


def _add(spans: _Spans, key: tuple[str, str, str, str], span: tuple[int, int]) -> None:
    values = spans.get(key)
    if values is None:
        spans[key] = array("q", span)
    else:
        values.extend(span)


def _first(attributes: dict[str, str], keys: Sequence[str]) -> str:
    """Return the first of the attributes that is present and not empty."""
    return next((attributes[key] for key in keys if attributes.get(key)), "")


def _read_gtf(path: Path, lines: Iterable[tuple[int, list[str]]]) -> _Lines:
    found = _Lines({}, {}, {})
    for number, fields in lines:
        kind, text = fields[2], fields[8]
        is_exon = kind in ("exon", "CDS")
        if not is_exon and kind != "gene":
            continue
        match = _GTF_GENE.search(text)
        gene = match.group(1) if match else ""
        if is_exon:
            span = _span(path, number, fields)
            if fields[6] not in "+-":
                found.without_strand += 1
                continue
            if not gene:
                gene = _first(_gtf_attributes(text), _GENE_KEYS)
            if not gene:
                found.without_gene += 1
                continue
            match = _GTF_TRANSCRIPT.search(text)
            key = (gene, match.group(1) if match else "", fields[0], fields[6])
            _add(found.exons if kind == "exon" else found.coding, key, span)
        if gene and (kind == "gene" or gene not in found.names):
            attributes = _gtf_attributes(text)
            found.names[gene] = (_first(attributes, _NAME_KEYS), _first(attributes, _TYPE_KEYS))
    return found


def _gtf_attributes(text: str) -> dict[str, str]:
    return {key: quoted or bare for key, quoted, bare in _GTF_PAIR.findall(text)}


def _gff3_attributes(text: str) -> dict[str, str]:
    pairs = (part.partition("=") for part in text.split(";"))
    return {key.strip(): unquote(value.strip().strip('"')) for key, equals, value in pairs if equals}


def _decoded(value: str) -> str:
    return unquote(value) if "%" in value else value


def _read_gff3(path: Path, lines: Iterable[tuple[int, list[str]]]) -> _Lines:
    """Read GFF3: exons hang on transcripts and these on genes, by Parent, in any order of lines."""
    found = _Lines({}, {}, {})
    nodes: dict[str, _Node] = {}
    # genes are known after the last line only: until then a key begins with the exon's own gene attribute
    exons: _Spans = {}
    coding: _Spans = {}
    for number, fields in lines:
        kind = fields[2]
        if kind in _NOT_PARENTS:
            continue
        attributes = _gff3_attributes(fields[8])
        parents = tuple(_decoded(parent) for parent in attributes.get("Parent", "").split(",") if parent)
        gene = _decoded(_first(attributes, _GENE_KEYS))
        if kind in ("exon", "CDS"):
            span = _span(path, number, fields)
            if fields[6] not in "+-":
                found.without_strand += 1
                continue
            transcripts = parents or (_decoded(attributes.get("transcript_id", "")),)
            if not parents and not gene:
                found.without_gene += 1
                continue
            for transcript in transcripts:
                key = (gene, transcript, _decoded(fields[0]), fields[6])
                _add(exons if kind == "exon" else coding, key, span)
            if gene and gene not in found.names:
                found.names[gene] = (attributes.get("gene_name", ""), _first(attributes, _TYPE_KEYS))
        elif "ID" in attributes:
            identity, is_gene = _decoded(attributes["ID"]), kind.endswith("gene")
            if is_gene:  # `gene=` of a gene is its symbol, which need not be unique; `gene_id=` and ID are
                gene = _decoded(attributes.get("gene_id", "")) or re.sub("^gene[-:]", "", identity)
            name, gene_type = _first(attributes, _NAME_KEYS), _first(attributes, _TYPE_KEYS)
            nodes[identity] = _Node(is_gene, parents, gene, name, gene_type)
    for source, target in ((exons, found.exons), (coding, found.coding)):
        for (own_gene, transcript, chrom, strand), values in source.items():
            gene = _gene_of(path, transcript, own_gene, nodes, found.names)
            target.setdefault((gene, transcript, chrom, strand), array("q")).extend(values)
    return found


def _gene_of(
    path: Path, transcript: str, own_gene: str, nodes: dict[str, _Node], names: dict[str, tuple[str, str]]
) -> str:
    """Follow the parents of a transcript up to its gene, and note the gene's name."""
    identity, seen = transcript, {transcript}
    node = nodes.get(identity)
    if node is None:
        return own_gene or transcript
    while not node.is_gene and node.parents:
        identity = node.parents[0]
        if identity in seen:
            raise DataError(f"feature {identity} is its own ancestor in {path}; correct its Parent")
        seen.add(identity)
        above = nodes.get(identity)
        if above is None:
            return node.gene_id or own_gene or identity
        node = above
    gene = node.gene_id or own_gene or identity
    if node.is_gene:
        names[gene] = (node.gene_name, node.gene_type)
    return gene


def _genes(found: _Lines) -> Annotation:
    """Join transcripts to genes."""
    by_gene: dict[tuple[str, str, str], list[array[int]]] = defaultdict(list)
    for key, values in found.exons.items():
        by_gene[key[0], key[2], key[3]].append(values)
    for key, values in found.coding.items():
        if key not in found.exons:
            by_gene[key[0], key[2], key[3]].append(values)
    n_strands = Counter(gene for gene, _, _ in by_gene)
    genes, n_short = [], 0
    for (gene, chrom, strand), transcripts in by_gene.items():
        exons: set[tuple[int, int]] = set()
        introns: set[tuple[int, int]] = set()
        for values in transcripts:
            blocks = sorted(zip(values[::2], values[1::2], strict=True))
            exons.update(blocks)
            left = blocks[0][1]
            for start, end in blocks[1:]:
                if start - left > 1:
                    introns.add((left, start))
                left = max(left, end)
        long_introns = tuple(sorted(pair for pair in introns if pair[1] - pair[0] > SHORTEST_INTRON))
        n_short += len(introns) - len(long_introns)
        name, gene_type = found.names.get(gene, ("", ""))
        genes.append(
            Gene(
                gene_id=gene if n_strands[gene] == 1 else f"{gene}@{chrom}:{strand}",
                gene_name=name,
                gene_type=gene_type,
                chrom=chrom,
                strand=strand,
                start=min(start for start, _ in exons),
                end=max(end for _, end in exons),
                n_transcripts=len(transcripts),
                n_exons=len(exons),
                introns=long_introns,
            )
        )
    genes.sort(key=lambda gene: (gene.chrom, gene.start, gene.gene_id))
    n_split = sum(n > 1 for n in n_strands.values())
    return Annotation(tuple(genes), n_short, found.without_strand, found.without_gene, n_split)


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
