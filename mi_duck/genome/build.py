"""FASTA and annotation to a dataset: one row per candidate position, in Parquet files of whole genes.

Two passes over the genome with one contig in memory at a time. `survey` checks that sequence and annotation
belong together and fits the base scores. The second pass draws the candidates of each gene, cuts their
windows and writes the rows; `row_columns`, which computes the columns, never sees a label.
"""

import json
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mi_duck.atomic_files import published_folder
from mi_duck.errors import DataError
from mi_duck.genome.annotation import Annotation, Gene, count_overlaps, read_annotation, strand_sites
from mi_duck.genome.base_scores import ScoreTable, cluster_fold, read_base_scores
from mi_duck.genome.candidates import complete_genes, draw_candidates
from mi_duck.genome.columns import GeneFacts, dataset_schema, feature_columns, gene_facts
from mi_duck.genome.parts import Block, Written, row_groups, write_parts
from mi_duck.genome.sequence import read_fasta, windows
from mi_duck.genome.survey import Survey, survey
from mi_duck.processes import Report

SMALLEST_WINDOW = 44

LEAST_GT_AG = 0.9  # of introns; in most genomes it is .97 or more


@dataclass(frozen=True, slots=True)
class BuildSummary:
    """What was built.

    Attributes
    ----------
    n_genes, n_rows, n_files, n_features
        Genes with introns, candidate positions, Parquet files, feature columns.
    n_neither, n_donors, n_acceptors
        Rows per class.
    n_clusters
        Overlap clusters of genes.
    n_complete_genes
        Genes of which every position is a row.
    n_introns, gt_ag_fraction
        Different introns, and the share that begins GT and ends AG: 0.97 to 0.99 in most genomes; far less
        says that FASTA and annotation do not belong together.
    n_short_introns, n_ambiguous_sites
        Gaps below 20 nt that are not introns; positions left out because they are donor and acceptor at once.
    n_genes_without_introns, n_genes_without_rows, n_genes_without_sequence, n_contigs_without_sequence
        Annotated genes (contigs) that give no rows; without rows: every site is ambiguous.
    n_exons_without_strand, n_exons_without_gene, n_split_genes
        Exon lines ignored; gene ids on several chromosomes or strands, each made a gene of its own.
    n_rows_without_scores
        Rows that ``base_scores`` has no score for; their score features are null.
    seconds
        Wall time.
    """

    n_genes: int
    n_rows: int
    n_files: int
    n_features: int
    n_neither: int
    n_donors: int
    n_acceptors: int
    n_clusters: int
    n_complete_genes: int
    n_introns: int
    gt_ag_fraction: float
    n_short_introns: int
    n_ambiguous_sites: int
    n_genes_without_introns: int
    n_genes_without_rows: int
    n_genes_without_sequence: int
    n_contigs_without_sequence: int
    n_exons_without_strand: int
    n_exons_without_gene: int
    n_split_genes: int
    n_rows_without_scores: int
    seconds: float

    @property
    def warnings(self) -> list[str]:
        """What a user should look at before a model is trained on it."""
        found = []
        if self.gt_ag_fraction < LEAST_GT_AG:
            found.append(
                f"only {self.gt_ag_fraction:.1%} of introns begin GT and end AG; do FASTA and annotation belong together?"
            )
        counts = {
            "contigs of the annotation are not in the FASTA": self.n_contigs_without_sequence,
            "rows have no base score in the file; their score features are null": self.n_rows_without_scores,
            "exon lines without a strand were ignored": self.n_exons_without_strand,
            "exon lines without a gene were ignored": self.n_exons_without_gene,
            "positions are donor and acceptor at once and were left out": self.n_ambiguous_sites,
        }
        return found + [f"{count:,} {words}" for words, count in counts.items() if count]


def build(
    fasta: Path,
    annotation: Path,
    out: Path,
    *,
    negatives_per_site: float = 9.0,
    hard_negatives: float = 0.5,
    base_scores: Path | None = None,
    annotation_features: bool = False,
    all_positions: int = 0,
    genes_per_file: int = 500,
    window: int = 500,
    seed: int = 42,
    report: Report | None = None,
) -> BuildSummary:
    """Build a dataset from a genome and its annotation.

    Parameters
    ----------
    fasta, annotation
        Genome, and GTF or GFF3; plain or gzip. Contigs are matched by the first word of the FASTA headers.
    out
        Folder to make: ``master/part-*.parquet`` and ``build.json``. It must not exist or be empty.
    negatives_per_site
        Negatives drawn per splice site of a gene, 0 or more.
    hard_negatives
        Share of them that is hard (decoys and neighbours of sites), 0 to 1.
    base_scores
        File with the scores of another model instead of cross-fitted position weight matrices.
    annotation_features
        Add gene_start, gene_end, n_transcripts, n_exons, n_introns: the same for all rows of a gene, but they
        do not exist for a new sequence, and they depend on how well a gene has been studied.
    all_positions
        Number of genes, of at most 20,000 nt and chosen by seed, of which every position is a row.
    genes_per_file
        Genes in one Parquet file.
    window
        Letters of the k-mer window, even, 44 or more: half upstream of the position, half from it on.
    seed
        Any integer. The same input and settings give the same files, byte for byte.
    report
        Called with (stage, genes done, genes); stages are "annotation", "splice sites", "rows".

    Raises
    ------
    DataError
        Input that cannot be used, settings out of range, or ``out`` is a file or not empty.
    StorageError
        The dataset cannot be written.

    Notes
    -----
    A gene's rows are in one file; genes are in the order of contigs, starts and gene ids, rows in that of the transcript.
    Row groups have at most 8,192 rows and page checksums. Everything is written to a hidden folder beside ``out``, which
    is renamed at the end.
    """
    started = time.monotonic()
    _check_settings(negatives_per_site, hard_negatives, all_positions, genes_per_file, window)
    report = report or (lambda stage, done, total: None)
    settings = {
        "negatives_per_site": negatives_per_site,
        "hard_negatives": hard_negatives,
        "annotation_features": annotation_features,
        "all_positions": all_positions,
        "genes_per_file": genes_per_file,
        "window": window,
        "seed": seed,
    }
    with published_folder(out) as folder:
        annotated = read_annotation(annotation)
        report("annotation", len(annotated.genes), len(annotated.genes))
        found = survey(fasta, annotated.genes, padding=window // 2, seed=seed, report=report)
        genes = [gene for gene in found.genes if gene.introns]
        table = read_base_scores(base_scores, genes) if base_scores is not None else None
        rows = _gene_rows(
            fasta,
            genes,
            table=table,
            negatives_per_site=negatives_per_site,
            hard_negatives=hard_negatives,
            complete=complete_genes(genes, all_positions, seed),
            window=window,
            seed=seed,
        )
        written = write_parts(
            folder / "master",
            row_groups(rows, genes_per_file),
            _facts(found, genes),
            matrices=found.matrices if table is None else None,
            folds=np.array([cluster_fold(found.clusters[gene.gene_id], seed) for gene in genes], np.int64),
            schema=dataset_schema(annotation_features=annotation_features),
            report=report,
        )
        if written.n_without_scores == sum(written.class_rows):
            raise DataError(
                f"no row is among the positions of {base_scores}; they must be 1-based, on the gene's strand"
            )
        summary = _summary(annotated, found, genes, written, settings, time.monotonic() - started)
        _write_record(folder / "build.json", fasta, annotation, base_scores, settings, summary)
    return summary


def _check_settings(
    negatives_per_site: float, hard_negatives: float, all_positions: int, genes_per_file: int, window: int
) -> None:
    """Refuse settings out of range; written so that NaN is refused too."""
    if not 0 <= negatives_per_site < float("inf"):
        raise DataError(f"{negatives_per_site} negatives per site; give 0 or more")
    if not 0 <= hard_negatives <= 1:
        raise DataError(f"{hard_negatives} of the negatives are to be hard; give a share between 0 and 1")
    if all_positions < 0 or genes_per_file < 1:
        raise DataError(
            f"all positions of {all_positions} genes, {genes_per_file} genes per file; give at least 0 and 1"
        )
    if window < SMALLEST_WINDOW or window % 2:
        raise DataError(f"a window of {window} nt; give an even number of at least {SMALLEST_WINDOW}")
    if negatives_per_site == 0 and all_positions == 0:
        raise DataError("0 negatives per site and 0 genes with all positions: no row would be neither; raise one")


def _facts(found: Survey, genes: Sequence[Gene]) -> GeneFacts:
    """Return the facts of the genes with introns; overlaps count those without introns too."""
    overlaps = dict(zip((gene.gene_id for gene in found.genes), count_overlaps(found.genes).tolist(), strict=True))
    return gene_facts(
        genes,
        clusters=found.clusters,
        n_overlaps=[overlaps[gene.gene_id] for gene in genes],
        contig_lengths=found.contig_lengths,
    )


def _summary(
    annotated: Annotation,
    found: Survey,
    genes: Sequence[Gene],
    written: Written,
    settings: Mapping[str, Any],
    seconds: float,
) -> BuildSummary:
    n_neither, n_donors, n_acceptors = written.class_rows
    return BuildSummary(
        n_genes=written.n_genes,
        n_rows=sum(written.class_rows),
        n_files=written.n_files,
        n_features=len(feature_columns(annotation_features=settings["annotation_features"])),
        n_neither=n_neither,
        n_donors=n_donors,
        n_acceptors=n_acceptors,
        n_clusters=len(set(found.clusters.values())),
        n_complete_genes=settings["all_positions"],
        n_introns=found.n_introns,
        gt_ag_fraction=found.gt_ag_fraction,
        n_short_introns=annotated.n_short_introns,
        n_ambiguous_sites=sum(sites.ambiguous.size for sites in strand_sites(genes).values()),
        n_genes_without_introns=len(found.genes) - len(genes),
        n_genes_without_rows=len(genes) - written.n_genes,
        n_genes_without_sequence=found.n_genes_without_sequence,
        n_contigs_without_sequence=found.n_contigs_without_sequence,
        n_exons_without_strand=annotated.n_exons_without_strand,
        n_exons_without_gene=annotated.n_exons_without_gene,
        n_split_genes=annotated.n_split_genes,
        n_rows_without_scores=written.n_without_scores,
        seconds=seconds,
    )


def _gene_rows(
    fasta: Path,
    genes: Sequence[Gene],
    *,
    table: ScoreTable | None,
    negatives_per_site: float,
    hard_negatives: float,
    complete: frozenset[str],
    window: int,
    seed: int,
) -> Iterator[Block]:
    """Second pass: yield the rows of each gene, genes in the order given, which is that of the contigs."""
    by_contig: dict[str, list[int]] = defaultdict(list)
    for index, gene in enumerate(genes):
        by_contig[gene.chrom].append(index)
    for contig in read_fasta(fasta):
        local = by_contig.get(contig.name, [])
        sites = strand_sites(genes[index] for index in local)
        for index in local:
            gene = genes[index]
            rows = draw_candidates(
                gene,
                contig.letters,
                sites[gene.chrom, gene.strand],
                negatives_per_site=negatives_per_site,
                hard_negatives=hard_negatives,
                is_complete=gene.gene_id in complete,
                seed=seed,
            )
            positions = gene.start + rows.offsets if gene.strand == "+" else gene.end - rows.offsets
            if table is None:
                scores = np.empty((len(positions), 0))
            else:
                found = table.around(gene.chrom, gene.strand, positions)
                scores = np.column_stack([found.donor, found.acceptor, found.neither, found.context])
            yield Block(
                np.full(len(positions), index, np.int64),
                rows.offsets,
                rows.labels,
                windows(contig.letters, positions, gene.strand, window),
                scores,
            )


def _write_record(
    path: Path,
    fasta: Path,
    annotation: Path,
    base_scores: Path | None,
    settings: Mapping[str, object],
    summary: BuildSummary,
) -> None:
    """Record inputs, settings, counts and versions; no times, so that equal builds give equal files."""
    from mi_duck import __version__

    counts = asdict(summary)
    del counts["seconds"]
    record = {
        "format": 1,
        "inputs": {
            name: {"name": path.name, "bytes": path.stat().st_size} if path is not None else None
            for name, path in (("fasta", fasta), ("annotation", annotation), ("base_scores", base_scores))
        },
        "settings": settings,
        "counts": counts,
        "versions": {"mi_duck": __version__, "numpy": np.__version__, "pyarrow": pa.__version__},
    }
    path.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
