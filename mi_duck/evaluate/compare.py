"""Compares two models on the same rows, out of fold: base model with ensemble, one run with another.

Base model and ensemble are both calibrated by cross-fitting before their errors are counted by kind, by gene, and near sampled
true sites. Two runs may be an ensemble and a single model, or two settings. All differences have intervals by bootstrap over
fold groups under the same draws for both, so that a small one can be separated from noise, which two intervals side by side do
not allow. Differences of base model and ensemble are ensemble - base, so fewer errors are negative; columns named ``delta``
have the sign that makes better positive.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mi_duck.atomic_files import write_csv, write_json
from mi_duck.errors import CheckpointError
from mi_duck.evaluate.scored_rows import Scored
from mi_duck.metrics.calibrate import NO_BASE, BaseModel
from mi_duck.metrics.metrics import (
    DRAWS,
    Drawn,
    Metric,
    differences,
    draw_groups,
    headline_scores,
    interval,
    known,
    log_loss_of_rows,
    summary,
    too_narrow,
)
from mi_duck.metrics.ranking import (
    TOP_K,
    Booleans,
    Floats,
    Floats32,
    Floats64,
    Integers,
    others_at_recall,
    ranking,
    ratio,
    top_k_shares,
)
from mi_duck.run.folder import RunFolder, checked
from mi_duck.run.genes import GeneFolds, codes_of, read_gene_folds

NEAR = 50  # nt: another true site this close makes an error one of position
WITHIN = 100  # nt: rows this close to a sampled site are written
DISTANCES = (0, 1, 2, 5, 10, 25, 50, 100)  # upper ends of the ranges of the summary, nt
FIXED_THRESHOLD = 0.5
ANY_SITE = "any site"
NO_POSITION = "the dataset has no column with positions"


# ---- base model and ensemble ------------------------------------------------------------------------------------------


def write_comparison(
    folder: RunFolder,
    base: BaseModel | None,
    meta: Floats32,
    scored: Scored,
    *,
    positions: NDArray[np.int64] | None,
    drawn: Drawn,
    base_drawn: Drawn,
) -> None:
    """Write ``base_vs_meta.json``: what `compare` counts, and the top-k of both models."""
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
        "n_rows_without_base_score": base.n_missing,
        "base": "calls are of calibrated base scores, top-k is of the scores as they are; a missing score counts as the share of "
        "its class in the other folds",
        "intervals": "95 %, bootstrap over fold groups, for these trained models; differences are ensemble - base",
        "too_narrow": too_narrow(scored.group),
        "classes": compare(base.probabilities, meta, scored, positions),
    }
    for kind in (*TOP_K, "top_k_per_gene"):
        facts[kind] = {
            name: {
                who: one.values()
                for who, table in tables.items()
                for one in table
                if (one.metric, one.class_name) == (kind, name)
            }
            for name in (*scored.classes[1:], "macro")
        }
    if positions is None:
        facts["by_kind"] = f"left out: {NO_POSITION}"
    write_json(folder.base_vs_meta, facts)


def compare(base: Floats32, meta: Floats32, scored: Scored, positions: NDArray[np.int64] | None) -> dict[str, Any]:
    """Count the errors of both models, for each site class and for any site.

    Returns
    -------
    dict
        For each class: ``argmax`` (the most probable class is called), ``threshold_0.5``, ``matched_recall`` (the ensemble at
        the threshold that gives at least the recall of the base model's argmax calls, found anew in each draw) and, where
        positions are known, ``by_kind``: errors of argmax calls on rows within 50 nt of another true site of the class and
        gene, and elsewhere.
    """
    found = {}
    subjects = [(name, [index]) for index, name in enumerate(scored.classes) if index > 0]
    if len(subjects) > 1:
        subjects.append((ANY_SITE, list(range(1, len(scored.classes)))))
    called = [model.argmax(axis=1) for model in (base, meta)]
    for name, indices in subjects:
        truth = np.isin(scored.label, indices)
        of_base, of_meta = (model[:, indices].sum(axis=1) for model in (base, meta))
        calls_base, calls_meta = (np.isin(one, indices) for one in called)
        of_class = {
            "n_sites": int(truth.sum()),
            "argmax": _two(calls_base, calls_meta, truth, scored),
            "threshold_0.5": _two(of_base >= FIXED_THRESHOLD, of_meta >= FIXED_THRESHOLD, truth, scored),
            "matched_recall": _matched(calls_base, of_meta, truth, scored),
        }
        if positions is not None:
            near = near_sites(truth, scored.gene, positions)
            of_class["by_kind"] = {
                kind: {"n_rows": int(rows.sum()), "n_sites": int((rows & truth).sum())}
                | _two(calls_base, calls_meta, truth, scored, rows)
                for kind, rows in ((f"within {NEAR} nt of another site", near), ("elsewhere", ~near))
            }
        found[name] = of_class
    return found


def _two(
    calls_base: Booleans, calls_meta: Booleans, truth: Booleans, scored: Scored, rows: Booleans | None = None
) -> dict[str, Any]:
    """Return counts of both, and the differences of F1, false positives and false negatives with intervals."""
    inside = np.ones(len(truth), dtype=np.bool_) if rows is None else rows
    return _side_by_side(*(_counts(calls & inside, truth & inside, scored) for calls in (calls_base, calls_meta)))


def _side_by_side(base: Mapping[str, Floats64], meta: Mapping[str, Floats64]) -> dict[str, Any]:
    return {
        "base": {name: _plain(name, values) for name, values in base.items()},
        "meta": {name: _plain(name, values) for name, values in meta.items()},
        "difference": {name: interval(name, "", meta[name] - base[name]).values() for name in ("f1", "fp", "fn")},
    }


def _counts(calls: Booleans, truth: Booleans, scored: Scored) -> dict[str, Floats64]:
    """Return true and false positives, false negatives, precision, recall and F1 in each draw of groups."""
    tp, fp, fn = (
        (scored.group_draws @ np.bincount(scored.group[cell], minlength=scored.group_draws.shape[1])).astype(np.float64)
        for cell in (calls & truth, calls & ~truth, ~calls & truth)
    )
    return _rates(tp, fp, fn)


def _rates(tp: Floats64, fp: Floats64, fn: Floats64) -> dict[str, Floats64]:
    precision, recall, f1 = ratio(tp, tp + fp), ratio(tp, tp + fn), ratio(2 * tp, 2 * tp + fp + fn)
    return {"tp": tp, "fp": fp, "fn": fn, "precision": precision, "recall": recall, "f1": f1}


def _matched(calls_base: Booleans, of_meta: Floats32, truth: Booleans, scored: Scored) -> dict[str, Any]:
    """Return counts of both at the recall of the base model's calls; each draw matches its own recall."""
    n_found = int((calls_base & truth).sum())
    if not n_found:
        return {"status": "the base model calls no true site, so there is no recall to match"}
    threshold = float(np.sort(of_meta[truth])[-n_found])
    base, meta = (_counts(calls, truth, scored) for calls in (calls_base, of_meta >= threshold))
    fp = others_at_recall(ranking(of_meta), truth, scored.group, scored.group_draws, base["tp"])
    tp, fn = base["tp"].copy(), base["fn"].copy()
    for drawn, name in ((tp, "tp"), (fp, "fp"), (fn, "fn")):
        drawn[0] = meta[name][0]  # of rows with equal probabilities the threshold calls all
    return {"meta_threshold": threshold} | _side_by_side(base, _rates(tp, fp, fn))


def _plain(name: str, values: Floats64) -> float | int | None:
    return int(values[0]) if name in ("tp", "fp", "fn") else known(float(values[0]))


def near_sites(truth: Booleans, genes: Integers, positions: NDArray[np.int64], within: int = NEAR) -> Booleans:
    """Return for each row whether another true site of its gene lies within so many nt, at another position."""
    low = int(positions.min(initial=0))
    span = int(positions.max(initial=0)) - low + 2 * within + 2
    # one axis for all genes, on which rows of two genes are always further apart than that
    along = genes.astype(np.int64) * span + (positions - low)
    sites = np.unique(along[truth])
    count = np.searchsorted(sites, along + within, side="right") - np.searchsorted(sites, along - within, side="left")
    own = np.searchsorted(sites, along, side="right") - np.searchsorted(sites, along, side="left")
    near: Booleans = count > own
    return near


# ---- by gene ----------------------------------------------------------------------------------------------------------


def gene_deltas(base: BaseModel | None, meta: Floats32, scored: Scored) -> list[dict[str, Any]]:
    """Return one line per gene: rows, sites, log loss, errors and top-k share of both models, and how much log loss falls.

    Notes
    -----
    ``is_pilot`` is 0: genes that chose the features are not scored, see `pilot_lines`.
    ``log_loss`` is the mean over rows in nats, ``log_loss_delta`` is base - ensemble, so that positive is better, ``errors`` are
    rows whose most probable class is wrong, ``top_k_<class>`` the share of true sites among the k rows of the gene with the
    highest scores, for the base model the scores as they are; empty without sites. Without base scores the columns of base
    and difference are left out.
    """
    n = len(scored.gene_ids)
    rows = np.bincount(scored.gene, minlength=n)
    columns = _sizes(scored.gene, scored.label, n, scored.classes)
    models: dict[str, tuple[Floats, Floats]] = {} if base is None else {"base": (base.probabilities, base.ranked)}
    models["meta"] = meta, meta
    tables = {which: _of_genes(*values, scored, rows) for which, values in models.items()}
    for kind in tables["meta"]:
        columns |= {f"{kind}_{which}": table[kind] for which, table in tables.items()}
        if base is not None and kind == "log_loss":
            columns["log_loss_delta"] = tables["base"][kind] - tables["meta"][kind]
    values = {name: column.tolist() for name, column in columns.items()}
    return [
        {"gene_id": gene_id, "is_pilot": 0}
        | {name: None if column[number] != column[number] else column[number] for name, column in values.items()}
        for number, gene_id in enumerate(scored.gene_ids)
        if rows[number]
    ]


def pilot_lines(label: Integers, rank: Integers, genes: GeneFolds, classes: Sequence[str]) -> list[dict[str, Any]]:
    """Return one line per gene that chose the features: its rows and sites, ``is_pilot`` 1, and no scores.

    Parameters
    ----------
    label, rank
        Class and gene rank of each of their rows, shape (n_rows,).
    genes
        By rank.
    """
    n = int(rank.max(initial=-1)) + 1
    columns = {name: values.tolist() for name, values in _sizes(rank, label, n, classes).items()}
    return [
        {"gene_id": str(genes.gene_id[number]), "is_pilot": 1}
        | {name: values[number] for name, values in columns.items()}
        for number in range(n)
    ]


def _sizes(gene: Integers, label: Integers, n_genes: int, classes: Sequence[str]) -> dict[str, NDArray[Any]]:
    """Return rows and sites of each gene, each of shape (n_genes,)."""
    sites = {f"n_{name}": label == index for index, name in enumerate(classes) if index > 0}
    found = {"n_rows": np.bincount(gene, minlength=n_genes)}
    return found | {name: np.bincount(gene[rows], minlength=n_genes) for name, rows in sites.items()}


def _of_genes(probabilities: Floats, ranked: Floats, scored: Scored, rows: Integers) -> dict[str, NDArray[Any]]:
    n, label, gene = len(rows), scored.label, scored.gene
    loss = np.bincount(gene, weights=log_loss_of_rows(probabilities, label), minlength=n)
    table: dict[str, NDArray[Any]] = {
        "log_loss": loss / np.maximum(rows, 1),
        "errors": np.bincount(gene[probabilities.argmax(axis=1) != label], minlength=n),
    }
    for index, name in enumerate(scored.classes):
        if index > 0:
            table[f"top_k_{name}"] = top_k_shares(ranking(ranked[:, index]), label == index, gene, n)
    return table


# ---- near true sites --------------------------------------------------------------------------------------------------


def write_neighbours(
    folder: RunFolder,
    base: Floats32 | None,
    meta: Floats32,
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
    lines = neighbours(base, meta, scored, positions, n_sites=n_sites)
    write_csv(folder.neighbours / "neighbours.csv", lines)
    write_csv(folder.neighbours / "by_distance.csv", by_distance(lines))
    n_written = len({line["site"] for line in lines})
    write_json(folder.neighbours / "neighbours.json", facts | {"status": "written", "n_sites": n_written})


def neighbours(
    base: Floats32 | None, meta: Floats32, scored: Scored, positions: NDArray[np.int64], *, n_sites: int
) -> list[dict[str, Any]]:
    """Return one line per sampled true site and row of its gene within 100 nt, with the probabilities of both models.

    The sites of lowest md5 of seed, gene, position and class are taken, so a larger sample holds a smaller one.
    """
    genes, labels, classes, gene_ids = scored.gene, scored.label, scored.classes, scored.gene_ids
    sites = np.flatnonzero(labels > 0)
    keys = [
        hashlib.md5(f"{scored.seed}:{gene_ids[genes[row]]}:{positions[row]}:{classes[labels[row]]}".encode()).digest()
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


# ---- two runs ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Versus:
    """Scores of two runs on the rows that both scored, the same metrics in the same order, and the first minus the second.

    ``n_pilot_rows`` are rows that both have and that are left out, since a run chose its features by their genes.
    """

    n_rows: int
    n_pilot_rows: int
    n_groups: int
    too_narrow: str
    one: tuple[Metric, ...]
    other: tuple[Metric, ...]
    difference: tuple[Metric, ...]


def compare_runs(run: Path, other: Path) -> Versus:
    """Compare two consolidated runs of the same dataset, folds and seed on the rows that both scored.

    Raises
    ------
    CheckpointError
        A run is not consolidated, or the two are of other data, classes or folds.
    """
    folders = RunFolder(run), RunFolder(other)
    plans = [folder.read_plan() for folder in folders]
    for name in ("fingerprint", "classes", "fold_column"):
        if getattr(plans[0].data, name) != getattr(plans[1].data, name):
            raise CheckpointError(
                f"{run} and {other} differ in {name.replace('_', ' ')}; compare runs of the same data"
            )
    classes, seed = plans[0].data.classes, plans[0].settings.seed
    parts, n_pilot_rows = _shared_rows(folders, classes)
    genes = read_gene_folds(folders[0], plans[0])
    numbers = np.unique(genes.group, return_inverse=True)[1].tolist()
    group_of = dict(zip(genes.gene_id.tolist(), numbers, strict=True))
    groups = np.unique(codes_of(parts[0]["gene_id"].cast("string"), group_of), return_inverse=True)[1]
    labels = codes_of(parts[0]["label"].cast("string"), {name: number for number, name in enumerate(classes)})
    group_draws = draw_groups(groups, seed=seed, draws=DRAWS)
    one, two = (
        headline_scores(
            np.column_stack([part[f"p_{name}"].to_numpy() for name in classes]),
            labels,
            groups,
            classes,
            group_draws=group_draws,
        )
        for part in parts
    )
    return Versus(
        n_rows=len(labels),
        n_pilot_rows=n_pilot_rows,
        n_groups=int(groups.max()) + 1,
        too_narrow=too_narrow(groups),
        one=tuple(summary(one)),
        other=tuple(summary(two)),
        difference=tuple(summary(differences(one, two))),
    )


def _shared_rows(folders: Sequence[RunFolder], classes: Sequence[str]) -> tuple[list[pa.Table], int]:
    """Return the out-of-fold predictions of both runs on the rows that both scored, in the same order.

    The number is that of rows which both have and one did not score: they are of genes that chose its features.
    """
    for folder in folders:
        if not folder.out_of_fold.is_file():
            raise CheckpointError(
                f"{folder.root} has no out-of-fold predictions; run 'mi-duck consolidate {folder.root}'"
            )
    columns = ["row_id", "gene_id", "label", "fold", "is_pilot", *(f"p_{name}" for name in classes)]
    tables = [pq.read_table(checked(folder, folder.out_of_fold), columns=columns) for folder in folders]
    ids = [table["row_id"].to_numpy() for table in tables]
    shared = np.intersect1d(ids[0], ids[1], assume_unique=True)
    parts = [table.take(np.searchsorted(rows, shared)) for rows, table in zip(ids, tables, strict=True)]
    if not len(shared) or any(
        parts[0][name].cast("string") != parts[1][name].cast("string") for name in ("gene_id", "label", "fold")
    ):
        raise CheckpointError(
            f"{folders[0].root} and {folders[1].root} have other genes or folds; compare runs of the same seed and genes"
        )
    is_pilot = np.logical_or(*(part["is_pilot"].to_numpy() for part in parts))
    return [part.filter(pa.array(~is_pilot)) for part in parts], int(is_pilot.sum())
