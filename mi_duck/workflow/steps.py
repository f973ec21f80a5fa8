"""The steps before and after training that run in a child process; what they need is loaded there, never in the parent.

Each is a typed front of the function that does the work, for `mi_duck.processes.in_child`.
"""

from pathlib import Path
from typing import Any

from mi_duck.processes import Report, without_sklearn
from mi_duck.run.folder import RunFolder
from mi_duck.settings import scanning_of


def build(report: Report, fasta: str, annotation: str, out: str, seed: int) -> dict[str, int]:
    """Build a dataset, and return what was counted; see `mi_duck.genome.build.build`."""
    from mi_duck.genome.build import build as build_dataset

    found = build_dataset(Path(fasta), Path(annotation), Path(out), seed=seed, report=report)
    return {name: getattr(found, name) for name in ("n_genes", "n_donors", "n_acceptors", "n_rows")}


def predict(report: Report, run: str, dataset: str, out: str, threads: int) -> list[str]:
    """Predict a dataset by the model of a run, and return what is to be known; see `mi_duck.ensemble.predict.predict_file`."""
    with without_sklearn():
        from mi_duck.ensemble.model_file import load_unified_model
        from mi_duck.ensemble.predict import predict_file
    model = load_unified_model(Path(run))
    return list(predict_file(model, dataset, Path(out), threads=threads, report=report).warnings)


def refit_part(report: Report, run: str, number: int, threads: int) -> bool:
    """Fit the leaves of one part together, and return whether that was to do; see `mi_duck.ensemble.refit.refit_part`."""
    with without_sklearn():
        from mi_duck.ensemble import refit
    return refit.refit_part(report, run, number, threads)


def consolidate(
    report: Report, run: str, threads: int, consolidation: str, voting: str, weights: str
) -> dict[str, Any]:
    """Join the trained instances into one model; see `mi_duck.ensemble.consolidate.join_run`."""
    with without_sklearn():
        from mi_duck.ensemble.consolidate import join_run
    return join_run(
        run=run, threads=threads, consolidation=consolidation, voting=voting, weights=weights, report=report
    )


def evaluate(report: Report, run: str, calibration_analysis: bool, neigh_sample: int, is_minimal: bool) -> None:
    """Score base model, members and ensemble; see `mi_duck.evaluate.evaluate.evaluate_run`."""
    with without_sklearn():
        from mi_duck.evaluate.evaluate import evaluate_run
    evaluate_run(
        run=run,
        calibration_analysis=calibration_analysis,
        neigh_sample=neigh_sample,
        is_minimal=is_minimal,
        report=report,
    )


def evaluate_holdout(report: Report, run: str, threads: int) -> None:
    """Score the model on held-out genes; see `mi_duck.evaluate.holdout.evaluate_holdout`."""
    with without_sklearn():
        from mi_duck.evaluate import holdout
    holdout.evaluate_holdout(run=run, threads=threads, report=report)


def evaluate_blend(
    report: Report, run: str, members: dict[str, str], weights: dict[str, float], is_minimal: bool
) -> None:
    """Score the runs of a blend; see `mi_duck.evaluate.blended.evaluate_blend`."""
    with without_sklearn():
        from mi_duck.evaluate import blended
    blended.evaluate_blend(run=run, members=members, weights=weights, is_minimal=is_minimal, report=report)


def describe(
    report: Report,
    run: str,
    threads: int,
    is_minimal: bool,
    figure_format: str | None,
    explaining: dict[str, Any] | None,
) -> None:
    """Complete the folders of the instances, and explain the model unless ``explaining`` is None.

    See `mi_duck.report.instance_files.describe_instances` and `mi_duck.explain.analysis.explain_run`. Both load XGBoost and
    matplotlib, which takes two seconds, so they share a process.
    """
    with without_sklearn():
        from mi_duck.report import instance_files
    instance_files.describe_instances(
        run=run, threads=threads, is_minimal=is_minimal, figure_format=figure_format, report=report
    )
    if explaining is not None:
        explain(report, run, threads=threads, **explaining)


def explain(
    report: Report,
    run: str,
    sample_size: int,
    background_size: int,
    with_figures: bool,
    figure_format: str | None,
    threads: int,
) -> None:
    """Explain the model by SHAP values; see `mi_duck.explain.analysis.explain_run`."""
    with without_sklearn():
        from mi_duck.explain.analysis import explain_run
    explain_run(
        run=run,
        sample_size=sample_size,
        background_size=background_size,
        with_figures=with_figures,
        figure_format=figure_format,
        threads=threads,
        report=report,
    )


def write_report(
    report: Report, run: str, with_plots: bool, with_overfitting: bool, figure_format: str | None
) -> dict[str, Any]:
    """Write ``report.html``; see `mi_duck.report.page.write_report`."""
    with without_sklearn():
        from mi_duck.report import page
    return page.write_report(
        run=run,
        with_plots=with_plots,
        with_overfitting=with_overfitting,
        figure_format=figure_format,
        report=report,
    )


def write_learning_curve(report: Report, run: str, out: str, threads: int) -> None:
    """Score nested instances, write and draw the curve; see `mi_duck.evaluate.learning_curve.write_learning_curve`."""
    with without_sklearn():
        from mi_duck.evaluate import learning_curve
        from mi_duck.report import learning_page
    learning_curve.write_learning_curve(run=run, out=out, threads=threads, report=report)
    learning_page.write_learning_page(out)


def evaluate_sequence(report: Report, run: str, scanning: dict[str, Any], n_genes: int, threads: int) -> dict[str, Any]:
    """Score a run on every position of annotated genes; see `mi_duck.genome.evaluate_sequence.score_run`."""
    with without_sklearn():
        from mi_duck.genome.evaluate_sequence import score_run
    return score_run(run=run, scanning=scanning_of(scanning), n_genes=n_genes, threads=threads, report=report)


def score_own_genome(report: Report, run: str, n_genes: int, most_positions: int, threads: int) -> str | None:
    """Score a run on every position of some of its genes, and return why that was left out, if it was.

    See `mi_duck.genome.evaluate_sequence.score_own_genome`.
    """
    with without_sklearn():
        from mi_duck.evaluate.scan_scores import add_scan_scores
        from mi_duck.genome.evaluate_sequence import score_own_genome as score
    found = score(run=run, n_genes=n_genes, most_positions=most_positions, threads=threads, report=report)
    add_scan_scores(RunFolder(Path(run)), found)
    left_out: str | None = found.get("left_out")
    return left_out


def write_distilled(report: Report, run: str, out: str, trees: int, threads: int) -> dict[str, Any]:
    """Distil the ensemble of a run and score what that gives; see `mi_duck.evaluate.distilled.write_distilled`."""
    with without_sklearn():
        from mi_duck.evaluate import distilled
    return distilled.write_distilled(run=run, out=out, trees=trees, threads=threads, report=report)
