"""All that depends on the order of scores: areas under curves, top-k, curve points, thresholds.

A bootstrap over fold groups draws each group 0, 1, 2 ... times. Rows are sorted once, cut into at most `LEVELS` levels of score
and counted by group and level; the draws are then one product of matrices, draws by counts. For 3.6 million rows in 9,280
groups 1,000 draws take 2 s for a class of 5 % and 1 s for one of 95 %, where one running sum over all rows per draw took 13 s
and 50 s.

References
----------
Average precision: sum over thresholds of (R_n - R_{n-1}) P_n, as in scikit-learn's ``average_precision_score``. ROC area: the
probability that a positive row scores above a negative one, equal scores counting half (Hanley and McNeil, Radiology 143, 1982).
Top-k accuracy: Jaganathan et al., Predicting splicing from primary sequence (Cell 176, 2019). Its other k: OpenSpliceAI's
``print_topl_statistics``.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.floating[Any]]
Floats32 = NDArray[np.float32]
Floats64 = NDArray[np.float64]
Integers = NDArray[np.integer[Any]]
Booleans = NDArray[np.bool_]
Measure = Callable[[Floats64, Floats64, slice], dict[str, Floats64]]
"""From counts of true rows and of all rows by falling score, shape (n_lines, n_levels), and the lines, to values."""

AREAS = ("average_precision", "roc_auc")
TOP_K = {"top_0.5k": 0.5, "top_k": 1.0, "top_2k": 2.0, "top_4k": 4.0}
"""Rows that count as called, in multiples of the number k of true rows."""
LEVELS, LEAST_LEVELS = 1024, 512
CELLS = 1 << 23  # of a table of groups and levels
CELLS_AT_ONCE = 1 << 19  # of drawn counts: few enough to stay in the processor's cache
MOST_POINTS = 500  # of a curve
PRECISION = RECALL = 0.9  # of the thresholds that are not of the best F1
KINDS = ("best_f1", "precision_0.9", "recall_0.9")

Counts = NDArray[Any]
Thresholds = dict[str, dict[str, dict[str, float | None] | None]]
"""By class and kind: ``threshold``, ``precision``, ``recall``, ``f1``."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """Rows by falling score (``order``: the row of each rank); equal scores are one block, that is, one threshold.

    ``stops`` has for each block the rank behind its last row, rising.
    """

    order: NDArray[np.int64]
    stops: NDArray[np.int64]

    def block_of_rank(self) -> NDArray[np.int64]:
        """Return the block of each rank, shape (n_rows,)."""
        is_last = np.zeros(len(self.order), dtype=np.int64)
        is_last[self.stops - 1] = 1
        blocks: NDArray[np.int64] = np.cumsum(is_last) - is_last
        return blocks


def ranking(scores: Floats) -> Ranking:
    """Sort scores, shape (n_rows,), none of them NaN."""
    order = np.argsort(-scores)
    falling = scores[order]
    is_last = np.ones(len(falling), dtype=np.bool_)
    np.not_equal(falling[1:], falling[:-1], out=is_last[:-1])
    stops = np.flatnonzero(is_last)
    stops += 1
    return Ranking(order, stops)


def rank_scores(ranks: Ranking, truth: Booleans, groups: Integers, group_draws: Integers) -> dict[str, Floats64]:
    """Return the measures of one class that depend on the order of scores, in each draw of groups.

    Parameters
    ----------
    truth, groups
        Whether each row is positive, and its group, shape (n_rows,).
    group_draws
        How often each group counts, whole numbers, shape (n_lines, n_groups); the first line is the rows as they are.

    Returns
    -------
    dict
        `AREAS` and `TOP_K`, each of shape (n_lines,); NaN where no positive was drawn, for the ROC area also where no negative
        was, for the top-k where k is 0.

    Notes
    -----
    Top-k: the share of true rows among the k rows of highest score. Of other multiples of k, true rows among them by the
    smaller of their number and k. Rows of equal score count as expected if they were in random order.
    """
    found = drawn_measures(_of_levels, ranks, truth, groups, group_draws)
    return {name: np.clip(values, 0, 1, out=values) for name, values in found.items()}


def others_at_recall(
    ranks: Ranking, truth: Booleans, groups: Integers, group_draws: Integers, hits: Floats64
) -> Floats64:
    """Return how many other rows are called where just so many true rows are, in each draw of groups."""

    def measure(positive: Floats64, every: Floats64, lines: slice) -> dict[str, Floats64]:
        upto, own = np.cumsum(positive, axis=1), every - positive
        level = _level_that_reaches(upto, hits[lines][None])[0]
        before = (np.cumsum(own, axis=1) - own).ravel()[level]
        inside = positive.ravel()[level]
        part = ratio(hits[lines] - upto.ravel()[level] + inside, inside, empty=0.0)
        return {"others": before + part * own.ravel()[level]}

    return np.maximum(drawn_measures(measure, ranks, truth, groups, group_draws)["others"], 0)


def drawn_measures(
    measure: Measure, ranks: Ranking, truth: Booleans, groups: Integers, group_draws: Integers
) -> dict[str, Floats64]:
    """Return what a measure makes of the rows in each draw of groups, each of shape (n_lines,); see `rank_scores`.

    The first line is exact, and so are draws of up to `LEVELS` distinct scores. Of more, draws see levels of neighbouring scores,
    and are shifted by what that changes in the first line; of a class with few rows they are exact still.
    Areas of 700,000 rows then differ from exact ones by .3 % of the standard deviation of draws at most, top-k by a tenth.
    """
    sizes = np.diff(ranks.stops, prepend=0)
    positive, group = truth[ranks.order], groups[ranks.order]
    weight = group_draws[0].astype(np.int64)[group]
    positives, every = (
        np.add.reduceat(values, ranks.stops - sizes)[None].astype(np.float64) for values in (weight * positive, weight)
    )
    exact = measure(positives, every, slice(0, 1))
    if len(group_draws) == 1:
        return exact
    hits = np.diff(np.cumsum(positive)[ranks.stops - 1], prepend=0)
    n_groups = group_draws.shape[1]
    level = _level_of_block(hits, sizes, max(LEAST_LEVELS, min(LEVELS, CELLS // n_groups)))
    n_levels = int(level[-1]) + 1
    cells = np.repeat(level, sizes)
    cells += group.astype(np.int64) * n_levels
    tables = [
        np.bincount(some, minlength=n_groups * n_levels).reshape(n_groups, n_levels)
        for some in (cells[positive], cells)
    ]
    # whole numbers that the type holds: no order of summing, and so no number of threads, changes them
    largest = int(tables[1].sum(axis=0).max()) * int(group_draws.max())
    kind: type[np.floating[Any]] = np.float32 if largest < 1 << 24 else np.float64
    typed = [table.astype(kind) for table in tables]
    found = {name: np.empty(len(group_draws)) for name in exact}
    step = max(1, CELLS_AT_ONCE // n_levels)
    for begin in range(0, len(group_draws), step):
        lines = slice(begin, begin + step)
        drawn = group_draws[lines].astype(kind)
        positives, every = ((drawn @ table).astype(np.float64) for table in typed)
        for name, values in measure(positives, every, lines).items():
            found[name][lines] = values
    for name, values in exact.items():
        found[name] += values[0] - found[name][0]
        found[name][0] = values[0]
    return found


def _level_of_block(hits: Integers, sizes: Integers, most: int) -> NDArray[np.int64]:
    """Return the level of each block, rising from 0 by one.

    Where there are too many blocks, neighbours without a row of the rarer kind share a level, which loses nothing where true
    rows are the rarer. Where that still leaves too many, half are of equal numbers of rare rows, half of all rows; a level ends
    with its rare rows.
    """
    if len(sizes) <= most:
        return np.arange(len(sizes))
    rare = hits if 2 * hits.sum() <= sizes.sum() else sizes - hits
    begins = rare > 0
    begins[1:] |= begins[:-1].copy()
    begins[0] = False
    level: NDArray[np.int64] = np.cumsum(begins)
    if level[-1] < most:
        return level
    shares = [(np.cumsum(one) - one) / max(int(one.sum()), 1) for one in (rare, sizes)]
    number = ((shares[0] + shares[1]) * (most / 2)).astype(np.int64)
    level = np.cumsum(np.diff(number, prepend=number[0]) > 0)
    return level


def _of_levels(positive: Floats64, every: Floats64, lines: slice) -> dict[str, Floats64]:
    """Return the measures of `rank_scores` from counts by level."""
    upto, seen = np.cumsum(positive, axis=1), np.cumsum(every, axis=1)
    n_true, n_rows = upto[:, -1].copy(), seen[:, -1].copy()
    k = np.minimum(np.floor(np.outer(list(TOP_K.values()), n_true)), n_rows)
    level = _level_that_reaches(seen, k)
    inside, of_level = positive.ravel()[level], every.ravel()[level]
    hits = upto.ravel()[level] - inside + (k - seen.ravel()[level] + of_level) * ratio(inside, of_level, empty=0.0)
    found = dict(zip(TOP_K, ratio(hits, np.minimum(k, n_true)), strict=True))
    precision = upto / np.maximum(seen, 1)
    found["average_precision"] = ratio(np.einsum("ij,ij->i", positive, precision), n_true)
    # other rows above a level, and half of those in it; in place, as new arrays would take longer than the sums
    others = np.subtract(seen, upto, out=seen)
    others -= np.subtract(every, positive, out=upto) * 0.5
    found["roc_auc"] = 1 - ratio(np.einsum("ij,ij->i", positive, others), n_true * (n_rows - n_true))
    return found


def _level_that_reaches(sums: Floats64, wanted: Floats64) -> NDArray[np.int64]:
    """Return where in the flat array of running sums, shape (n_lines, n_levels), each line reaches what is wanted of it.

    ``wanted`` is of shape (n, n_lines), and nowhere more than the last sum of its line.
    """
    last = sums[:, -1]
    # one rising sequence of all lines, so that one search does
    begin = np.cumsum(last) - last
    found = np.searchsorted((sums + begin[:, None]).ravel(), (wanted + begin).ravel()).reshape(wanted.shape)
    first = np.arange(len(last)) * sums.shape[1]
    return np.clip(found, first, first + sums.shape[1] - 1)


def ratio(part: Floats64, whole: Floats64, *, empty: float = np.nan) -> Floats64:
    """Return part / whole, ``empty`` where the whole is 0."""
    found: Floats64 = np.divide(part, whole, out=np.full(np.shape(part), empty), where=whole > 0)
    return found


def top_k_hits(ranks: Ranking, truth: Booleans, genes: Integers, n_genes: int) -> tuple[NDArray[np.int64], Floats64]:
    """Return for each gene its number k of true rows, and how many of them are among its k rows of highest score.

    Both are of shape (n_genes,). Of rows with equal scores as many count as expected if they were in random order.
    """
    sites = np.bincount(genes[truth], minlength=n_genes)
    block = np.empty(len(truth), dtype=np.int64)
    block[ranks.order] = ranks.block_of_rank()
    rows = np.flatnonzero(sites[genes] > 0)
    if not len(rows):
        return sites, np.zeros(n_genes)
    gene, block, is_true = genes[rows].astype(np.int64), block[rows], truth[rows]
    of_gene = np.sort(gene << 32 | block)
    begin = np.searchsorted(of_gene >> 32, np.arange(n_genes))
    with_sites = np.flatnonzero(sites)
    # the block in which the k-th row of the gene lies: all rows of better blocks are among the k, of this one some
    edge = np.zeros(n_genes, dtype=np.int64)
    edge[with_sites] = of_gene[begin[with_sites] + sites[with_sites] - 1] & 0xFFFFFFFF
    better, tied = block < edge[gene], block == edge[gene]
    n_better, n_tied, hits, tied_hits = (
        np.bincount(gene[some], minlength=n_genes).astype(np.float64)
        for some in (better, tied, better & is_true, tied & is_true)
    )
    return sites, hits + (sites - n_better) * ratio(tied_hits, n_tied, empty=0.0)


def top_k_shares(ranks: Ranking, truth: Booleans, genes: Integers, n_genes: int) -> Floats64:
    """Return for each gene the share of its true rows that `top_k_hits` finds, NaN without true rows, shape (n_genes,)."""
    sites, hits = top_k_hits(ranks, truth, genes, n_genes)
    shares: Floats64 = np.divide(hits, sites, out=np.full(n_genes, np.nan), where=sites > 0)
    return shares


def curve_points(probability: Floats, truth: Booleans, *, most: int = MOST_POINTS) -> list[dict[str, Any]]:
    """Return points of the ROC and the precision-recall curve of one class, thinned for drawing.

    Returns
    -------
    list
        ``kind`` (``roc``: x false positive rate, y true positive rate; ``pr``: x recall, y precision), ``x``, ``y`` and
        ``threshold``, the probability from which rows are called; infinite where none is. Empty unless there are rows of
        both kinds.

    Notes
    -----
    Points are evenly spaced along the curve, which keeps corners; its ends, its highest and its lowest point are always
    among them. Areas come from all rows, never from these points.
    """
    n_true = int(truth.sum())
    if not n_true or n_true == len(truth):
        return []
    ranks = ranking(probability)
    hits = _hits(ranks, truth)
    thresholds = probability[ranks.order[ranks.stops - 1]].astype(np.float64)
    recall, precision = hits / n_true, hits / ranks.stops
    false_rate = (ranks.stops - hits) / (len(truth) - n_true)
    roc = np.append(0.0, false_rate), np.append(0.0, recall), np.append(np.inf, thresholds)
    return [
        {"kind": kind, "x": float(x[index]), "y": float(y[index]), "threshold": float(edge[index])}
        for kind, (x, y, edge) in (("roc", roc), ("pr", (recall, precision, thresholds)))
        for index in kept_points(x, y, most)
    ]


def average_ranks(values: Floats) -> Floats64:
    """Return the rank of each value, from 1; equal ones have the mean of their ranks, and NaN has NaN.

    As ``rankdata`` of `scipy.stats`, which takes longer to import than all the rest of a small report.

    Examples
    --------
    >>> average_ranks(np.array([0.5, 0.1, 0.5, np.nan]))
    array([2.5, 1. , 2.5, nan])
    """
    _, which, count = np.unique(values, return_inverse=True, return_counts=True)
    ranks: Floats64 = (np.cumsum(count) - (count - 1) / 2)[which]
    return np.where(np.isnan(values), np.nan, ranks)


def kept_points(x: Floats64, y: Floats64, most: int) -> NDArray[np.int64]:
    """Return the indices of at most so many points, rising, evenly spaced along the line through all of them."""
    if len(x) <= most:
        return np.arange(len(x))
    way = np.append(0.0, np.cumsum(np.abs(np.diff(x)) + np.abs(np.diff(y))))
    even = np.searchsorted(way, np.linspace(0, way[-1], most - 4))
    extremes = [0, len(x) - 1, int(y.argmax()), int(y.argmin())]
    return np.unique(np.append(np.minimum(even, len(x) - 1), extremes))


def find_thresholds(
    probabilities: Floats,
    labels: Integers,
    folds: Integers,
    classes: Sequence[str],
    *,
    weights: Floats64 | None = None,
) -> Thresholds:
    """Return the probabilities from which each class is called, tuned on all rows, and what such thresholds are worth.

    Parameters
    ----------
    weights
        Of each row, in all counts; None: all count the same.

    Returns
    -------
    dict
        For each class: ``best_f1``; ``precision_0.9``, the lowest threshold with that precision, so the one of most recall;
        ``recall_0.9``, the highest with that recall. None where no threshold does it. ``precision``, ``recall`` and ``f1`` are
        cross-fitted: the rows of each fold are called at the threshold tuned on the other folds; None where other folds allow
        none.

    Notes
    -----
    Every distinct probability is tried. F1 = 2 TP / (called + true); of equal ones the highest threshold is taken.
    """
    return {
        name: _of_class(probabilities[:, index], labels == index, folds, weights) for index, name in enumerate(classes)
    }


def values_of(
    found: Mapping[str, Mapping[str, Mapping[str, float | None] | None]],
) -> dict[str, dict[str, float | None]]:
    """Return the thresholds alone, as a model keeps them."""
    return {
        name: {kind: None if facts is None else facts["threshold"] for kind, facts in kinds.items()}
        for name, kinds in found.items()
    }


def _of_class(
    probability: Floats, truth: Booleans, folds: Integers, weights: Floats64 | None
) -> dict[str, dict[str, float | None] | None]:
    n_true = int(truth.sum()) if weights is None else float(weights[truth].sum())
    if not n_true:
        return dict.fromkeys(KINDS)
    ranks = ranking(probability)
    every = _called(ranks, truth, np.ones(len(truth), dtype=np.bool_), weights)
    final = _tuned(*every)
    # of each fold: the blocks at which the others are best, and its own called and true rows up to each block
    apart = []
    for fold in np.unique(folds):
        own = _called(ranks, truth, folds == fold, weights)
        # differences of sums of weights are not exact
        is_exact = weights is None
        rest = (every[0] - own[0], every[1] - own[1]) if is_exact else _called(ranks, truth, folds != fold, weights)
        apart.append((_tuned(*rest), *own))

    def at(kind: str, block: int | None) -> dict[str, float | None] | None:
        if block is None:
            return None
        facts: dict[str, float | None] = {"threshold": float(probability[ranks.order[ranks.stops[block] - 1]])}
        cells = [(called[tuned[kind]], hits[tuned[kind]]) for tuned, called, hits in apart if tuned[kind] is not None]
        if len(cells) < len(apart):
            return facts | dict.fromkeys(("precision", "recall", "f1"))
        n_called, n_hits = (sum(counts) for counts in zip(*cells, strict=True))
        return facts | {
            "precision": float(n_hits / n_called) if n_called else None,
            "recall": float(n_hits / n_true),
            "f1": float(2 * n_hits / (n_called + n_true)),
        }

    return {kind: at(kind, block) for kind, block in final.items()}


def _called(ranks: Ranking, truth: Booleans, wanted: Booleans, weights: Floats64 | None) -> tuple[Counts, Counts]:
    """Return for each block the wanted rows in it and above, and the true ones among them, or what these weigh."""
    rows, kind = wanted[ranks.order], np.int64 if weights is None else np.float64
    several = rows, rows & truth[ranks.order]
    called, hits = (
        np.cumsum(some if weights is None else some * weights[ranks.order], dtype=kind)[ranks.stops - 1]
        for some in several
    )
    return called, hits


def _tuned(called: Counts, hits: Counts) -> dict[str, int | None]:
    """Return for each of `KINDS` the block whose score is the threshold, None where none does it."""
    n_true = hits[-1]
    if not n_true > 0:
        return dict.fromkeys(KINDS)
    f1 = 2 * hits / (called + n_true)
    precise = np.flatnonzero(hits / np.where(called > 0, called, 1) >= PRECISION)
    complete = np.flatnonzero(hits / n_true >= RECALL)
    return {
        KINDS[0]: int(f1.argmax()),
        # the first block of those with the same rows: further ones hold rows of other folds alone
        KINDS[1]: int(np.searchsorted(called, called[precise[-1]])) if len(precise) else None,
        KINDS[2]: int(complete[0]),
    }


def _hits(ranks: Ranking, truth: Booleans) -> NDArray[np.int64]:
    """Return for each block the true rows in it and above."""
    hits: NDArray[np.int64] = np.cumsum(truth[ranks.order], dtype=np.int64)[ranks.stops - 1]
    return hits
