"""The run as one page of plain text, ``unified_training_summary.txt``.

Nothing is computed here: every number is from ``plan.json``, ``metrics.csv``, ``consolidation_summary.json`` or the files of an
instance, rounded.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mi_duck.atomic_files import write_file
from mi_duck.evaluate.catalogue import score_table
from mi_duck.numbers import decimal, gibibytes, interval
from mi_duck.report.records import read_json
from mi_duck.run.folder import RunFolder
from mi_duck.run.instance_folder import measurement
from mi_duck.run.plan import Plan

NAMES = {
    "plan.json": "instances, folds, layout, settings, fingerprint of the data",
    "genes.parquet": "every gene with its rank, fold group, fold and rows",
    "multi_instance_training": "one folder per instance: models, predictions, scores, curves, importances",
    "consolidated_model.miduck": "the model: mi-duck predict RUN DATASET --out FILE.parquet",
    "consolidation_summary.json": "members, weights, voting, hashes, coverage",
    "oof_predictions.parquet": "every row with probabilities by boosters that were not trained on its fold group",
    "metrics.csv": "every score with its 95 % interval",
    "run.duckdb": "all of it as tables: mi-duck sql RUN",
    "report.html": "the run as one page with figures",
    "unified_training_summary.txt": "this page",
    "thresholds.json": "thresholds of every class, from out-of-fold scores",
    "gene_coverage_report.csv": "every gene with the instances that trained on it",
    "instance_performance_comparison.csv": "every instance on the same rows",
    "gene_deltas.csv": "base model and ensemble per gene",
    "base_vs_meta.json": "base model against ensemble: errors, matched recall, kinds of errors",
    "curves.csv": "points of the ROC and precision-recall curves",
    "leakage_analysis": "features that may leak the label",
    "overfitting": "learning curves with their verdicts",
    "calibration_analysis": "predicted probabilities against observed fractions",
    "neighbour_diagnostics": "scores around sampled sites",
    "comprehensive_shap_analysis": "importance of features: SHAP values",
    "feature_importance_analysis": "importance of features under the names of the design documents",
    "memory.json": "measurements behind the memory model",
    "memory_per_gene.pdf": "memory predicted and measured",
    "provenance.json": "settings, versions, hashes",
}


def write_summary(folder: RunFolder, plan: Plan, provenance: dict[str, Any], *, warnings: Sequence[str]) -> None:
    """Write ``unified_training_summary.txt``.

    Parameters
    ----------
    folder, plan
        A run that is scored and has its catalogue.
    provenance
        Content of ``provenance.json``.
    warnings
        From `mi_duck.report.cautions.cautions`.

    Raises
    ------
    CheckpointError
        The run has no catalogue yet.
    """
    write_file(folder.training_summary, training_summary(folder, plan, provenance, warnings=warnings).encode())


def training_summary(folder: RunFolder, plan: Plan, provenance: dict[str, Any], *, warnings: Sequence[str]) -> str:
    """Return the text of ``unified_training_summary.txt``; see `write_summary`."""
    summary = json.loads(folder.summary.read_bytes())
    columns, scores = score_table(folder.root)
    sections = (
        ("Warnings", list(warnings) or ["none"]),
        ("Data", _data(folder, plan)),
        ("Folds", _folds(folder, plan)),
        ("Plan", _plan(plan)),
        ("Instances", _instances(folder, plan, summary)),
        (
            "Scores out of fold: every row by boosters that were not trained on its fold group; 95 % intervals",
            _table(columns, scores),
        ),
        (
            "Scores of each instance's final model on genes that it was not trained on; 95 % intervals",
            _unseen(folder, plan),
        ),
        ("Thresholds", _thresholds(summary)),
        ("Settings", [f"{name} = {value}" for name, value in sorted(provenance["settings"].items())]),
        ("Versions", [f"{name} {version}" for name, version in sorted(provenance["versions"].items())]),
        ("Files", _files(folder)),
    )
    head = f"mi_duck run of {provenance['started_at']} to {provenance['finished_at']}"
    text = [head, "=" * len(head)]
    for title, lines in sections:
        text += ["", title, "-" * len(title), *lines]
    return "\n".join(text) + "\n"


def _data(folder: RunFolder, plan: Plan) -> list[str]:
    kinds = f"{len(plan.data.small_features):,} in one byte, {len(plan.data.wide_features):,} as float32"
    return [
        f"dataset      {Path(plan.data.location).name}, fingerprint {plan.data.fingerprint}",
        f"genes        {plan.data.n_genes:,} of {plan.data.n_genes_dataset:,}",
        f"rows         {plan.data.n_rows:,}",
        f"features     {len(plan.data.features):,} ({kinds})",
        f"classes      {', '.join(plan.data.classes)}",
        f"base scores  {', '.join(plan.data.base_scores) or 'none, so nothing is compared with a base model'}",
    ]


def _folds(folder: RunFolder, plan: Plan) -> list[str]:
    genes = pq.read_table(folder.genes, columns=["gene_rank", "fold", "n_rows", "label_counts"]).to_pylist()
    genes = [gene for gene in genes if gene["gene_rank"] < plan.data.n_genes]
    rows = []
    for fold in sorted({gene["fold"] for gene in genes}):
        of_fold = [gene for gene in genes if gene["fold"] == fold]
        counts = [sum(gene["label_counts"][index] for gene in of_fold) for index in range(len(plan.data.classes))]
        rows.append([str(fold), *(f"{n:,}" for n in (len(of_fold), sum(gene["n_rows"] for gene in of_fold), *counts))])
    return _table(["fold", "genes", "rows", *plan.data.classes], rows)


def _plan(plan: Plan) -> list[str]:
    slots = sum(instance.n_genes for instance in plan.cut.instances)
    is_measured = plan.costs.model.is_measured
    words = "predicted from measurements of these data" if is_measured else "predicted by formula"
    return [
        f"strategy     {plan.cut.strategy_used}: {len(plan.cut.instances)} instances",
        f"overlap      {plan.cut.overlap_genes:,} genes shared by neighbours, redundancy {decimal(slots / plan.data.n_genes, 3)}",
        f"budget       {gibibytes(plan.cut.budget.budget_bytes)} GiB per instance ({plan.cut.budget.won})",
        f"memory       {words}",
    ]


def _instances(folder: RunFolder, plan: Plan, summary: dict[str, Any]) -> list[str]:
    weights = {member["instance_id"]: member["weight"] for member in summary["members"]}
    rows = []
    for instance in plan.cut.instances:
        measured = measurement(folder, instance)
        weight = weights.get(instance.instance_id)
        rows.append(
            [
                instance.name,
                f"{instance.n_genes:,}",
                f"{instance.n_rows:,}",
                gibibytes(instance.predicted_bytes),
                gibibytes(measured.get("peak_bytes")),
                decimal(measured.get("wall_seconds"), 1),
                "not trained" if weight is None else decimal(weight),
            ]
        )
    titles = ["instance", "genes", "rows", "predicted GiB", "measured GiB", "seconds", "weight"]
    coverage = f"{summary['n_genes_trained']:,}/{summary['n_genes']:,} ({summary['coverage_fraction']:.1%})"
    return [*_table(titles, rows), f"Gene coverage: {coverage}"]


def _unseen(folder: RunFolder, plan: Plan) -> list[str]:
    rows, without = [], []
    for instance in plan.cut.instances:
        found = read_json(folder.instance(instance) / "holdout_evaluation_summary.json") or {}
        if found.get("status") == "evaluated":
            scores = {(one["metric"], one["class"]): one for one in found["all_rows"]}
            wanted = (("average_precision", "macro"), ("f1", "macro"), ("log_loss", "all"))
            cells = [f"{found['n_genes']:,}", f"{found['n_rows']:,}"]
            cells += [interval(*(scores[key][name] for name in ("value", "low", "high"))) for key in wanted]
            rows.append([instance.name, *cells])
        else:
            without.append(f"{instance.name}: {found.get('status', 'not evaluated')}")
    titles = ["instance", "genes", "rows", "AP macro", "F1 macro", "log loss"]
    return [*(_table(titles, rows) if rows else []), *without]


def _thresholds(summary: dict[str, Any]) -> list[str]:
    return [f"{name}: {json.dumps(value)}" for name, value in sorted(summary["thresholds"].items())]


def _files(folder: RunFolder) -> list[str]:
    there = sorted(path.name for path in folder.root.iterdir() if not path.name.startswith("."))
    listed = {*there, "provenance.json", folder.training_summary.name}
    return [f"{name:<36} {NAMES.get(name, '')}".rstrip() for name in sorted(listed)]


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines with aligned columns."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (columns, *rows)
    ]
