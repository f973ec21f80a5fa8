"""Completes the folders of trained instances: scores beside the base model, curves, importances, scores on unseen genes.

**Why** not while training: the base model's scores would have to stay in the process whose memory is counted, and the genes
that one instance never saw are only there once all are trained. The files are added to a folder that is valid already. A kill at
any moment leaves it valid: files that are about to change are first removed from the manifest, and readers ignore files that the
manifest does not list.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mi_duck.atomic_files import file_sha256, sealed, storage_errors, write_csv, write_file, write_json
from mi_duck.drawing import ENSEMBLE, LOSSLESS, save_as, short_label, style
from mi_duck.ensemble.member_scores import load_member
from mi_duck.ensemble.model import InstanceModel
from mi_duck.errors import CheckpointError
from mi_duck.evaluate.instance_scores import (
    FACTS,
    aggregate,
    fold_scores,
    order_scores,
    predict_unseen,
    site_probability,
    unseen_file,
    unseen_scores,
)
from mi_duck.metrics.calibrate import base_model
from mi_duck.metrics.metrics import known, point_scores
from mi_duck.metrics.ranking import curve_points
from mi_duck.numbers import decimal, typeset
from mi_duck.processes import Report
from mi_duck.report.plots import Curve, curve_figure
from mi_duck.rows.segments import weights_or_none
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import GeneFolds, codes_of, read_gene_folds
from mi_duck.run.instance_folder import read_manifest, trained_instances
from mi_duck.run.plan import Instance, Plan, distinct_classes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


SCORES = ("gene_cv_metrics.csv", "metrics_aggregate.json")
IMPORTANCE = "feature_importance_analysis/importance.csv"
UNSEEN = ("holdout_evaluation_results.csv", "holdout_evaluation_summary.json")
CURVES = {"pr": "pr_base_vs_meta", "roc": "roc_base_vs_meta"}
IMPORTANCE_PLOT = "feature_importance_analysis/importance"
"""Figures, by their path without the format."""
TOTALS = {
    "total_gain": "share of the total gain",
    "total_cover": "share of the total cover",
    "weight": "share of the splits (weight)",
}
SHOWN = 15
"""Features in a figure of importances."""


def importance_table(model: InstanceModel) -> list[dict[str, Any]]:
    """Return one record for each class and feature, the most important first.

    Returns
    -------
    list of dict
        ``class``, ``rank`` (from 1, by total gain; equal ones in the order of features), ``feature``, ``weight`` (number of
        splits), ``total_gain`` (their loss reduction, in nats times XGBoost's factor), ``total_cover`` (sum of the hessians of
        the rows that reach them), ``gain`` and ``cover`` (the same per split; None without a split).
    """
    rows = []
    for name, booster in zip(model.classes, model.boosters, strict=True):
        found = {kind: booster.get_score(importance_type=kind) for kind in ("weight", "total_gain", "total_cover")}
        records = []
        for index, feature in enumerate(model.features):
            weight = int(found["weight"].get(f"f{index}", 0))
            gain, cover = (float(found[kind].get(f"f{index}", 0.0)) for kind in ("total_gain", "total_cover"))
            record: dict[str, Any] = {"feature": feature, "weight": weight, "total_gain": gain, "total_cover": cover}
            per_split = {"gain": gain / weight, "cover": cover / weight} if weight else {"gain": None, "cover": None}
            records.append(record | per_split)
        records.sort(key=lambda record: -float(record["total_gain"]))
        rows += [{"class": name, "rank": rank} | record for rank, record in enumerate(records, start=1)]
    return rows


def importance_figure(rows: Sequence[dict[str, Any]]) -> "Figure":
    """Draw the most important features by gain, cover and weight, each as its share of all features of the class.

    There is one column of panels per distinct class; ``rows`` are those of `importance_table`.
    """
    from matplotlib.figure import Figure

    classes = distinct_classes(list(dict.fromkeys(row["class"] for row in rows)))
    with style():
        size = 0.4 + 3.2 * len(classes), len(TOTALS) * (0.8 + 0.17 * SHOWN)
        figure = Figure(figsize=size, layout="constrained")
        grid = figure.subplots(len(TOTALS), len(classes), squeeze=False)
        for line, (column, words) in zip(grid, TOTALS.items(), strict=True):
            for axes, name in zip(line, classes, strict=True):
                of_class = [row for row in rows if row["class"] == name]
                total = sum(row[column] for row in of_class)
                top = [row for row in sorted(of_class, key=lambda row: -row[column]) if row[column] > 0][:SHOWN]
                axes.barh(range(len(top)), [row[column] / total for row in top], height=0.66, color=ENSEMBLE)
                axes.set_yticks(range(len(top)), [short_label(row["feature"]) for row in top], parse_math=False)
                axes.set_ylim(max(len(top), 1) - 0.4, -0.6)
                axes.set_xlim(left=0)
                axes.locator_params(axis="x", nbins=4)
                axes.tick_params(axis="y", length=0)
                axes.grid(visible=False, axis="y")
                axes.set(title=short_label(name), xlabel=words if top else "the booster has no split")
    return figure


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """Out-of-fold predictions of one instance, one entry per scored row.

    Parameters
    ----------
    base, base_ranked
        The base model's calibrated probabilities, and its scores as they are, by which rows are ranked; None without one.
    """

    fold: NDArray[np.integer[Any]]
    label: NDArray[np.integer[Any]]
    rank: NDArray[np.integer[Any]]
    probabilities: NDArray[np.floating[Any]]
    base: NDArray[np.floating[Any]] | None
    base_ranked: NDArray[np.floating[Any]] | None


def describe_instances(
    *, run: str, threads: int, is_minimal: bool, report: Report, figure_format: str | None = None
) -> dict[str, Any]:
    """Complete the folder of every trained instance of a run that is consolidated.

    Parameters
    ----------
    run
        Run folder with segments and the scratch file of base scores.
    is_minimal
        Whether to leave out plots, curves and unseen genes.
    figure_format
        ``pdf``, ``svg`` or ``png``; by default PDF.

    Returns
    -------
    dict
        ``instances``: those whose folder was completed.

    Raises
    ------
    CheckpointError
        The run is not consolidated, or a file is damaged.
    """
    folder = RunFolder(Path(run))
    plan = folder.read_plan()
    genes = read_gene_folds(folder, plan)
    if not folder.members.is_file():
        raise CheckpointError(f"{folder.root} has no out-of-fold scores yet; run 'mi-duck consolidate {folder.root}'")
    trained = trained_instances(folder, plan)
    if not is_minimal:
        predict_unseen(folder, plan, genes, trained, threads=threads, report=report)
    for done, instance in enumerate(trained):
        report("completing the folders of instances", done, len(trained))
        _describe(folder, plan, instance, genes, is_minimal=is_minimal, figure_format=figure_format or "pdf")
    report("completing the folders of instances", len(trained), len(trained))
    return {"instances": [instance.instance_id for instance in trained]}


def _describe(
    folder: RunFolder, plan: Plan, instance: Instance, genes: GeneFolds, *, is_minimal: bool, figure_format: str
) -> None:
    where = folder.instance(instance)
    model = load_member(where)
    rows = _read_rows(folder, plan, instance, genes)
    names, stale = [*SCORES, IMPORTANCE], []
    if not is_minimal:
        figures = (*CURVES.values(), IMPORTANCE_PLOT)
        names += [*UNSEEN, *(f"{name}.{figure_format}" for name in figures)]
        stale = [one for name in figures for suffix in LOSSLESS if (one := f"{name}{suffix}") not in names]
    with amended(where, names, stale):
        folds = _fold_lines(rows, plan.data.classes, plan.settings.n_folds)
        write_csv(where / SCORES[0], folds)
        write_json(where / SCORES[1], aggregate(folds))
        importance = importance_table(model)
        write_csv(where / IMPORTANCE, importance)
        if is_minimal:
            return
        results, summary = unseen_scores(unseen_file(folder, instance), plan, instance, genes)
        if results:
            write_csv(where / UNSEEN[0], results)
        else:
            write_file(where / UNSEEN[0], f"{','.join(FACTS)}\n".encode())
        write_json(where / UNSEEN[1], summary)
        for kind, name in CURVES.items():
            panels = [(f"all but {plan.data.classes[0]}", _pair(kind, rows))] if len(plan.data.classes) > 2 else []
            panels += [
                (title, _pair(kind, rows, index=index))
                for index, title in enumerate(plan.data.classes)
                if title in plan.data.distinct_classes
            ]
            save_as(curve_figure(panels, kind=kind), where / name, (figure_format,))
        save_as(importance_figure(importance), where / IMPORTANCE_PLOT, (figure_format,))


@contextmanager
def amended(where: Path, names: Sequence[str], stale: Sequence[str] = ()) -> Iterator[None]:
    """Write files into a finished instance's folder, then list them with their hashes in its manifest.

    Files that change are removed from the manifest first, so the folder is valid at every moment.

    Parameters
    ----------
    names
        Relative paths of the files that are written inside the block; they may exist already.
    stale
        Of those that are deleted there, if they exist.
    """
    with storage_errors(where):
        path = where / "manifest.json"
        manifest = read_manifest(where)
        kept = {name: digest for name, digest in manifest["sha256"].items() if name not in {*names, *stale}}
        if len(kept) < len(manifest["sha256"]):
            write_json(path, sealed(manifest | {"sha256": kept}))
    yield
    with storage_errors(where):
        hashes = kept | {name: file_sha256(where / name) for name in names}
        write_json(path, sealed(manifest | {"sha256": hashes}))


def _read_rows(folder: RunFolder, plan: Plan, instance: Instance, genes: GeneFolds) -> OutOfFold:
    names = [f"p_{name}" for name in plan.data.classes]
    path = folder.instance(instance) / "oof_predictions.parquet"
    table = pq.read_table(path, columns=["row_id", "gene_id", "label", "fold", *names]).unify_dictionaries()
    rank = codes_of(table["gene_id"], {gene: rank for rank, gene in enumerate(genes.gene_id.tolist())})
    is_scored = rank >= plan.data.pilot_genes  # the genes below chose the features, so they are not scored
    label = codes_of(table["label"], {name: index for index, name in enumerate(plan.data.classes)})
    fold, label, rank = (values[is_scored] for values in (table["fold"].to_numpy(), label, rank))
    base = ranked = None
    if plan.data.base_scores and len(rank):
        columns, first = [f"base:{name}" for name in plan.data.base_scores], table["row_id"][0].as_py()
        scores = _slice(folder.members, columns, first, len(table))[is_scored]
        weights = None
        if "weight" in pq.read_schema(path).names:
            weights = weights_or_none(pq.read_table(path, columns=["weight"])["weight"].to_numpy()[is_scored])
        n_folds, is_calibrated = plan.settings.n_folds, plan.settings.calibrate
        model = base_model(
            scores, label, fold, n_folds=n_folds, is_calibrated=is_calibrated, dtype=np.float64, weights=weights
        )
        base, ranked = model.probabilities, model.ranked
    probabilities = np.column_stack([table[name].to_numpy()[is_scored] for name in names])
    return OutOfFold(fold, label, rank, probabilities, base, ranked)


def _fold_lines(rows: OutOfFold, classes: Sequence[str], n_folds: int) -> list[dict[str, Any]]:
    """Return a line per fold: scored rows and genes, the metrics of the instance, and those beside the base model."""
    names = point_scores(rows.probabilities, rows.label, classes) if len(rows.label) else {}
    lines: list[dict[str, Any]] = []
    for fold in range(n_folds):
        of_fold = rows.fold == fold
        base = None
        if rows.base is not None and rows.base_ranked is not None:
            base = rows.base[of_fold], rows.base_ranked[of_fold]
        probabilities, label, rank = (values[of_fold] for values in (rows.probabilities, rows.label, rows.rank))
        line: dict[str, Any] = {"fold": fold, "test_rows": len(label), "test_genes": len(np.unique(rank))}
        # a fold may have no scored rows: all its genes chose the features
        points = point_scores(probabilities, label, classes) if len(label) else dict.fromkeys(names, np.nan)
        line |= {name: known(value) for name, value in points.items()}
        lines.append(line | fold_scores(probabilities, base, label, rank, classes))
    return lines


def _pair(kind: str, rows: OutOfFold, *, index: int | None = None) -> list[Curve]:
    """Return the curves of base model and instance for the class ``index``, or for sites against other rows where it is None."""
    truth = rows.label > 0 if index is None else rows.label == index
    curves = []
    for scope, values in (("base", rows.base_ranked), ("member", rows.probabilities)):
        if values is not None and len(truth):
            score = site_probability(values) if index is None else values[:, index]
            points = [point for point in curve_points(score, truth) if point["kind"] == kind]
            area = order_scores(score, truth)["roc_auc" if kind == "roc" else "average_precision"]
            words = "" if np.isnan(area) else typeset(decimal(area, 3))
            curves.append(Curve(scope, [one["x"] for one in points], [one["y"] for one in points], words))
    return curves


def _slice(path: Path, names: Sequence[str], first: int, n_rows: int) -> NDArray[np.float32]:
    """Return a range of rows of a Parquet file, reading only the row groups that hold some of them."""
    with pq.ParquetFile(path) as parquet:
        sizes = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
        stops = np.cumsum(sizes)
        groups = np.flatnonzero((stops > first) & (stops - sizes < first + n_rows))
        table = parquet.read_row_groups(groups.tolist(), columns=list(names))
    skipped = first - int(stops[groups[0]] - sizes[groups[0]])
    return np.column_stack([table[name].to_numpy()[skipped : skipped + n_rows] for name in names])
