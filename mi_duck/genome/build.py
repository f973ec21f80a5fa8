"""FASTA and annotation to a dataset: one row per candidate position, in Parquet files of whole genes.

Two passes over the genome with one contig in memory at a time. `survey` checks that sequence and annotation
belong together and fits the base scores. The second pass draws the candidates of each gene, cuts their
windows and writes the rows; `row_columns`, which computes the columns, never sees a label.
"""

import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mi_duck.atomic_files import published_folder
from mi_duck.errors import DataError
from mi_duck.genome.annotation import Annotation, Gene, count_overlaps, read_annotation, strand_sites
from mi_duck.genome.base_scores import N_FOLDS, OF_ALL, SiteMatrices, cluster_fold, site_matrices
from mi_duck.genome.candidates import complete_genes, draw_candidates
from mi_duck.genome.columns import GeneFacts, dataset_schema, feature_columns, gene_facts
from mi_duck.genome.like import recipe_like
from mi_duck.genome.paralogs import check_aligner, paralog_groups
from mi_duck.genome.parts import Block, Written, row_groups, write_parts
from mi_duck.genome.score_files import SHIFTS, ScoreTable, SiteMeans, checked_scores, file_of, read_base_scores, side_of
from mi_duck.genome.sequence import KMER_LENGTHS, read_fasta, windows
from mi_duck.genome.survey import Survey, survey, without_known_ends
from mi_duck.processes import Report
from mi_duck.run.recipe import FoldMatrices, Recipe, input_facts, write_record

SMALLEST_WINDOW = 44

MOST_NAMES = 5  # in a warning; build.json has all
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
    n_paralog_groups, n_genes_with_paralogs
        Groups of clusters with copies of the same genes, and genes of groups of several clusters; None where copies were not
        looked for.
    n_complete_genes
        Genes of which every position is a row.
    n_introns, gt_ag_fraction
        Different introns, and the share that begins GT and ends AG: 0.97 to 0.99 in most genomes; far less
        says that FASTA and annotation do not belong together.
    n_short_introns, n_ambiguous_sites
        Gaps below 20 nt that are not introns; positions left out because they are donor and acceptor at once.
    n_genes_without_introns, n_genes_without_rows, n_genes_without_sequence, n_contigs_without_sequence
        Annotated genes (contigs) that give no rows; without rows: every site is ambiguous.
    n_exons_without_strand, n_exons_without_gene
        Exon lines ignored.
    n_rows_without_scores
        Rows that ``base_scores`` has no score for; their score features are null.
    n_exon_lines, n_coding_lines, n_transcripts, n_transcripts_of_pieces
        Of the annotation; the last have no exon lines: their exons were made of coding sequence and UTRs.
    split_genes
        Gene ids found in several locations, each made a gene of its own.
    genes_in_parts
        Genes between whose parts no intron was made: spliced in trans, or over the origin of a circle.
    mixed_genes
        Genes whose isoforms have no transcript ids and cannot be told apart, so that sites may be missing.
    genes_beyond_origin
        Genes that end beyond their circular contig, left out.
    left_out_introns, long_introns
        Introns left out, because they span a whole gene of their strand without GT..AG, GC..AG or AT..AC; introns of more
        than 1 Mb, which were kept.
    base_score_means, base_score_offsets
        Mean scores of the files at and beside the annotated sites, with these offsets added to the positions of the files.
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
    n_paralog_groups: int | None
    n_genes_with_paralogs: int | None
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
    n_rows_without_scores: int
    n_exon_lines: int
    n_coding_lines: int
    n_transcripts: int
    n_transcripts_of_pieces: int
    split_genes: tuple[str, ...]
    genes_in_parts: tuple[str, ...]
    mixed_genes: tuple[str, ...]
    genes_beyond_origin: tuple[str, ...]
    left_out_introns: tuple[str, ...]
    long_introns: tuple[str, ...]
    base_score_means: tuple[SiteMeans, ...]
    base_score_offsets: dict[str, int]
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
            "contigs of the annotation that are not in the FASTA": self.n_contigs_without_sequence,
            "rows without a base score in the files; their score features are null": self.n_rows_without_scores,
            "exon lines without a strand, ignored": self.n_exons_without_strand,
            "exon lines without a gene, ignored": self.n_exons_without_gene,
            "positions that are donor and acceptor at once, left out": self.n_ambiguous_sites,
        }
        named = {
            "gene ids in several locations, each made a gene of its own": self.split_genes,
            "genes in parts (spliced in trans, or over an origin), with no intron between them": self.genes_in_parts,
            "genes with overlapping exons and no transcript ids: isoforms cannot be told apart, sites may be missing": (
                self.mixed_genes
            ),
            "genes that end beyond their circular contig, left out": self.genes_beyond_origin,
            "introns that span a whole gene without GT..AG, left out": self.left_out_introns,
            "introns longer than 1 Mb": self.long_introns,
        }
        found += [f"{words}: {count:,}" for words, count in counts.items() if count]
        found += [f"{words}: {len(names):,} ({_listed(names)})" for words, names in named.items() if names]
        return found + [
            f"{one.site} scores on strand {one.strand} are not highest at the {one.n_sites:,} annotated sites: mean "
            f"{one.means[SHIFTS.index(0)]:.3f} there, {max(one.means):.3f} at {one.best_shift:+d} nt"
            for one in self.base_score_means
            if one.best_shift
        ]

    @property
    def text(self) -> dict[str, str]:
        """What was used, merged and left out, in words: a line for each kind of thing."""
        pieces = self.n_transcripts_of_pieces
        clusters = f"{self.n_genes:,} in {self.n_clusters:,} overlap clusters"
        if self.n_paralog_groups is not None:
            clusters += (
                f", {self.n_paralog_groups:,} groups with paralogs joined ({self.n_genes_with_paralogs:,} genes of several "
                "clusters)"
            )
        return {
            "annotation": f"{self.n_exon_lines:,} exon and {self.n_coding_lines:,} coding lines, {self.n_transcripts:,} "
            f"transcripts, {pieces:,} of them without exon lines, made of coding sequence and UTR; ignored "
            f"{self.n_exons_without_strand:,} lines without a strand and {self.n_exons_without_gene:,} without a gene",
            "genes": f"{clusters}; left out {self.n_genes_without_introns:,} "
            f"without introns, {self.n_genes_without_sequence:,} without a sequence, {self.n_genes_without_rows:,} without "
            f"rows, {len(self.genes_beyond_origin):,} beyond an origin",
            "introns": f"{self.n_introns:,}, {self.gt_ag_fraction:.1%} GT..AG; left out {self.n_short_introns:,} gaps below "
            f"20 nt and {len(self.left_out_introns):,} that span a whole gene without GT..AG",
            "rows": f"{self.n_rows:,}: {self.n_donors:,} donors, {self.n_acceptors:,} acceptors, {self.n_neither:,} neither; "
            f"left out {self.n_ambiguous_sites:,} positions that are donor and acceptor at once",
            "dataset": f"{self.n_features:,} features, {self.n_files:,} files, {self.n_complete_genes:,} genes with every "
            f"position; {self.seconds:,.1f} s",
        } | {
            f"{one.site}, strand {one.strand}": f"offset {self.base_score_offsets.get(one.site + one.strand, 0):+d}; mean "
            f"score {one.means[SHIFTS.index(0)]:.3f} at {one.n_scored:,} of {one.n_sites:,} annotated sites; beside them "
            + ", ".join(f"{mean:.3f} at {shift:+d}" for shift, mean in zip(SHIFTS, one.means, strict=True) if shift)
            for one in self.base_score_means
        }


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - MOST_NAMES:,} more" if len(names) > MOST_NAMES else ""
    return ", ".join(names[:MOST_NAMES]) + more


def build(
    fasta: Path,
    annotation: Path,
    out: Path,
    *,
    negatives_per_site: float = 9.0,
    hard_negatives: float = 0.5,
    base_scores: Sequence[str | Path] = (),
    base_score_offset: Sequence[str] = (),
    annotation_features: bool = False,
    gene_features: bool = True,
    like: Path | None = None,
    paralogs: bool = False,
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
    negatives_per_site, hard_negatives
        Negatives drawn per splice site of a gene, and the share of them that is hard: decoys and neighbours of sites.
    base_scores, base_score_offset
        Files with the scores of another model instead of cross-fitted position weight matrices, and what to add to their
        positions: see `mi_duck.genome.score_files.read_base_scores`.
    annotation_features
        Add gene_start, gene_end, n_transcripts, n_exons, n_introns: the same for all rows of a gene, but they
        do not exist for a new sequence, and they depend on how well a gene has been studied.
    gene_features
        Whether there are features of the gene that a position lies in (its length, the distance to its ends, how many genes
        overlap it). A model without them needs no genes to predict new sequence.
    like
        Run folder or model file: features are made as for this model, base scores by its weight matrices, and nothing is
        fitted to the labels.
    paralogs
        Whether clusters of genes whose transcripts align become one group of the column ``paralog_group``, which is then the
        unit of independence: see `mi_duck.genome.paralogs`.
    all_positions
        Number of genes, of at most 20,000 nt and chosen by seed, of which every position is a row.
    window
        Letters of the k-mer window, even, 44 or more: half upstream of the position, half from it on.
    seed
        Any integer. The same input and settings give the same files, byte for byte.
    report
        Called with (stage, genes done, genes); stages are "annotation", "splice sites", "aligning transcripts", "rows".

    Raises
    ------
    DataError
        Input that cannot be used, settings out of range or not those of the model, or ``out`` is a file or not empty.
    CheckpointError
        ``like`` is not a model of a dataset that was built from sequence.

    Notes
    -----
    A gene's rows are in one file; genes are in the order of contigs, starts and gene ids, rows in that of the transcript.
    Row groups have at most 8,192 rows and page checksums. Everything is written to a hidden folder beside ``out``, which
    is renamed at the end.
    """
    started = time.monotonic()
    _check_settings(negatives_per_site, hard_negatives, all_positions, genes_per_file, window)
    if base_score_offset and not base_scores:
        raise DataError("an offset of base scores is given, but no file of base scores; give --base-scores too")
    if annotation_features and not gene_features:
        raise DataError(
            "features of the annotation are features of genes; leave --annotation-features out, or genes in"
        )
    if paralogs:
        check_aligner()
    report = report or (lambda stage, done, total: None)
    model, model_sha256 = None, None
    if like is not None:
        model, model_sha256 = recipe_like(
            like,
            window=window,
            gene_features=gene_features,
            annotation_features=annotation_features,
            base_scores=base_scores,
        )
        window, gene_features, annotation_features = model.window, model.gene_features, model.annotation_features
    settings = {
        "negatives_per_site": negatives_per_site,
        "hard_negatives": hard_negatives,
        "annotation_features": annotation_features,
        "gene_features": gene_features,
        "like_model_sha256": model_sha256,
        "paralogs": paralogs,
        "all_positions": all_positions,
        "genes_per_file": genes_per_file,
        "window": window,
        "base_score_offset": list(base_score_offset),
        "seed": seed,
    }
    with published_folder(out) as folder:
        annotated, found = surveyed(fasta, annotation, padding=window // 2, seed=seed, report=report)
        genes = [gene for gene in found.genes if gene.introns]
        table, means = _scores(base_scores, base_score_offset, genes)
        groups = paralog_groups(fasta, genes, found.clusters, report=report) if paralogs else None
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
        is_fitted = table is None and model is None
        written = write_parts(
            folder / "master",
            row_groups(rows, genes_per_file),
            _facts(found, genes, groups),
            matrices=_matrices(found, table, model),
            folds=np.array([cluster_fold(found.clusters[gene.gene_id], seed) * is_fitted for gene in genes], np.int64),
            schema=dataset_schema(
                annotation_features=annotation_features, gene_features=gene_features, paralogs=paralogs
            ),
            report=report,
        )
        if written.n_without_scores == sum(written.class_rows):
            raise DataError(
                f"no row is among the positions of {table.name if table else fasta}; they must be 1-based, on the gene's strand"
            )
        summary = _summary(annotated, found, genes, groups, written, settings, table, means, time.monotonic() - started)
        recipe = model or Recipe(
            window, KMER_LENGTHS, gene_features, annotation_features, found.matrices.of(OF_ALL) if is_fitted else None
        )
        folds = FoldMatrices(seed, tuple(map(found.matrices.of, range(N_FOLDS)))) if is_fitted else None
        _write_record(folder, (fasta, annotation, base_scores), settings, summary, recipe, folds)
    return summary


def _matrices(found: Survey, table: ScoreTable | None, model: Recipe | None) -> SiteMatrices | None:
    """Return the base model: that of a model, or what was fitted here; None where the scores are those of files."""
    if table is not None:
        return None
    return found.matrices if model is None or model.matrices is None else site_matrices([model.matrices])


def surveyed(fasta: Path, annotation: Path, *, padding: int, seed: int, report: Report) -> tuple[Annotation, Survey]:
    """Return the annotation, without introns that the genome speaks against, and its survey."""
    annotated = read_annotation(annotation, implausible=partial(without_known_ends, fasta))
    report("annotation", len(annotated.genes), len(annotated.genes))
    return annotated, survey(fasta, annotated, padding=padding, seed=seed, report=report)


def _scores(
    files: Sequence[str | Path], offsets: Sequence[str], genes: Sequence[Gene]
) -> tuple[ScoreTable | None, list[SiteMeans]]:
    return checked_scores(read_base_scores(files, genes, offsets), genes, offsets) if files else (None, [])


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


def _facts(found: Survey, genes: Sequence[Gene], paralogs: Mapping[str, str] | None) -> GeneFacts:
    """Return the facts of the genes with introns; overlaps count those without introns too."""
    overlaps = dict(zip((gene.gene_id for gene in found.genes), count_overlaps(found.genes).tolist(), strict=True))
    return gene_facts(
        genes,
        clusters=found.clusters,
        n_overlaps=[overlaps[gene.gene_id] for gene in genes],
        contig_lengths=found.contig_lengths,
        paralogs=paralogs,
    )


def _summary(
    annotated: Annotation,
    found: Survey,
    genes: Sequence[Gene],
    paralogs: Mapping[str, str] | None,
    written: Written,
    settings: Mapping[str, Any],
    table: ScoreTable | None,
    means: Sequence[SiteMeans],
    seconds: float,
) -> BuildSummary:
    n_neither, n_donors, n_acceptors = written.class_rows
    return BuildSummary(
        n_genes=written.n_genes,
        n_rows=sum(written.class_rows),
        n_files=written.n_files,
        n_features=len(
            feature_columns(
                annotation_features=settings["annotation_features"], gene_features=settings["gene_features"]
            )
        ),
        n_neither=n_neither,
        n_donors=n_donors,
        n_acceptors=n_acceptors,
        n_clusters=len(set(found.clusters.values())),
        n_paralog_groups=None if paralogs is None else len(set(paralogs.values())),
        n_genes_with_paralogs=None if paralogs is None else _n_of_several(found.clusters, paralogs),
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
        n_rows_without_scores=written.n_without_scores,
        n_exon_lines=annotated.n_exon_lines,
        n_coding_lines=annotated.n_coding_lines,
        n_transcripts=annotated.n_transcripts,
        n_transcripts_of_pieces=annotated.n_transcripts_of_pieces,
        split_genes=annotated.split_genes,
        genes_in_parts=annotated.genes_in_parts,
        mixed_genes=annotated.mixed_genes,
        genes_beyond_origin=found.beyond_origin,
        left_out_introns=tuple(map(str, annotated.left_out)),
        long_introns=tuple(str(one) for one in annotated.odd_introns if one.is_long),
        base_score_means=tuple(means),
        base_score_offsets={} if table is None else {f"{site}{at}": n for (site, at), n in table.offsets.items()},
        seconds=seconds,
    )


def _n_of_several(clusters: Mapping[str, str], paralogs: Mapping[str, str]) -> int:
    """Return how many genes are in groups of several clusters."""
    members: dict[str, set[str]] = defaultdict(set)
    for gene_id, group in paralogs.items():
        members[group].add(clusters[gene_id])
    return sum(len(members[group]) > 1 for group in paralogs.values())


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
    folder: Path,
    inputs: tuple[Path, Path, Sequence[str | Path]],
    settings: Mapping[str, object],
    summary: BuildSummary,
    recipe: Recipe,
    folds: FoldMatrices | None,
) -> None:
    """Record inputs, settings, counts, base model and versions; no times, so that equal builds give equal files."""
    from mi_duck import __version__

    counts = asdict(summary)
    del counts["seconds"]
    fasta, annotation, base_scores = inputs
    record = {
        "format": 2,
        "inputs": {
            "fasta": input_facts(fasta, folder),
            "annotation": input_facts(annotation, folder),
            "base_scores": [input_facts(file_of(one), folder, side_of(one)) for one in base_scores],
        },
        "settings": settings,
        "counts": counts,
        "versions": {"mi_duck": __version__, "numpy": np.__version__, "pyarrow": pa.__version__},
        "recipe": recipe.to_dict(),
        "cross_fit": None if folds is None else asdict(folds),
    }
    write_record(folder, record)
