"""Which genes are copies of each other: clusters of genes whose transcripts align, joined into one fold group.

A model that has seen one copy of a gene knows much of the other, so scores of a random split look better than those of a new
family would. Of each gene with introns one transcript is aligned with those of all others by minimap2, along the strand. Two
genes belong together where an alignment covers at least half of the shorter transcript with at least four of five positions
equal (gaps count as unequal); groups are all that hang together, also by way of a third gene.

**Why** these settings of minimap2: its presets expect reads that differ by a fifth at most and report the best place alone;
k-mers of 13 still meet at an identity of .8, and all chains are wanted, for the best place of a transcript is itself.

References
----------
minimap2: Li, Minimap2: pairwise alignment for nucleotide sequences (Bioinformatics 34, 2018).
"""

import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from mi_duck.data.identical import joined_groups
from mi_duck.errors import DataError
from mi_duck.genome.annotation import Gene
from mi_duck.genome.sequence import Letters, decode, read_fasta, reverse_complement
from mi_duck.processes import Report

IDENTITY = 0.8
"""Least share of the columns of an alignment that are equal."""
COVERAGE = 0.5
"""Least share of the shorter transcript that the alignment covers."""
STAGE = "aligning transcripts"
_KMER, _WINDOW = 13, 5
_NOT_ITSELF, _ALONG_THE_STRAND, _ALL_CHAINS = 0x1, 0x100000, 0x800000
"""Flags of minimap2: -D, --for-only and -P."""


def check_aligner() -> None:
    """Refuse where mappy, which holds minimap2, is absent."""
    try:
        import mappy  # noqa: F401
    except ImportError as error:
        raise DataError("--paralogs needs mappy; install it with: pip install 'mi-duck[paralogs]'") from error


def paralog_groups(
    fasta: Path, genes: Sequence[Gene], clusters: Mapping[str, str], *, report: Report
) -> dict[str, str]:
    """Return the group of each gene: overlap clusters, joined where genes of them are copies of each other.

    Parameters
    ----------
    genes
        Those with introns.
    clusters
        Gene id to overlap cluster.

    Returns
    -------
    dict
        Gene id to the first, sorted, of the names of the clusters that belong together.
    """
    pairs = [(clusters[one], clusters[other]) for one, other in aligned_pairs(fasta, genes, report=report)]
    ends = [pa.array(list(end), pa.string()) for end in zip(*pairs, strict=True)] or [pa.array([], pa.string())] * 2
    joined = joined_groups(pa.table(ends, names=["fold_group", "other_group"]))
    name_of = dict(zip(joined["fold_group"].to_pylist(), joined["joined"].to_pylist(), strict=True))
    return {gene.gene_id: name_of.get(clusters[gene.gene_id], clusters[gene.gene_id]) for gene in genes}


def aligned_pairs(fasta: Path, genes: Sequence[Gene], *, report: Report) -> list[tuple[str, str]]:
    """Return the pairs of genes whose transcripts align, each in the order of their names, sorted."""
    import mappy

    texts = dict(_transcripts(fasta, genes))
    found: set[tuple[str, str]] = set()
    with tempfile.TemporaryDirectory(prefix="mi_duck_paralogs_") as scratch:
        file = Path(scratch) / "transcripts.fa"
        file.write_text("".join(f">{number}\n{text}\n" for number, text in enumerate(texts.values())))
        # all transcripts in one index, so that none is looked for in a part of them
        aligner = mappy.Aligner(str(file), k=_KMER, w=_WINDOW, best_n=len(texts), n_threads=1)
    names = list(texts)
    for number, (name, text) in enumerate(texts.items()):
        flags = _NOT_ITSELF | _ALONG_THE_STRAND | _ALL_CHAINS
        for hit in aligner.map(text, name=str(number), extra_flags=flags):
            shorter = min(len(text), hit.ctg_len)
            covered = min(hit.q_en - hit.q_st, hit.r_en - hit.r_st)
            other = names[int(hit.ctg)]
            if other != name and hit.mlen >= IDENTITY * hit.blen and covered >= COVERAGE * shorter:
                found.add((min(name, other), max(name, other)))
        report(STAGE, number + 1, len(texts))
    return sorted(found)


def _transcripts(fasta: Path, genes: Sequence[Gene]) -> Iterator[tuple[str, str]]:
    """Yield the id of each gene and the letters of one transcript of it, along its strand."""
    by_contig: dict[str, list[Gene]] = defaultdict(list)
    for gene in genes:
        by_contig[gene.chrom].append(gene)
    for contig in read_fasta(fasta):
        for gene in by_contig.get(contig.name, ()):
            yield gene.gene_id, decode(_spliced(contig.letters, gene))


def _spliced(letters: Letters, gene: Gene) -> Letters:
    """Return a gene without those introns that do not overlap a shorter one: the transcript with the most exons, nearly."""
    cut: list[tuple[int, int]] = []
    for left, right in sorted(gene.introns, key=lambda intron: (intron[1] - intron[0], intron)):
        if all(right <= other_left or left >= other_right for other_left, other_right in cut):
            cut.append((left, right))
    is_exon = np.ones(gene.end - gene.start + 1, np.bool_)
    for left, right in cut:
        is_exon[left + 1 - gene.start : right - gene.start] = False
    exons = letters[gene.start - 1 : gene.end][is_exon]
    return exons if gene.strand == "+" else reverse_complement(exons)
