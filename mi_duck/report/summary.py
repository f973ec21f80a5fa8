"""The run in words: whether the ensemble is better than the base model, the warnings, and ``unified_training_summary.txt``.

Every sentence follows from the records by a rule of this module; a sound run has no warnings. Nothing is computed for the text:
every number is from ``plan.json``, ``metrics.csv``, ``consolidation_summary.json`` or the files of an instance, rounded.
"""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from mi_duck.atomic_files import write_file
from mi_duck.evaluate.catalogue import ScoreTable, score_table
from mi_duck.metrics.metrics import FEWEST_GROUPS, GAIN, LOWER_IS_BETTER
from mi_duck.numbers import decimal, gibibytes, interval, plain_text, typeset
from mi_duck.report.overfitting import ADVICE, FitRecord
from mi_duck.report.records import RunRecords, Score, gene_delta_lines, read_json, suspects_of, value_of, with_interval
from mi_duck.run.costs import PLANNED
from mi_duck.run.folder import RunFolder
from mi_duck.run.instance_folder import measurement
from mi_duck.run.plan import Plan, instance_name
from mi_duck.wording import Noun

UNEVEN = 0.9  # effective groups over groups; above this share they are not worth a warning
FEWEST_SITES = 500
"""With fewer rows of a class intervals are unreliable."""
INTERVALS = "Intervals are by bootstrap over fold groups and hold for these trained models on other {many}."
BASE_SCORES = (
    "Base scores are ranked as they are (average precision, ROC area, top-k); for all else calibrated, out of fold."
)
NAMES = {
    "plan.json": "instances, folds, layout, settings, fingerprint of the data",
    "genes.parquet": "every {one} with its rank, fold group, fold and rows",
    "multi_instance_training": "one folder per instance: models, predictions, scores, curves, importances",
    "consolidated_model.miduck": "the model: mi-duck predict RUN DATASET --out FILE.parquet",
    "consolidation_summary.json": "members, how they are joined, hashes, coverage",
    "oof_predictions.parquet": "every row with probabilities by models that were not trained on its fold group; "
    "is_pilot marks those that are not scored",
    "holdout_predictions.parquet": "rows of the held-out {many}, which nothing was trained on, with probabilities by the model",
    "metrics.csv": "every score, with its 95 % interval where draws were made",
    "true_rate.json": "scores over every position of some {many}, beside the base scores",
    "scan_errors.csv": "what is called there by mistake, by kind",
    "fold_ensembles.miduck": "what joins the fold models of the instances as the model joins the final ones",
    "run.duckdb": "all of it as tables: mi-duck sql RUN",
    "report.html": "the run as one page with figures",
    "unified_training_summary.txt": "this page",
    "thresholds.json": "thresholds of every class, tuned on all out-of-fold rows; what they reach is cross-fitted",
    "gene_coverage_report.csv": "every {one} with the instances that trained on it",
    "instance_performance_comparison.csv": "every instance on the same rows",
    "gene_deltas.csv": "scores of every {one}; none where it chose the features (is_pilot)",
    "base_vs_meta.json": "kinds of errors of the ensemble, and beside a base model its errors at matched recall",
    "curves.csv": "points of the ROC and precision-recall curves",
    "leakage_analysis": "features that may leak the label",
    "overfitting": "learning curves with their verdicts",
    "calibration_analysis": "predicted probabilities against observed fractions",
    "neighbour_diagnostics": "scores around sampled sites",
    "comprehensive_shap_analysis": "importance of features: SHAP values",
    "feature_importance_analysis": "importance of features by SHAP values, as one table",
    "memory.json": "measurements behind the memory model",
    "stage_times.json": "time and memory of every step; the table stages of run.duckdb has training too",
    "memory_per_gene": "memory predicted and measured",
    "pr_base_vs_meta": "precision-recall curves",
    "roc_base_vs_meta": "ROC curves",
    "provenance.json": "settings, versions, hashes",
    "run.log": "what commands said and did here",
}
"""What the files of a run hold, by name or by name without suffix; ``{one}`` and ``{many}`` are what groups are called."""


@dataclass(frozen=True, slots=True)
class Answer:
    """Is the ensemble better than the base model: ``better``, ``worse``, ``unclear`` or ``alone``, and the sentence."""

    verdict: str
    sentence: str


def difference(run: RunRecords, metric: str, class_name: str) -> Score | None:
    """Return the paired difference between ensemble and base model, or None where it was not computed."""
    return run.lookup("difference", None, GAIN, "oof", metric, class_name)


def gain(run: RunRecords, metric: str, class_name: str) -> int:
    """Return 1 where the ensemble is significantly better than the base model, -1 where worse, else 0.

    The 95 % interval of the paired difference decides; where there is none, whether the two intervals do not overlap.
    """
    sign = -1 if metric in LOWER_IS_BETTER else 1
    between = difference(run, metric, class_name)
    if between is not None and between.low is not None and between.high is not None:
        return sign * ((between.low > 0) - (between.high < 0))
    base, ensemble = (run.find(scope, metric, class_name) for scope in ("base", "ensemble"))
    if base is None or ensemble is None or None in (base.low, base.high, ensemble.low, ensemble.high):
        return 0
    above = float(ensemble.low or 0) > float(base.high or 0)
    below = float(ensemble.high or 0) < float(base.low or 0)
    return sign * (above - below)


def answer(run: RunRecords) -> Answer:
    """Return whether the ensemble is better than the base model, by average precision and by log loss."""
    metrics = (("average_precision", "macro"), ("log_loss", "all"))
    ensemble, base = ([run.find(scope, *one) for one in metrics] for scope in ("ensemble", "base"))
    precision, loss = map(with_interval, ensemble)
    if base[0] is None:
        by_chance, of_shares = chance_scores(run)
        of_which = f", the mean over the classes but '{run.classes[0]}', the background" if len(run.classes) > 2 else ""
        return Answer(
            "alone",
            f"The {run.kind} reaches an average precision of {precision}{of_which}; a random order has "
            f"{typeset(decimal(by_chance))}. Its log loss is {loss}; that of the shares of the classes is "
            f"{typeset(decimal(of_shares))}.",
        )
    base_precision, base_loss = map(with_interval, base)
    if any(one is None or one.low is None for one in (*ensemble, *base)):
        return Answer(
            "unclear",
            f"Average precision is {precision} against {base_precision} of the base scores, log loss {loss} against "
            f"{base_loss}; without intervals it is not known whether the difference is more than noise.",
        )
    words = {1: "better than", 0: "not distinguishable from", -1: "worse than"}
    ranking, probabilities = gain(run, "average_precision", "macro"), gain(run, "log_loss", "all")
    if ranking == probabilities:
        text = f"The {run.kind} is {words[ranking]} the base scores, in average precision and in log loss."
    else:
        in_loss = words[probabilities]
        text = (
            f"The {run.kind} is {words[ranking]} the base scores in average precision and {in_loss} them in log loss."
        )
    verdict = {2: "better", -2: "worse"}.get(ranking + probabilities, "unclear")
    return Answer(verdict, text)


def chance_scores(run: RunRecords) -> tuple[float, float]:
    """Return what knows the shares of the classes alone: mean average precision of a random order, and log loss in nats."""
    counts = [sum(gene[f"n_{name}"] for gene in run.scored_genes) for name in run.classes]
    shares = [count / max(sum(counts), 1) for count in counts]
    return sum(shares[1:]) / (len(shares) - 1), -sum(one * math.log(one) for one in shares if one)


def genes_improved(run: RunRecords) -> str:
    """Return for how many genes the ensemble has a lower log loss than the base model, as a sentence; empty without one."""
    deltas = [value_of(line.get("log_loss_delta", "")) for line in gene_delta_lines(run)]
    known = [delta for delta in deltas if delta is not None]
    if not known:
        return ""
    return (
        f"Log loss is lower than that of the base scores in {sum(one > 0 for one in known):,} of "
        f"{run.noun.count(len(known))}."
    )


def verdict(run: RunRecords) -> str:
    """Return the answer and for how many genes it holds, as text that every terminal shows."""
    return plain_text(" ".join(filter(None, (answer(run).sentence, genes_improved(run)))))


def cautions(run: RunRecords, fits: Sequence[FitRecord] | None) -> list[str]:
    """Return the warnings of a run, the most important first."""
    found = _coverage(run) + _dataset(run) + _identical(run) + _comparison(run)
    suspects = suspects_of(run) or []
    if suspects:
        named = ", ".join(suspects[:5]) + (", …" if len(suspects) > 5 else "")
        found.append(
            f"{_count(len(suspects), 'feature')} may leak the label ({named}); if so, every score here is too high. "
            "See Leakage; --auto-exclude-leaky leaves them out."
        )
    found += _few_data(run) + _memory(run)
    verbs = {"ran out of rounds": "ran out of rounds", "wide gap": "have a wide gap", "no gain": "gained nothing"}
    for verdict, verb in verbs.items():
        n = sum(fit.verdict == verdict for fit in fits or ())
        if n:
            words = verb.replace("have", "has") if n == 1 else verb
            advice = ADVICE[verdict].format(many=run.noun.many)
            found.append(f"{n} of {_count(len(fits or ()), 'fold fit')} {words}: {advice}.")
    if fits and all(fit.verdict == "not watched" for fit in fits):
        found.append(
            "Early stopping was off, so the number of rounds was not chosen by data and overfitting was not measured."
        )
    return found


def _coverage(run: RunRecords) -> list[str]:
    found = []
    coverage = run.coverage
    if coverage["n_genes_trained"] < coverage["n_genes"]:
        lost = [instance_name(one["instance_id"]) for one in run.instances if one["status"] not in ("done", "split")]
        found.append(
            f"Only {coverage['n_genes_trained']:,} of {run.noun.count(coverage['n_genes'])} were trained on; "
            f"lost: {', '.join(lost) or 'none'}. Run the same command again to train what is missing."
        )
    if run.plan.asked.sample_genes:
        found.append(
            f"This run uses a sample of {run.plan.data.n_genes:,} of {run.noun.count(run.plan.data.n_genes_dataset)}; more "
            f"{run.noun.many} usually give a better model."
        )
    return found


def _comparison(run: RunRecords) -> list[str]:
    if run.find("base", "log_loss", "all") is None:
        return []
    missing = (read_json(RunFolder(run.root).base_vs_meta) or {}).get("n_rows_without_base_score")
    found = []
    if missing:
        found.append(
            f"{missing:,} of {run.n_rows_scored:,} rows have no base score for every class; a missing one counts as the share "
            "of its class in the other folds."
        )
    found += [
        f"Over every position of whole {run.noun.many} the {run.kind} ranks {name}s worse than the base scores do (AP "
        f"{interval(one.value, one.low, one.high, signed=True)}): rank the positions of a scan by the base scores."
        for name in run.classes[1:]
        if (one := run.lookup("difference", None, GAIN, "positions", "average_precision", name)) is not None
        and one.high is not None
        and one.high < 0
    ]
    found += [
        f"For {name} the {run.kind} ranks rows worse than the base scores do."
        for name in run.classes[1:]  # the mean over classes hides these
        if gain(run, "average_precision", name) < 0
    ]
    found += [
        f"Probabilities of {name} are less well calibrated than those of the base scores: see Calibration."
        for name in run.classes[1:]
        if gain(run, "ece", name) < 0
    ]
    if gain(run, "log_loss", "all") < 0:
        found.append(
            f"The log loss of the {run.kind} is higher than that of the calibrated base scores: its probabilities are worse."
        )
    return found


def _dataset(run: RunRecords) -> list[str]:
    data = run.plan.data
    weighted = f"Models were trained with the weights of '{data.weight_column}'; the scores here count every row once."
    return [f"{words[0].upper()}{words[1:]}." for words in data.warnings] + [weighted] * bool(data.weight_column)


def _identical(run: RunRecords) -> list[str]:
    data = run.plan.data
    if not data.identical_rows:
        return []
    return [
        f"{data.identical_rows:,} rows of {run.noun.count(data.identical_genes)} are identical to rows of another fold group, "
        "so rows are scored by models that saw their copies and scores are too high. --group-identical joins these groups."
    ]


def _few_data(run: RunRecords) -> list[str]:
    found = []
    genes = run.scored_genes
    rows_of: Counter[str] = Counter()
    for gene in genes:
        rows_of[gene["fold_group"]] += gene["n_rows"]
    groups = len(rows_of)
    effective = sum(rows_of.values()) ** 2 / sum(n**2 for n in rows_of.values())
    if groups >= FEWEST_GROUPS > effective and effective < UNEVEN * groups:
        largest, n_rows = max(rows_of.items(), key=lambda one: (one[1], one[0]))
        found.append(
            f"The rows are spread so unevenly that {groups:,} fold groups count as {effective:.0f} (Kish's effective number; "
            f"{largest} has {n_rows / sum(rows_of.values()):.0%} of the rows). Intervals may be too narrow."
        )
    if groups < FEWEST_GROUPS:
        found.append(
            f"There are only {groups} independent {_independent(run)}. Intervals from so few are often too narrow, and "
            f"the scores may not hold for other {run.noun.many}."
        )
    for name in run.classes:
        rows = sum(gene[f"n_{name}"] for gene in genes)
        if rows < FEWEST_SITES:
            found.append(f"Only {rows:,} rows are {name}; its scores are uncertain.")
    return found


def _independent(run: RunRecords) -> str:
    return "groups of genes" if run.noun.one == "gene" else "groups"


def _memory(run: RunRecords) -> list[str]:
    found = []
    measured = [one for one in run.instances if one["measured_peak_bytes"]]
    over = [one for one in measured if one["predicted_bytes"] < PLANNED * one["measured_peak_bytes"]]
    if over:
        worst = max(over, key=lambda one: float(one["measured_peak_bytes"] / one["predicted_bytes"]))
        found.append(
            f"{_count(len(over), 'instance')} took over {1 - PLANNED:.0%} more memory than predicted, at most "
            f"{worst['measured_peak_bytes'] / worst['predicted_bytes'] - 1:.0%} more."
        )
    largest = max((one["measured_peak_bytes"] for one in measured), default=0)
    budget = run.plan.cut.budget.budget_bytes
    if largest > budget:
        found.append(f"The largest peak, {gibibytes(largest)} GiB, was above the budget of {gibibytes(budget)} GiB.")
    return found


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"


def write_summary(folder: RunFolder, plan: Plan, provenance: dict[str, Any], *, warnings: Sequence[str]) -> None:
    """Write ``unified_training_summary.txt`` of a run that is scored and has its catalogue; see `training_summary`."""
    write_file(folder.training_summary, training_summary(folder, plan, provenance, warnings=warnings).encode())


def training_summary(folder: RunFolder, plan: Plan, provenance: dict[str, Any], *, warnings: Sequence[str]) -> str:
    """Return the text of ``unified_training_summary.txt``.

    Parameters
    ----------
    provenance
        Content of ``provenance.json``.
    warnings
        From `cautions`.

    Raises
    ------
    CheckpointError
        The run has no catalogue yet.
    """
    summary = json.loads(folder.summary.read_bytes())
    scores, held_out = score_table(folder.root), score_table(folder.root, query="held_out")
    out_of_fold = f"Scores out of fold: {scores.n_rows:,} rows by models not trained on their fold groups; " + (
        "95 % intervals" if scores.has_intervals else "no intervals"
    )
    notes = [INTERVALS.format(many=plan.data.noun.many)] if scores.has_intervals else []
    notes += [BASE_SCORES] if plan.data.base_scores else []
    notes += [f"These intervals are too narrow: {scores.too_narrow}."] if scores.too_narrow else []
    many = plan.data.noun.many
    unseen = f"Scores of each instance's final model on {many} that it was not trained on"
    sections = (
        ("Warnings", list(warnings) or ["none"]),
        ("Data", _data(plan)),
        ("Folds", _folds(folder, plan)),
        ("Plan", _plan(plan)),
        ("Instances", _instances(folder, plan, summary)),
        (out_of_fold, [*_table(scores.columns, scores.lines), "", *notes]),
        *((("Scores on held-out " + many, _held_out(held_out)),) if held_out.lines else ()),
        (unseen, _unseen(folder, plan)),
        ("Thresholds, tuned on the same rows", _thresholds(summary)),
        ("Settings", [f"{name} = {value}" for name, value in sorted(provenance["settings"].items())]),
        ("Versions", [f"{name} {version}" for name, version in sorted(provenance["versions"].items())]),
        ("Files", _files(folder, plan)),
    )
    head = f"mi_duck run of {provenance['started_at']} to {provenance['finished_at']}"
    text = [head, "=" * len(head)]
    for title, lines in sections:
        text += ["", title, "-" * len(title), *lines]
    return "\n".join(text) + "\n"


def _held_out(scores: ScoreTable) -> list[str]:
    """Return the scores on the genes that nothing was trained on."""
    intervals = "; 95 % intervals" if scores.has_intervals else ""
    words = f"{scores.n_rows:,} rows that nothing was trained on, by the final models{intervals}"
    lines = [words, "", *_table(scores.columns, scores.lines)]
    return [*lines, *(["", f"These intervals are too narrow: {scores.too_narrow}."] if scores.too_narrow else [])]


def _data(plan: Plan) -> list[str]:
    data, many = plan.data, plan.data.noun.many
    kinds = f"{len(data.small_features):,} in one byte, {len(data.wide_features):,} as float32"
    return [
        f"dataset      {Path(data.location).name}, fingerprint {data.fingerprint}",
        f"{many:<12} {data.n_genes:,} of {data.n_genes_dataset:,}, column {data.gene_column}",
        f"rows         {data.n_rows:,}",
        f"features     {len(data.features):,} ({kinds})",
        *(
            [f"pilot        {data.pilot_genes:,} {many} chose the features and are not scored"]
            if data.pilot_genes
            else []
        ),
        f"classes      {', '.join(data.classes)}",
        *([f"base scores  {', '.join(data.base_scores)}"] if data.base_scores else []),
    ]


def _folds(folder: RunFolder, plan: Plan) -> list[str]:
    genes = pq.read_table(folder.genes, columns=["gene_rank", "fold", "n_rows", "label_counts"]).to_pylist()
    genes = [gene for gene in genes if gene["gene_rank"] < plan.data.n_genes]
    rows = []
    for fold in sorted({gene["fold"] for gene in genes}):
        of_fold = [gene for gene in genes if gene["fold"] == fold]
        counts = [sum(gene["label_counts"][index] for gene in of_fold) for index in range(len(plan.data.classes))]
        rows.append([str(fold), *(f"{n:,}" for n in (len(of_fold), sum(gene["n_rows"] for gene in of_fold), *counts))])
    return _table(["fold", plan.data.noun.many, "rows", *plan.data.classes], rows)


def _plan(plan: Plan) -> list[str]:
    cut = plan.cut
    redundancy = decimal(sum(instance.n_genes for instance in cut.instances) / plan.data.n_genes, 3)
    source = "from measurements of these data" if plan.costs.model.is_measured else "by formula"
    return [
        f"strategy     {cut.strategy_used}: {_count(len(cut.instances), 'instance')}",
        *(
            [f"overlap      {plan.data.noun.count(cut.overlap_genes)} shared by neighbours, redundancy {redundancy}"]
            if len(cut.instances) > 1
            else []
        ),
        f"budget       {gibibytes(cut.budget.budget_bytes)} GiB per instance ({cut.budget.won})",
        f"memory       predicted {source}",
    ]


def _instances(folder: RunFolder, plan: Plan, summary: dict[str, Any]) -> list[str]:
    weights = {member["instance_id"]: member["weight"] for member in summary["members"]}
    rows = []
    for instance in plan.cut.instances:
        measured = measurement(folder, instance)
        weight = weights.get(instance.instance_id)
        row = [instance.name, *(f"{n:,}" for n in (instance.n_genes, instance.n_rows, instance.n_training_rows))]
        row += [gibibytes(instance.predicted_bytes), gibibytes(measured.get("peak_bytes"))]
        row += [decimal(measured.get("wall_seconds"), 1), "not trained" if weight is None else decimal(weight)]
        rows.append(row)
    titles = [
        "instance",
        plan.data.noun.many,
        "rows",
        "training rows",
        "predicted GiB",
        "measured GiB",
        "seconds",
        "weight",
    ]
    coverage = f"{summary['n_genes_trained']:,}/{summary['n_genes']:,} ({summary['coverage_fraction']:.1%})"
    return [*_table(titles, rows), f"{plan.data.noun.one.capitalize()} coverage: {coverage}"]


def _unseen(folder: RunFolder, plan: Plan) -> list[str]:
    rows, without, many = [], [], plan.data.noun.many
    for instance in plan.cut.instances:
        found = read_json(folder.instance(instance) / "holdout_evaluation_summary.json") or {}
        if found.get("status") == "evaluated":
            scores = {(one["metric"], one["class"]): one for one in found["all_rows"]}
            wanted = (("average_precision", "macro"), ("f1", "macro"), ("log_loss", "all"))
            cells = [f"{found['n_genes']:,}", f"{found['n_rows']:,}"]
            cells += [interval(*(scores[key][name] for name in ("value", "low", "high"))) for key in wanted]
            rows.append([instance.name, *cells])
        else:
            status = found.get("status", "not evaluated").replace("genes", many)
            without.append(f"{instance.name}: {status}")
    titles = ["instance", many, "rows", "AP macro", "F1 macro", "log loss"]
    return [*(_table(titles, rows) if rows else []), *without]


def _thresholds(summary: dict[str, Any]) -> list[str]:
    return [f"{name}: {json.dumps(value)}" for name, value in sorted(summary["thresholds"].items())]


def _files(folder: RunFolder, plan: Plan) -> list[str]:
    there = sorted(path.name for path in folder.root.iterdir() if not path.name.startswith("."))
    listed = {*there, "provenance.json", folder.training_summary.name}
    return [f"{name:<36} {file_text(name, plan.data.noun)}".rstrip() for name in sorted(listed)]


def file_text(name: str, noun: Noun) -> str:
    """Return what a file of a run holds; empty where that is not known."""
    return NAMES.get(name, NAMES.get(name.rsplit(".", 1)[0], "")).format(one=noun.one, many=noun.many)


def _table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines with aligned columns."""
    widths = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (columns, *rows)
    ]
