"""Scores of probabilities against labels, with intervals by bootstrap over fold groups.

The fold group is what may be exchanged between data sets, so it is what is drawn: rows of a group stay together. Two models
are compared under the same draws, so what both find hard leaves the difference alone.

References
----------
Bootstrap: Efron and Tibshirani, An Introduction to the Bootstrap (1993), percentile intervals. Calibration error with bins of
equal mass: Nixon et al., Measuring calibration in deep learning (CVPR workshops 2019). Measures by order of scores:
`mi_duck.metrics.ranking`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_duck.metrics.ranking import rank_scores, ranking, top_k_hits

DRAWS = 200
BINS = 15
LEAST_CHANCE = 1e-15
METRICS = (
    "average_precision",
    "roc_auc",
    "f1",
    "precision",
    "recall",
    "top_k_accuracy",
    "brier",
    "ece",
    "log_loss",
)
OF_ORDER = ("average_precision", "roc_auc", "top_k_accuracy", "ece")
SHORT = {"average_precision": "ap", "roc_auc": "auc", "top_k_accuracy": "top_k"}

Drawn = Mapping[tuple[str, str], NDArray[np.float64]]
"""For each metric and class its value on the data as they are and under each draw, shape (1 + n_draws,)."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One score.

    Parameters
    ----------
    metric
        One of `METRICS`; see `drawn_scores`.
    class_name
        A class, ``macro`` or ``all``.
    value
        On the rows as they are; NaN where it is not defined.
    low, high
        95 % interval; NaN without draws.
    """

    metric: str
    class_name: str
    value: float
    low: float
    high: float


def score(
    probabilities: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    groups: NDArray[np.integer[Any]],
    classes: Sequence[str],
    *,
    seed: int,
    draws: int = DRAWS,
    genes: NDArray[np.integer[Any]] | None = None,
    metrics: Sequence[str] = METRICS,
) -> list[Metric]:
    """Score probabilities, with 95 % intervals over fold groups.

    Parameters
    ----------
    probabilities, labels, groups, classes, genes, metrics
        As for `drawn_scores`.
    seed, draws
        Of the bootstrap.
    """
    weights = draw_weights(int(groups.max()) + 1, seed=seed, draws=draws)
    return summary(drawn_scores(probabilities, labels, groups, classes, weights=weights, genes=genes, metrics=metrics))


def paired_difference(
    probabilities: NDArray[np.floating[Any]],
    others: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    groups: NDArray[np.integer[Any]],
    classes: Sequence[str],
    *,
    seed: int,
    draws: int = DRAWS,
    genes: NDArray[np.integer[Any]] | None = None,
    metrics: Sequence[str] = METRICS,
) -> list[Metric]:
    """Return the scores of one model minus those of another on the same rows, with 95 % intervals by the same draws.

    Parameters
    ----------
    probabilities, others
        Probabilities of the two, each of shape (n_rows, n_classes).
    labels, groups, classes, genes, metrics
        As for `drawn_scores`.
    seed, draws
        Of the bootstrap.
    """
    weights = draw_weights(int(groups.max()) + 1, seed=seed, draws=draws)
    one, other = (
        drawn_scores(given, labels, groups, classes, weights=weights, genes=genes, metrics=metrics)
        for given in (probabilities, others)
    )
    return summary(differences(one, other))


def point_scores(
    probabilities: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    classes: Sequence[str],
    *,
    genes: NDArray[np.integer[Any]] | None = None,
) -> dict[str, float]:
    """Return the same scores without intervals under short names, for tables with one column a score.

    ``<class>_<metric>`` and ``macro_<metric>``, where `SHORT` says ``ap``, ``auc`` and ``top_k``; those of class ``all`` are
    ``log_loss`` and ``brier``.
    """
    found = score(probabilities, labels, np.zeros(len(labels), dtype=np.int64), classes, seed=0, draws=0, genes=genes)
    return short_names(found)


def short_names(found: Sequence[Metric]) -> dict[str, float]:
    """Return scores under the names of `point_scores`."""
    return {
        SHORT.get(one.metric, one.metric)
        if one.class_name == "all"
        else f"{one.class_name}_{SHORT.get(one.metric, one.metric)}": one.value
        for one in found
    }


def known(value: float) -> float | None:
    """Return a score for a file, None where it could not be computed."""
    return None if np.isnan(value) else float(value)


def draw_weights(n_groups: int, *, seed: int, draws: int) -> NDArray[np.integer[Any]]:
    """Return how often each group is drawn, shape (1 + draws, n_groups); the first line is the data as they are."""
    rng = np.random.default_rng(seed)
    counts = [np.ones(n_groups, dtype=np.int64)]
    counts += [np.bincount(rng.integers(0, n_groups, n_groups), minlength=n_groups) for _ in range(draws)]
    largest = max(int(line.max(initial=0)) for line in counts)
    # one byte where it holds them: the look-up of a weight for each row and draw is what takes the time
    return np.array(counts, dtype=np.uint8 if largest < 256 else np.uint32)


def drawn_scores(
    probabilities: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    groups: NDArray[np.integer[Any]],
    classes: Sequence[str],
    *,
    weights: NDArray[np.integer[Any]],
    genes: NDArray[np.integer[Any]] | None = None,
    metrics: Sequence[str] = METRICS,
    sites_only: bool = False,
) -> dict[tuple[str, str], NDArray[np.float64]]:
    """Score probabilities under each line of group weights.

    Parameters
    ----------
    probabilities
        Probabilities, shape (n_rows, n_classes).
    labels
        Class of each row, shape (n_rows,).
    groups
        Fold group of each row as a number from 0, shape (n_rows,).
    classes
        Names of the classes; the first is the background, the others are sites.
    weights
        From `draw_weights`.
    genes
        Gene of each row as a number from 0, each gene in one group, shape (n_rows,); without them no top-k accuracy.
    metrics
        Which of `METRICS`.
    sites_only
        Leave out average precision and ROC area of the background, which take the most time.

    Returns
    -------
    dict
        (metric, class) to its value under each line, shape (n_lines,).

    Notes
    -----
    ``average_precision`` and ``roc_auc``: class against the rest by its probability; ``macro`` is the mean over sites.
    ``f1``, ``precision``, ``recall``: the class called is the most probable one; F1 = 2 TP / (2 TP + FP + FN), 0 where
    nothing is there; precision is not defined where nothing is called; ``macro`` is the mean over all classes.
    ``top_k_accuracy`` of a site class: in a gene with k true sites, the share of the k rows of highest probability that are
    true, rows with equal ones counting in their order; mean over the genes with k > 0; ``macro`` is the mean over sites.
    ``brier``: mean of (probability - truth)^2; ``all`` is its sum over classes. ``log_loss``: nats a row, class against the
    rest; ``all`` is that of the label's probability. Probabilities count as 1e-15 at least. ``ece``: mean over 15 bins of
    equal mass, by rows, of |mean probability - share of true rows|. Bins are cut on the data as they are, equal
    probabilities stay together. Drawn data are noisier than data, so its interval lies high.
    """
    n_groups, n_classes = weights.shape[1], len(classes)
    sums = _Sums(groups, n_groups)
    found: dict[tuple[str, str], NDArray[np.float64]] = {}
    order: dict[str, NDArray[np.float64]] = {}
    for index, name in enumerate(classes):
        probability, truth = probabilities[:, index], labels == index
        if "brier" in metrics:
            error = probability.astype(np.float64)
            error -= truth
            np.square(error, out=error)
            sums.add(f"brier {index}", error)
        if "log_loss" in metrics:
            sums.add(
                f"loss {index}",
                _negative_log_likelihood(np.where(truth, probability, 1 - probability.astype(np.float64))),
            )
        wanted = set(OF_ORDER) & set(metrics)
        if not wanted or (sites_only and index == 0 and "ece" not in wanted):
            continue
        ranks = ranking(probability)
        if {"average_precision", "roc_auc"} & set(metrics) and not (sites_only and index == 0):
            order[f"average_precision {name}"], order[f"roc_auc {name}"] = rank_scores(ranks, truth, groups, weights)
        if "ece" in metrics:
            bins = equal_mass_bins(ranks.order, ranks.stops)
            sums.add_binned(f"gap {index}", probability.astype(np.float64) - truth, bins)
        if "top_k_accuracy" in metrics and genes is not None and index > 0:
            n_genes = int(genes.max()) + 1
            sites, hits = top_k_hits(ranks, truth, genes, n_genes)
            group_of_gene = np.zeros(n_genes, dtype=np.int64)
            group_of_gene[genes] = groups
            counted = sites > 0
            share = hits[counted] / sites[counted]
            sums.add_by(f"top-k {index}", share, group_of_gene[counted])
            sums.add_by(f"genes {index}", np.ones(len(share)), group_of_gene[counted])
    sums.add("rows", np.ones(len(labels)))
    if "log_loss" in metrics:
        of_label = np.take_along_axis(probabilities, labels[:, None].astype(np.int64), axis=1)[:, 0].astype(np.float64)
        sums.add("loss", _negative_log_likelihood(of_label))
    calls = {"f1", "precision", "recall"} & set(metrics)
    if calls:
        sums.add_cells("calls", labels.astype(np.int64) * n_classes + probabilities.argmax(axis=1), n_classes**2)
    totals = sums.drawn(weights)
    rows = totals["rows"][:, 0]
    names = list(enumerate(classes))
    by_class: dict[str, dict[str, NDArray[np.float64]]] = {}
    for kind in ("average_precision", "roc_auc"):
        by_class[kind] = {name: order[f"{kind} {name}"] for name in classes if f"{kind} {name}" in order}
    if calls:
        by_class |= _of_calls(totals["calls"].reshape(-1, n_classes, n_classes), classes)
    by_class["top_k_accuracy"] = {
        name: _ratio(totals[f"top-k {index}"][:, 0], totals[f"genes {index}"][:, 0])
        for index, name in names
        if f"top-k {index}" in totals
    }
    for kind, key in (("brier", "brier"), ("log_loss", "loss")):
        by_class[kind] = {
            name: totals[f"{key} {index}"][:, 0] / rows for index, name in names if f"{key} {index}" in totals
        }
    by_class["ece"] = {
        name: np.abs(totals[f"gap {index}"]).sum(axis=1) / rows for index, name in names if f"gap {index}" in totals
    }
    for kind in (kind for kind in METRICS if kind in metrics):
        values = by_class[kind]
        found |= {(kind, name): value for name, value in values.items()}
        if kind in ("average_precision", "roc_auc", "top_k_accuracy") and values:
            found[kind, "macro"] = np.mean([values[name] for name in classes[1:]], axis=0)
        elif kind in calls:
            found[kind, "macro"] = np.mean(list(values.values()), axis=0)
        elif kind == "brier":
            found[kind, "all"] = np.sum(list(values.values()), axis=0)
        elif kind == "log_loss":
            found[kind, "all"] = totals["loss"][:, 0] / rows
    return found


def headline_scores(
    probabilities: NDArray[np.floating[Any]],
    labels: NDArray[np.integer[Any]],
    groups: NDArray[np.integer[Any]],
    classes: Sequence[str],
    *,
    weights: NDArray[np.integer[Any]],
) -> dict[tuple[str, str], NDArray[np.float64]]:
    """Return what comparisons of many variants look at: average precision of sites, macro F1, log loss; see `drawn_scores`."""
    kinds = ("average_precision", "f1", "log_loss")
    found = drawn_scores(probabilities, labels, groups, classes, weights=weights, metrics=kinds, sites_only=True)
    whole = {("f1", "macro"), ("log_loss", "all")}
    return {key: value for key, value in found.items() if key[0] == "average_precision" or key in whole}


def equal_mass_bins(order: NDArray[np.int64], stops: NDArray[np.int64], n_bins: int = BINS) -> NDArray[np.uint8]:
    """Return the bin of each row, from 0 for the lowest scores; rows of equal score share the bin of their block's middle.

    Parameters
    ----------
    order, stops
        Of `mi_duck.metrics.ranking.Ranking`, which is by falling score.
    """
    sizes = np.diff(stops, prepend=0)
    of_block = (n_bins - 1 - (stops - (sizes + 1) // 2) * n_bins // len(order)).astype(np.uint8)
    bins = np.empty(len(order), dtype=np.uint8)
    bins[order] = of_block if len(of_block) == len(order) else np.repeat(of_block, sizes)
    return bins


def summary(drawn: Drawn) -> list[Metric]:
    """Return values with their 95 % percentile intervals."""
    return [interval(*key, values) for key, values in drawn.items()]


def differences(one: Drawn, other: Drawn) -> dict[tuple[str, str], NDArray[np.float64]]:
    """Return one model's scores minus another's, draw by draw; both must have been scored under the same weights."""
    return {key: values - other[key] for key, values in one.items() if key in other}


def interval(metric: str, class_name: str, values: NDArray[np.float64]) -> Metric:
    """Return the first of values, and the middle 95 % of the others."""
    drawn = values[1:][~np.isnan(values[1:])]
    low, high = np.percentile(drawn, [2.5, 97.5]) if len(drawn) else (np.nan, np.nan)
    return Metric(metric, class_name, float(values[0]), float(low), float(high))


def _negative_log_likelihood(probability: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return -log of probabilities, which are overwritten: as real numbers they are the largest thing in memory."""
    np.clip(probability, LEAST_CHANCE, 1, out=probability)
    np.log(probability, out=probability)
    np.negative(probability, out=probability)
    return probability


def _of_calls(confusion: NDArray[np.float64], classes: Sequence[str]) -> dict[str, dict[str, NDArray[np.float64]]]:
    """Return F1, precision and recall of each class from counts by draw, true class and called class."""
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    called, true = confusion.sum(axis=1), confusion.sum(axis=2)
    f1 = np.divide(2 * hits, called + true, out=np.zeros_like(hits), where=called + true > 0)
    tables = {"f1": f1, "precision": _ratio(hits, called), "recall": _ratio(hits, true)}
    return {kind: {name: table[:, index] for index, name in enumerate(classes)} for kind, table in tables.items()}


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    ratio: NDArray[np.float64] = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return ratio


class _Sums:
    """Sums of values by group, which a draw of groups needs to weigh and no row any more."""

    def __init__(self, groups: NDArray[np.integer[Any]], n_groups: int) -> None:
        self._groups = groups
        self._n_groups = n_groups
        self._tables: dict[str, NDArray[np.float64]] = {}

    def add(self, name: str, values: NDArray[np.float64]) -> None:
        """Add up a value a row."""
        self.add_by(name, values, self._groups)

    def add_by(self, name: str, values: NDArray[np.float64], groups: NDArray[np.integer[Any]]) -> None:
        """Add up values that have groups of their own."""
        sums = np.bincount(groups, weights=values, minlength=self._n_groups)
        self._tables[name] = sums.astype(np.float64)[:, None]

    def add_binned(self, name: str, values: NDArray[np.float64], bins: NDArray[np.uint8]) -> None:
        """Add up a value a row by bin."""
        cells = np.bincount(self._groups * np.int64(BINS) + bins, weights=values, minlength=self._n_groups * BINS)
        self._tables[name] = cells.reshape(self._n_groups, BINS).astype(np.float64)

    def add_cells(self, name: str, cells: NDArray[np.int64], n_cells: int) -> None:
        """Count rows by cell."""
        counts = np.bincount(self._groups * np.int64(n_cells) + cells, minlength=self._n_groups * n_cells)
        self._tables[name] = counts.reshape(self._n_groups, n_cells).astype(np.float64)

    def drawn(self, weights: NDArray[np.integer[Any]]) -> dict[str, NDArray[np.float64]]:
        """Return the sums under each line of weights, each of shape (n_lines, its width)."""
        whole = np.concatenate(list(self._tables.values()), axis=1)
        totals = np.empty((len(weights), whole.shape[1]))
        # the first line alone: the last bit of a product may depend on how many lines it has
        totals[0] = weights[0].astype(np.float64) @ whole
        for begin in range(1, len(weights), 32):  # a few lines at a time: as real numbers they take 8 times the memory
            totals[begin : begin + 32] = weights[begin : begin + 32].astype(np.float64) @ whole
        edges = np.cumsum([table.shape[1] for table in self._tables.values()])[:-1]
        return dict(zip(self._tables, np.split(totals, edges, axis=1), strict=True))
