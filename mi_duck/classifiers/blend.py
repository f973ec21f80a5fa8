"""Joins the out-of-fold probabilities of several runs by weights, fitted without the fold that they are used on.

The runs are of the same rows and folds. The weights of fold k come from the rows of the other folds; so do the calibrators on
top, fitted on what these weights join. The model takes the weights of all folds.

References
----------
Greedy selection with replacement: Caruana et al., Ensemble selection from libraries of models
(ICML 2004). Weights of least log loss on the simplex: `mi_duck.ensemble.voting.fitted_weights`.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from mi_duck.archive import pack
from mi_duck.boosting.write_instance import write_instance
from mi_duck.classifiers.model import BLEND, VERSION, joined_margins
from mi_duck.ensemble.voting import MemberWeights, fitted_weights, sampled_rows
from mi_duck.errors import CheckpointError
from mi_duck.metrics.calibrate import Calibration, allowed_methods, calibrate_joined
from mi_duck.metrics.ranking import Floats32, Floats64, Integers
from mi_duck.processes import Report
from mi_duck.rows.segments import KEYS
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import codes_of, read_gene_folds
from mi_duck.run.plan import Plan

GREEDY_STEPS = 100
SAME = ("row_id", "gene_id", "position", "label", "fold")


def blend_runs(*, run: str, members: Mapping[str, str], method: str, report: Report) -> dict[str, Any]:
    """Fit the weights of runs and write the instance of their blend.

    Parameters
    ----------
    run
        Folder of the blend, which has a plan and genes.
    members
        Folder of each run by its name.
    method
        ``fitted`` or ``greedy``.

    Returns
    -------
    dict
        ``weights`` by name.

    Raises
    ------
    CheckpointError
        The rows or folds of the runs differ.
    """
    folder = RunFolder(Path(run))
    plan = folder.read_plan()
    (instance,) = plan.cut.instances
    genes = read_gene_folds(folder, plan)
    folders = {name: RunFolder(Path(path)) for name, path in members.items()}
    report("reading the runs", 0, len(folders))
    values, keys, fold = _read_runs(plan, folders, {str(gene): n for n, gene in enumerate(genes.gene_id)}, report)
    first_scored = int(np.searchsorted(keys["gene_rank"], plan.data.pilot_genes))
    label = keys["label"].astype(np.int64)
    weights = weights_of(
        values[:, first_scored:],
        label[first_scored:],
        fold[first_scored:].astype(np.int64),
        plan.settings.n_folds,
        method,
    )
    margins = np.empty(values.shape[1:], dtype=np.float32)
    for number, of_fold in enumerate(weights.by_fold):
        margins[fold == number] = joined_margins(values[:, fold == number], of_fold)
    calibration = calibrate_joined(
        lambda number: joined_margins(
            values[:, first_scored:], weights.final if number is None else weights.by_fold[number]
        ),
        label[first_scored:],
        fold[first_scored:],
        n_folds=plan.settings.n_folds,
        methods=allowed_methods(plan.settings.calibrate),
    )
    models = _model_files(plan, folders, weights, calibration)
    write_instance(folder, plan, instance, genes, keys, fold, margins, calibration, models, [])
    report("fitting weights", 1, 1)
    return {"weights": dict(zip(folders, weights.final, strict=True))}


def _read_runs(
    plan: Plan, folders: Mapping[str, RunFolder], rank_of: Mapping[str, int], report: Report
) -> tuple[Floats32, Any, Any]:
    """Return the probabilities of all runs, (n_runs, n_rows, n_classes), and the keys and folds of their rows."""
    classes = plan.data.classes
    first, values, keys, fold = None, None, None, None
    for number, (name, folder) in enumerate(folders.items()):
        table = pq.read_table(folder.out_of_fold, columns=[*SAME, *(f"p_{one}" for one in classes)])
        if first is None or values is None:
            first = table.select(SAME)
            values = np.empty((len(folders), len(table), len(classes)), dtype=np.float32)
            keys = np.zeros(len(table), dtype=KEYS)
            keys["gene_rank"] = codes_of(table["gene_id"].cast("string"), rank_of)
            keys["label"] = codes_of(table["label"].cast("string"), {one: n for n, one in enumerate(classes)})
            if not table["position"].null_count:
                keys["position"] = table["position"].to_numpy()
            fold = table["fold"].to_numpy().astype(np.int8)
        elif len(table) != len(first) or any(table[one].cast("string") != first[one].cast("string") for one in SAME):
            raise CheckpointError(
                f"{name} has other rows or folds than {next(iter(folders))}; blend runs of the same data, genes, folds and seed"
            )
        for index, one in enumerate(classes):
            values[number, :, index] = table[f"p_{one}"].to_numpy()
        report("reading the runs", number + 1, len(folders))
    if values is None:
        raise CheckpointError("there are no runs to blend; name two or more")
    return values, keys, fold


def weights_of(values: Floats32, label: Integers, fold: Integers, n_folds: int, method: str) -> MemberWeights:
    """Return weights for each fold, from the rows of the others, and for the model, from all.

    Parameters
    ----------
    values
        Probabilities, shape (n_runs, n_rows, n_classes).
    method
        ``fitted``: of least log loss. ``greedy``: shares of selections, see `greedy_weights`.
    """
    some = sampled_rows(len(label))
    values, label, fold = values[:, some], label[some], fold[some]
    if method == "fitted":
        return fitted_weights(values, label, fold, n_folds=n_folds, voting="probability")
    of_label = np.take_along_axis(values, label[None, :, None], axis=2)[:, :, 0].astype(np.float64)
    by_fold = tuple(greedy_weights(of_label[:, fold != number]) for number in range(n_folds))
    return MemberWeights(greedy_weights(of_label), by_fold)


def greedy_weights(of_label: Floats64) -> tuple[float, ...]:
    """Return weights by greedy selection with replacement.

    Again and again the model is added, once more perhaps, with which the mean of those selected has the lowest log loss; it
    begins with the best one and ends with the selection that was best.

    Parameters
    ----------
    of_label
        Probability of each row's label, shape (n_models, n_rows).

    Examples
    --------
    A model that is right everywhere is all that is selected:

    >>> greedy_weights(np.array([[0.9, 0.9], [0.5, 0.2]]))
    (1.0, 0.0)
    """
    chosen = np.zeros(len(of_label), dtype=np.int64)
    total = np.zeros(of_label.shape[1])
    best, kept = np.inf, chosen
    for step in range(1, GREEDY_STEPS + 1):
        losses = [-np.log(np.maximum((total + one) / step, 1e-300)).mean() for one in of_label]
        number = int(np.argmin(losses))
        chosen[number] += 1
        total += of_label[number]
        if losses[number] < best - 1e-12:
            best, kept = losses[number], chosen.copy()
    return tuple(float(share) for share in kept / kept.sum())


def _model_files(
    plan: Plan, folders: Mapping[str, RunFolder], weights: MemberWeights, calibration: Calibration
) -> dict[str, bytes]:
    """Return the files of the blend's models: of the final one, which holds those of all runs, and of the folds."""
    facts: dict[str, Any] = {
        "kind": BLEND,
        "version": VERSION,
        "classes": plan.data.classes,
        "names": list(folders),
        "weights": weights.final,
        "calibrators": [one.to_dict() for one in calibration.final],
        "thresholds": {},
        "n_genes": plan.data.n_genes,
    }
    members = {f"member_{number}.miduck": one.model.read_bytes() for number, one in enumerate(folders.values())}
    of_folds = {
        "kind": "blend folds",
        "weights": weights.by_fold,
        "calibrators": [[one.to_dict() for one in row] for row in calibration.by_fold],
    }
    return {
        "model_multiclass.miduck": pack({"model.json": _json(facts)} | members),
        "fold_models.miduck": pack({"model.json": _json(of_folds)}),
    }


def _json(values: Any) -> bytes:
    return json.dumps(values, sort_keys=True).encode()


def names_of(runs: Sequence[Path]) -> dict[str, Path]:
    """Return each run by its name: the name of its folder, or its path where two are called the same."""
    last = [run.resolve().name for run in runs]
    return {(name if last.count(name) == 1 else str(run)): run for name, run in zip(last, runs, strict=True)}
