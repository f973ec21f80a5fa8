"""Scores an instance's out-of-fold rows fold by fold, beside the base model: the columns of ``gene_cv_metrics.csv``.

A *site* is a row of any class but the first.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_duck.metrics.base_model import NO_BASE
from mi_duck.metrics.metrics import known, point_scores
from mi_duck.metrics.ranking import rank_scores, ranking, top_k_shares

BASE_COLUMNS = ("base_f1", "base_topk", "delta_fp", "delta_fn", "auc_base", "ap_base")


def fold_scores(
    probabilities: NDArray[np.floating[Any]],
    base: NDArray[np.floating[Any]] | None,
    labels: NDArray[np.integer[Any]],
    genes: NDArray[np.integer[Any]],
    classes: Sequence[str],
) -> dict[str, float | int | None]:
    """Return the scores of one fold by the names of the columns of ``gene_cv_metrics.csv``.

    Parameters
    ----------
    probabilities, base
        Probabilities of the instance and of the base model, shape (n_rows, n_classes); None without a base model.
    labels, genes
        Class and gene of each row as whole numbers, shape (n_rows,).
    classes
        Names of the classes; the first is the background.

    Returns
    -------
    dict
        ``test_macro_f1`` (mean of F1 over all classes, by the most probable class), ``splice_macro_f1`` (over the site
        classes), ``test_macro_avg_precision`` (mean over the site classes), ``<class>_f1``, ``<class>_ap``,
        ``top_k_<class>`` and their mean over the site classes ``top_k_accuracy`` (see `gene_top_k`), ``top_k_n_genes``
        (genes with a site). Then sites against all other rows, by the sum of the site classes: F1 (``base_f1``, ``meta_f1``)
        and errors at one half, where ``delta_fp`` and ``delta_fn`` are base - instance, so that more is better;
        ``base_topk``, ``meta_topk``; ``auc_*`` and ``ap_*``. None without a base model, without rows, and without rows of a
        class that the score needs.
    """
    if not len(labels):
        return dict.fromkeys(score_names(classes))
    sites = range(1, len(classes))
    points = point_scores(probabilities, labels, classes)
    top_k = {
        name: gene_top_k(probabilities[:, index], labels == index, genes) for index, name in enumerate(classes) if index
    }
    found: dict[str, float | None] = {
        "test_macro_f1": points["macro_f1"],
        "test_macro_avg_precision": points["macro_ap"],
        "splice_macro_f1": float(np.mean([points[f"{classes[index]}_f1"] for index in sites])),
        "top_k_accuracy": float(np.mean([top_k[classes[index]] for index in sites])),
    }
    found |= {f"top_k_{name}": value for name, value in top_k.items()}
    found["top_k_n_genes"] = len(np.unique(genes[labels > 0]))
    for kind in ("f1", "ap"):
        found |= {f"{name}_{kind}": points[f"{name}_{kind}"] for name in classes}
    meta = site_scores(probabilities, labels, genes)
    base_line = dict.fromkeys(meta) if base is None else site_scores(base, labels, genes)
    for name, kind in (("f1", "{}_f1"), ("topk", "{}_topk")):
        found |= {kind.format("base"): base_line[name], kind.format("meta"): meta[name]}
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
        "top_k_n_genes",
        *(f"{name}_{kind}" for kind in ("f1", "ap") for name in classes),
        *("base_f1", "meta_f1", "base_topk", "meta_topk", "delta_fp", "delta_fn"),
        *("auc_base", "auc_meta", "ap_base", "ap_meta"),
    ]


def site_scores(
    probabilities: NDArray[np.floating[Any]], labels: NDArray[np.integer[Any]], genes: NDArray[np.integer[Any]]
) -> dict[str, float | int]:
    """Return the scores of sites against other rows: ``f1``, ``fp``, ``fn`` at one half, ``auc``, ``ap``, ``topk``."""
    score, truth = site_probability(probabilities), labels > 0
    precision, area = areas(score, truth)
    called = score >= 0.5
    hits, fp, fn = int((called & truth).sum()), int((called & ~truth).sum()), int((~called & truth).sum())
    return {
        "f1": 2 * hits / (2 * hits + fp + fn) if hits + fp + fn else float("nan"),
        "fp": fp,
        "fn": fn,
        "auc": area,
        "ap": precision,
        "topk": gene_top_k(score, truth, genes),
    }


def site_probability(probabilities: NDArray[np.floating[Any]]) -> NDArray[np.float64]:
    """Return the probability of any class but the first, shape (n_rows,)."""
    total: NDArray[np.float64] = probabilities[:, 1:].sum(axis=1, dtype=np.float64)
    return total


def gene_top_k(scores: NDArray[np.floating[Any]], truth: NDArray[np.bool_], genes: NDArray[np.integer[Any]]) -> float:
    """Return the top-k accuracy, the mean of `top_k_shares` over the genes with a true row; NaN where there is none."""
    gene = np.unique(genes, return_inverse=True)[1]
    shares = top_k_shares(ranking(scores), truth, gene, int(gene.max()) + 1)
    shares = shares[~np.isnan(shares)]
    return float(shares.mean()) if len(shares) else float("nan")


def areas(scores: NDArray[np.floating[Any]], truth: NDArray[np.bool_]) -> tuple[float, float]:
    """Return average precision and area under the ROC curve; NaN without the kind of rows that it needs."""
    of_one_group = np.zeros(len(truth), dtype=np.int64), np.ones((1, 1), dtype=np.int64)
    precision, area = rank_scores(ranking(scores), truth, *of_one_group)
    return float(precision[0]), float(area[0])


def aggregate(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return mean and standard deviation over folds of every column of a table of folds but ``fold``.

    Parameters
    ----------
    rows
        One record per fold; a value that is None or empty text could not be computed.

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
