"""What a distilled model is worth: how like its ensemble it is, what that costs in scores, what it gains in speed.

All rows are scored out of fold: by the student of the row's fold, which was fitted to an ensemble that never saw the row's fold
group, beside that ensemble. Scores of the two are compared under the same draws of fold groups. The model is written with a page
of JSON beside it, which says all of this.
"""

import hashlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from mi_duck.atomic_files import file_sha256, write_file, write_json
from mi_duck.ensemble.consolidate import first_scored_row
from mi_duck.ensemble.distil import Distilled, distil
from mi_duck.ensemble.model import ConsolidatedMetaModel
from mi_duck.ensemble.model_file import model_bytes
from mi_duck.metrics.calibrate import allowed_methods, calibrate, cross_fitted
from mi_duck.metrics.metrics import DRAWS, differences, draw_groups, headline_scores, summary, too_narrow
from mi_duck.metrics.ranking import Floats32, find_thresholds
from mi_duck.numbers import decimal
from mi_duck.numbers import interval as written
from mi_duck.processes import Report
from mi_duck.rows.segments import SegmentReader, row_weights
from mi_duck.run.folder import RunFolder, checked
from mi_duck.run.genes import read_gene_folds
from mi_duck.run.plan import Plan

TIMED_ROWS, TIMES = 16_384, 3
PRECISION = ("average_precision", "macro")


def facts_file(out: Path) -> Path:
    """Return the file of what is known of a distilled model, beside it."""
    return out.with_suffix(".json")


def write_distilled(*, run: str, out: str, trees: int, threads: int, report: Report) -> dict[str, Any]:
    """Distil the ensemble of a run, write the model and what is known of it; return the latter.

    Parameters
    ----------
    run
        Folder of a consolidated run, whose rows are in segments.
    out
        File of the model; the JSON lies beside it.
    """
    folder, path = RunFolder(Path(run)), Path(out)
    plan = folder.read_plan()
    found = distil(folder, plan, trees=trees, threads=threads, report=report)
    first = first_scored_row(plan, found.keys["gene_rank"])
    label, fold, n_folds = found.keys["label"][first:], found.fold[first:], plan.settings.n_folds
    methods, weights = allowed_methods(plan.settings.calibrate), row_weights(found.keys[first:])
    calibration = calibrate(found.margins[first:], label, fold, n_folds=n_folds, methods=methods, weights=weights)
    student = cross_fitted(found.margins[first:], calibration, fold, dtype=np.float32)
    model = found.model(calibration, find_thresholds(student, label, fold, plan.data.classes, weights=weights))
    columns = [f"p_{name}" for name in plan.data.classes]
    table = pq.read_table(checked(folder, folder.out_of_fold), columns=columns)
    ensemble = np.column_stack([table[name].to_numpy() for name in columns])[first:]
    report("timing the two models", 0, 1)
    facts = {
        "dataset": plan.data.location,
        "run_model_sha256": file_sha256(folder.model),
        "trees": trees,
        "n_rows_scored": len(label),
        "fidelity": _fidelity(found, first, plan),
        "log_loss_against_ensemble": _cross_entropy(ensemble, student),
        "log_loss_of_ensemble_against_itself": _cross_entropy(ensemble, ensemble),
        **_scores(folder, plan, found, ensemble, student),
        "speed": _speed(folder, plan, found.teacher, model, threads),
    }
    data = model_bytes(model)
    facts |= {"model": path.name, "model_sha256": hashlib.sha256(data).hexdigest(), "answer": answer(facts)}
    write_json(facts_file(path), facts)
    write_file(path, data)  # last, so that a model is never there without what is known of it
    return facts


def _fidelity(found: Distilled, first: int, plan: Plan) -> list[dict[str, Any]]:
    """Return for each class how near the student's margins are to the ensemble's, before calibration on top."""
    lines = []
    for index, name in enumerate(plan.data.classes):
        one, other = (margins[first:, index].astype(np.float64) for margins in (found.taught, found.margins))
        is_constant = one.std() == 0 or other.std() == 0
        correlation = None if is_constant else float(np.corrcoef(one, other)[0, 1])
        lines.append({"class": name, "correlation": correlation, "rmse": float(np.sqrt(np.mean((one - other) ** 2)))})
    return lines


def _cross_entropy(truth: Floats32, probability: Floats32) -> float:
    """Return the mean log loss of probabilities where others are taken for the truth, nats per row."""
    each = truth.astype(np.float64) * np.log(np.maximum(probability.astype(np.float64), 1e-15))
    return -float(each.sum(axis=1).mean())


def _scores(folder: RunFolder, plan: Plan, found: Distilled, ensemble: Floats32, student: Floats32) -> dict[str, Any]:
    """Return the scores of both on the same rows, and student minus ensemble, by the same draws of fold groups."""
    genes = read_gene_folds(folder, plan)
    first = len(found.keys) - len(student)
    gene, label = found.keys["gene_rank"][first:], found.keys["label"][first:]
    group = np.unique(np.unique(genes.group, return_inverse=True)[1][gene], return_inverse=True)[1].astype(np.int32)
    group_draws = draw_groups(group, seed=plan.settings.seed, draws=DRAWS)
    drawn = [
        headline_scores(one, label, group, plan.data.classes, group_draws=group_draws) for one in (ensemble, student)
    ]
    several = (summary(drawn[0]), summary(drawn[1]), summary(differences(drawn[1], drawn[0])))
    lines = [
        {"metric": of_ensemble.metric, "class": of_ensemble.class_name}
        | {"ensemble": of_ensemble.values(), "distilled": of_student.values(), "difference": difference.values()}
        for of_ensemble, of_student, difference in zip(*several, strict=True)
    ]
    return {"scores": lines, "n_fold_groups": int(group_draws.shape[1]), "too_narrow": too_narrow(group)}


def _speed(
    folder: RunFolder, plan: Plan, ensemble: ConsolidatedMetaModel, student: ConsolidatedMetaModel, threads: int
) -> dict[str, Any]:
    """Return how many rows of an array both predict in a second, and in how much CPU time, the best of a few tries."""
    reader = SegmentReader(plan, plan.cut.segments, folder.segments)
    matrix = next(reader.matrices(min(TIMED_ROWS, reader.n_rows)))
    rates = {}
    for name, model in (("ensemble", ensemble), ("distilled", student)):
        model.predict_proba(matrix[:256], threads=threads)  # joins the boosters
        tries = []
        for _ in range(TIMES):
            begun = time.perf_counter(), time.process_time()
            model.predict_proba(matrix, threads=threads)
            tries.append((time.perf_counter() - begun[0], time.process_time() - begun[1]))
        wall, cpu = (min(seconds) for seconds in zip(*tries, strict=True))
        rates[f"{name}_rows_per_second"] = round(len(matrix) / wall)
        rates[f"{name}_cpu_microseconds_per_row"] = round(cpu / len(matrix) * 1e6, 2)
    return {"threads": threads, "n_rows": len(matrix), **rates}


def answer(facts: Mapping[str, Any]) -> str:
    """Return in a sentence how much faster the student is, and what it loses."""
    speed, loss = facts["speed"], next(one for one in facts["scores"] if (one["metric"], one["class"]) == PRECISION)
    before, after = speed["ensemble_rows_per_second"], speed["distilled_rows_per_second"]
    return (
        f"{facts['trees']:,} trees per class predict {after:,} rows a second from an array instead of {before:,} "
        f"({decimal(after / before, 1)} times as many, {speed['threads']} threads); average precision (macro) differs by "
        f"{written(*loss['difference'].values(), signed=True)} from {decimal(loss['ensemble']['value'])}"
    )
