"""Records to the tables of the page, whose cells are text."""

import shlex
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

from mi_duck.metrics.metrics import TITLES, title_of
from mi_duck.numbers import decimal, interval, mebibytes, typeset
from mi_duck.report.overfitting import FitRecord
from mi_duck.report.records import RunRecords, read_json, with_interval
from mi_duck.report.summary import difference
from mi_duck.run.folder import RunFolder
from mi_duck.settings import Columns, flags_of

WITHOUT = "without "
"""Begin of the names of variants that leave one member out."""
PARTS = {
    "own": "genes of its window, out of fold",
    "unseen": "genes outside its window, out of fold",
    "holdout": "held-out genes",
}
"""Parts of the genes that a score may be evaluated on, beside all that are scored out of fold."""
THRESHOLDS = {"best_f1": "best F1", "precision_0.9": "precision of 0.9", "recall_0.9": "recall of 0.9"}


@dataclass(frozen=True, slots=True)
class Table:
    """One table of the page.

    Parameters
    ----------
    texts
        Number of columns from the left that hold words; the others are aligned as numbers.
    marked
        Indices of the rows that are highlighted.
    """

    caption: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    texts: int = 1
    marked: frozenset[int] = field(default_factory=frozenset)


def headline_metrics(run: RunRecords) -> list[tuple[str, str]]:
    """Return the metrics of the first table: average precision of every class but the background, top-k, F1, log loss."""
    wanted = [("average_precision", name) for name in run.classes[1:]]
    if len(run.classes) > 2:
        wanted.append(("average_precision", "macro"))
    wanted += [("top_k", "macro"), ("f1", "macro"), ("log_loss", "all")]
    return [one for one in wanted if run.find("ensemble", *one) is not None]


def headline_table(run: RunRecords) -> Table:
    """Return ensemble, base model and their paired difference where it was computed."""
    metrics = headline_metrics(run)
    columns = {
        "ensemble": [run.find("ensemble", *one) for one in metrics],
        "base scores": [run.find("base", *one) for one in metrics],
        "difference": [difference(run, *one) for one in metrics],
    }
    shown = {name: scores for name, scores in columns.items() if name == "ensemble" or any(scores)}
    titles = [title_of(*one) + (" (lower is better)" if one[0] == "log_loss" else "") for one in metrics]
    rows = list(zip(titles, *(map(with_interval, scores) for scores in shown.values()), strict=True))
    has_intervals = any(one is not None and one.low is not None for one in columns["ensemble"])
    intervals = (
        "with 95 % intervals over groups of genes, for these trained models" if has_intervals else "no intervals"
    )
    caption = f"Out of fold, {intervals}"
    caption += f"; too narrow: {run.too_narrow}" if run.too_narrow else ""
    return Table(caption, ("", *shown), rows)


def models(run: RunRecords) -> list[tuple[str, str, int | None, str, bool]]:
    """Return name, scope, instance, variant and whether it is the chosen one, of everything scored out of fold on all rows."""
    found: dict[tuple[str, int | None, str], bool] = {}
    for score in run.scores:
        if score.evaluated_on == "oof" and score.scope != "difference" and not score.variant.startswith(WITHOUT):
            found.setdefault((score.scope, score.instance_id, score.variant), score.is_chosen)
    order = {"base": 0, "ensemble": 1, "member": 2}
    keys = sorted(found, key=lambda key: (order[key[0]], not found[key], key[1] or 0, key[2]))
    return [(_name(key[0], key[1]), *key, found[key]) for key in keys]


def _name(scope: str, instance_id: int | None) -> str:
    return scope if instance_id is None else f"instance_{instance_id:02d}"


def score_table(run: RunRecords) -> Table:
    """Return the headline metrics of base model, every variant of the ensemble, and every member, on the same rows."""
    metrics = headline_metrics(run)
    rows: list[tuple[str, ...]] = []
    marked = set()
    for name, scope, instance_id, variant, is_chosen in models(run):
        cells = [run.lookup(scope, instance_id, variant, "oof", *one) for one in metrics]
        if is_chosen:
            marked.add(len(rows))
        rows.append((name + (" (chosen)" if is_chosen else ""), variant, *(with_interval(cell) for cell in cells)))
    headings = ("model", "variant", *(title_of(*one) for one in metrics))
    return Table("Every model on the same rows", headings, rows, texts=2, marked=frozenset(marked))


def class_table(run: RunRecords) -> Table:
    """Return every metric of every class for base model and ensemble."""
    found = {score.metric for score in run.scores if score.scope == "ensemble"}
    metrics = [name for name in TITLES if name in found] + sorted(found - set(TITLES))
    rows = []
    for name in [*run.classes, "macro", "all"]:
        for scope in ("base", "ensemble"):
            cells = [run.find(scope, metric, name) for metric in metrics]
            if any(cells):
                rows.append((name, scope, *(with_interval(cell, 3) for cell in cells)))
    return Table("By class", ("class", "model", *(title_of(metric, "all") for metric in metrics)), rows, texts=2)


def left_out_table(run: RunRecords) -> Table | None:
    """Return the change of every metric when one member is left out, or None where that was not computed."""
    metrics = headline_metrics(run)
    found = [one.variant for one in run.scores if one.scope == "difference" and one.variant.startswith(WITHOUT)]
    rows = [
        (variant, *(with_interval(run.lookup("difference", None, variant, "oof", *one)) for one in metrics))
        for variant in dict.fromkeys(found)
    ]
    headings = ("", *(title_of(*one) for one in metrics))
    return Table("What changes when one member is left out", headings, rows) if rows else None


def threshold_table(run: RunRecords) -> Table | None:
    """Return the thresholds of every class with cross-fitted precision, recall and F1 of each, or None where there are none."""
    found = read_json(RunFolder(run.root).thresholds)
    if found is None:
        return None
    columns = ("threshold", "precision", "recall", "f1")
    rows = [
        (name, THRESHOLDS.get(kind, kind), *(_real(facts[one] if facts else None, 3) for one in columns))
        for name in run.classes
        for kind, facts in found.get(name, {}).items()
    ]
    headings = ("class", "goal", "threshold", "precision", "recall", "F1")
    caption = (
        "Thresholds of the probability, tuned on all out-of-fold rows; precision, recall and F1 of each fold at the threshold "
        "tuned on the other folds; a dash: cannot be reached"
    )
    return Table(caption, headings, rows, texts=2)


def elsewhere_table(run: RunRecords) -> Table | None:
    """Return scores on a part of the genes (`PARTS`), with the gain over the base model there, or None where there are none."""
    metrics = headline_metrics(run)
    keys = dict.fromkeys(
        (score.evaluated_on, score.scope, score.instance_id, score.variant)
        for score in run.scores
        if score.evaluated_on in PARTS
    )
    order = sorted(keys, key=lambda key: (key[0], key[1] == "member", key[2] or 0, key[3]))
    rows = []
    for where, scope, instance_id, variant in order:
        cells = [run.lookup(scope, instance_id, variant, where, *one) for one in metrics]
        n_rows = next((cell.n_rows for cell in cells if cell), None)
        size = f"{n_rows:,}" if n_rows is not None else "–"
        name = variant if scope == "difference" else _name(scope, instance_id)
        rows.append((name, PARTS[where], size, *(with_interval(cell) for cell in cells)))
    if not rows:
        return None
    headings = ("model", "scored on", "rows", *(title_of(*one) for one in metrics))
    return Table("Scores on a part of the genes", headings, rows, texts=2)


def fold_table(run: RunRecords) -> Table:
    """Return groups, genes, rows and rows of each class of every fold, and of the genes held out."""
    folds: dict[str, list[dict[str, Any]]] = {}
    for gene in sorted(run.genes, key=lambda gene: (gene["is_holdout"], gene["fold"] or 0)):
        folds.setdefault("held out" if gene["is_holdout"] else str(gene["fold"]), []).append(gene)
    rows = [
        (
            name,
            f"{len({gene['fold_group'] for gene in genes}):,}",
            f"{len(genes):,}",
            f"{sum(gene['n_rows'] for gene in genes):,}",
            *(f"{sum(gene[f'n_{one}'] for gene in genes):,}" for one in run.classes),
        )
        for name, genes in folds.items()
    ]
    return Table("Folds", ("fold", "groups", "genes", "rows", *run.classes), rows)


def instance_table(run: RunRecords) -> Table:
    """Return genes, rows, memory, time and weight of every instance."""
    rows = []
    for one in run.instances:
        measured = one["measured_peak_bytes"]
        rows.append(
            (
                f"instance_{one['instance_id']:02d}",
                one["status"],
                f"{one['first_rank']:,}–{one['stop_rank'] - 1:,}",
                f"{one['n_genes']:,}",
                f"{one['n_rows']:,}",
                mebibytes(one["predicted_bytes"]),
                typeset(mebibytes(measured or None)),
                decimal(one["predicted_bytes"] / measured, 3) if measured else "–",
                typeset(decimal(one.get("predicted_seconds") or None, 0)),
                typeset(decimal(one["wall_seconds"], 0)),
                _real(one["weight"], 3),
            )
        )
    size = ("instance", "status", "gene ranks", "genes", "rows")
    spent = ("predicted MiB", "measured MiB", "predicted / measured", "predicted s, at most", "measured s", "weight")
    return Table("Instances: peak memory and time of the process that trained each", size + spent, rows, texts=2)


def fit_table(fits: Sequence[FitRecord]) -> Table:
    """Return the fits of every instance and class over its folds: rounds, log losses, verdicts."""
    by_fit: dict[tuple[int, str], list[FitRecord]] = {}
    for fit in fits:
        by_fit.setdefault((fit.instance_id, fit.class_name), []).append(fit)
    rows = [
        (
            f"instance_{instance_id:02d}",
            name,
            ", ".join(str(fit.best_round) for fit in some),
            ", ".join(str(fit.rounds_trained) for fit in some),
            ", ".join(_real(fit.training_log_loss) for fit in some),
            ", ".join(_real(fit.stopping_log_loss) for fit in some),
            "; ".join(dict.fromkeys(fit.verdict for fit in some)),
        )
        for (instance_id, name), some in by_fit.items()
    ]
    rounds = ("instance", "class", "best round", "rounds trained")
    losses = ("log loss, training genes", "log loss, stopping genes", "verdict")
    return Table("Fits at their best round, one value per fold", rounds + losses, rows, texts=2)


def calibration_error_table(run: RunRecords) -> Table | None:
    """Return log loss, Brier score and calibration error before and after calibration, or None where not made."""
    found = read_json(RunFolder(run.root).calibration_analysis / "calibration.json")
    if found is None:
        return None
    metrics = ("log_loss", "brier", "ece")
    rows = [
        (name, scope, when, *(_value_of(found[scope][name][when].get(metric)) for metric in metrics))
        for name in run.classes
        for scope in ("base", "ensemble")
        if name in found[scope]
        for when in ("before", "after", "difference")
    ]
    headings = ("class", "model", "calibration", "log loss", "Brier score", "calibration error")
    return Table("Scores before and after calibration, each class against the rest", headings, rows, texts=3)


def calibration_gap_table(run: RunRecords) -> Table | None:
    """Return how many rows lie above a probability and how far they are off there, or None where not made."""
    found = read_json(RunFolder(run.root).calibration_analysis / "calibration.json")
    if found is None:
        return None
    rows = [
        (name, scope, f"{one['threshold']:g}", f"{one['n_rows']:,}", _value_of(one if one["n_rows"] else None))
        for name in run.classes
        for scope in ("base", "ensemble")
        if name in found[scope]
        for one in found[scope][name]["above"]
    ]
    headings = ("class", "model", "probability above", "rows", "observed - predicted")
    return Table("Share of true rows minus mean probability, where it matters", headings, rows, texts=2)


def _value_of(facts: dict[str, float | None] | None) -> str:
    """Return the text of a value with its interval, as JSON holds them."""
    return "–" if facts is None else typeset(interval(facts["value"], facts["low"], facts["high"]))


def calibration_table(run: RunRecords) -> Table | None:
    """Return the calibration that each instance chose for each class, or None where none is known."""
    rows = []
    for one in run.instances:
        instance = f"instance_{one['instance_id']:02d}"
        found = read_json(RunFolder(run.root).instances / instance / "calibration.json")
        if found:
            rows.append((instance, *(found[name]["method"] for name in run.classes)))
    return Table("Chosen calibration", ("instance", *run.classes), rows, texts=1 + len(run.classes)) if rows else None


def lines_table(
    lines: Sequence[dict[str, str]], columns: dict[str, str], *, caption: str, most: int, texts: int
) -> Table:
    """Return the first ``most`` lines of a CSV table, with the columns that it has under their headings."""
    kept = {name: title for name, title in columns.items() if not lines or name in lines[0]}
    rows = [tuple(_cell(line[name]) for name in kept) for line in lines[:most]]
    return Table(caption, tuple(kept.values()), rows, texts=texts)


def _cell(text: str) -> str:
    """Return a cell of a CSV table as the page shows it: real numbers with four digits, the rest as it is."""
    try:
        value = float(text)
    except ValueError:
        return text or "–"
    return text if text.lstrip("-").isdigit() else _real(value)


def _real(value: float | None, digits: int = 4) -> str:
    return typeset(decimal(value, digits))


def run_command(run: RunRecords) -> str:
    """Return the command that makes this run again: every option written out, the dataset by its last name."""
    data, asked = run.plan.data, run.plan.asked
    words = ["mi-duck", "run", PurePath(data.location).name, "--out", "run", *flags_of(asked, with_defaults=True)]
    columns = Columns(
        gene_column=data.gene_column,
        label_column=data.label_column,
        classes=",".join(data.classes),
        fold_by=data.fold_column,
        base_score_columns=",".join(data.base_scores) or None,
        keep=",".join(data.kept) or None,
        full_hash=data.full_hash,
    )
    return shlex.join([*words, *flags_of(columns, with_defaults=True)])
