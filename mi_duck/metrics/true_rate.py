"""Scores at the true rate of sites: over every position of genes, as papers report them.

A training set has a few rows that are not sites for each site; a gene has thousands. So precision over rows says little of a
scan, and what counts is how many positions a scan calls by mistake.

References
----------
Top-k: Jaganathan et al., Predicting splicing from primary sequence (Cell 176, 2019); here over all positions of all genes.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_duck.metrics.metrics import Drawn
from mi_duck.metrics.ranking import (
    TOP_K,
    Booleans,
    Floats,
    Floats64,
    Integers,
    others_at_recall,
    rank_scores,
    ranking,
    ratio,
)

RECALLS = (0.5, 0.8, 0.9)
ERRORS_AT = 0.8
"""Recall at which errors are told apart."""
KINDS = ("other site", "next to a site", "decoy", "none of these")
"""A position called by mistake is a site of the other kind, lies within 2 nt of a site of its kind, has the two letters of its
kind (GT after a donor, AG before an acceptor), or is none of these; the first that holds counts."""
NEXT = 2
"""Nucleotides from a site that are next to it."""
SUPPORTED = 0.5
"""Base score from which a position that is not annotated counts as supported."""


def drawn_true_rate(
    probabilities: Floats,
    labels: Integers,
    groups: Integers,
    classes: Sequence[str],
    *,
    group_draws: Integers,
    parts: Integers | None = None,
) -> Drawn:
    """Score every position in each draw of groups; where models of several folds scored them, the mean over folds.

    Parameters
    ----------
    probabilities
        (n, n_classes); any scores that rank positions.
    labels, groups
        Class and group of each position as numbers from 0, (n,).
    group_draws
        Of `mi_duck.metrics.metrics.draw_groups`.
    parts
        Which model scored each position, (n,); None: the same one.

    Returns
    -------
    dict
        (metric, site) to values: ``average_precision``, ``top_k`` and its multiples, and for each of `RECALLS`
        ``precision_at_recall_R`` and ``false_positives_per_1000_nt_at_recall_R``; ``macro`` is the mean over sites.

    Notes
    -----
    **Why** the mean over folds: what matters at the true rate is the order of the few highest scores, and there models of
    different folds are not on one scale. Ranked together, an ensemble on SpliceAI's scores loses .054 of AP to these; ranked
    fold by fold, as one model ranks a genome, .014.
    """
    if parts is not None and len(numbers := np.unique(parts)) > 1:
        several = [
            drawn_true_rate(probabilities[own], labels[own], groups[own], classes, group_draws=group_draws)
            for own in (parts == number for number in numbers)
        ]
        return {key: _mean([one[key] for one in several]) for key in several[0]}
    rows: Floats64 = (group_draws.astype(np.int64) @ np.bincount(groups, minlength=group_draws.shape[1])).astype(
        np.float64
    )
    found: dict[tuple[str, str], NDArray[np.float64]] = {}
    for index, name in enumerate(classes[1:], 1):
        truth, ranks = labels == index, ranking(probabilities[:, index])
        values = rank_scores(ranks, truth, groups, group_draws)
        found |= {(metric, name): values[metric] for metric in ("average_precision", *TOP_K)}
        n_true = group_draws.astype(np.int64) @ np.bincount(groups[truth], minlength=group_draws.shape[1])
        for recall in RECALLS:
            hits: Floats64 = recall * n_true.astype(np.float64)
            others = others_at_recall(ranks, truth, groups, group_draws, hits)
            found[f"precision_at_recall_{recall:g}", name] = ratio(hits, hits + others)
            found[f"false_positives_per_1000_nt_at_recall_{recall:g}", name] = ratio(1000 * others, rows)
    for metric in dict.fromkeys(metric for metric, _ in found):
        found[metric, "macro"] = np.mean([found[metric, name] for name in classes[1:]], axis=0)
    return found


def _mean(several: Sequence[Floats64]) -> Floats64:
    """Return the mean of those that are defined, draw by draw."""
    values = np.stack(several)
    is_defined = ~np.isnan(values)
    return ratio(np.where(is_defined, values, 0).sum(axis=0), is_defined.sum(axis=0).astype(np.float64))


def kinds_of_errors(labels: Integers, site: int, is_next: Booleans, has_letters: Booleans) -> NDArray[np.int8]:
    """Return for each position which of `KINDS` it would be if a kind of site, by its class, were called there."""
    conditions = [(labels > 0) & (labels != site), is_next, has_letters]
    return np.select(conditions, [0, 1, 2], default=3).astype(np.int8)


def error_counts(
    scores: Floats, truth: Booleans, kinds: NDArray[np.int8], base: Floats, parts: Integers | None = None
) -> dict[str, Any]:
    """Count positions that are called by mistake at the threshold that finds `ERRORS_AT` of the sites, by kind.

    Where models of several folds scored them (``parts``), each fold has its threshold, and the counts are added.

    Returns
    -------
    dict
        ``threshold`` (the mean of those of the folds); ``n`` by kind; ``n_supported``: of those that are no site at all, how
        many have a base score of `SUPPORTED` or more, as sites that the annotation lacks would. None of it without sites.
    """
    if parts is not None and len(numbers := np.unique(parts)) > 1:
        several = [
            error_counts(scores[own], truth[own], kinds[own], base[own])
            for own in (parts == number for number in numbers)
        ]
        thresholds = [one["threshold"] for one in several if one["threshold"] is not None]
        return {
            "threshold": float(np.mean(thresholds)) if thresholds else None,
            "n": {kind: sum(one["n"][kind] for one in several) for kind in KINDS},
            "n_supported": sum(one["n_supported"] for one in several),
        }
    if not truth.any():
        return {"threshold": None, "n": dict.fromkeys(KINDS, 0), "n_supported": 0}
    own = np.sort(scores[truth])[::-1]
    threshold = own[int(np.ceil(ERRORS_AT * len(own))) - 1]
    wrong = (scores >= threshold) & ~truth
    n = np.bincount(kinds[wrong], minlength=len(KINDS))
    return {
        "threshold": float(threshold),
        "n": dict(zip(KINDS, n.tolist(), strict=True)),
        "n_supported": int((wrong & (kinds > 0) & (base >= SUPPORTED)).sum()),
    }
