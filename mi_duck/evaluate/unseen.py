"""Scores the final model of each instance on genes of fold groups that have no gene in its window: it never saw them.

With overlapping windows every instance leaves most genes to the others, so these resemble the genes that it meets in use.
One pass over the segments serves all instances: their trees are one forest, and for each row the predictions of the instances
that never saw its group are kept.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mi_duck.atomic_files import publish, storage_errors
from mi_duck.ensemble.model import InstanceModel, by_member
from mi_duck.ensemble.model_file import load_unified_model
from mi_duck.errors import CheckpointError
from mi_duck.evaluate.fold_scores import aggregate, areas, site_probability
from mi_duck.metrics.calibrate import calibrated
from mi_duck.metrics.metrics import known, point_scores, score
from mi_duck.processes import Report
from mi_duck.rows.segments import SegmentReader
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import Genes
from mi_duck.run.plan import Instance, Plan
from mi_duck.train.forest import forest_of

BATCH_BYTES = 64 << 20
NO_UNSEEN = "no unseen genes"
FACTS = ("fold", "train_genes", "train_rows", "test_genes", "test_rows")


def unseen_ranks(plan: Plan, instance: Instance, genes: Genes) -> NDArray[np.bool_]:
    """Return for each gene of the plan whether its fold group has no gene in the instance's window, shape (n_genes,).

    Genes of a pilot that chose the features are not unseen either.
    """
    group = genes.group[: plan.data.n_genes]
    unseen = ~np.isin(group, np.unique(group[instance.first_rank : instance.stop_rank]))
    unseen[: plan.data.pilot_genes] = False
    return unseen


def unseen_file(folder: RunFolder, instance: Instance) -> Path:
    """Return the scratch file with the instance's predictions of unseen genes."""
    return folder.scratch / "unseen" / f"{instance.name}.parquet"


def predict_unseen(
    folder: RunFolder, plan: Plan, genes: Genes, instances: Sequence[Instance], *, threads: int, report: Report
) -> None:
    """Predict the rows of unseen genes with the final model of each instance, in one pass over the segments.

    Writes one scratch file per instance: ``gene_rank``, ``label`` and one probability per class, in the order of rows.

    Parameters
    ----------
    instances
        Those that are trained.
    threads
        Threads that predict; the result does not depend on them.
    report
        Progress callback, called with (stage, rows done, rows of all).

    Raises
    ------
    CheckpointError
        A model or a segment is damaged.
    """
    models = [_model(folder, instance) for instance in instances]
    forest = forest_of([one for model in models for one in model.boosters], plan.data.features, models[0].encoding)
    unseen = np.stack([unseen_ranks(plan, instance, genes) for instance in instances])
    schema = pa.schema(
        [("gene_rank", pa.int32()), ("label", pa.uint8())]
        + [(f"p_{index}", pa.float32()) for index in range(len(plan.data.classes))]
    )
    targets = [unseen_file(folder, instance) for instance in instances]
    partial = [target.with_name(f".{target.name}.tmp") for target in targets]
    batch_rows = max(256, BATCH_BYTES // (4 * len(plan.data.features)))
    done = 0
    with storage_errors(folder.scratch):
        targets[0].parent.mkdir(parents=True, exist_ok=True)
        writers = [pq.ParquetWriter(path, schema, compression="zstd") for path in partial]
        try:
            for segment in (one for one in plan.cut.segments if one.stop_rank <= plan.data.n_genes):
                reader = SegmentReader(plan, [segment], folder.segments)
                keys = reader.keys()
                is_wanted = np.logical_or.reduce(unseen[:, keys["gene_rank"]])
                keys = keys[is_wanted]
                begin = 0
                for matrix in reader.matrices(batch_rows, is_wanted):
                    ranks, labels = (keys[name][begin : begin + len(matrix)] for name in ("gene_rank", "label"))
                    begin += len(matrix)
                    margins = by_member(forest.margins(matrix, threads=threads), len(models))
                    for model, own, rows, writer in zip(models, margins, unseen[:, ranks], writers, strict=True):
                        if rows.any():
                            probabilities = calibrated(own[rows], model.calibrators).astype(np.float32)
                            columns = [pa.array(ranks[rows]), pa.array(labels[rows]), *map(pa.array, probabilities.T)]
                            writer.write_table(pa.Table.from_arrays(columns, schema=schema))
                done += len(is_wanted)
                report("scoring genes that an instance never saw", done, plan.data.n_rows)
        finally:
            for writer in writers:
                writer.close()
        for path, target in zip(partial, targets, strict=True):
            publish(path, target)


def _model(folder: RunFolder, instance: Instance) -> InstanceModel:
    model = load_unified_model(folder.instance(instance))
    if not isinstance(model, InstanceModel):
        raise CheckpointError(f"{folder.instance(instance)} holds an ensemble, not the model of one instance")
    return model


def unseen_scores(
    path: Path, plan: Plan, instance: Instance, genes: Genes
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the tables of ``holdout_evaluation_results.csv`` and ``holdout_evaluation_summary.json``.

    Parameters
    ----------
    path
        File of `predict_unseen`.

    Returns
    -------
    list of dict
        For each fold of the unseen genes: `FACTS`, then ``f1_macro`` (over all classes), ``<class>_f1``, ``<class>_ap``,
        ``macro_ap`` (over the site classes), ``binary_auc``, ``binary_ap`` (sites against all other rows), ``log_loss``;
        None where a fold lacks a class that the score needs.
    dict
        ``status``; where there are unseen genes also their number, mean and standard deviation over folds, and the scores on
        all of them with 95 % intervals by bootstrap over fold groups.
    """
    table = pq.read_table(path)
    if not len(table):
        return [], {"status": NO_UNSEEN, "reason": "every fold group has a gene in the instance's window"}
    rank, label = table["gene_rank"].to_numpy(), table["label"].to_numpy()
    probabilities = np.column_stack([table[f"p_{index}"].to_numpy() for index in range(len(plan.data.classes))])
    fold = genes.fold[rank]
    rows: list[dict[str, Any]] = []
    for number in range(plan.settings.n_folds):
        of_fold = fold == number
        if of_fold.any():
            facts = (number, instance.n_genes, instance.n_rows, len(np.unique(rank[of_fold])), int(of_fold.sum()))
            scores = _scores(probabilities[of_fold], label[of_fold], plan.data.classes)
            rows.append(dict(zip(FACTS, facts, strict=True)) | scores)
    groups = np.unique(genes.group[rank], return_inverse=True)[1].astype(np.int64)
    gene = np.unique(rank, return_inverse=True)[1].astype(np.int64)
    pooled = [
        {"metric": one.metric, "class": one.class_name} | one.values()
        for one in score(probabilities, label, groups, plan.data.classes, seed=plan.settings.seed, genes=gene)
    ]
    return rows, {
        "status": "evaluated",
        "n_genes": len(np.unique(rank)),
        "n_groups": int(groups.max()) + 1,
        "n_rows": len(label),
        "over_folds": aggregate([{name: row[name] for name in row if name not in FACTS[:3]} for row in rows]),
        "all_rows": pooled,
    }


def _scores(
    probabilities: NDArray[np.float32], labels: NDArray[np.integer[Any]], classes: Sequence[str]
) -> dict[str, float | None]:
    points = point_scores(probabilities, labels, classes)
    precision, area = areas(site_probability(probabilities), labels > 0)
    found = {"f1_macro": points["macro_f1"]}
    found |= {f"{name}_f1": points[f"{name}_f1"] for name in classes}
    found |= {f"{name}_ap": points[f"{name}_ap"] for name in classes}
    found |= {
        "macro_ap": points["macro_ap"],
        "binary_auc": area,
        "binary_ap": precision,
        "log_loss": points["log_loss"],
    }
    return {name: known(value) for name, value in found.items()}
