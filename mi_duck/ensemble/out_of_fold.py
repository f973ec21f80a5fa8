"""The cross-validated ensemble: every row scored by boosters that never saw its fold group, and what that is worth.

Folds are global, so the fold-k boosters of all instances together have seen no group of fold k. The ensemble of the
fold-k boosters, scored on the genes of fold k for every k, is an exact cross-validation of the whole procedure over
every row. No holdout is lost. The base model gets the same cross-fitted calibration before it is compared.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mi_duck.checkpoint import publish, read_parts, storage_errors, write_csv
from mi_duck.children import Report
from mi_duck.ensemble.ensemble import vote
from mi_duck.ensemble.model_files import load_booster
from mi_duck.errors import CheckpointError
from mi_duck.folders import RunFolder
from mi_duck.plan.plan import Plan
from mi_duck.train.calibrate import METHODS, Calibrator, calibrate, probabilities
from mi_duck.train.evaluate import Metric, score
from mi_duck.train.instances import is_trained, out_of_fold_table, read_genes
from mi_duck.train.segments import SegmentReader

BATCH_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class FoldModels:
    """The fold boosters of one instance: ``boosters[fold][class]`` and ``calibrators[fold][class]``."""

    boosters: tuple[tuple[Any, ...], ...]
    calibrators: tuple[tuple[Calibrator, ...], ...]


def read_fold_models(path: Path) -> FoldModels:
    """Read ``fold_models.miduck``.

    Raises
    ------
    CheckpointError
        The file is damaged, or holds another kind of model.
    """
    parts = read_parts(path)
    facts = json.loads(parts["model.json"])
    if facts["kind"] != "folds":
        raise CheckpointError(f"{path} holds '{facts['kind']}', no fold models")
    return FoldModels(
        tuple(
            tuple(load_booster(parts[f"booster_{fold}_{index}.ubj"]) for index in range(len(facts["classes"])))
            for fold in range(len(facts["rounds"]))
        ),
        tuple(tuple(Calibrator.from_dict(values) for values in row) for row in facts["calibrators"]),
    )


def predict_out_of_fold(*, run: str, threads: int, report: Report) -> dict[str, Any]:
    """Score every row of the run with the fold boosters of all instances, and keep thresholds for the model.

    Writes ``oof_predictions.parquet`` (the ensemble) and a scratch file with every member's probabilities and the
    base scores, for `evaluate_run`.

    Returns
    -------
    dict
        ``thresholds``: for each class the probability from which out-of-fold F1 is best.
    """
    folder = RunFolder(Path(run))
    plan = folder.read_plan()
    genes = read_genes(folder, plan)
    trained = [instance for instance in plan.instances if is_trained(folder, plan, instance)]
    if not trained:
        raise CheckpointError(f"no instance of {folder.root} is trained; run 'mi-duck train {folder.root}'")
    models = [read_fold_models(folder.instance(instance) / "fold_models.miduck") for instance in trained]
    for model in models:
        for booster in (booster for row in model.boosters for booster in row):
            booster.set_param({"nthread": threads})
    base = [plan.features.index(name) for name in plan.base_scores]
    batch_rows = max(256, BATCH_BYTES // (4 * len(plan.features)))
    targets = folder.out_of_fold, folder.members
    partial = [target.with_name(f".{target.name}.tmp") for target in targets]
    writers: list[pq.ParquetWriter] = []
    confident: list[NDArray[np.float32]] = []
    labels: list[NDArray[np.uint8]] = []
    done = 0
    with storage_errors(folder.root):
        folder.scratch.mkdir(parents=True, exist_ok=True)
        try:
            for segment in plan.segments:
                reader = SegmentReader(plan, [segment], folder.segments)
                keys = reader.keys()
                begin = 0
                for matrix in reader.matrices(batch_rows):
                    rows = slice(begin, begin + len(matrix))
                    fold = genes.fold[keys["gene_rank"][rows]].astype(np.int8)
                    chances = _member_chances(models, matrix, fold, len(plan.classes))
                    weights = [1 / len(models)] * len(models)
                    combined = vote(chances, weights)
                    tables = (
                        out_of_fold_table(plan, genes, keys[rows], fold, combined, first_row=segment.first_row + begin),
                        _member_table(plan, [one.instance_id for one in trained], chances, matrix[:, base]),
                    )
                    if not writers:
                        for path, table in zip(partial, tables, strict=True):
                            writers.append(
                                pq.ParquetWriter(path, table.schema, compression="zstd", write_page_checksum=True)
                            )
                    for writer, table in zip(writers, tables, strict=True):
                        writer.write_table(table)
                    confident.append(combined.astype(np.float32))
                    labels.append(keys["label"][rows])
                    begin += len(matrix)
                    done += len(matrix)
                    report("scoring every row out of fold", done, plan.n_rows)
        finally:
            for writer in writers:
                writer.close()
        for path, target in zip(partial, targets, strict=True):
            publish(path, target)
    every, truth = np.concatenate(confident), np.concatenate(labels)
    return {
        "thresholds": {name: best_threshold(every[:, index], truth == index) for index, name in enumerate(plan.classes)}
    }


def _member_chances(
    models: list[FoldModels], matrix: NDArray[np.float32], fold: NDArray[np.int8], n_classes: int
) -> NDArray[np.float64]:
    """Return every member's probabilities of each row, from the boosters of the row's fold."""
    chances = np.empty((len(models), len(matrix), n_classes))
    for number in np.unique(fold):
        rows = fold == number
        part = matrix[rows]
        for place, model in enumerate(models):
            margins = np.column_stack(
                [booster.inplace_predict(part, predict_type="margin") for booster in model.boosters[number]]
            )
            chances[place, rows] = probabilities(margins, model.calibrators[number])
    return chances


def _member_table(
    plan: Plan, instance_ids: list[int], chances: NDArray[np.float64], base: NDArray[np.float32]
) -> pa.Table:
    columns = {
        f"{instance_id}:{name}": pa.array(chances[place, :, index].astype(np.float32))
        for place, instance_id in enumerate(instance_ids)
        for index, name in enumerate(plan.classes)
    }
    return pa.table(columns | {f"base:{name}": pa.array(base[:, place]) for place, name in enumerate(plan.base_scores)})


def best_threshold(chance: NDArray[np.float32], truth: NDArray[np.bool_]) -> float:
    """Return the probability from which calling the class has the best F1.

    F1 = 2 TP / (called + positives); every distinct probability is tried.
    """
    order = np.argsort(-chance, kind="stable")
    ends = np.flatnonzero(np.append(np.diff(chance[order]) != 0, True))
    hits = np.cumsum(truth[order])[ends]
    f1 = 2 * hits / (ends + 1 + truth.sum())
    return float(chance[order][ends[int(f1.argmax())]])


def evaluate_run(*, run: str, threads: int, report: Report) -> None:
    """Score base model, members and ensemble on all rows out of fold; write ``metrics.csv``."""
    folder = RunFolder(Path(run))
    plan = folder.read_plan()
    genes = read_genes(folder, plan)
    if not (folder.out_of_fold.is_file() and folder.members.is_file()):
        raise CheckpointError(f"{folder.root} has no out-of-fold scores yet; run 'mi-duck consolidate {folder.root}'")
    facts = pq.read_table(folder.out_of_fold, columns=["gene_id", "label", "fold"])
    rank_of_gene = {gene: rank for rank, gene in enumerate(genes.gene_id)}
    label = _codes(facts["label"], {name: index for index, name in enumerate(plan.classes)})
    rank = _codes(facts["gene_id"], rank_of_gene)
    fold = facts["fold"].to_numpy()
    groups = np.unique(genes.group, return_inverse=True)[1][rank]
    members = sorted({int(name.split(":")[0]) for name in pq.read_schema(folder.members).names if name[0] != "b"})
    scopes: list[tuple[str, int | None]] = [("ensemble", None), *(("member", number) for number in members)]
    if plan.base_scores:
        scopes.insert(0, ("base", None))
    rows = []
    for done, (scope, number) in enumerate(scopes):
        report("scoring base, members and ensemble", done, len(scopes))
        chances: NDArray[np.floating[Any]]
        if scope == "ensemble":
            chances = _matrix(folder.out_of_fold, [f"p_{name}" for name in plan.classes])
        elif scope == "member":
            chances = _matrix(folder.members, [f"{number}:{name}" for name in plan.classes])
        else:
            chances = _base_chances(
                _matrix(folder.members, [f"base:{name}" for name in plan.base_scores]), label, fold, plan
            )
        for metric in score(chances, label, groups, plan.classes, seed=plan.settings.seed):
            rows.append(_row(plan, scope, number, metric, len(np.unique(rank)), len(label)))
    write_csv(folder.metrics, rows)
    report("scoring base, members and ensemble", len(scopes), len(scopes))


def _row(plan: Plan, scope: str, number: int | None, metric: Metric, n_genes: int, n_rows: int) -> dict[str, Any]:
    variant = {
        "base": "cross-fitted calibration",
        "member": "own calibration",
        "ensemble": "probability voting, uniform weights",
    }
    return {
        "scope": scope,
        "instance_id": "" if number is None else number,
        "evaluated_on": "oof",
        "variant": variant[scope],
        "is_chosen": int(scope == "ensemble"),
        "fold": "",
        "class": metric.class_name,
        "metric": metric.metric,
        "value": metric.value,
        "low": metric.low,
        "high": metric.high,
        "n_genes": n_genes,
        "n_rows": n_rows,
    }


def _codes(column: pa.ChunkedArray, code_of: dict[str, int]) -> NDArray[np.int64]:
    """Return the code of each text of a dictionary-encoded column."""
    parts = []
    for chunk in column.chunks:
        chunk = chunk if pa.types.is_dictionary(chunk.type) else chunk.dictionary_encode()
        lookup = np.array([code_of[text] for text in chunk.dictionary.to_pylist()], dtype=np.int64)
        parts.append(lookup[chunk.indices.to_numpy()])
    return np.concatenate(parts)


def _matrix(path: Path, names: list[str]) -> NDArray[np.float32]:
    table = pq.read_table(path, columns=names)
    return np.column_stack([table[name].to_numpy() for name in names])


def _base_chances(
    scores: NDArray[np.float32], label: NDArray[np.int64], fold: NDArray[np.int8], plan: Plan
) -> NDArray[np.float64]:
    """Return the base model's probabilities after the calibration that the members get.

    A base score is taken for a probability; where it is missing the row gets the prior by way of margin 0 of
    a calibrator fitted with it.
    """
    clipped = np.clip(np.nan_to_num(scores.astype(np.float64), nan=0.5), 1e-7, 1 - 1e-7)
    margins = np.log(clipped / (1 - clipped)).astype(np.float32)
    fitted = calibrate(margins, label, fold, n_folds=plan.settings.n_folds, methods=METHODS)
    chances = np.empty(margins.shape)
    for number, calibrators in enumerate(fitted.by_fold):
        chances[fold == number] = probabilities(margins[fold == number], calibrators)
    return chances
