"""Records to the tables of the page, whose cells are text."""

import json
import shlex
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import PurePath
from typing import Any

from mi_duck.metrics.metrics import GAIN, RANKED, TITLES, title_of
from mi_duck.numbers import decimal, interval, mebibytes, typeset
from mi_duck.report.overfitting import FitRecord
from mi_duck.report.records import RunRecords, Score, read_json, read_rows, value_of, with_interval
from mi_duck.report.summary import difference
from mi_duck.run.folder import RunFolder
from mi_duck.run.made import Levels
from mi_duck.run.plan import instance_name
from mi_duck.settings import CV_OPTIONS, Classifying, Columns, flags_of
from mi_duck.wording import Noun

WITHOUT = "without "
"""Begin of the names of variants that leave one member out."""
PARTS = {
    "own": "{many} of its window, out of fold",
    "unseen": "{many} outside its window, out of fold",
    "holdout": "held-out {many}",
}
"""Parts of the genes that a score may be evaluated on, beside all that are scored out of fold."""
SUPPORTED = "not annotated, base score 0.5 or more"
FEWEST_IN_KINDS = 30
"""With fewer genes thirds of them say nothing."""
THIRDS = ("lowest", "middle", "highest")
DECIDED = {
    "calibrate_per_class": "calibrate",
    "layout": "layout_used",
    "cv": "cv_used",
    "sample_negatives": "easy_share",
    "xgb": "xgb_parameters",
}
"""Names of asked settings, and the names under which they stand in the plan once they are decided."""
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
    of_sites = "macro" if len(run.classes) > 2 else run.classes[1]
    wanted += [("top_k", of_sites), ("f1", "macro"), ("log_loss", "all")]
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
    intervals = "with 95 % intervals over fold groups, for these trained models" if has_intervals else "no intervals"
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
    return scope if instance_id is None else instance_name(instance_id)


def score_table(run: RunRecords) -> Table | None:
    """Return the headline metrics of base model, every variant of the ensemble, and every member, on the same rows.

    None where there is one instance: it is the ensemble, whose scores the first table has.
    """
    if run.n_instances == 1:
        return None
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


def class_tables(run: RunRecords) -> list[Table]:
    """Return every metric of every class for base model and ensemble: of the order of rows, and of probabilities and calls."""
    found = {score.metric for score in run.scores if score.scope == "ensemble" and score.evaluated_on == "oof"}
    metrics = [name for name in TITLES if name in found] + sorted(found - set(TITLES))
    tables = []
    for title, is_wanted in (("Ranking, by class", True), ("Probabilities and calls, by class", False)):
        kept = [name for name in metrics if (name in (*RANKED, "top_k_per_gene")) == is_wanted]
        rows = []
        for name in [*run.classes, "macro", "all"]:
            if is_wanted and name == "macro" and len(run.classes) == 2:
                continue  # the mean over one class
            for scope in ("base", "ensemble"):
                cells = [run.find(scope, metric, name) for metric in kept]
                if any(cells):
                    rows.append((name, scope, *(with_interval(cell, 3) for cell in cells)))
        headings = ("class", "model", *(title_of(metric, "all").replace("gene", run.noun.one) for metric in kept))
        tables.append(Table(title, headings, rows, texts=2))
    return tables


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


def gain_over_runs_table(run: RunRecords) -> Table | None:
    """Return what a blend gains over each of its runs in every metric, or None where it is not a blend."""
    metrics = headline_metrics(run)
    found = [one.variant for one in run.scores if one.scope == "difference" and one.variant.startswith("ensemble - ")]
    rows = [
        (variant, *(with_interval(run.lookup("difference", None, variant, "oof", *one)) for one in metrics))
        for variant in dict.fromkeys(found)
        if variant != GAIN
    ]
    headings = ("", *(title_of(*one) for one in metrics))
    return Table("What the blend gains over each of its runs, on the same rows", headings, rows) if rows else None


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
        if score.evaluated_on in PARTS and (run.n_instances > 1 or score.evaluated_on != "own")
    )
    order = sorted(keys, key=lambda key: (key[0], key[1] == "member", key[2] or 0, key[3]))
    rows = []
    for where, scope, instance_id, variant in order:
        cells = [run.lookup(scope, instance_id, variant, where, *one) for one in metrics]
        n_rows = next((cell.n_rows for cell in cells if cell), None)
        size = f"{n_rows:,}" if n_rows is not None else "–"
        name = variant if scope == "difference" else _name(scope, instance_id)
        rows.append((name, PARTS[where].format(many=run.noun.many), size, *(with_interval(cell) for cell in cells)))
    if not rows:
        return None
    headings = ("model", "scored on", "rows", *(title_of(*one) for one in metrics))
    return Table(f"Scores on a part of the {run.noun.many}", headings, rows, texts=2)


def scan_tables(run: RunRecords) -> list[Table]:
    """Return scores over every position of genes, and what is called there by mistake; none where that was not done."""
    where = [score for score in run.scores if score.evaluated_on == "positions"]
    names = list(dict.fromkeys(score.class_name for score in where))
    tables = []
    for title, is_wanted in (("Ranking", False), ("What is called by mistake", True)):
        metrics = [name for name in TITLES if any(one.metric == name for one in where)]
        metrics = [name for name in metrics if ("recall" in name) == is_wanted]
        rows = []
        for name in names:
            for scope in ("base", "ensemble", "difference"):
                cells = [_scanned(where, scope, metric, name) for metric in metrics]
                rows.append((name, scope, *map(with_interval, cells)))
        headings = ("class", "model", *(TITLES[metric] for metric in metrics))
        if rows:
            tables.append(Table(f"{title}, over every position, with 95 % intervals", headings, rows, texts=2))
    lines = read_rows(RunFolder(run.root).scan_errors) or []
    counts: dict[tuple[str, str], dict[str, str]] = {}
    for line in lines:
        counts.setdefault((line["class"], line["scope"]), {})[line["kind"]] = f"{int(line['n_positions']):,}"
    if counts:
        kinds = tuple(next(iter(counts.values())))
        rows = [(*key, *(of_kind[kind] for kind in kinds)) for key, of_kind in counts.items()]
        headings = ("class", "model", *(SUPPORTED if kind == "supported" else kind for kind in kinds))
        tables.append(Table("Positions called by mistake at recall 0.8, by kind", headings, rows, texts=2))
    return tables


def _scanned(scores: Sequence[Score], scope: str, metric: str, class_name: str) -> Score | None:
    wanted = (scope, metric, class_name)
    return next((one for one in scores if (one.scope, one.metric, one.class_name) == wanted), None)


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
    if run.plan.data.fold_column == run.plan.data.gene_column:  # a fold group is one of them
        rows = [(fold, *sizes) for fold, _, *sizes in rows]
        return Table("Folds", ("fold", run.noun.many, "rows", *run.classes), rows)
    return Table("Folds", ("fold", "fold groups", run.noun.many, "rows", *run.classes), rows)


def instance_table(run: RunRecords) -> Table:
    """Return genes, rows, memory, time and weight of every instance; memory and time follow the rows that are trained on."""
    rows = []
    for one in run.instances:
        measured = one["measured_peak_bytes"]
        rows.append(
            (
                instance_name(one["instance_id"]),
                one["status"],
                f"{one['first_rank']:,}–{one['stop_rank'] - 1:,}",
                f"{one['n_genes']:,}",
                f"{one['n_rows']:,}",
                f"{one['n_training_rows']:,}",
                mebibytes(one["predicted_bytes"]),
                typeset(mebibytes(measured or None)),
                decimal(one["predicted_bytes"] / measured, 3) if measured else "–",
                typeset(decimal(one.get("predicted_seconds") or None, 0)),
                typeset(decimal(one["wall_seconds"], 0)),
                _real(one["weight"], 3),
            )
        )
    size = ("instance", "status", "ranks", run.noun.many, "rows", "training rows")
    spent = ("predicted MiB", "measured MiB", "predicted / measured", "predicted s", "measured s", "weight")
    return Table("Instances: peak memory and time of the process that trained each", size + spent, rows, texts=2)


def step_time_table(steps: Sequence[Mapping[str, Any]]) -> Table:
    """Return time, memory and bytes read of each step, from the lines of `mi_duck.run.stage_times.step_times`."""
    rows = [
        (
            step["step"],
            decimal(step["wall_seconds"], 1),
            decimal(step["cpu_seconds"], 1),
            mebibytes(step["peak_bytes"]),
            mebibytes(step["bytes_read"]),
        )
        for step in steps
    ]
    titles = ("step", "seconds", "CPU seconds", "peak MiB", "read MiB")
    return Table("Time and memory of each step; instances that were trained at once are added up", titles, rows)


def fit_table(fits: Sequence[FitRecord], noun: Noun) -> Table:
    """Return the fits of every instance and class over its folds: rounds, log losses, verdicts."""
    by_fit: dict[tuple[int, str], list[FitRecord]] = {}
    for fit in fits:
        by_fit.setdefault((fit.instance_id, fit.class_name), []).append(fit)
    rows = [
        (
            instance_name(instance_id),
            name,
            "; ".join(dict.fromkeys(fit.verdict for fit in some)),
            ", ".join(str(fit.best_round) for fit in some),
            ", ".join(str(fit.rounds_trained) for fit in some),
            ", ".join(_real(fit.training_log_loss) for fit in some),
            ", ".join(_real(fit.stopping_log_loss) for fit in some),
        )
        for (instance_id, name), some in by_fit.items()
    ]
    rounds = ("instance", "class", "verdict", "best round", "rounds trained")
    losses = (f"log loss, training {noun.many}", f"log loss, stopping {noun.many}")
    return Table("Fits at their best round, one value per fold", rounds + losses, rows, texts=3)


def calibration_error_table(run: RunRecords) -> Table | None:
    """Return log loss, Brier score and calibration error before and after calibration, or None where not made."""
    found = read_json(RunFolder(run.root).calibration_analysis / "calibration.json")
    if found is None:
        return None
    metrics = ("log_loss", "brier", "ece")
    rows = [
        (name, scope, when, *(_value_of(found[scope][name][when].get(metric)) for metric in metrics))
        for name in run.distinct_classes
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
        for name in run.distinct_classes
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
        instance = instance_name(one["instance_id"])
        found = read_json(RunFolder(run.root).instances / instance / "calibration.json")
        if found:
            rows.append((instance, *(found[name]["method"] for name in run.distinct_classes)))
    names = run.distinct_classes
    joint = (read_json(RunFolder(run.root).calibration_analysis / "calibration.json") or {}).get("ensemble", {})
    methods = [joint[name]["method"] for name in names if name in joint]
    if run.n_instances > 1 and methods and all(isinstance(one, str) for one in methods):  # leaves fitted together
        rows.append(("ensemble", *methods))
    return Table("Chosen calibration", ("model", *names), rows, texts=1 + len(names)) if rows else None


def gene_tables(run: RunRecords, lines: Sequence[dict[str, str]]) -> list[Table]:
    """Return what is known of single genes: which kinds improve on the base model, and the extreme ones of its log loss.

    Without base scores, the genes with the highest log loss. ``lines`` are those of ``gene_deltas.csv`` that are scored.
    """
    noun = run.noun
    if not lines:
        return []
    if "log_loss_delta" not in lines[0]:
        worst = sorted(lines, key=lambda line: -(value_of(line["log_loss_meta"]) or 0.0))[:8]
        rows = [
            (
                one["gene_id"],
                one["n_rows"],
                *(one[f"n_{name}"] for name in run.classes[1:]),
                _real(value_of(one["log_loss_meta"])),
            )
            for one in worst
        ]
        headings = (noun.one, "rows", *run.classes[1:], "log loss")
        return [Table(f"{noun.many.capitalize()} with the highest log loss", headings, rows)]
    lines = sorted(lines, key=lambda line: -(value_of(line["log_loss_delta"]) or 0.0))
    found = [_kinds_table(run, lines)] if len(lines) >= FEWEST_IN_KINDS else []
    headings = (noun.one, "rows", "log loss, base", "log loss, ensemble", "decrease")
    gaining, losing = (
        [line for line in lines if sign * (value_of(line["log_loss_delta"]) or 0.0) > 0] for sign in (1, -1)
    )
    for which, some in (("decrease", gaining[:8]), ("increase", losing[:-9:-1])):
        if not some:
            continue
        rows = [
            (line["gene_id"], line["n_rows"])
            + tuple(_real(value_of(line[f"log_loss_{name}"])) for name in ("base", "meta", "delta"))
            for line in some
        ]
        found.append(Table(f"{noun.many.capitalize()} with the largest {which} in log loss", headings, rows))
    return found


def _kinds_table(run: RunRecords, lines: Sequence[dict[str, str]]) -> Table:
    """Return how many genes improve, of all and of thirds by their rows and by the share of rows that are not background."""

    def n_rows(line: dict[str, str]) -> float:
        return float(line["n_rows"])

    def share(line: dict[str, str]) -> float:
        return sum(int(line[f"n_{name}"]) for name in run.classes[1:]) / max(int(line["n_rows"]), 1)

    kinds: list[tuple[str, Callable[[dict[str, str]], float], int]] = [
        ("rows", n_rows, 0),
        (f"share of rows that are not {run.classes[0]}", share, 3),
    ]
    rows = [_kind_row("all", lines)]
    for title, size, digits in kinds:
        ordered = sorted(lines, key=lambda line: (size(line), line["gene_id"]))
        sizes = [size(line) for line in ordered]
        # equal sizes stay together: the cut is at that end of them which is nearer
        cuts = [round(len(sizes) * third / len(THIRDS)) for third in range(1, len(THIRDS))]
        borders = [(bisect_left(sizes, sizes[cut]), bisect_right(sizes, sizes[cut]), cut) for cut in cuts]
        ends = [0, *(min(first, last, key=lambda end: abs(end - cut)) for first, last, cut in borders), len(sizes)]
        if not 0 < ends[1] < ends[2] < ends[3]:
            continue  # too many are equal
        for third, (begin, end) in zip(THIRDS, pairwise(ends), strict=True):
            part = ordered[begin:end]
            low, high = (decimal(size(one), digits) for one in (part[0], part[-1]))
            rows.append(_kind_row(f"{third} third of {title}: {typeset(f'{low}-{high}')}", part))
    caption = f"How many {run.noun.many} have a lower log loss than with the base scores, and of which kind"
    return Table(caption, (run.noun.many, "number", "improve", "share", "mean decrease in log loss"), rows)


def _kind_row(name: str, lines: Sequence[dict[str, str]]) -> tuple[str, ...]:
    deltas = [value_of(line["log_loss_delta"]) or 0.0 for line in lines]
    improved = sum(delta > 0 for delta in deltas)
    mean = typeset(decimal(sum(deltas) / len(deltas), signed=True))
    return (name, f"{len(deltas):,}", f"{improved:,}", f"{improved / len(deltas):.0%}", mean)


def settings_table(run: RunRecords) -> Table:
    """Return every setting once, as it was asked, and where that is another as it was decided."""
    decided = json.loads(run.facts["settings"])
    asked = asdict(run.plan.asked) | {"full_hash": run.plan.data.full_hash}
    if not run.plan.settings.is_boosted:
        asked = {name: value for name, value in asked.items() if name in CV_OPTIONS}
    rows = []
    for name in sorted({*asked, *decided} - set(DECIDED.values())):
        value, used = asked.get(name), decided.get(DECIDED.get(name, name))
        texts = [_setting(one) for one in (value, used)]
        rows.append((name, texts[0], texts[1] if used is not None and texts[1] != texts[0] else ""))
    return Table(
        "Settings, and what was decided where that is something else", ("setting", "asked", "decided"), rows, texts=3
    )


def _setting(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        value = ", ".join(map(str, value))
    return "–" if value is None or value == "" else str(value)


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


def _max_levels(columns: Sequence[Levels]) -> int:
    """Return a ``--max-levels`` that makes the same features of these text columns."""
    if not columns:
        return 0
    cut = [len(one.levels) for one in columns if one.other is not None]  # these have just as many as were asked for
    return cut[0] if cut else max(Columns().max_levels, *(len(one.levels) for one in columns))


def run_command(run: RunRecords) -> str:
    """Return the command that makes this run again: every option written out, the dataset by its last name."""
    data, asked, settings = run.plan.data, run.plan.asked, run.plan.settings
    if settings.estimator == "blend":
        method, *names = (one.split("=")[:2] for one in settings.estimator_options)
        return shlex.join(
            ["mi-duck", "blend", *(name for name, _ in names), "--out", "blended", "--weights", method[1]]
        )
    words = ["mi-duck", "run", PurePath(data.location).name, "--out", "run", *flags_of(asked, with_defaults=True)]
    if not settings.is_boosted:
        classifying = Classifying(
            settings.estimator,
            settings.estimator_options,
            epochs=settings.n_estimators,
            epoch_patience=settings.early_stopping_patience,
        )
        words = ["mi-duck", "cv", PurePath(data.location).name, "--out", "run"]
        words += flags_of(classifying, with_defaults=True)
        words += flags_of(asked, with_defaults=True, names=CV_OPTIONS)
    columns = Columns(
        gene_column=data.gene_column,
        label_column=data.label_column,
        classes=",".join(data.classes),
        fold_by=data.fold_column,
        base_score_columns=",".join(data.base_scores) or None,
        keep=",".join(data.kept) or None,
        full_hash=data.full_hash,
        weight_column=data.weight_column,
        date_columns=",".join(one.column for one in data.dates) or None,
        max_levels=_max_levels(data.levels),
    )
    return shlex.join([*words, *flags_of(columns, with_defaults=True)])
