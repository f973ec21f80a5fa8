"""Base model against ensemble, out of fold: errors where both call alike, at equal recall, by kind, gene by gene.

Both are calibrated by cross-fitting before they are compared. Differences are ensemble - base, so fewer errors are negative;
their intervals are by bootstrap over fold groups, the same draws for both.

What both models say in the neighbourhood of true sites: every row of the gene within 100 nt of some sampled sites.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_duck.metrics.metrics import LEAST_CHANCE, interval, known
from mi_duck.metrics.ranking import ranking, top_k_hits

NEAR = 50  # nt
FIXED_THRESHOLD = 0.5
ANY_SITE = "any site"


def compare(
    base: NDArray[np.float32],
    meta: NDArray[np.float32],
    labels: NDArray[np.integer[Any]],
    groups: NDArray[np.integer[Any]],
    genes: NDArray[np.integer[Any]],
    classes: Sequence[str],
    *,
    positions: NDArray[np.int64] | None,
    weights: NDArray[np.integer[Any]],
) -> dict[str, Any]:
    """Count the errors of both, for each site class and for any site.

    Parameters
    ----------
    base, meta
        Probabilities, shape (n_rows, n_classes).
    labels, groups, genes
        Class, fold group and gene of each row, the latter two as numbers from 0, shape (n_rows,).
    classes
        Names; the first is the background.
    positions
        Where each row lies, nt, shape (n_rows,), or None where that is not known.
    weights
        Draws of the groups, from `mi_duck.metrics.metrics.draw_weights`.

    Returns
    -------
    dict
        For each class: ``argmax`` (the most probable class is called), ``threshold_0.5``, ``matched_recall`` (the ensemble at
        the threshold that gives at least the recall of the base model's argmax calls) and, where positions are known,
        ``by_kind``: errors of argmax calls on rows within 50 nt of another true site of the class and gene, and elsewhere.
    """
    found = {}
    subjects = [(name, [index]) for index, name in enumerate(classes) if index > 0]
    if len(subjects) > 1:
        subjects.append((ANY_SITE, list(range(1, len(classes)))))
    called_base, called_meta = base.argmax(axis=1), meta.argmax(axis=1)
    for name, indices in subjects:
        truth = np.isin(labels, indices)
        chance_base, chance_meta = (probabilities[:, indices].sum(axis=1) for probabilities in (base, meta))
        calls_base, calls_meta = np.isin(called_base, indices), np.isin(called_meta, indices)
        of_class = {
            "n_sites": int(truth.sum()),
            "argmax": _two(calls_base, calls_meta, truth, groups, weights),
            "threshold_0.5": _two(
                chance_base >= FIXED_THRESHOLD, chance_meta >= FIXED_THRESHOLD, truth, groups, weights
            ),
            "matched_recall": _matched(calls_base, chance_meta, truth, groups, weights),
        }
        if positions is not None:
            near = near_sites(truth, genes, positions)
            of_class["by_kind"] = {
                kind: {"n_rows": int(rows.sum()), "n_sites": int((rows & truth).sum())}
                | _two(calls_base, calls_meta, truth, groups, weights, rows=rows)
                for kind, rows in ((f"within {NEAR} nt of another site", near), ("elsewhere", ~near))
            }
        found[name] = of_class
    return found


def near_sites(
    truth: NDArray[np.bool_], genes: NDArray[np.integer[Any]], positions: NDArray[np.int64], within: int = NEAR
) -> NDArray[np.bool_]:
    """Return for each row whether another true site of its gene lies within so many nt, at another position."""
    low = int(positions.min(initial=0))
    span = int(positions.max(initial=0)) - low + 2 * within + 2
    place = genes.astype(np.int64) * span + (positions - low)
    sites = np.unique(place[truth])
    count = np.searchsorted(sites, place + within, side="right") - np.searchsorted(sites, place - within, side="left")
    own = np.searchsorted(sites, place, side="right") - np.searchsorted(sites, place, side="left")
    near: NDArray[np.bool_] = count > own
    return near


def gene_deltas(
    base: NDArray[np.float32] | None,
    meta: NDArray[np.float32],
    labels: NDArray[np.integer[Any]],
    genes: NDArray[np.integer[Any]],
    classes: Sequence[str],
    *,
    gene_ids: Sequence[str],
) -> list[dict[str, Any]]:
    """Return a line a gene: rows, sites, log loss, errors and top-k hits of both models and their difference.

    Parameters
    ----------
    base, meta
        Probabilities, shape (n_rows, n_classes); without base scores the columns of base and delta are left out.
    labels, genes
        Class and gene of each row, shape (n_rows,).
    classes
        Names; the first is the background.
    gene_ids
        Name of each gene.

    Notes
    -----
    ``log_loss`` is the mean over rows in nats, ``errors`` are rows whose most probable class is wrong, ``top_k_<class>`` the
    share of true sites among the k rows of highest probability, empty without sites.
    """
    n = len(gene_ids)
    rows = np.bincount(genes, minlength=n)
    columns: dict[str, NDArray[Any]] = {"n_rows": rows}
    for index, name in enumerate(classes):
        if index > 0:
            columns[f"n_{name}"] = np.bincount(genes[labels == index], minlength=n)
    models = {"meta": meta} if base is None else {"base": base, "meta": meta}
    tables = {which: _of_genes(probabilities, labels, genes, classes, rows) for which, probabilities in models.items()}
    for kind in tables["meta"]:
        columns |= {f"{kind}_{which}": table[kind] for which, table in tables.items()}
        if base is not None and kind == "log_loss":
            columns["log_loss_delta"] = tables["meta"][kind] - tables["base"][kind]
    values = {name: column.tolist() for name, column in columns.items()}
    return [
        {"gene_id": gene_id}
        | {name: None if column[place] != column[place] else column[place] for name, column in values.items()}
        for place, gene_id in enumerate(gene_ids)
        if rows[place]
    ]


def _of_genes(
    probabilities: NDArray[np.float32],
    labels: NDArray[np.integer[Any]],
    genes: NDArray[np.integer[Any]],
    classes: Sequence[str],
    rows: NDArray[np.integer[Any]],
) -> dict[str, NDArray[Any]]:
    n = len(rows)
    of_label = np.take_along_axis(probabilities, labels.astype(np.int64)[:, None], axis=1)[:, 0].astype(np.float64)
    loss = np.bincount(genes, weights=-np.log(np.clip(of_label, LEAST_CHANCE, 1)), minlength=n)
    table: dict[str, NDArray[Any]] = {
        "log_loss": loss / np.maximum(rows, 1),
        "errors": np.bincount(genes[probabilities.argmax(axis=1) != labels], minlength=n),
    }
    for index, name in enumerate(classes):
        if index > 0:
            sites, hits = top_k_hits(ranking(probabilities[:, index]), labels == index, genes, n)
            table[f"top_k_{name}"] = np.divide(hits, sites, out=np.full(n, np.nan), where=sites > 0)
    return table


def _two(
    calls_base: NDArray[np.bool_],
    calls_meta: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    groups: NDArray[np.integer[Any]],
    weights: NDArray[np.integer[Any]],
    *,
    rows: NDArray[np.bool_] | None = None,
) -> dict[str, Any]:
    """Return counts of both, and the differences of F1, false positives and false negatives with intervals."""
    drawn = [_counts(calls, truth, groups, weights, rows) for calls in (calls_base, calls_meta)]
    difference = {name: asdict(interval(name, "", drawn[1][name] - drawn[0][name])) for name in ("f1", "fp", "fn")}
    return {
        "base": {name: _plain(name, values) for name, values in drawn[0].items()},
        "meta": {name: _plain(name, values) for name, values in drawn[1].items()},
        "difference": {
            name: {key: known(facts[key]) for key in ("value", "low", "high")} for name, facts in difference.items()
        },
    }


def _counts(
    calls: NDArray[np.bool_],
    truth: NDArray[np.bool_],
    groups: NDArray[np.integer[Any]],
    weights: NDArray[np.integer[Any]],
    rows: NDArray[np.bool_] | None,
) -> dict[str, NDArray[np.float64]]:
    """Return true and false positives, false negatives, precision, recall and F1 under each line of weights."""
    inside = np.ones(len(truth), dtype=np.bool_) if rows is None else rows
    n_groups = weights.shape[1]
    tp, fp, fn = (
        (weights @ np.bincount(groups[cell & inside], minlength=n_groups)).astype(np.float64)
        for cell in (calls & truth, calls & ~truth, ~calls & truth)
    )
    return {
        "tp": tp,
        "fp": fp,
        "fn": fn,
        "precision": _ratio(tp, tp + fp),
        "recall": _ratio(tp, tp + fn),
        "f1": _ratio(2 * tp, 2 * tp + fp + fn),
    }


def _matched(
    calls_base: NDArray[np.bool_],
    chance_meta: NDArray[np.float32],
    truth: NDArray[np.bool_],
    groups: NDArray[np.integer[Any]],
    weights: NDArray[np.integer[Any]],
) -> dict[str, Any]:
    """Return counts of both at the recall of the base model's calls; the thresholds stay as they are in every draw."""
    n_found = int((calls_base & truth).sum())
    if not n_found:
        return {"status": "the base model calls no true site, so there is no recall to match"}
    threshold = float(np.sort(chance_meta[truth])[-n_found])
    return {"meta_threshold": threshold} | _two(calls_base, chance_meta >= threshold, truth, groups, weights)


def _ratio(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    ratio: NDArray[np.float64] = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return ratio


def _plain(name: str, values: NDArray[np.float64]) -> float | int | None:
    return int(values[0]) if name in ("tp", "fp", "fn") else known(float(values[0]))


WITHIN = 100  # nt
DISTANCES = (0, 1, 2, 5, 10, 25, 50, 100)  # upper ends of the ranges of the summary, nt


def neighbours(
    base: NDArray[np.float32] | None,
    meta: NDArray[np.float32],
    labels: NDArray[np.integer[Any]],
    genes: NDArray[np.integer[Any]],
    positions: NDArray[np.int64],
    classes: Sequence[str],
    *,
    gene_ids: Sequence[str],
    n_sites: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Return a line a sampled site and row near it.

    Parameters
    ----------
    base, meta
        Probabilities, shape (n_rows, n_classes); base may be None.
    labels, genes, positions
        Class, gene (from 0, rows of a gene together) and place (nt) of each row, shape (n_rows,).
    classes, gene_ids
        Names; the first class is the background.
    n_sites
        True sites to sample.
    seed
        The sites of lowest md5 of seed, gene, position and class are taken, so a larger sample holds a smaller one.
    """
    sites = np.flatnonzero(labels > 0)
    keys = [
        hashlib.md5(f"{seed}:{gene_ids[genes[row]]}:{positions[row]}:{classes[labels[row]]}".encode()).digest()
        for row in sites
    ]
    sampled = sorted(sites[place] for place in sorted(range(len(sites)), key=lambda place: keys[place])[:n_sites])
    lines = []
    for number, site in enumerate(sampled):
        first, stop = np.searchsorted(genes, [genes[site], genes[site] + 1])
        distance = positions[first:stop] - positions[site]
        for row in first + np.flatnonzero(np.abs(distance) <= WITHIN):
            line = {
                "site": number,
                "gene_id": gene_ids[genes[site]],
                "site_class": classes[labels[site]],
                "site_position": int(positions[site]),
                "position": int(positions[row]),
                "distance": int(positions[row] - positions[site]),
                "label": classes[labels[row]],
            }
            for which, probabilities in (("base", base), ("meta", meta)):
                if probabilities is not None:
                    line |= {f"{which}_{name}": float(probabilities[row, index]) for index, name in enumerate(classes)}
            lines.append(line)
    return lines


def by_distance(lines: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return for each class of site and range of distances: rows, true ones, and what both models give the site's class.

    ``mean_<model>`` is the mean probability of the site's class, ``called_<model>`` the share of rows where it is at least .5.
    """
    found = []
    models = [which for which in ("base", "meta") if lines and f"{which}_{lines[0]['site_class']}" in lines[0]]
    for name in sorted({str(line["site_class"]) for line in lines}):
        for low, high in zip((-1, *DISTANCES[:-1]), DISTANCES, strict=True):
            part = [line for line in lines if line["site_class"] == name and low < abs(line["distance"]) <= high]
            if not part:
                continue
            row: dict[str, Any] = {
                "site_class": name,
                "from_distance": low + 1,
                "to_distance": high,
                "n_rows": len(part),
                "n_true": sum(line["label"] == name for line in part),
            }
            for which in models:
                probabilities = np.array([line[f"{which}_{name}"] for line in part])
                row |= {
                    f"mean_{which}": float(probabilities.mean()),
                    f"called_{which}": float((probabilities >= 0.5).mean()),
                }
            found.append(row)
    return found
