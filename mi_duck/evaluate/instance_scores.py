"""Scores of one instance: its out-of-fold rows fold by fold, and its final model on genes that it never saw.

A *site* is a row of any class but the first.

Genes never seen are those of fold groups that have no gene in the instance's window. With overlapping windows every instance
leaves most genes to the others, so these resemble the genes that it meets in use. The first thousand in the seeded order are
scored. One pass over their segments serves all instances: their trees are one forest, and for each row the predictions of the
instances that never saw its group are kept.
"""

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from mi_duck.atomic_files import published_file, storage_errors
from mi_duck.boosting.forest import forest_of
from mi_duck.ensemble.member_scores import load_member
from mi_duck.ensemble.model import by_member
from mi_duck.metrics.calibrate import NO_BASE, calibrated
from mi_duck.metrics.metrics import known, point_scores, score, too_narrow
from mi_duck.metrics.ranking import Booleans, Floats, Floats32, Floats64, Integers, rank_scores, ranking, top_k_shares
from mi_duck.processes import Report
from mi_duck.rows.segments import SegmentReader
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import GeneFolds
from mi_duck.run.plan import Instance, Plan

BATCH_BYTES = 64 << 20
STAGE = "scoring genes that an instance never saw"
MOST_UNSEEN = 1_000  # genes: a thousand say as much of one instance as all of a genome do
BASE_COLUMNS = ("base_f1", "base_topk", "delta_fp", "delta_fn", "auc_base", "ap_base")
NO_UNSEEN = "no unseen genes"
FACTS = ("fold", "train_genes", "train_rows", "test_genes", "test_rows")


# ---- fold by fold -----------------------------------------------------------------------------------------------------


def fold_scores(
    probabilities: Floats,
    base: tuple[Floats, Floats] | None,
    labels: Integers,
    genes: Integers,
    classes: Sequence[str],
) -> dict[str, float | int | None]:
    """Return the scores of one fold by the names of the columns of ``gene_cv_metrics.csv``.

    Parameters
    ----------
    base
        Of the base model: calibrated probabilities, and the scores as they are, by which rows are ranked.

    Returns
    -------
    dict
        ``test_macro_f1`` (mean of F1 over all classes, by the most probable class), ``splice_macro_f1`` (over the site
        classes), ``test_macro_avg_precision`` (mean over the site classes), ``<class>_f1``, ``<class>_ap``,
        ``top_k_<class>`` and their mean over the site classes ``top_k_accuracy`` (over all rows of the fold),
        ``top_k_per_gene_<class>`` and ``top_k_per_gene`` (see `gene_top_k`), ``top_k_n_genes`` (genes with a site).
        Then sites against all other rows, by the sum of the site classes: F1 (``base_f1``, ``meta_f1``) and errors at one half,
        where ``delta_fp`` and ``delta_fn`` are base - instance, so that more is better;
        ``base_topk``, ``meta_topk``; ``auc_*`` and ``ap_*``. None without a base model, without rows, and without rows of a
        class that the score needs.
    """
    if not len(labels):
        return dict.fromkeys(score_names(classes))
    sites = range(1, len(classes))
    points = point_scores(probabilities, labels, classes)
    per_gene = {
        name: gene_top_k(probabilities[:, index], labels == index, genes) for index, name in enumerate(classes) if index
    }
    found: dict[str, float | None] = {
        "test_macro_f1": points["macro_f1"],
        "test_macro_avg_precision": points["macro_ap"],
        "splice_macro_f1": float(np.mean([points[f"{classes[index]}_f1"] for index in sites])),
        "top_k_accuracy": points["macro_top_k"],
    }
    found |= {f"top_k_{name}": points[f"{name}_top_k"] for name in classes[1:]}
    found["top_k_per_gene"] = float(np.mean(list(per_gene.values())))
    found |= {f"top_k_per_gene_{name}": value for name, value in per_gene.items()}
    found["top_k_n_genes"] = len(np.unique(genes[labels > 0]))
    for kind in ("f1", "ap"):
        found |= {f"{name}_{kind}": points[f"{name}_{kind}"] for name in classes}
    meta = site_scores(probabilities, probabilities, labels)
    base_line = dict.fromkeys(meta) if base is None else site_scores(*base, labels)
    for name in ("f1", "topk"):
        found |= {f"base_{name}": base_line[name], f"meta_{name}": meta[name]}
    for name in ("fp", "fn"):
        found[f"delta_{name}"] = None if base is None else base_line[name] - meta[name]  # type: ignore[operator]
    for name in ("auc", "ap"):
        found |= {f"{name}_base": base_line[name], f"{name}_meta": meta[name]}
    return {name: None if value is None else known(value) for name, value in found.items()}


def score_names(classes: Sequence[str]) -> list[str]:
    """Return the names of `fold_scores` in its order."""
    return [
        *("test_macro_f1", "test_macro_avg_precision", "splice_macro_f1", "top_k_accuracy"),
        *(f"top_k_{name}" for name in classes[1:]),
        "top_k_per_gene",
        *(f"top_k_per_gene_{name}" for name in classes[1:]),
        "top_k_n_genes",
        *(f"{name}_{kind}" for kind in ("f1", "ap") for name in classes),
        *("base_f1", "meta_f1", "base_topk", "meta_topk", "delta_fp", "delta_fn"),
        *("auc_base", "auc_meta", "ap_base", "ap_meta"),
    ]


def site_scores(probabilities: Floats, ranked: Floats, labels: Integers) -> dict[str, float | int]:
    """Return the scores of sites against other rows: ``f1``, ``fp``, ``fn`` at one half; by ranks ``auc``, ``ap``, ``topk``."""
    truth = labels > 0
    by_rank = order_scores(site_probability(ranked), truth)
    called = site_probability(probabilities) >= 0.5
    hits, fp, fn = int((called & truth).sum()), int((called & ~truth).sum()), int((~called & truth).sum())
    return {
        "f1": 2 * hits / (2 * hits + fp + fn) if hits + fp + fn else float("nan"),
        "fp": fp,
        "fn": fn,
        "auc": by_rank["roc_auc"],
        "ap": by_rank["average_precision"],
        "topk": by_rank["top_k"],
    }


def site_probability(probabilities: Floats) -> Floats64:
    """Return the probability of any class but the first, shape (n_rows,)."""
    total: Floats64 = probabilities[:, 1:].sum(axis=1, dtype=np.float64)
    return total


def gene_top_k(scores: Floats, truth: Booleans, genes: Integers) -> float:
    """Return the top-k of genes, the mean of `top_k_shares` over the genes with a true row; NaN where there is none."""
    gene = np.unique(genes, return_inverse=True)[1]
    shares = top_k_shares(ranking(scores), truth, gene, int(gene.max()) + 1)
    shares = shares[~np.isnan(shares)]
    return float(shares.mean()) if len(shares) else float("nan")


def order_scores(scores: Floats, truth: Booleans) -> dict[str, float]:
    """Return the measures of `mi_duck.metrics.ranking.rank_scores`; NaN without the kind of rows that one needs."""
    of_one_group = np.zeros(len(truth), dtype=np.int64), np.ones((1, 1), dtype=np.int64)
    return {name: float(values[0]) for name, values in rank_scores(ranking(scores), truth, *of_one_group).items()}


def aggregate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return mean and standard deviation over folds of every column but ``fold``; None or empty text is not counted.

    Returns
    -------
    dict
        ``n_folds``; ``metrics``: column to ``mean``, ``sd`` (divisor n - 1; None for one fold) and ``n``, the folds that have
        a value; ``left_out``: column to the reason why no fold has one.
    """
    metrics: dict[str, dict[str, float | int | None]] = {}
    left_out: dict[str, str] = {}
    for name in [name for name in rows[0] if name != "fold"]:
        values = np.array([float(row[name]) for row in rows if row[name] not in (None, "", "nan")])
        values = values[~np.isnan(values)]
        if len(values):
            sd = float(values.std(ddof=1)) if len(values) > 1 else None
            metrics[name] = {"mean": float(values.mean()), "sd": sd, "n": len(values)}
        else:
            left_out[name] = NO_BASE if name in BASE_COLUMNS else "no fold has rows of every class that it needs"
    return {"n_folds": len(rows), "metrics": metrics, "left_out": left_out}


# ---- genes never seen -------------------------------------------------------------------------------------------------


def unseen_ranks(plan: Plan, instance: Instance, genes: GeneFolds) -> Booleans:
    """Return for each gene of the plan whether its fold group has no gene in the instance's window, shape (n_genes,).

    Genes of a pilot that chose the features are not unseen either.
    """
    group = genes.group[: plan.data.n_genes]
    unseen = ~np.isin(group, np.unique(group[instance.first_rank : instance.stop_rank]))
    unseen[: plan.data.pilot_genes] = False
    return unseen


def first_unseen(unseen: Booleans, most: int = MOST_UNSEEN) -> Booleans:
    """Return which of the unseen genes are scored, shape (n_genes,): the first in the seeded order, which are a random sample."""
    found: Booleans = unseen & (np.cumsum(unseen) <= most)
    return found


def unseen_file(folder: RunFolder, instance: Instance) -> Path:
    """Return the scratch file with the instance's predictions of unseen genes."""
    return folder.scratch / "unseen" / f"{instance.name}.parquet"


def predict_unseen(
    folder: RunFolder, plan: Plan, genes: GeneFolds, instances: Sequence[Instance], *, threads: int, report: Report
) -> None:
    """Predict the rows of unseen genes with the final model of each instance, in one pass over the segments.

    Writes one scratch file per instance: ``gene_rank``, ``label`` and one probability per class, in the order of rows.
    """
    models = [load_member(folder.instance(instance)) for instance in instances]
    forest = forest_of([one for model in models for one in model.boosters], plan.data.features, models[0].encoding)
    unseen = np.stack([first_unseen(unseen_ranks(plan, instance, genes)) for instance in instances])
    schema = pa.schema(
        [("gene_rank", pa.int32()), ("label", pa.uint8())]
        + [(f"p_{index}", pa.float32()) for index in range(len(plan.data.classes))]
    )
    targets = [unseen_file(folder, instance) for instance in instances]
    batch_rows = max(256, BATCH_BYTES // (4 * len(plan.data.features)))
    done = 0
    with storage_errors(folder.scratch):
        targets[0].parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as stack:
            partial = [stack.enter_context(published_file(target)) for target in targets]
            writers = [stack.enter_context(pq.ParquetWriter(path, schema, compression="zstd")) for path in partial]
            for segment in plan.cut.segments:
                if not unseen[:, segment.first_rank : segment.stop_rank].any():
                    continue
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
                report(STAGE, done, plan.data.n_rows)
    report(STAGE, plan.data.n_rows, plan.data.n_rows)


def unseen_scores(
    path: Path, plan: Plan, instance: Instance, genes: GeneFolds
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the tables of ``holdout_evaluation_results.csv`` and ``holdout_evaluation_summary.json``.

    Returns
    -------
    list of dict
        For each fold of the unseen genes: `FACTS`, then ``f1_macro`` (over all classes), ``<class>_f1``, ``<class>_ap``,
        ``macro_ap`` (over the site classes), ``binary_auc``, ``binary_ap`` (sites against all other rows), ``log_loss``;
        None where a fold lacks a class that the score needs.
    dict
        ``status``; where there are unseen genes also the number of those that were scored, mean and standard deviation over
        folds, and the scores on all of these with 95 % intervals by bootstrap over fold groups.
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
        "too_narrow": too_narrow(groups),
        "over_folds": aggregate([{name: row[name] for name in row if name not in FACTS[:3]} for row in rows]),
        "all_rows": pooled,
    }


def _scores(probabilities: Floats32, labels: Integers, classes: Sequence[str]) -> dict[str, float | None]:
    points = point_scores(probabilities, labels, classes)
    of_sites = order_scores(site_probability(probabilities), labels > 0)
    found = {"f1_macro": points["macro_f1"]}
    found |= {f"{name}_{kind}": points[f"{name}_{kind}"] for kind in ("f1", "ap") for name in classes}
    found |= {
        "macro_ap": points["macro_ap"],
        "binary_auc": of_sites["roc_auc"],
        "binary_ap": of_sites["average_precision"],
        "log_loss": points["log_loss"],
    }
    return {name: known(value) for name, value in found.items()}
