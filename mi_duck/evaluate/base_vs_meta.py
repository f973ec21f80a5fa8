"""Compares base model and ensemble row by row, out of fold: errors by kind, by gene, and near sampled true sites.

Both are calibrated by cross-fitting before they are compared. Differences are ensemble - base, so fewer errors are negative;
their intervals are by bootstrap over fold groups, the same draws for both.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_duck.atomic_files import write_csv, write_json
from mi_duck.evaluate.scored_rows import Scored
from mi_duck.metrics.base_model import NO_BASE
from mi_duck.metrics.metrics import Drawn, differences, interval, known, log_loss_of_rows, ratio, summary
from mi_duck.metrics.ranking import ranking, top_k_shares
from mi_duck.run.folder import RunFolder

NEAR = 50  # nt: another true site this close makes an error one of position
WITHIN = 100  # nt: rows this close to a sampled site are written
DISTANCES = (0, 1, 2, 5, 10, 25, 50, 100)  # upper ends of the ranges of the summary, nt
FIXED_THRESHOLD = 0.5
ANY_SITE = "any site"
NO_POSITION = "the dataset has no column with positions"


def write_comparison(
    folder: RunFolder,
    base: NDArray[np.float32] | None,
    meta: NDArray[np.float32],
    scored: Scored,
    *,
    positions: NDArray[np.int64] | None,
    drawn: Drawn,
    base_drawn: Drawn,
) -> None:
    """Write ``base_vs_meta.json``: what `compare` counts, and the top-k accuracy of both models."""
    if base is None:
        write_json(folder.base_vs_meta, {"status": "left out", "reason": NO_BASE})
        return
    tables = {
        "base": summary(base_drawn),
        "meta": summary(drawn),
        "difference": summary(differences(drawn, base_drawn)),
    }
    facts: dict[str, Any] = {
        "status": "compared",
        "n_rows": len(scored.label),
        "intervals": "95 %, bootstrap over fold groups; differences are ensemble - base",
        "classes": compare(
            base,
            meta,
            scored.label,
            scored.group,
            scored.gene,
            scored.classes,
            positions=positions,
            weights=scored.weights,
        ),
        "top_k_accuracy": {
            name: {
                who: one.values()
                for who, table in tables.items()
                for one in table
                if (one.metric, one.class_name) == ("top_k_accuracy", name)
            }
            for name in (*scored.classes[1:], "macro")
        },
    }
    if positions is None:
        facts["by_kind"] = f"left out: {NO_POSITION}"
    write_json(folder.base_vs_meta, facts)


def write_neighbours(
    folder: RunFolder,
    base: NDArray[np.float32] | None,
    meta: NDArray[np.float32],
    scored: Scored,
    *,
    positions: NDArray[np.int64] | None,
    n_sites: int,
) -> None:
    """Write ``neighbour_diagnostics/``: what `neighbours` and `by_distance` return."""
    facts: dict[str, Any] = {"n_sites_asked": n_sites}
    if positions is None:
        write_json(folder.neighbours / "neighbours.json", facts | {"status": "left out", "reason": NO_POSITION})
        return
    lines = neighbours(
        base,
        meta,
        scored.label,
        scored.gene,
        positions,
        scored.classes,
        gene_ids=scored.gene_ids,
        n_sites=n_sites,
        seed=scored.seed,
    )
    write_csv(folder.neighbours / "neighbours.csv", lines)
    write_csv(folder.neighbours / "by_distance.csv", by_distance(lines))
    n_written = len({line["site"] for line in lines})
    write_json(folder.neighbours / "neighbours.json", facts | {"status": "written", "n_sites": n_written})


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
    """Count the errors of both models, for each site class and for any site.

    Parameters
    ----------
    base, meta
        Probabilities, shape (n_rows, n_classes).
    labels, groups, genes
        Class, fold group and gene of each row, the latter two as numbers from 0, shape (n_rows,).
    classes
        Names; the first is the background.
    positions
        Genomic position of each row, nt, shape (n_rows,), or None where the dataset has none.
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
        of_base, of_meta = (probabilities[:, indices].sum(axis=1) for probabilities in (base, meta))
        calls_base, calls_meta = np.isin(called_base, indices), np.isin(called_meta, indices)
        of_class = {
            "n_sites": int(truth.sum()),
            "argmax": _two(calls_base, calls_meta, truth, groups, weights),
            "threshold_0.5": _two(of_base >= FIXED_THRESHOLD, of_meta >= FIXED_THRESHOLD, truth, groups, weights),
            "matched_recall": _matched(calls_base, of_meta, truth, groups, weights),
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
    # one axis for all genes, on which rows of two genes are always further apart than that
    along = genes.astype(np.int64) * span + (positions - low)
    sites = np.unique(along[truth])
    count = np.searchsorted(sites, along + within, side="right") - np.searchsorted(sites, along - within, side="left")
    own = np.searchsorted(sites, along, side="right") - np.searchsorted(sites, along, side="left")
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
    """Return one line per gene: rows, sites, log loss, errors and top-k share of both models, and the log-loss difference.

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
        | {name: None if column[number] != column[number] else column[number] for name, column in values.items()}
        for number, gene_id in enumerate(gene_ids)
        if rows[number]
    ]


def _of_genes(
    probabilities: NDArray[np.float32],
    labels: NDArray[np.integer[Any]],
    genes: NDArray[np.integer[Any]],
    classes: Sequence[str],
    rows: NDArray[np.integer[Any]],
) -> dict[str, NDArray[Any]]:
    n = len(rows)
    loss = np.bincount(genes, weights=log_loss_of_rows(probabilities, labels), minlength=n)
    table: dict[str, NDArray[Any]] = {
        "log_loss": loss / np.maximum(rows, 1),
        "errors": np.bincount(genes[probabilities.argmax(axis=1) != labels], minlength=n),
    }
    for index, name in enumerate(classes):
        if index > 0:
            table[f"top_k_{name}"] = top_k_shares(ranking(probabilities[:, index]), labels == index, genes, n)
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
    base, meta = (_counts(calls, truth, groups, weights, rows) for calls in (calls_base, calls_meta))
    return {
        "base": {name: _plain(name, values) for name, values in base.items()},
        "meta": {name: _plain(name, values) for name, values in meta.items()},
        "difference": {name: interval(name, "", meta[name] - base[name]).values() for name in ("f1", "fp", "fn")},
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
        "precision": ratio(tp, tp + fp),
        "recall": ratio(tp, tp + fn),
        "f1": ratio(2 * tp, 2 * tp + fp + fn),
    }


def _matched(
    calls_base: NDArray[np.bool_],
    of_meta: NDArray[np.float32],
    truth: NDArray[np.bool_],
    groups: NDArray[np.integer[Any]],
    weights: NDArray[np.integer[Any]],
) -> dict[str, Any]:
    """Return counts of both at the recall of the base model's calls; the thresholds stay as they are in every draw."""
    n_found = int((calls_base & truth).sum())
    if not n_found:
        return {"status": "the base model calls no true site, so there is no recall to match"}
    threshold = float(np.sort(of_meta[truth])[-n_found])
    return {"meta_threshold": threshold} | _two(calls_base, of_meta >= threshold, truth, groups, weights)


def _plain(name: str, values: NDArray[np.float64]) -> float | int | None:
    return int(values[0]) if name in ("tp", "fp", "fn") else known(float(values[0]))


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
    """Return one line per sampled true site and row of its gene within 100 nt, with the probabilities of both models.

    Parameters
    ----------
    base, meta
        Probabilities, shape (n_rows, n_classes); base may be None.
    labels, genes, positions
        Class, gene (from 0, rows of a gene together) and genomic position (nt) of each row, shape (n_rows,).
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
    sampled = sorted(sites[index] for index in sorted(range(len(sites)), key=keys.__getitem__)[:n_sites])
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
    """Return for each class of site and range of distances: rows, true ones, and what both models make of them.

    ``mean_<model>`` is the mean probability of the site's class, ``called_<model>`` the share of rows with at least .5.
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
                    f"called_{which}": float((probabilities >= FIXED_THRESHOLD).mean()),
                }
            found.append(row)
    return found
