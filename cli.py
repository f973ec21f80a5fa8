"""Command line of mi_duck: parse, call one function, print. Results go to stdout, progress and messages to stderr."""

import logging
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from mi_duck import __version__, options, settings
from mi_duck.console import Commands, print_facts, print_json, reporting, set_up_messages
from mi_duck.executors.elsewhere import is_elsewhere, useless_option
from mi_duck.processes import Context, share_the_machine, without_pandas
from mi_duck.resources import usable_cores
from mi_duck.settings import Asked, Building, Columns, Diagnostics, Executing, Resuming, Scanning, Synthesising
from mi_duck.workflow import printing

logger = logging.getLogger("mi_duck")

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    rich_markup_mode=None,  # the help of options is ours: see `mi_duck.options.Command`
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train, check and use ensembles of XGBoost models on tables larger than memory; a gene is any group never split.",
)

ColumnsOnly = Annotated[Columns, options.Only(*(one.name for one in fields(Columns) if one.name != "full_hash"))]
Threads = Annotated[Executing, options.Only("threads")]
Seed = Annotated[Asked, options.Only("seed")]
OTHERWISE = typer.Option(help="As for run, instead of what the run was begun with.", show_default=False)


def command(name: str | None = None, *, verbose: bool = False) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Make a function a command; see `mi_duck.options.add_command`."""
    return partial(options.add_command, app, name=name, verbose=verbose)


def _version(value: bool) -> None:
    if value:
        print(f"mi-duck {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and leave.")
    ] = False,
) -> None:
    """Set up messages and memory."""
    share_the_machine()
    set_up_messages()


@contextmanager
def _context(executing: Executing) -> Iterator[Context]:
    """Give what steps are handed: threads, a progress callback, and what prints a sentence."""
    with reporting() as report:
        yield Context(executing.threads or usable_cores(), report, logger.info)


def _required(value: Any, what: str) -> Any:
    if value is None:
        raise typer.BadParameter(f"missing {what}")
    return value


def _dataset(
    source: options.Source, columns: Columns, *, holdout_genes: str | None = None, with_warnings: bool = False
) -> Any:
    """Open the dataset that the options of a command name; say its warnings unless the command does so itself."""
    from mi_duck.data.dataset import open_columns

    if source.dataset is not None and source.dataset_option is not None:
        raise typer.BadParameter("name the dataset once: DATASET or --dataset")
    location = _required(source.dataset or source.dataset_option, "DATASET")
    opened = open_columns(location, columns, holdout_genes=holdout_genes)
    for words in opened.warnings if with_warnings else ():
        logger.warning("warning: %s", words)
    return opened


def _check_executing(executing: Executing) -> None:
    if words := useless_option(executing):
        raise typer.BadParameter(words)


def _request(
    source: options.Source, out: Path | None, columns: Columns, asked: Asked, executing: Executing
) -> tuple[Any, Path]:
    """Check what is asked of a plan; open its dataset, say what it is, and return it with the folder of the run."""
    from mi_duck.data.dataset import announcement
    from mi_duck.run.xgboost_parameters import checked_parameters

    checked_parameters(asked.xgb)  # refuses before anything is read
    folder: Path = _required(out, "--out RUN")
    if asked.train_all_genes and asked.sample_genes is not None:
        raise typer.BadParameter("--train-all-genes and --sample-genes exclude each other; give one")
    _check_executing(executing)
    opened = _dataset(source, columns, holdout_genes=asked.holdout_genes)
    for line in announcement(opened):
        logger.info("%s", line)
    return opened, folder


# ---- commands ---------------------------------------------------------------------------------------------------------


@command()
def demo(
    out: options.DemoFolder = Path("mi_duck_demo"),
    *,
    asked: Seed,
    executing: Threads,
    as_json: options.JsonOption = False,
) -> None:
    """Run the main job on bundled real data: a part of thale cress chromosome 1, from genome to predictions.

    Example: mi-duck demo --out mi_duck_demo
    """
    from mi_duck.workflow.demo import run_demo

    with _context(executing) as context:
        paths = run_demo(out, context, seed=asked.seed)
    printing.print_demo(paths, as_json)


@command()
def build(
    fasta: Annotated[Path, typer.Option(help="Genome, FASTA, plain or gzip.")],
    annotation: Annotated[Path, typer.Option(help="Genes, GTF or GFF3, plain or gzip.")],
    out: options.NewFolder,
    *,
    building: Building,
    asked: Seed,
    as_json: options.JsonOption = False,
) -> None:
    """Turn a genome and its annotation into a dataset of candidate splice positions.

    Example: mi-duck build --fasta genome.fa.gz --annotation genes.gtf.gz --out dataset
    """
    from mi_duck.genome.build import build as build_dataset

    with reporting() as report:
        summary = build_dataset(fasta, annotation, out, **asdict(building), seed=asked.seed, report=report)
    for words in summary.warnings:
        logger.warning("warning: %s", words)
    print_facts(asdict(summary) if as_json else summary.text, as_json)


@command()
def synth(out: options.NewFolder, *, size: Synthesising, asked: Seed, as_json: options.JsonOption = False) -> None:
    """Write a dataset with planted signals at any scale, for tests and benchmarks.

    Example: mi-duck synth --genes 1500 --out synthetic
    """
    from mi_duck.genome.synthetic import synthesise

    with reporting() as report:
        summary = synthesise(out, **asdict(size), seed=asked.seed, report=report)
    print_facts(asdict(summary), as_json)


@command(verbose=True)
def prepare(
    *,
    source: options.Source,
    out: options.NewFolder,
    columns: ColumnsOnly,
    building: Annotated[Building, options.Only("genes_per_file")],
    executing: Threads,
    as_json: options.JsonOption = False,
) -> None:
    """Write a dataset anew: sorted by gene and position, counts in one byte, page checksums; every value stays.

    Example: mi-duck prepare dataset --out sorted_dataset
    """
    from mi_duck.data.dataset import check_apart
    from mi_duck.data.prepare import prepare as prepare_dataset

    opened = _dataset(source, columns, with_warnings=True)
    check_apart(opened, out)
    with _context(executing) as context:
        summary = prepare_dataset(opened, out, context, genes_per_file=building.genes_per_file)
    print_facts(asdict(summary), as_json)


@command()
def inspect(
    *,
    source: options.Source,
    columns: ColumnsOnly,
    asked: Seed,
    executing: Threads,
    as_json: options.JsonOption = False,
) -> None:
    """Show genes, rows per gene, class mix, features and warnings of a dataset.

    Example: mi-duck inspect dataset
    """
    from mi_duck.data.inspection import inspect as inspect_dataset
    from mi_duck.workflow.views import dataset_facts

    opened = _dataset(source, columns)
    found = inspect_dataset(opened, threads=executing.threads or usable_cores(), seed=asked.seed)
    facts = dataset_facts(opened, found)
    print_facts(facts if as_json else opened.noun.renamed(facts), as_json)


@command()
def memory(
    *,
    source: options.Source,
    columns: Columns,
    asked: Annotated[
        Asked,
        options.Only(
            *("genes_per_instance", "strategy", "layout", "cv", "sample_negatives"),
            *("n_folds", "max_depth", "max_bin", "seed"),
        ),
    ],
    plot: Annotated[
        Path | None, typer.Option(help="Write the plot here: .pdf, .svg or .png.", show_default=False)
    ] = None,
    executing: Threads,
    as_json: options.JsonOption = False,
) -> None:
    """Measure what a gene costs in memory: probes, the fit, and its check on a third of an instance and a whole one.

    Example: mi-duck memory dataset --genes-per-instance 1500 --plot memory.pdf
    """
    from mi_duck.plan.memory_report import measure_dataset

    opened = _dataset(source, columns, with_warnings=True)
    with tempfile.TemporaryDirectory(prefix="mi_duck_memory_") as scratch, _context(executing) as context:
        (found,) = measure_dataset(opened, Path(scratch), replace(asked, early_stopping_patience=0), context)
    printing.print_memory(found, opened.noun, asked.genes_per_instance, plot, as_json)


@command(verbose=True)
def plan(
    *,
    source: options.Source,
    out: options.OutOption = None,
    columns: Columns,
    asked: Asked,
    executing: Annotated[Executing, options.Only("threads", "executor", "dask_scheduler")],
    as_json: options.JsonOption = False,
) -> None:
    """Index genes, assign folds, and cut instances that fit the machine; write the plan of a run.

    Example: mi-duck plan dataset --out run --max-memory-per-instance-gb 4
    """
    from mi_duck.data.dataset import check_apart
    from mi_duck.plan.make_plan import make_plan
    from mi_duck.run.folder import run_lock
    from mi_duck.run.progress import noting
    from mi_duck.workflow.replace import check_ours

    opened, folder = _request(source, out, columns, asked, executing)
    check_ours(folder)
    check_apart(opened, folder)
    with run_lock(folder), _context(executing) as shown, noting(folder, "plan", shown) as context:
        made = make_plan(opened, folder, asked, context, is_elsewhere=is_elsewhere(executing))
    printing.print_plan(made, as_json)


@command(verbose=True)
def learning_curve(
    *,
    source: options.Source,
    out: options.OutOption = None,
    columns: Columns,
    asked: Annotated[
        Asked,
        options.Only(
            *("sample_genes", "sample_negatives", "screen_features", "group_identical", "auto_exclude_leaky"),
            *("max_memory_per_instance_gb", "memory_safety_factor", "layout", "cv", "n_estimators", "n_folds"),
            *("early_stopping_patience", "max_depth", "learning_rate", "max_bin", "xgb", "seed", "calibrate_per_class"),
        ),
    ],
    executing: Annotated[Executing, options.Only("threads", "workers")],
    as_json: options.JsonOption = False,
) -> None:
    """Would more genes help? Train on 1/16, 1/8, 1/4, 1/2 and all of them, score all on the same rows, and look ahead.

    It takes about twice as long as one model of all genes; the options below make it cheaper.

    Example: mi-duck learning-curve dataset --out curve --screen-features 300 --sample-negatives 0.1
    """
    from mi_duck.workflow import learning_curve as curve

    opened, folder = _request(source, out, columns, asked, executing)
    with _context(executing) as context:
        found = curve.learning_curve(opened, folder, asked, context, workers=executing.workers)
    print_json(found) if as_json else printing.print_learning_curve(found)


@command(verbose=True)
def run(
    *,
    source: options.Source,
    out: options.OutOption = None,
    columns: Columns,
    asked: Asked,
    diagnostics: Diagnostics,
    executing: Executing,
    resuming: Resuming,
    dry_run: options.DryRunOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Plan, train, consolidate and evaluate; the same command goes on after an interruption.

    With --executor slurm it plans, writes the scripts of the jobs to RUN/slurm, submits them and returns.

    Example: mi-duck run dataset --out run
    """
    from mi_duck.executors.anywhere import run_request, tried_plan

    opened, folder = _request(source, out, columns, asked, executing)
    if dry_run:
        with _context(executing) as context:
            printing.print_plan(tried_plan(opened, asked, context, executing), as_json)
        return
    with _context(executing) as context:
        jobs = run_request(opened, folder, asked, context, resuming, diagnostics, executing)
    if jobs:
        print_facts(jobs, as_json)
        return
    printing.print_scores(folder, as_json)


@command(verbose=True)
def cv(
    *,
    source: options.Source,
    out: options.OutOption = None,
    columns: Columns,
    classifying: settings.Classifying,
    asked: Annotated[Asked, options.Only(*settings.CV_OPTIONS)],
    resuming: Annotated[Resuming, options.Only("replace")],
    diagnostics: Annotated[Diagnostics, options.Only("minimal_diagnostics", "calibration_analysis", "neigh_sample")],
    executing: Threads,
    as_json: options.JsonOption = False,
) -> None:
    """Cross-validate any classifier on the folds of a run, train it on all genes, and score it as a run is scored.

    The same genes, folds and rows as mi-duck run with the same options: compare sets them side by side, blend joins them.

    Example: mi-duck cv dataset --out logistic_run --estimator logistic --screen-features 300
    """
    from mi_duck.workflow.classify import cross_validate

    opened, folder = _request(source, out, columns, asked, executing)
    with _context(executing) as context:
        cross_validate(opened, folder, asked, classifying, context, resuming, diagnostics)
    printing.print_scores(folder, as_json)


@command(verbose=True)
def blend(
    runs: options.RunsArgument,
    blending: settings.Blending,
    diagnostics: Annotated[Diagnostics, options.Only("minimal_diagnostics", "calibration_analysis")],
    executing: Threads,
    out: options.OutOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Join runs of the same rows and folds into one, by weights that are fitted without the fold they are used on.

    Example: mi-duck blend run logistic_run --out blended
    """
    from mi_duck.workflow.classify import blend as blend_runs

    folder = _required(out, "--out RUN")
    with _context(executing) as context:
        blend_runs(runs, folder, blending.blend_weights, context, diagnostics)
    printing.print_blend(folder, as_json)


@command(verbose=True)
def train(
    run: options.RunArgument,
    instance: options.InstanceOption = None,
    partition_only: options.PartitionOption = False,
    *,
    executing: Executing,
    as_json: options.JsonOption = False,
) -> None:
    """Train the instances of a plan that are not done yet, or one alone; doing it twice or at once does no harm.

    In a job array the array's index is the instance: SLURM_ARRAY_TASK_ID, JOB_COMPLETION_INDEX (Kubernetes) and
    PBS_ARRAY_INDEX as they are, LSB_JOBINDEX and SGE_TASK_ID, which begin at 1, less 1; --workers 1 trains all there too.
    With --json it prints at the end how all instances stand, as status does.

    Examples: mi-duck train run --instance 3, or mi-duck train run --workers 2
    """
    from mi_duck.executors.anywhere import train_request
    from mi_duck.executors.elsewhere import array_index
    from mi_duck.workflow.views import run_status

    _check_executing(executing)
    is_many = executing.workers is not None or executing.executor != "local"
    if instance is not None and (partition_only or is_many):
        raise typer.BadParameter("--instance trains one; leave --workers, --executor and --partition-only out")
    if partition_only and is_many:
        raise typer.BadParameter("--partition-only trains none; leave --workers and --executor out")
    try:
        found = None if instance is not None or partition_only or is_many else array_index(os.environ)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    if found is not None:
        logger.info("%s is %s: instance %d alone", found.variable, found.value, found.instance_id)
        instance = found.instance_id
    with _context(executing) as context:
        jobs = train_request(run, context, executing, instance_id=instance, partition_only=partition_only)
    if jobs:
        print_facts(jobs, as_json)
    elif as_json:
        printing.print_status(run, run_status(run), as_json)


@command()
def status(run: options.RunArgument, as_json: options.JsonOption = False) -> None:
    """Show which instances of a run are done, running, lost or still to do.

    Example: mi-duck status run
    """
    from mi_duck.workflow.views import run_status

    printing.print_status(run, run_status(run), as_json)


@command(verbose=True)
def finish(
    run: options.RunArgument, *, diagnostics: Diagnostics, executing: Threads, as_json: options.JsonOption = False
) -> None:
    """Consolidate, evaluate, explain and report what is trained: all that run does after training.

    Exit code 69 where instances are not trained: all that the others give is written.

    Example: mi-duck finish run
    """
    from mi_duck.workflow.pipeline import finish_run

    with _context(executing) as context:
        finish_run(run, diagnostics, context)
    printing.print_scores(run, as_json)


@command(verbose=True)
def consolidate(
    run: options.RunArgument,
    consolidation: Annotated[Literal["auto", "refit", "voting"] | None, OTHERWISE] = None,
    voting: Annotated[Literal["probability", "margin", "auto"] | None, OTHERWISE] = None,
    weights: Annotated[Literal["uniform", "f1", "fitted", "auto"] | None, OTHERWISE] = None,
    refit_part: options.RefitPartOption = None,
    *,
    executing: Threads,
    as_json: options.JsonOption = False,
) -> None:
    """Join the trained instances of a run into one model, with thresholds from out-of-fold scores.

    Example: mi-duck consolidate run --consolidation refit
    """
    from mi_duck.workflow.pipeline import consolidate_run
    from mi_duck.workflow.refit import refit_part as refit_one

    if refit_part is not None and (as_json or any((consolidation, voting, weights))):
        raise typer.BadParameter("--refit-part joins nothing; leave the other options but --threads out")
    with _context(executing) as context:
        if refit_part is not None:
            refit_one(run, refit_part, context)
            return
        consolidate_run(run, context, consolidation=consolidation, voting=voting, weights=weights)
    printing.print_file("model", run / "consolidated_model.miduck", as_json)


@command(verbose=True)
def evaluate(
    run: options.RunArgument,
    *,
    diagnostics: Annotated[Diagnostics, options.Only("calibration_analysis", "neigh_sample", "true_rate_genes")],
    scanning: Annotated[Scanning, options.Only("fasta", "annotation", "base_scores", "base_score_offset")],
    executing: Threads,
    as_json: options.JsonOption = False,
) -> None:
    """Score base model, members and ensemble of a run out of fold; write metrics and catalogue.

    With --fasta and --annotation, score every position of some genes instead, by a model that never saw them, and print that.

    Examples: mi-duck evaluate run, or mi-duck evaluate run --fasta genome.fa.gz --annotation genes.gtf.gz
    """
    from mi_duck.workflow.pipeline import evaluate_run
    from mi_duck.workflow.true_rate import evaluate_sequence

    if scanning != Scanning():
        if scanning.fasta is None or scanning.annotation is None:
            raise typer.BadParameter("every position of genes is scored of a genome: give --fasta and --annotation")
        with _context(executing) as context:
            printing.print_true_rate(evaluate_sequence(run, scanning, diagnostics.true_rate_genes, context), as_json)
        return
    with _context(executing) as context:
        evaluate_run(run, diagnostics, context)
    printing.print_scores(run, as_json)


@command("report")
def write_report(
    run: options.RunArgument,
    *,
    diagnostics: Annotated[Diagnostics, options.Only("monitor_overfitting", "figure_format")],
    as_json: options.JsonOption = False,
) -> None:
    """Write report.html of an evaluated run anew, with every figure, and print what it warns of.

    Example: mi-duck report run
    """
    from mi_duck.workflow.pipeline import report_run

    with _context(Executing()) as context:
        warnings = report_run(run, diagnostics, context)
    print_facts({"report": str(run / "report.html"), "warnings": warnings}, as_json)


@command()
def explain(
    run: options.RunArgument,
    *,
    diagnostics: Annotated[Diagnostics, options.Only("shap_sample", "shap_background", "figure_format")],
    executing: Threads,
    as_json: options.JsonOption = False,
) -> None:
    """Explain the model of a run by SHAP values: what each feature moves, in all classes, instances and together.

    Example: mi-duck explain run --shap-sample 1000
    """
    from mi_duck.workflow.pipeline import explain_run

    with _context(executing) as context:
        facts = explain_run(run, diagnostics, context)
    printing.print_explained(facts, run, as_json)


@command()
def compare(
    run: options.RunArgument,
    other: options.OtherRunArgument,
    as_json: options.JsonOption = False,
) -> None:
    """Compare the out-of-fold scores of two runs of the same data, by the same draws of fold groups.

    Example: mi-duck compare run run_single
    """
    from mi_duck.evaluate.compare import compare_runs

    printing.print_comparison(compare_runs(run, other), as_json)


@command(verbose=True)
def predict(
    model: options.ModelArgument,
    dataset: options.DatasetArgument = None,
    *,
    out: options.OutFile,
    scanning: Scanning,
    executing: Threads,
    trust_pickle: options.TrustPickle = False,
    as_json: options.JsonOption = False,
) -> None:
    """Predict every row of a dataset, or every position of a genome; go on where a killed call stopped.

    For each class p_CLASS, and of an ensemble spread_CLASS: the standard deviation of its members' probabilities, which says how
    much they disagree and is not an interval. trained_on marks rows of genes that the model was trained on: their predictions
    look better than those of new genes. Honest ones of the run's own rows are in its oof_predictions.parquet. Other columns are
    kept; features are not, nor those that a pilot or --auto-exclude-leaky left out.

    Of a genome, Parquet counts positions from 1, BED and bigWig from 0; a donor is an exon's last base, an acceptor its first.

    Examples: mi-duck predict run new_dataset --out predictions.parquet, or
    mi-duck predict run --fasta genome.fa.gz --annotation genes.gtf.gz --out sites.bed
    """
    from mi_duck.classifiers.model import load_unified_model
    from mi_duck.ensemble.predict import predict_file
    from mi_duck.genome.predict_sequence import predict_sequence

    if (dataset is None) == (scanning.fasta is None):
        raise typer.BadParameter("give a DATASET, or a genome with --fasta")
    if dataset is not None and scanning != Scanning():
        raise typer.BadParameter("--annotation, --regions and what else says which positions to predict need --fasta")
    loaded = load_unified_model(model, trust_pickle=trust_pickle)
    begun = time.monotonic()
    with _context(executing) as context:
        how: Any = {"threads": context.threads, "report": context.report}
        if dataset is not None:
            summary = predict_file(loaded, dataset, out, **how)
        else:
            scanned = predict_sequence(loaded, scanning, out, source=str(model), **how)
    if dataset is not None:
        printing.print_predicted(summary, out, time.monotonic() - begun, as_json)
    else:
        printing.print_scanned(scanned, time.monotonic() - begun, as_json)


@command(verbose=True)
def distil(
    run: options.RunArgument,
    out: options.ModelFile,
    *,
    distilling: settings.Distilling,
    executing: Threads,
    as_json: options.JsonOption = False,
) -> None:
    """Fit one booster per class to the ensemble of a run: a model of the same kind, nearly as good and faster.

    What it loses and gains, out of fold, is printed and stands in a JSON file beside the model.

    Example: mi-duck distil run --trees 200 --out fast.miduck
    """
    from mi_duck.workflow.distil import distil as distil_run

    with _context(executing) as context:
        facts = distil_run(run, out, context, trees=distilling.trees)
    printing.print_distilled(facts, out, as_json)


@command()
def export(
    run: options.ModelOfRunArgument,
    form: options.FormatOption,
    out: options.ExportFile = None,
    as_json: options.JsonOption = False,
) -> None:
    """Write a consolidated or distilled model for other programs, after a check that it predicts the same.

    Example: mi-duck export run --format onnx
    """
    from mi_duck.export.export import export_model

    printing.print_file(form, export_model(run, form, out=out), as_json)


@command()
def verify(
    run: options.RunArgument,
    data: options.DataOption = False,
    as_json: options.JsonOption = False,
) -> None:
    """Check all that a finished or broken run claims: hashes, coverage, folds, windows, scores; write nothing.

    Exit code 0: all holds; 65: something is damaged or contradicts; 69: nothing is, but the run is incomplete.

    Example: mi-duck verify run
    """
    from mi_duck.verify.verify import exit_code, verify_run, worst_first

    with reporting() as report:
        findings = verify_run(run, with_data=data, report=report)
    printing.print_findings(worst_first(findings), as_json)
    raise typer.Exit(exit_code(findings))


@command()
def sql(
    run: options.RunArgument,
    query: Annotated[str | None, typer.Argument(metavar="QUERY", help="SQL text.", show_default=False)] = None,
    name: Annotated[str | None, typer.Option(help="A named query instead.", show_default=False)] = None,
    limit: options.LimitOption = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV.")] = False,
    parquet: options.ParquetOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Ask SQL of a run's catalogue; without a query, a console on a terminal, and from a pipe the query is read.

    Of a run that is not finished it has what is known by now.

    Examples: mi-duck sql run "select * from genes limit 5", or mi-duck sql run --name coverage
    """
    from mi_duck.workflow.sql_console import ask

    if query is not None and name is not None:
        raise typer.BadParameter("give a QUERY or --name, not both")
    if sum((as_json, as_csv, parquet is not None)) > 1:
        raise typer.BadParameter("--json, --csv and --parquet exclude each other; give one")
    ask(run, query, name, limit=limit, form="json" if as_json else "csv" if as_csv else "text", parquet=parquet)


if __name__ == "__main__":
    without_pandas()
    app(prog_name="mi-duck")
