"""Predicts the positions of a genome: FASTA and a model to Parquet, BED or bigWig, in bounded memory.

As `mi_duck.ensemble.predict`, it saves what is scored part by part in ``.OUT.parts/`` beside the file, so that a killed call
goes on where it stopped, and writes the file from the parts.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mi_duck.atomic_files import file_sha256, storage_errors
from mi_duck.data.dataset import CLASSES
from mi_duck.ensemble.interface import MatrixModel
from mi_duck.ensemble.model import ConsolidatedMetaModel, InstanceModel, by_member
from mi_duck.ensemble.model_file import model_sha256
from mi_duck.ensemble.predict import Parts, check_replaceable
from mi_duck.errors import DataError
from mi_duck.genome.annotation import Gene
from mi_duck.genome.base_scores import site_matrices
from mi_duck.genome.columns import feature_columns
from mi_duck.genome.like import check_kind, recipe_of
from mi_duck.genome.scan import MOST_POSITIONS, PART_POSITIONS, Scored, Scorer, positions_of_parts, scan, score_table
from mi_duck.genome.score_files import ScoreTable, file_of, read_base_scores
from mi_duck.genome.span_features import plan_features
from mi_duck.genome.targets import Targets, contig_targets, gene_targets, region_targets
from mi_duck.genome.tracks import SITES, file_form, track_files, write_tracks
from mi_duck.processes import Report
from mi_duck.run.folder import run_lock
from mi_duck.run.recipe import Recipe
from mi_duck.settings import Scanning

THRESHOLD = "best_f1"
"""Which of the model's thresholds calls a site."""
ALL = "joined_rows.parquet"


@dataclass(frozen=True, slots=True)
class ScanSummary:
    """What was predicted.

    Attributes
    ----------
    n_contigs, n_targets, n_positions
        Contigs with targets, genes or regions or strands, and positions of all of them.
    n_rows
        Rows written, or scores or sites of tracks.
    n_positions_before
        Positions of an earlier, killed call.
    n_genes_trained_on
        Genes that the model was trained on; None where there are no genes, or that cannot be told.
    least
        The probability from which each kind of site is written.
    files
        What was written.
    warnings
        What a reader must know, one sentence each.
    """

    n_contigs: int
    n_targets: int
    n_positions: int
    n_rows: int
    n_positions_before: int
    n_genes_trained_on: int | None
    least: dict[str, float]
    files: tuple[str, ...]
    warnings: tuple[str, ...]


def predict_sequence(
    model: ConsolidatedMetaModel | InstanceModel | MatrixModel,
    scanning: Scanning,
    out: Path,
    *,
    source: str = "this file",
    threads: int = 1,
    report: Report,
) -> ScanSummary:
    """Predict every position that is asked for into one Parquet file or into tracks of a genome browser.

    Parameters
    ----------
    scanning
        Genome, positions and candidates.
    out
        ``.parquet``: a row for each position (of each gene), positions counting from 1. ``.bed`` or ``.bed.gz``: a line for each
        site that reaches the threshold, from 0, half-open. ``.bw``: every score, in one file for each class and strand.
    source
        Where the model comes from, for messages.

    Raises
    ------
    DataError
        Files or options that cannot be used, or features that need genes where there are none.
    CheckpointError
        The model does not say how its features are made of sequence.
    """
    if not isinstance(model, ConsolidatedMetaModel | InstanceModel):
        raise DataError(
            f"the model of {source} is not of boosted trees, and only these predict a genome; make features with 'mi-duck build "
            "--like', and predict that dataset"
        )
    fasta = _checked(scanning)
    form = file_form(out)
    inputs = (fasta, scanning.annotation, scanning.regions, *map(file_of, scanning.base_scores or ()))
    written = track_files(out).values() if form == "bigwig" else [out]
    if {file.resolve() for file in written} & {file.resolve() for file in inputs if file is not None}:
        raise DataError(f"--out {out} is one of the input files; choose another")
    if form == "parquet":
        check_replaceable(out, {"absolute_position", "strand", "prediction"})
    recipe = recipe_of(model.recipe, source)
    if tuple(model.classes) != CLASSES:
        raise DataError(f"the model of {source} has the classes {', '.join(model.classes)}, not those of splice sites")
    check_kind(recipe, scanning.base_scores, source)
    scorer = model_scorer(model, recipe)
    if scorer.plan.needs_gene and scanning.annotation is None:
        raise DataError(
            f"trees of the model look at features of genes ({', '.join(scorer.plan.needs_gene)}), which regions and contigs do "
            "not have; give --annotation, or train on a dataset of 'mi-duck build --no-gene-features'"
        )
    least = _least(model, scanning.min_score, form)
    targets = targets_of(scanning)
    table = score_files_of(scanning, targets)
    training, genes = model.training, [one.gene_id for one in targets if one.gene_id is not None]
    is_told = bool(genes) and training.gene_column is not None
    is_trained = dict(zip(genes, training.has_gene(genes).tolist(), strict=True)) if is_told else None
    parts = Parts(out.with_name(f".{out.name}.parts"))
    with storage_errors(out), run_lock(parts.folder):
        number = parts.begin(_facts(model, scanning, least))
        n_before = done = positions_of_parts(targets, lambda target: scorer, number)
        for part in scan(
            fasta,
            targets,
            lambda target: scorer,
            table=table,
            only_gt_ag=scanning.candidates == "gt-ag",
            n_parts_done=number,
            threads=threads,
        ):
            parts.save(number, _joined(part, is_trained, min(least.values())))
            number, done = number + 1, done + sum(one.n_positions for one in part)
            report("predicting", done, targets.n_positions)
        rows = parts.folder / ALL
        n_rows = sum(len(part) for part in parts.join(out if form == "parquet" else rows, lambda: None))
        files = [out]
        if form != "parquet":
            n_rows, files = write_tracks(rows, out, form, targets, least, scratch=parts.folder, report=report)
            rows.unlink()
        parts.remove()
    n_trained = None if is_trained is None else sum(is_trained.values())
    return ScanSummary(
        n_contigs=len(targets.by_contig),
        n_targets=sum(1 for _ in targets),
        n_positions=targets.n_positions,
        n_rows=n_rows,
        n_positions_before=n_before,
        n_genes_trained_on=n_trained,
        least=least,
        files=tuple(map(str, files)),
        warnings=targets.warnings + _warnings(n_trained, len(genes), scanning),
    )


def model_scorer(model: ConsolidatedMetaModel | InstanceModel, recipe: Recipe) -> Scorer:
    """Return what scores a genome that the model never saw; a DataError where it needs other features than the recipe's."""
    if not isinstance(model, ConsolidatedMetaModel):
        raise DataError("the model of one instance does not say how features are made; give the run")
    known = feature_columns(annotation_features=recipe.annotation_features, gene_features=recipe.gene_features)
    plan = plan_features(model.forest.features, recipe.window, known)

    def join(joined: Any) -> Any:
        margins = by_member(joined, len(model.members))
        return model.join(margins, model.probabilities_of_members(margins))

    matrices = None if recipe.matrices is None else site_matrices([recipe.matrices])
    return Scorer(plan, model.forest, join, matrices, 0)


def targets_of(scanning: Scanning) -> Targets:
    """Return what is to be scored; a DataError where not exactly one kind of positions is asked for."""
    fasta = _checked(scanning)
    if scanning.annotation is not None:
        return gene_targets(fasta, scanning.annotation)
    if scanning.regions is not None:
        return region_targets(fasta, scanning.regions)
    return contig_targets(fasta)


def _checked(scanning: Scanning) -> Path:
    """Return the genome; a DataError where there is none, or not exactly one kind of positions."""
    asked = [scanning.annotation is not None, scanning.regions is not None, scanning.whole_contigs]
    if scanning.fasta is None or sum(asked) != 1:
        raise DataError("give --fasta, and one of --annotation, --regions and --whole-contigs")
    if scanning.base_score_offset and not scanning.base_scores:
        raise DataError("an offset of base scores is given, but no file of base scores; give --base-scores too")
    return scanning.fasta


def score_files_of(scanning: Scanning, targets: Targets) -> ScoreTable | None:
    """Read the files of base scores within the targets, if any."""
    if not scanning.base_scores:
        return None
    spans = [Gene("", "", "", one.chrom, one.strand, one.start, one.end, 0, 0, ()) for one in targets]
    if "auto" in scanning.base_score_offset:
        raise DataError("an automatic offset of base scores needs annotated sites; give the offsets that 'build' found")
    return read_base_scores(scanning.base_scores, spans, scanning.base_score_offset)


def _least(model: ConsolidatedMetaModel | InstanceModel, asked: float | None, form: str) -> dict[str, float]:
    """Return the probability from which each kind of site is written."""
    if asked is not None or form != "bed":
        return dict.fromkeys(SITES, asked or 0.0)
    found = {site: model.thresholds.get(site, {}).get(THRESHOLD) for site in SITES}
    known = {site: value for site, value in found.items() if value is not None}
    if len(known) < len(SITES):
        raise DataError("the model has no threshold for one of the sites; give --min-score")
    return known


def _joined(part: list[Scored], is_trained: Mapping[str, bool] | None, least: float) -> pa.Table:
    # one chunk per column, so that the bytes do not depend on the size of blocks
    return pa.concat_tables([score_table(one, is_trained, least) for one in part]).combine_chunks()


def _facts(
    model: ConsolidatedMetaModel | InstanceModel, scanning: Scanning, least: Mapping[str, float]
) -> dict[str, Any]:
    """Return all that the bytes of the parts depend on, as JSON."""
    inputs = [scanning.fasta, scanning.annotation, scanning.regions, *map(file_of, scanning.base_scores)]
    return {
        "version": 1,
        "sizes": [MOST_POSITIONS, PART_POSITIONS],
        "packages": {"numpy": np.__version__, "pyarrow": pa.__version__, "xgboost": version("xgboost")},
        "model": model_sha256(model),
        "inputs": [None if one is None else file_sha256(one) for one in inputs],
        "settings": [scanning.whole_contigs, scanning.candidates, *scanning.base_score_offset],
        "sides": list(map(str, scanning.base_scores)),
        "least": dict(least),
    }


def _warnings(n_trained: int | None, n_genes: int, scanning: Scanning) -> tuple[str, ...]:
    found = []
    if n_trained:
        found.append(
            f"the model was trained on {n_trained:,} of {n_genes:,} genes (trained_on of a Parquet file): their scores look "
            "better than those of new genes"
        )
    if scanning.base_scores:
        found.append(
            "base scores of the files are taken as they are; whether their positions are shifted is not checked"
        )
    return tuple(found)
