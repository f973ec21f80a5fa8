"""Scores of probabilities against labels, with intervals by bootstrap over fold groups.

The fold group is the unit of independence, so groups are drawn and the rows of a group stay together. Two models are compared
under the same draws, so rows that are hard for both do not widen the interval of their difference. The models are not trained
anew in a draw: an interval holds for these trained models on other genes, not for what another training would give.

References
----------
Bootstrap: Efron and Tibshirani, An Introduction to the Bootstrap (1993), percentile intervals. Calibration error with bins of
equal mass: Nixon et al., Measuring calibration in deep learning (CVPR workshops 2019). Measures by order of scores:
`mi_duck.metrics.ranking`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mi_duck.metrics.ranking import (
    AREAS,
    TOP_K,
    Booleans,
    Floats,
    Floats64,
    Integers,
    Ranking,
    rank_scores,
    ranking,
    ratio,
    top_k_hits,
)

DRAWS = 1_000
FEWEST_GROUPS = 100
"""With fewer fold groups, or groups that are worth fewer, intervals are too narrow."""
LEAST_EXTRA = 1.01  # below, an interval is wider by less than half a per cent, which is not worth the time
LEAST_FREEDOM = 5  # below, Student's t is wider than any score allows
BINS = 15
LEAST_PROBABILITY = 1e-15
CALLS = ("f1", "precision", "recall")
RANKED = (*AREAS, *TOP_K)
METRICS = (*AREAS, *CALLS, *TOP_K, "top_k_per_gene", "brier", "ece", "log_loss")
LOWER_IS_BETTER = ("brier", "ece", "log_loss")
GAIN = "ensemble - base"
"""Variant of the lines with paired differences."""
SHORT = {"average_precision": "ap", "roc_auc": "auc"}
TITLES = {
    "average_precision": "AP",
    "roc_auc": "ROC AUC",
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "brier": "Brier score",
    "ece": "calibration error",
    "log_loss": "log loss",
    "top_k": "top-k",
    "top_0.5k": "top-0.5k",
    "top_2k": "top-2k",
    "top_4k": "top-4k",
    "top_k_per_gene": "top-k per gene",
    **{f"precision_at_recall_{recall}": f"precision at recall {recall}" for recall in ("0.5", "0.8", "0.9")},
    **{
        f"false_positives_per_1000_nt_at_recall_{recall}": f"false positives per 1,000 nt at recall {recall}"
        for recall in ("0.5", "0.8", "0.9")
    },
}
"""What people read for a metric, in the order of columns."""

Drawn = Mapping[tuple[str, str], Floats64]
"""For each metric and class its value on the rows as they are and under each draw, shape (1 + n_draws,)."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One score.

    Parameters
    ----------
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

    def values(self) -> dict[str, float | None]:
        """Return value and interval for a file, None where they are not defined."""
        return {name: known(getattr(self, name)) for name in ("value", "low", "high")}


def score(
    probabilities: Floats,
    labels: Integers,
    groups: Integers,
    classes: Sequence[str],
    *,
    seed: int,
    draws: int = DRAWS,
    genes: Integers | None = None,
    metrics: Sequence[str] = METRICS,
) -> list[Metric]:
    """Score probabilities, with 95 % intervals over fold groups; see `drawn_scores`."""
    group_draws = draw_groups(groups, seed=seed, draws=draws)
    return summary(
        drawn_scores(probabilities, labels, groups, classes, group_draws=group_draws, genes=genes, metrics=metrics)
    )


def point_scores(
    probabilities: Floats, labels: Integers, classes: Sequence[str], *, genes: Integers | None = None
) -> dict[str, float]:
    """Return the same scores without intervals under short names, for tables with one column per score.

    ``<class>_<metric>`` and ``macro_<metric>``, where `SHORT` says ``ap`` and ``auc``; those of class ``all`` are
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


def title_of(metric: str, class_name: str) -> str:
    """Return the heading of a metric of a class."""
    name = TITLES.get(metric, metric.replace("_", " "))
    return name if class_name == "all" else f"{name} {class_name}"


def known(value: float) -> float | None:
    """Return a score for a file, None where it could not be computed."""
    return None if np.isnan(value) else float(value)


def draw_groups(groups: Integers, *, seed: int, draws: int) -> Integers:
    """Return how often each fold group is drawn, shape (1 + draws, n_groups); the first line is the rows as they are.

    Parameters
    ----------
    groups
        Group of each row as a number from 0, shape (n_rows,).

    Notes
    -----
    Percentiles of plain draws are too narrow where groups are few: a variance divides by n where it should by n - 1, and the
    quantiles are those of a normal distribution where they should be those of Student's t (Hesterberg, What teachers should know
    about the bootstrap, The American Statistician 69, 2015). So draws vary more, by what this theory asks: in each draw the
    probabilities of the groups are drawn too, from a Dirichlet distribution (a Polya urn). The groups count as the equal ones
    that they are worth; degrees of freedom are Satterthwaite's (Biometrics Bulletin 2, 1946) for errors that grow with a
    group's rows.
    """
    rows = np.bincount(groups)
    n_groups = len(rows)
    rng = np.random.default_rng(seed)
    more = _extra_variance(rows) if draws else 1.0
    is_plain = not LEAST_EXTRA < more < n_groups
    # variance of a Dirichlet-multinomial count by that of a multinomial one: (n + a) / (1 + a), a the sum of its parameters
    concentration = np.inf if is_plain else (n_groups - more) / (more - 1)
    counts = [np.ones(n_groups, dtype=np.int64)]
    for _ in range(draws):
        if is_plain:
            counts.append(np.bincount(rng.integers(0, n_groups, n_groups), minlength=n_groups))
        else:
            shares = rng.dirichlet(np.full(n_groups, concentration / n_groups))
            counts.append(rng.multinomial(n_groups, shares))
    largest = max(int(line.max(initial=0)) for line in counts)
    # 8-bit where that suffices, for 1,000 draws of many groups take memory
    return np.array(counts, dtype=np.uint8 if largest < 256 else np.uint32)


def worth(rows: Integers | Floats) -> float:
    """Return how many groups of equal size groups of so many rows are worth (Kish, Survey Sampling, 1965); 0 without rows."""
    sizes = rows.astype(np.float64)
    return float(sizes.sum() ** 2 / max(np.square(sizes).sum(), 1.0))


def _extra_variance(rows: Integers) -> float:
    """Return by how much draws must vary more, so that the middle 95 % is as wide as by Student's t; 1 for many groups."""
    from scipy.special import ndtri, stdtrit

    equal, freedom = worth(rows), worth(np.square(rows.astype(np.float64)))
    if equal < 2:
        return 1.0
    return float((stdtrit(max(freedom, LEAST_FREEDOM), 0.975) / ndtri(0.975)) ** 2 * equal / (equal - 1))


def drawn_scores(
    probabilities: Floats,
    labels: Integers,
    groups: Integers,
    classes: Sequence[str],
    *,
    group_draws: Integers,
    genes: Integers | None = None,
    ranked: Floats | None = None,
    metrics: Sequence[str] = METRICS,
    sites_only: bool = False,
) -> dict[tuple[str, str], Floats64]:
    """Score probabilities in each draw of groups.

    Parameters
    ----------
    labels, groups
        Class and fold group of each row as numbers from 0, shape (n_rows,).
    classes
        Names; the first is the background, the others are sites.
    group_draws
        From `draw_groups`.
    genes
        Gene of each row as a number from 0, each gene in one group, shape (n_rows,); None leaves out ``top_k_per_gene``.
    ranked
        Scores by which rows are ranked instead of probabilities, same shape: those that ``average_precision``, ``roc_auc``
        and all top-k are of. None ranks by the probabilities.
    sites_only
        Leave out average precision and ROC area of the background, which take the most time.

    Returns
    -------
    dict
        (metric, class) to its value in each draw, shape (n_lines,).

    Notes
    -----
    ``average_precision`` and ``roc_auc``: class against the rest by its probability; ``macro`` is the mean over sites.
    ``f1``, ``precision``, ``recall``: the class called is the most probable one; F1 = 2 TP / (2 TP + FP + FN), 0 where the
    class is neither there nor called; precision is not defined where the class is never called; ``macro`` is the mean over
    all classes.
    ``top_k`` of a site class with k true rows: the share of them among the k rows of highest score of all; ``top_0.5k``,
    ``top_2k`` and ``top_4k``: see `mi_duck.metrics.ranking.rank_scores`. ``top_k_per_gene``: the same in each gene with k > 0
    true rows, and their mean. Rows of equal score count as expected in random order; ``macro`` is the mean over sites.
    ``brier``: mean of (probability - truth)^2; ``all`` is its sum over classes. ``log_loss``: nats per row, class against
    the rest; ``all`` is that of the label's probability. Probabilities count as 1e-15 at least. ``ece``: mean over 15 bins of
    equal mass, by rows, of |mean probability - share of true rows|. Bins are cut on the rows as they are, equal
    probabilities stay together.
    """
    sums = _Sums(groups, group_draws.shape[1])
    of_order: dict[str, dict[str, Floats64]] = {kind: {} for kind in RANKED}
    for index, name in enumerate(classes):
        probability, truth = probabilities[:, index], labels == index
        if "brier" in metrics:
            error = probability.astype(np.float64)
            error -= truth
            np.square(error, out=error)
            sums.add(f"brier {index}", error)
        if "log_loss" in metrics:
            right = np.where(truth, probability, 1 - probability.astype(np.float64))
            sums.add(f"loss {index}", _negative_log_likelihood(right))
        if "ece" in metrics:
            ranks = ranking(probability)
            bins = equal_mass_bins(ranks.order, ranks.stops)
            sums.add_binned(f"gap {index}", probability.astype(np.float64) - truth, bins)
        wanted = [kind for kind in RANKED if kind in metrics and (index > 0 or (kind in AREAS and not sites_only))]
        with_genes = "top_k_per_gene" in metrics and index > 0 and genes is not None
        if not (wanted or with_genes):
            continue
        if ranked is not None or "ece" not in metrics:
            ranks = ranking(probability if ranked is None else ranked[:, index])
        if wanted:
            values = rank_scores(ranks, truth, groups, group_draws)
            for kind in wanted:
                of_order[kind][name] = values[kind]
        if with_genes and genes is not None:
            sums.add_top_k(index, ranks, truth, genes)
    sums.add("rows", np.ones(len(labels)))
    if "log_loss" in metrics:
        sums.add("loss", log_loss_of_rows(probabilities, labels))
    if set(CALLS) & set(metrics):
        cells = labels.astype(np.int64) * len(classes) + probabilities.argmax(axis=1)
        sums.add_cells("calls", cells, len(classes) ** 2)
    totals = sums.drawn(group_draws)
    return _with_averages(of_order | _of_classes(totals, classes), totals, classes, metrics)


def log_loss_of_rows(probabilities: Floats, labels: Integers) -> Floats64:
    """Return -log of the probability of each row's label, nats, shape (n_rows,)."""
    of_label = np.take_along_axis(probabilities, labels.astype(np.int64)[:, None], axis=1)[:, 0]
    return _negative_log_likelihood(of_label.astype(np.float64))


def headline_scores(
    probabilities: Floats, labels: Integers, groups: Integers, classes: Sequence[str], *, group_draws: Integers
) -> dict[tuple[str, str], Floats64]:
    """Return the scores by which many variants are compared: average precision and top-k of sites, macro F1, log loss."""
    kinds = ("average_precision", "f1", "top_k", "log_loss")
    found = drawn_scores(
        probabilities, labels, groups, classes, group_draws=group_draws, metrics=kinds, sites_only=True
    )
    whole = {("f1", "macro"), ("log_loss", "all")}
    return {key: value for key, value in found.items() if key[0] in ("average_precision", "top_k") or key in whole}


def equal_mass_bins(order: NDArray[np.int64], stops: NDArray[np.int64], n_bins: int = BINS) -> NDArray[np.uint8]:
    """Return the bin of each row of a ranking, from 0 for the lowest scores; equal scores share their block's middle bin."""
    sizes = np.diff(stops, prepend=0)
    of_block = (n_bins - 1 - (stops - (sizes + 1) // 2) * n_bins // len(order)).astype(np.uint8)
    bins = np.empty(len(order), dtype=np.uint8)
    bins[order] = of_block if len(of_block) == len(order) else np.repeat(of_block, sizes)
    return bins


def summary(drawn: Drawn) -> list[Metric]:
    """Return values with their 95 % percentile intervals."""
    return [interval(*key, values) for key, values in drawn.items()]


def differences(one: Drawn, other: Drawn) -> dict[tuple[str, str], Floats64]:
    """Return one model's scores minus another's, draw by draw; both must have been scored in the same draws."""
    return {key: values - other[key] for key, values in one.items() if key in other}


def interval(metric: str, class_name: str, values: Floats64) -> Metric:
    """Return the first of values, and the middle 95 % of the others.

    The calibration error of drawn rows is too high: drawing adds noise, and its absolute values do not cancel. So its draws are
    shifted until their median is the value on the rows as they are.
    """
    drawn = values[1:][~np.isnan(values[1:])]
    if not len(drawn):
        return Metric(metric, class_name, float(values[0]), np.nan, np.nan)
    low, middle, high = np.percentile(drawn, [2.5, 50, 97.5])
    if metric == "ece":
        low, high = low + values[0] - middle, high + values[0] - middle
    return Metric(metric, class_name, float(values[0]), float(low), float(high))


def too_narrow(groups: Integers) -> str:
    """Return why intervals over the fold groups of these rows are too narrow, empty where they are not."""
    rows = np.bincount(groups)
    n_groups, equal = np.count_nonzero(rows), worth(rows)
    if n_groups < FEWEST_GROUPS:
        return f"{n_groups} fold groups, fewer than {FEWEST_GROUPS}"
    if equal < FEWEST_GROUPS:
        return f"{n_groups:,} fold groups of unequal size are worth {equal:.0f} equal ones, fewer than {FEWEST_GROUPS}"
    return ""


def _negative_log_likelihood(probability: Floats64) -> Floats64:
    """Return -log of probabilities, in place: as 64-bit numbers they take the most memory of all."""
    np.clip(probability, LEAST_PROBABILITY, 1, out=probability)
    np.log(probability, out=probability)
    np.negative(probability, out=probability)
    return probability


def _of_classes(totals: Mapping[str, Floats64], classes: Sequence[str]) -> dict[str, dict[str, Floats64]]:
    """Return every metric that is a ratio of sums, by class, in each draw of groups."""
    rows = totals["rows"][:, 0]

    def sums_of(key: str) -> dict[str, Floats64]:
        return {name: totals[f"{key} {index}"] for index, name in enumerate(classes) if f"{key} {index}" in totals}

    n_genes = sums_of("genes")
    found = {
        "top_k_per_gene": {name: ratio(one[:, 0], n_genes[name][:, 0]) for name, one in sums_of("top-k").items()},
        "brier": {name: one[:, 0] / rows for name, one in sums_of("brier").items()},
        "log_loss": {name: one[:, 0] / rows for name, one in sums_of("loss").items()},
        "ece": {name: np.abs(one).sum(axis=1) / rows for name, one in sums_of("gap").items()},
    }
    if "calls" in totals:
        found |= _of_calls(totals["calls"].reshape(-1, len(classes), len(classes)), classes)
    return found


def _with_averages(
    by_class: Mapping[str, Mapping[str, Floats64]],
    totals: Mapping[str, Floats64],
    classes: Sequence[str],
    metrics: Sequence[str],
) -> dict[tuple[str, str], Floats64]:
    """Return the metrics that were asked for, each with its ``macro`` or ``all`` after its classes."""
    found: dict[tuple[str, str], Floats64] = {}
    for kind in (kind for kind in METRICS if kind in metrics):
        values = by_class[kind]
        found |= {(kind, name): value for name, value in values.items()}
        if kind in (*RANKED, "top_k_per_gene") and values:
            found[kind, "macro"] = np.mean([values[name] for name in classes[1:]], axis=0)
        elif kind in CALLS:
            found[kind, "macro"] = np.mean(list(values.values()), axis=0)
        elif kind == "brier":
            found[kind, "all"] = np.sum(list(values.values()), axis=0)
        elif kind == "log_loss":
            found[kind, "all"] = totals["loss"][:, 0] / totals["rows"][:, 0]
    return found


def _of_calls(confusion: Floats64, classes: Sequence[str]) -> dict[str, dict[str, Floats64]]:
    """Return F1, precision and recall of each class from counts by draw, true class and called class."""
    hits = np.diagonal(confusion, axis1=1, axis2=2)
    called, true = confusion.sum(axis=1), confusion.sum(axis=2)
    tables = {
        "f1": np.nan_to_num(ratio(2 * hits, called + true)),
        "precision": ratio(hits, called),
        "recall": ratio(hits, true),
    }
    return {kind: {name: table[:, index] for index, name in enumerate(classes)} for kind, table in tables.items()}


class _Sums:
    """Sums of values by group: draws of groups weigh these, and look at no row again."""

    def __init__(self, groups: Integers, n_groups: int) -> None:
        self._groups = groups
        self._n_groups = n_groups
        self._tables: dict[str, Floats64] = {}

    def add(self, name: str, values: Floats64, groups: Integers | None = None) -> None:
        """Add up one value per row, or values that have groups of their own."""
        sums = np.bincount(self._groups if groups is None else groups, weights=values, minlength=self._n_groups)
        self._tables[name] = sums.astype(np.float64)[:, None]

    def add_top_k(self, index: int, ranks: Ranking, truth: Booleans, genes: Integers) -> None:
        """Add up the top-k shares of genes with true rows, and count these genes."""
        n_genes = int(genes.max()) + 1
        group_of_gene = np.zeros(n_genes, dtype=np.int64)
        group_of_gene[genes] = self._groups
        sites, hits = top_k_hits(ranks, truth, genes, n_genes)
        counted = sites > 0
        self.add(f"top-k {index}", hits[counted] / sites[counted], group_of_gene[counted])
        self.add(f"genes {index}", np.ones(np.count_nonzero(counted)), group_of_gene[counted])

    def add_binned(self, name: str, values: Floats64, bins: NDArray[np.uint8]) -> None:
        """Add up one value per row by bin."""
        cells = np.bincount(self._groups * np.int64(BINS) + bins, weights=values, minlength=self._n_groups * BINS)
        self._tables[name] = cells.reshape(self._n_groups, BINS).astype(np.float64)

    def add_cells(self, name: str, cells: NDArray[np.int64], n_cells: int) -> None:
        """Count rows by cell."""
        counts = np.bincount(self._groups * np.int64(n_cells) + cells, minlength=self._n_groups * n_cells)
        self._tables[name] = counts.reshape(self._n_groups, n_cells).astype(np.float64)

    def drawn(self, group_draws: Integers) -> dict[str, Floats64]:
        """Return the sums in each draw of groups, each of shape (n_lines, its width)."""
        whole = np.concatenate(list(self._tables.values()), axis=1)
        totals = np.empty((len(group_draws), whole.shape[1]))
        # the first line alone: the last bit of a product may depend on how many lines it has
        totals[0] = group_draws[0].astype(np.float64) @ whole
        # then a few lines at a time: as 64-bit numbers they take 8 times the memory
        for begin in range(1, len(group_draws), 32):
            totals[begin : begin + 32] = group_draws[begin : begin + 32].astype(np.float64) @ whole
        edges = np.cumsum([table.shape[1] for table in self._tables.values()])[:-1]
        return dict(zip(self._tables, np.split(totals, edges, axis=1), strict=True))
