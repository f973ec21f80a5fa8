"""Scores every row out of fold and joins the trained instances into one model file; runs in a child process.

Folds are global, so the fold-k boosters of all instances together have seen no group of fold k. The ensemble of the
fold-k boosters, scored on the genes of fold k for every k, is an exact cross-validation of the whole procedure over
every row, and no rows need to be set aside for it. These scores decide voting, weights and thresholds; the model is of the
instances' final boosters.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mi_duck.atomic_files import file_sha256, published_file, storage_errors, write_json
from mi_duck.boosting.forest import Forest, forest_of
from mi_duck.boosting.write_instance import out_of_fold_table
from mi_duck.ensemble.fold_ensembles import write_fold_ensembles
from mi_duck.ensemble.member_scores import MemberScores, load_member, member_table, read_member_scores
from mi_duck.ensemble.model import by_member, join_members
from mi_duck.ensemble.model_file import FoldModels, read_fold_models, save_model
from mi_duck.ensemble.refit import read_refitted, refit_run
from mi_duck.ensemble.voting import (
    REFIT,
    Joined,
    Variant,
    Voted,
    all_weights,
    mean_log_loss,
    variants,
    vote_out_of_fold,
)
from mi_duck.errors import PlanError
from mi_duck.metrics.calibrate import Calibrator, allowed_methods, calibrated
from mi_duck.metrics.ranking import Floats32, Floats64, Integers, find_thresholds, values_of
from mi_duck.processes import Report
from mi_duck.rows.kept import read_kept, with_kept
from mi_duck.rows.segments import SegmentReader
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import GeneFolds, read_gene_folds
from mi_duck.run.instance_folder import trained_instances
from mi_duck.run.plan import Instance, Plan, n_genes_covered

BATCH_BYTES = 64 << 20
ROWS_WRITTEN = 1 << 16


def join_run(
    *, run: str, threads: int, consolidation: str, voting: str, weights: str, report: Report
) -> dict[str, list[str]]:
    """Score all rows out of fold, write model, thresholds and summary, and return ``messages`` for the user."""
    folder = RunFolder(Path(run))
    plan = folder.read_plan()
    messages: list[str] = []
    trained = trained_instances(folder, plan)
    if consolidation != "voting":
        refit_run(folder, plan, threads=threads, report=report)
    joined = predict_out_of_fold(
        run=run, threads=threads, consolidation=consolidation, voting=voting, weights=weights, report=report
    )
    name, losses = joined.variant.name, joined.log_loss
    if len(losses) > 1:
        others = ", ".join(f"{other} {loss:.6f}" for other, loss in losses.items() if other != name)
        messages.append(f"Consolidation: {name} has the lowest cross-fitted log loss, {losses[name]:.6f} ({others})")
    n_covered = n_genes_covered(trained)
    finals = [load_member(folder.instance(instance)) for instance in trained]
    if joined.variant == REFIT:
        refitted = read_refitted(folder, None, n_classes=len(plan.data.classes))
        plain = (Calibrator("none"),) * len(plan.data.classes)
        finals = [replace(one, boosters=own, calibrators=plain) for one, own in zip(finals, refitted, strict=True)]
    model = join_members(
        finals,
        n_genes=n_covered,
        thresholds=values_of(joined.thresholds),
        voting=joined.variant.voting,
        weights=joined.weights.final,
        calibrators=joined.calibration.final if joined.calibration else (),
        recipe=plan.data.recipe,
    )
    save_model(folder.model, model)
    write_fold_ensembles(folder, plan, len(trained), joined)
    write_json(folder.thresholds, joined.thresholds)
    facts = {one: {"rounds": member.metadata["rounds"]} for one, member in zip(trained, model.members, strict=True)}
    write_json(folder.summary, summary_of(folder, plan, joined, facts))
    share = n_covered / plan.data.n_genes
    messages.append(f"{plan.data.noun.one.capitalize()} coverage: {n_covered:,}/{plan.data.n_genes:,} ({share:.1%})")
    return {"messages": messages}


def summary_of(
    folder: RunFolder, plan: Plan, joined: Joined, facts: Mapping[Instance, Mapping[str, Any]]
) -> dict[str, Any]:
    """Return ``consolidation_summary.json``: the model, how its members are joined, and the hashes of their files.

    ``facts``: for each trained instance, in the order of the weights, further fields of its line.
    """
    n_genes = n_genes_covered(facts)
    return {
        "model_sha256": file_sha256(folder.model),
        "out_of_fold_sha256": file_sha256(folder.out_of_fold),
        "dataset_fingerprint": plan.data.fingerprint,
        "classes": plan.data.classes,
        "n_features": len(plan.data.features),
        "n_instances": len(plan.cut.instances),
        "instances_lost": [one.instance_id for one in plan.cut.instances if one not in facts],
        "voting": joined.variant.voting,
        "weights": joined.variant.method,
        "variant": joined.variant.name,
        "cross_fitted_log_loss": joined.log_loss,
        "all_weights": {name: one.to_dict() for name, one in joined.all_weights.items()},
        "n_genes": plan.data.n_genes,
        "n_genes_trained": n_genes,
        "coverage_fraction": n_genes / plan.data.n_genes,
        "thresholds": values_of(joined.thresholds),
        "members": [
            {
                "instance_id": instance.instance_id,
                "n_genes": instance.n_genes,
                "n_rows": instance.n_rows,
                "weight": weight,
                "model_sha256": file_sha256(folder.instance(instance) / "model_multiclass.miduck"),
                "fold_models_sha256": file_sha256(folder.instance(instance) / "fold_models.miduck"),
                "genes_sha256": file_sha256(folder.instance(instance) / "genes.txt"),
                **others,
            }
            for (instance, others), weight in zip(facts.items(), joined.weights.final, strict=True)
        ],
    }


def predict_out_of_fold(
    *,
    run: str,
    threads: int,
    consolidation: str = "voting",
    voting: str = "probability",
    weights: str = "uniform",
    report: Report,
) -> Joined:
    """Score every row of the run with the fold boosters of all instances, refitted or not, and join their votes.

    Writes ``oof_predictions.parquet`` (the ensemble) and a scratch file with every member's scores, from which
    `mi_duck.evaluate.evaluate.evaluate_run` continues.

    Parameters
    ----------
    consolidation, voting, weights
        As in `mi_duck.settings.Asked`; ``auto`` takes what has the lowest cross-fitted log loss. Unless the consolidation is
        by voting, the boosters are refitted already.

    Raises
    ------
    CheckpointError
        No instance is trained.
    PlanError
        There is no such voting or method of weights.
    """
    folder = RunFolder(Path(run))
    plan = folder.read_plan()
    genes = read_gene_folds(folder, plan)
    trained = trained_instances(folder, plan)
    write_member_scores(
        folder, plan, genes, trained, has_refit=consolidation != "voting", threads=threads, report=report
    )
    return vote_on_scores(folder, plan, genes, variants(consolidation, voting, weights), report=report)


def vote_on_scores(
    folder: RunFolder, plan: Plan, genes: GeneFolds, tried: Sequence[Variant], *, report: Report
) -> Joined:
    """Join the scores of all members that `write_member_scores` wrote, by the variant of lowest log loss.

    Writes ``oof_predictions.parquet``.
    """
    scores = read_member_scores(folder, plan)
    first_scored = first_scored_row(plan, scores.gene_rank)
    every = all_weights(scores, first_scored)
    label = scores.label[first_scored:]
    methods = allowed_methods(plan.settings.calibrate)
    losses: dict[str, float] = {}
    best: tuple[Variant, Voted] | None = None
    for done, variant in enumerate(tried):
        report("joining votes", done, len(tried))
        voted = vote_out_of_fold(
            scores, variant.voting, every[variant.name], first_scored=first_scored, methods=methods
        )
        losses[variant.name] = mean_log_loss(scores, voted.probabilities, first_scored)
        if best is None or losses[variant.name] < losses[best[0].name]:
            best = variant, voted
    if best is None:
        raise PlanError("no such variant of voting and weights")
    chosen, voted = best
    _write_predictions(folder, plan, genes, scores, voted.probabilities)
    report("joining votes", len(tried), len(tried))
    thresholds = find_thresholds(
        voted.probabilities[first_scored:],
        label,
        scores.fold[first_scored:],
        plan.data.classes,
        weights=None if scores.weight is None else scores.weight[first_scored:],
    )
    return Joined(chosen, voted.calibration, thresholds, every, losses)


def first_scored_row(plan: Plan, gene_rank: Integers) -> int:
    """Return the first row that is scored: those before it are of the genes that chose the features."""
    return int(np.searchsorted(gene_rank, plan.data.pilot_genes))


def _fold_models(folder: RunFolder, trained: Sequence[Instance]) -> list[FoldModels]:
    return [read_fold_models(folder.instance(instance) / "fold_models.miduck") for instance in trained]


def write_member_scores(
    folder: RunFolder,
    plan: Plan,
    genes: GeneFolds,
    trained: Sequence[Instance],
    *,
    has_refit: bool,
    threads: int,
    report: Report,
) -> None:
    """Write the scratch file of `mi_duck.ensemble.member_scores`, in one pass over the segments."""
    encoding = plan.encoding
    models = _fold_models(folder, trained)
    forests = [
        forest_of([booster for model in models for booster in model.boosters[fold]], plan.data.features, encoding)
        for fold in range(len(models[0].boosters))
    ]
    anew = [
        forest_of(
            [booster for member in read_refitted(folder, fold, n_classes=len(plan.data.classes)) for booster in member],
            plan.data.features,
            encoding,
        )
        for fold in range(plan.settings.n_folds if has_refit else 0)
    ]
    calibrators = [model.calibrators for model in models]
    del models  # their trees are in the forests

    ids = [instance.instance_id for instance in trained]
    base = [plan.data.features.index(name) for name in plan.data.base_scores]
    batch_rows = max(256, BATCH_BYTES // (4 * len(plan.data.features)))

    def tables() -> Iterator[pa.Table]:
        done = 0
        for segment in plan.cut.segments:
            reader = SegmentReader(plan, [segment], folder.segments)
            keys = reader.keys()
            begin = 0
            for matrix in reader.matrices(batch_rows):
                own = keys[begin : begin + len(matrix)]
                fold = genes.fold[own["gene_rank"]].astype(np.int8)
                base_scores = matrix[:, base]
                margins, probabilities = _scores_of_members(forests, calibrators, matrix, fold, threads)
                after = _margins_of_members(anew, len(ids), matrix, fold, threads) if anew else None
                yield member_table(plan, own, fold, ids, margins, probabilities, after, base_scores)
                begin += len(matrix)
                done += len(matrix)
                report("scoring every row out of fold", done, plan.data.n_rows)

    with storage_errors(folder.root):
        folder.scratch.mkdir(parents=True, exist_ok=True)
        write_tables(folder.members, tables(), use_dictionary=False)


def _scores_of_members(
    forests: list[Forest],
    calibrators: Sequence[tuple[tuple[Calibrator, ...], ...]],
    matrix: Floats32,
    fold: NDArray[np.int8],
    threads: int,
) -> tuple[Floats32, Floats64]:
    """Return every member's margins and probabilities of each row, from the forest of the row's fold."""
    margins = _margins_of_members(forests, len(calibrators), matrix, fold, threads)
    probabilities = np.empty(margins.shape)
    for number in np.unique(fold):
        rows = fold == number
        for member, of_folds in enumerate(calibrators):
            probabilities[member, rows] = calibrated(margins[member, rows], of_folds[number])
    return margins, probabilities


def _margins_of_members(
    forests: list[Forest], n_members: int, matrix: Floats32, fold: NDArray[np.int8], threads: int
) -> Floats32:
    """Return every member's margins of each row, from the forest of the row's fold."""
    margins = np.empty((n_members, len(matrix), forests[0].n_outputs // n_members), dtype=np.float32)
    for number in np.unique(fold):
        rows = fold == number
        margins[:, rows] = by_member(forests[number].margins(matrix[rows], threads=threads), n_members)
    return margins


def _write_predictions(
    folder: RunFolder, plan: Plan, genes: GeneFolds, scores: MemberScores, probabilities: Floats32
) -> None:
    """Write the ensemble's out-of-fold probabilities, some rows at a time."""
    keys = scores.keys()

    def tables() -> Iterator[pa.Table]:
        for segment in plan.cut.segments:
            kept = read_kept(folder.segments, segment)
            for begin in range(segment.first_row, segment.stop_row, ROWS_WRITTEN):
                rows = slice(begin, min(begin + ROWS_WRITTEN, segment.stop_row))
                table = out_of_fold_table(
                    plan, genes, keys[rows], scores.fold[rows], probabilities[rows], first_row=begin
                )
                yield with_kept(table, kept.slice(begin - segment.first_row, len(table)))

    with storage_errors(folder.root):
        write_tables(folder.out_of_fold, tables(), use_dictionary=True)


def write_tables(path: Path, tables: Iterable[pa.Table], *, use_dictionary: bool) -> None:
    """Write tables of one schema, at least one, to a Parquet file that is there whole or not at all."""
    tables = iter(tables)
    first = next(tables)
    with (
        published_file(path) as temporary,
        pq.ParquetWriter(
            temporary, first.schema, compression="zstd", use_dictionary=use_dictionary, write_page_checksum=True
        ) as writer,
    ):
        for table in chain([first], tables):
            writer.write_table(table)
