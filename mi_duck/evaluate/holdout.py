"""Scores the consolidated model, its members and the base model on genes that nothing was trained on.

The models are the final ones of the model file, not those of a fold. Calibrators of the base model are fitted on all
rows of the run, none of which is held out. Base model and ensemble are compared under the same draws of held-out fold groups.
"""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mi_duck.atomic_files import published_file, storage_errors, write_csv
from mi_duck.boosting.write_instance import out_of_fold_table
from mi_duck.classifiers.model import load_unified_model
from mi_duck.ensemble.interface import MatrixModel
from mi_duck.ensemble.member_scores import open_member_scores
from mi_duck.ensemble.model import ConsolidatedMetaModel
from mi_duck.errors import CheckpointError
from mi_duck.evaluate.scored_rows import base_model_of_run, metric_lines, scored_rows
from mi_duck.metrics.calibrate import BaseModel
from mi_duck.metrics.metrics import DRAWS, GAIN, Drawn, differences, draw_groups, drawn_scores, summary
from mi_duck.metrics.ranking import Floats, Floats32
from mi_duck.processes import Report
from mi_duck.rows.kept import read_kept, with_kept
from mi_duck.rows.segments import SegmentReader
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import GeneFolds, genes_file, read_gene_folds
from mi_duck.run.plan import Plan

BATCH_BYTES = 64 << 20
STAGE = "scoring held-out genes"


def evaluate_holdout(*, run: str, threads: int, report: Report) -> None:
    """Score held-out genes: adds lines ``holdout`` to ``metrics.csv``, writes ``holdout_predictions.parquet``.

    The run is consolidated and evaluated, and its segments and member scores are still in its scratch.
    """
    folder = RunFolder(Path(run))
    plan = folder.read_plan()
    model = load_unified_model(folder.model, trust_pickle=True)  # this same command has just written it
    if not isinstance(model, ConsolidatedMetaModel | MatrixModel):
        raise CheckpointError(f"{folder.model} is not an ensemble; run 'mi-duck consolidate {folder.root}'")
    reader = SegmentReader(plan, plan.cut.holdout_segments, folder.segments)
    keys = reader.keys()
    table = pq.read_table(genes_file(folder, plan), columns=["gene_id", "fold_group"]).slice(plan.data.n_genes)
    gene_id, fold_group = (np.array(table[name].to_pylist(), dtype=object) for name in table.column_names)
    genes = GeneFolds(gene_id, fold_group, np.zeros(len(table), dtype=np.int64), first_rank=plan.data.n_genes)
    gene = keys["gene_rank"].astype(np.int64) - plan.data.n_genes
    group = np.unique(fold_group, return_inverse=True)[1][gene]
    label = keys["label"].astype(np.int64)
    combined, members, base = _predictions(plan, model, reader, len(keys), threads, report)
    _write_predictions(folder, plan, keys, genes, combined)
    group_draws = draw_groups(group, seed=plan.settings.seed, draws=DRAWS)

    def drawn(probabilities: Floats, ranked: Floats | None = None) -> Drawn:
        return drawn_scores(
            probabilities, label, group, plan.data.classes, group_draws=group_draws, genes=gene, ranked=ranked
        )

    how, of_one, ids = "final model", "", []
    if isinstance(model, ConsolidatedMetaModel):
        how, of_one = f"final models, {model.voting} voting", "final model, own calibration"
        if model.consolidation_method == "joint_refit":
            how, of_one = "final models, joint refit", "its part of the joint refit"
        ids = [facts["instance_id"] for facts in model.instance_metadata]
    of_ensemble = drawn(combined)
    found: list[tuple[str, int | None, str, Drawn]] = []
    if plan.data.base_scores:
        ranked, probabilities = _base_model(folder, plan).on_other_rows(base)
        of_base = drawn(probabilities, ranked)
        found.append(("base", None, "ranked as given, else calibrated on all genes that are not held out", of_base))
    found.append(("ensemble", None, how, of_ensemble))
    for instance_id, of_member in zip(ids, members, strict=True):
        found.append(("member", instance_id, of_one, drawn(of_member)))
    if plan.data.base_scores:
        found.append(("difference", None, GAIN, differences(of_ensemble, of_base)))
    lines = []
    for scope, instance_id, variant, values in found:
        lines += metric_lines(
            summary(values),
            scope=scope,
            variant=variant,
            n_genes=plan.data.n_holdout_genes,
            groups=group,
            instance_id=instance_id,
            evaluated_on="holdout",
            is_chosen=scope == "ensemble",
        )
    add_lines(folder.metrics, lines, instead_of="holdout")


def _predictions(
    plan: Plan,
    model: ConsolidatedMetaModel | MatrixModel,
    reader: SegmentReader,
    n_rows: int,
    threads: int,
    report: Report,
) -> tuple[Floats32, Floats32, Floats32]:
    """Return probabilities of the ensemble and of each member, and the base scores of all rows."""
    combined = np.empty((n_rows, len(plan.data.classes)), dtype=np.float32)
    n_members = model.total_instances if isinstance(model, ConsolidatedMetaModel) else 0
    members = np.empty((n_members, *combined.shape), dtype=np.float32)
    base = np.empty((n_rows, len(plan.data.base_scores)), dtype=np.float32)
    base_columns = [plan.data.features.index(name) for name in plan.data.base_scores]
    begin = 0
    for matrix in reader.matrices(max(256, BATCH_BYTES // (4 * len(plan.data.features)))):
        rows = slice(begin, begin + len(matrix))
        if isinstance(model, MatrixModel):
            combined[rows] = model.predict_proba(matrix)
        else:
            margins = model.margins_of_members(matrix, threads=threads)
            of_members = model.probabilities_of_members(margins)
            combined[rows], members[:, rows] = model.join(margins, of_members), of_members
        base[rows] = matrix[:, base_columns]
        begin += len(matrix)
        report(STAGE, begin, n_rows)
    return combined, members, base


def _write_predictions(
    folder: RunFolder, plan: Plan, keys: NDArray[np.void], genes: GeneFolds, probabilities: Floats32
) -> None:
    """Write one row per held-out row, as in ``oof_predictions.parquet`` without fold and pilot; row ids continue from there."""
    fold = np.zeros(len(keys), dtype=np.int8)
    table = out_of_fold_table(plan, genes, keys, fold, probabilities, first_row=plan.data.n_rows)
    with storage_errors(folder.root), published_file(folder.holdout_predictions) as temporary:
        kept = pa.concat_tables(read_kept(folder.segments, one) for one in plan.cut.holdout_segments)
        predictions = with_kept(table.drop_columns(["fold", "is_pilot"]), kept)
        pq.write_table(predictions, temporary, compression="zstd", write_page_checksum=True)


def _base_model(folder: RunFolder, plan: Plan) -> BaseModel:
    """Return the base model, calibrated on the rows of the run."""
    scores = open_member_scores(folder, plan)
    return base_model_of_run(plan, scores, scored_rows(plan, read_gene_folds(folder, plan), scores, 0))


def add_lines(path: Path, lines: list[dict[str, Any]], *, instead_of: str) -> None:
    """Add lines to a table of scores, instead of those whose ``evaluated_on`` is given; its columns stay."""
    with storage_errors(path), path.open(newline="", encoding="utf-8") as file:
        table = csv.DictReader(file)
        names = list(table.fieldnames or [])
        kept = [{name: _typed(row[name]) for name in names} for row in table if row["evaluated_on"] != instead_of]
    write_csv(path, kept + [{name: line.get(name, "") for name in names} for line in lines])


def _typed(text: str) -> int | float | str:
    """Return the number that a cell holds, so that it is written as it was read."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text
