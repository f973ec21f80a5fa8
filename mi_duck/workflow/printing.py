"""What commands print of what they did; what they need is loaded when it is needed."""

import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mi_duck.console import Table, logger, output, print_facts, print_json, print_table, table_of
from mi_duck.wording import Noun, noun_of

if TYPE_CHECKING:
    from mi_duck.ensemble.predict import PredictSummary
    from mi_duck.evaluate.compare import Versus
    from mi_duck.genome.predict_sequence import ScanSummary
    from mi_duck.plan.memory_report import MemoryReport
    from mi_duck.run.plan import Plan
    from mi_duck.verify.subject import Finding


def print_plan(made: "Plan", as_json: bool = False) -> None:
    """Print the instances of a plan, and what other ways to train its genes would take; as JSON all of it."""
    from mi_duck.workflow import views

    if as_json:
        sys.stdout.write(f"{made.to_json()}\n")
        return
    print_table(views.instances_table(made))
    output.print(views.plan_line(made))
    output.print(
        f"Ways to train these {made.data.noun.many}, with the time if fits stop where they usually do:", markup=False
    )
    print_table(views.alternatives_table(made))
    output.print(views.SCORES_OF_STRATEGIES, markup=False)
    for line in views.infeasible_lines(made):
        logger.info("%s", line)


def print_scores(folder: Path, as_json: bool = False, **more: Any) -> None:
    """Print the scores of the ensemble beside the base scores, the answer in a sentence, and where the report is.

    With ``--verbose`` the table has every instance, and all intervals; as JSON every score there is, with its interval,
    beside ``more``.
    """
    from mi_duck.evaluate.catalogue import query_catalogue, score_table
    from mi_duck.report.records import read_json, read_run
    from mi_duck.report.summary import verdict
    from mi_duck.run.folder import RunFolder
    from mi_duck.workflow.views import headline_table

    records = read_run(folder)
    page, answer = RunFolder(folder).page, verdict(records)
    if as_json:
        columns, rows = query_catalogue(folder, name="scores")
        scores = [dict(zip(columns, row, strict=True)) for row in rows]
        shown = {"run": folder, "verdict": answer, "report": page if page.is_file() else None, "scores": scores}
        whole = read_json(RunFolder(folder).true_rate)
        print_json(shown | ({} if whole is None else {"true_rate": whole}) | more)
        return
    found = score_table(folder)
    intervals = "95 % intervals over fold groups, for these trained models" if found.has_intervals else "no intervals"
    output.print(
        f"Scores on {found.n_rows:,} rows, each by models that never saw the row's fold group; {intervals}:",
        markup=False,
    )
    if words := records.plan.what_is_scored:
        output.print(f"'ensemble' is {words}", markup=False)
    print_table(Table(found.columns, found.lines) if logger.isEnabledFor(logging.DEBUG) else headline_table(found))
    if found.too_narrow:
        output.print(f"These intervals are too narrow: {found.too_narrow}.")
    output.print(answer, markup=False)
    if page.is_file():
        output.print(f"The report: {page}", markup=False)


def print_demo(paths: dict[str, Path], as_json: bool = False) -> None:
    """Print the scores of the demo, and where its files are."""
    print_scores(paths["run"], as_json, files=paths)
    for name, path in paths.items() if not as_json else ():
        output.print(f"{name:<12} {path}", markup=False)


def print_file(name: str, path: Path, as_json: bool = False) -> None:
    """Print the path of a file or folder that was written; as JSON by its name."""
    if as_json:
        print_json({name: path})
    else:
        output.print(str(path), markup=False)


def print_learning_curve(facts: dict[str, Any]) -> None:
    """Print a line for each size, average precision and log loss with their intervals, and the answer."""
    from mi_duck.evaluate.learning_curve import ANSWERED, points_of, size_lines

    print_table(Table(*size_lines(points_of(facts), ANSWERED, noun_of(facts["group_column"]))))
    for sentence in facts["sentences"]:
        output.print(sentence, markup=False)


def print_memory(
    found: "MemoryReport", noun: Noun, genes_per_instance: int, plot: Path | None, as_json: bool = False
) -> None:
    """Print predicted and measured peaks and what a gene costs; draw them to ``plot`` unless it is None."""
    from mi_duck.workflow.views import gene_facts, peak_records

    if plot is not None:
        from mi_duck.drawing import save
        from mi_duck.report.plots import MemoryDot, memory_figure

        dots = [
            MemoryDot(one.n_rows, float(one.measured_bytes), float(one.predicted_bytes), one.is_probe)
            for one in found.peaks
        ]
        save(memory_figure(dots, gene_bytes=list(found.gene_bytes), noun=noun), plot)
    records, facts = peak_records(found), gene_facts(found, genes_per_instance)
    if as_json:
        print_json({"sizes": records} | facts)
        return
    print_table(table_of(records))
    print_facts(facts)


def print_status(run: Path, facts: dict[str, Any], as_json: bool = False) -> None:
    """Print a line for each instance, and how far the run is."""
    from mi_duck.workflow.views import status_lines, status_table

    if as_json:
        print_json(facts)
        return
    if facts["instances"]:
        print_table(status_table(run, facts))
    for line in status_lines(facts):
        output.print(line, markup=False)


def print_explained(facts: dict[str, Any], run: Path, as_json: bool = False) -> None:
    """Print the features that move predictions most, of the ensemble and of each class, and where the rest is."""
    if as_json:
        print_json(facts)
        return
    tops = {"ensemble": facts["top_10_features"]}
    if len(facts["class_summaries"]) > 2:  # of two classes values are the same but for the sign
        tops |= {name: one["top_10_features"] for name, one in facts["class_summaries"].items()}
    for name, top in tops.items():
        lines = [[feature, f"{value:.4f}"] for feature, value in sorted(top.items(), key=lambda one: -one[1])]
        print_table(Table([f"feature, {name}", "mean |SHAP|"], lines))
    output.print(str(run / "comprehensive_shap_analysis"), markup=False)


def print_comparison(found: "Versus", as_json: bool = False) -> None:
    """Print how the scores of two runs differ, and what limits the comparison."""
    from mi_duck.workflow.views import comparison_lines, comparison_table

    if as_json:
        print_json(asdict(found))
        return
    for line in comparison_lines(found):
        output.print(line, markup=False)
    print_table(comparison_table(found))
    if found.too_narrow:
        output.print(f"These intervals are too narrow: {found.too_narrow}.")


def print_blend(run: Path, as_json: bool = False) -> None:
    """Print the scores of a blend, and what it gains over each of its runs."""
    from mi_duck.workflow.views import blend_table, read_blend

    if as_json:
        print_json(read_blend(run))
        return
    print_scores(run)
    print_table(blend_table(run))


def print_predicted(summary: "PredictSummary", out: Path, seconds: float, as_json: bool = False) -> None:
    """Print what was predicted and how fast; say the warnings. As JSON also what is unknown or none."""
    for words in summary.warnings:
        logger.warning("warning: %s", words)
    facts = asdict(summary) | {
        "seconds": round(seconds, 2),
        "rows_per_second": round((summary.n_rows - summary.n_rows_before) / seconds),
        "out": str(out),
    }
    known = {name: value for name, value in facts.items() if value not in (None, "")}
    print_facts(facts if as_json else noun_of(summary.group_column or "gene").renamed(known), as_json)


def print_scanned(summary: "ScanSummary", seconds: float, as_json: bool = False) -> None:
    """Print what was predicted of a genome and how fast; say the warnings."""
    for words in summary.warnings:
        logger.warning("warning: %s", words)
    n_now = summary.n_positions - summary.n_positions_before
    facts = asdict(summary) | {"seconds": round(seconds, 2), "positions_per_second": round(n_now / seconds)}
    del facts["warnings"]
    print_facts(facts if as_json else {name: value for name, value in facts.items() if value is not None}, as_json)


def print_findings(findings: "Sequence[Finding]", as_json: bool = False) -> None:
    """Print what was checked: first what holds, then the rest in the order given, the worst first."""
    if as_json:
        print_json([asdict(one) for one in findings])
        return
    fine, other = ([one for one in findings if (one.status == "ok") == is_fine] for is_fine in (True, False))
    print_table(Table(["status", "what", "found"], [[one.status, one.name, one.detail] for one in [*fine, *other]]))
    output.print(f"{len(fine)} of {len(findings)} checks hold", markup=False)


def print_true_rate(found: dict[str, Any], as_json: bool = False) -> None:
    """Print scores at the true rate beside those of the base model, and what is called by mistake."""
    from mi_duck.workflow.views import error_lines, true_rate_table

    if as_json:
        print_json(found)
        return
    facts = found["facts"]
    sites = ", ".join(f"{n:,} {name}s" for name, n in facts["sites"].items())
    output.print(
        f"Every position of {facts['n_genes']:,} genes ({facts['n_genes_out_of_fold']:,} of them by boosters that never saw "
        f"their group, the others new to the model): {facts['n_positions']:,} positions, {sites}; 95 % intervals over "
        f"{facts['n_groups']:,} groups:",
        markup=False,
    )
    print_table(true_rate_table(found["scores"]))
    for line in error_lines(found["errors"]):
        output.print(line, markup=False)
    if found["too_narrow"]:
        output.print(f"These intervals are too narrow: {found['too_narrow']}.")


def print_distilled(facts: dict[str, Any], out: Path, as_json: bool = False) -> None:
    """Print the scores of the ensemble and of the model distilled from it, how alike they are, and the answer."""
    from mi_duck.metrics.metrics import title_of
    from mi_duck.numbers import decimal, interval

    if as_json:
        print_json(facts)
        return
    kinds = ("ensemble", "distilled", "difference")
    lines = [
        [
            title_of(one["metric"], one["class"]),
            *(interval(*(one[kind][at] for at in ("value", "low", "high")), signed=kind == kinds[2]) for kind in kinds),
        ]
        for one in facts["scores"]
    ]
    print_table(Table(["score", "ensemble", "distilled", "distilled - ensemble"], lines))
    for one in facts["fidelity"]:
        words = f"log-odds of {one['class']}: correlation {decimal(one['correlation'])}, RMSE {decimal(one['rmse'])}"
        output.print(words, markup=False)
    itself, other = facts["log_loss_of_ensemble_against_itself"], facts["log_loss_against_ensemble"]
    output.print(
        f"Log loss against the ensemble's probabilities: {decimal(other)}, at least {decimal(itself)}", markup=False
    )
    if facts["too_narrow"]:
        output.print(f"These intervals are too narrow: {facts['too_narrow']}.")
    output.print(facts["answer"], markup=False)
    output.print(f"The model: {out}", markup=False)
