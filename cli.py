"""Command line of mi_duck: parse, call one function, print. Results go to stdout, progress and messages to stderr."""

import inspect as introspection
import io
import json
import logging
import math
import os
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, is_dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal

import typer
import typer.core
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from mi_duck import __version__
from mi_duck.errors import MiDuckError
from mi_duck.options import (
    DEPTH,
    FOLDS,
    GENES_PER_INSTANCE,
    MAX_BIN,
    SEED,
    Columns,
    ConfigOption,
    CrossValidation,
    DaskScheduler,
    DatasetArgument,
    DepthOption,
    Executing,
    ExecutorOption,
    Explaining,
    FoldsOption,
    FullHash,
    GenesPerFile,
    GenesPerInstance,
    JsonOption,
    LayoutOption,
    MaxBin,
    MinimalDiagnostics,
    MonitorOverfitting,
    NewFolder,
    OutOption,
    Planning,
    RunArgument,
    SampleNegatives,
    Scoring,
    SeedOption,
    SkipShap,
    Source,
    StrategyOption,
    ThreadsOption,
    Training,
    VerboseOption,
    WorkersOption,
    on_this_machine,
)
from mi_duck.processes import free_at_once, without_pandas
from mi_duck.resources import usable_cores


class Screen(Console):
    """A console whose reader may leave, as `| head` does: the rest is dropped, and the work goes on."""

    def on_broken_pipe(self) -> None:
        """Drop what is left to print."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


logger = logging.getLogger("mi_duck")
errors = Screen(stderr=True, highlight=False, soft_wrap=True)
output = Screen(highlight=False, soft_wrap=True)

SECONDS_BETWEEN_LINES = 15.0
# Ctrl-C; asked to end; the terminal closed; what Slurm warns with before a time limit
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class Ended(SystemExit):
    """A signal asked the process to end: 130 for SIGINT, 143 for the others, which workflow managers try again."""

    def __init__(self, number: int) -> None:
        super().__init__(130 if number == signal.SIGINT else 143)
        self.signal = signal.Signals(number).name


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Task signals that ask to end, and whatever the work fails with because of them, into `Ended`.

    DuckDB answers an error of a handler with one of its own.
    """
    came: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        # a closing terminal sends several, one is enough; Ctrl-C twice is hurry
        if not came or number == signal.SIGINT:
            came.append(number)
            raise Ended(number)

    before = {
        number: signal.signal(number, end)
        for number in ENDING
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)  # not where nohup has it ignored
    }
    try:
        yield
    except BaseException as error:
        if came:  # the handlers stay: more signals change nothing now
            raise Ended(came[0]) from error
        raise
    finally:
        if not came:
            for number, handler in before.items():
                signal.signal(number, handler)


class Commands(typer.core.TyperGroup):
    """Turns the errors of mi_duck into one line and their exit code, in one place."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; print ``error: ...`` for what the user can mend."""
        try:
            with _ended_by_signals():
                result = super().invoke(ctx)
                sys.stdout.flush()  # here, where a reader that left is not an error
            return result
        except MiDuckError as error:
            if logger.isEnabledFor(logging.DEBUG):
                traceback.print_exc()
            line = " ".join(str(error).splitlines())  # names from data may steer a terminal
            errors.print(f"error: {''.join(one if one.isprintable() else '?' for one in line)}", markup=False)
            raise typer.Exit(error.exit_code) from error
        except Ended as error:
            errors.print(f"ended by {error.signal}; the same command goes on where it stopped")
            raise
        except BrokenPipeError as error:
            # whoever read our output has gone, as `| head` does; nothing is left to say
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from error
        except typer.Abort:
            raise
        except Exception as error:
            if hasattr(error, "exit_code"):  # one of Typer's own
                raise
            traceback.print_exc()
            errors.print("this is a bug in mi_duck: please report the lines above and the command")
            raise typer.Exit(70) from error


app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train, check and use gene-aware ensembles of XGBoost models on feature tables larger than memory.",
)


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
    free_at_once()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack letters of a name
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[_Messages()], force=True)
    logger.setLevel(logging.NOTSET)


class _Messages(logging.Handler):
    """Prints messages above the progress bar, whole lines, without markup."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        errors.print(self.format(record), markup=False)


@contextmanager
def reporting() -> Iterator[Any]:
    """Give a function report(stage, done, total): a bar on a terminal, a line now and then elsewhere.

    Instances that are trained at once report from threads of their own, each with its name in front: each has a bar.
    """
    lock = threading.Lock()
    if errors.is_terminal:
        columns = (
            TextColumn("{task.description:<40}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=errors, transient=True) as progress:
            bars: dict[str, tuple[str, Any]] = {}

            def show(stage: str, done: int, total: int) -> None:
                who = _instance_of(stage)
                with lock:
                    if bars.get(who, ("",))[0] != stage:
                        for old in {who, ""} & bars.keys() if who else list(bars):
                            progress.remove_task(bars.pop(old)[1])
                        bars[who] = (stage, progress.add_task(stage, total=total))
                    progress.update(bars[who][1], completed=done, total=total)
                    if who and done >= total:  # perhaps all of it; what comes next makes another bar
                        progress.remove_task(bars.pop(who)[1])

            yield show
    else:
        begun = time.monotonic()
        last: dict[str, float] = {}

        def line(stage: str, done: int, total: int) -> None:
            who, now = _instance_of(stage), time.monotonic()
            with lock:
                if now - last.get(who, begun) > SECONDS_BETWEEN_LINES:
                    last[who] = now
                    logger.info("    %s: %s of %s", stage, f"{done:,}", f"{total:,}")

        yield line


def _instance_of(stage: str) -> str:
    """Return which of several instances a stage belongs to, empty where only one thing is done."""
    return stage.partition(":")[0] if stage.startswith("instance_") else ""


Function = Callable[..., None]


def command(name: str | None = None, *, verbose: bool = False) -> Callable[[Function], Function]:
    """Make a function a command.

    A parameter whose type is a group of options becomes these options. Every command takes ``--config``, and those that
    run SQL or child processes ``--verbose``.
    """

    def register(function: Function) -> Function:
        groups: dict[str, Any] = {}
        options: list[tuple[str, Any, Any]] = []
        for one in introspection.signature(function).parameters.values():
            if is_dataclass(one.annotation):
                groups[one.name] = one.annotation
                options += [(field.name, field.type, field.default) for field in fields(one.annotation)]
            else:
                options.append((one.name, one.annotation, one.default))
        options += [("verbose", VerboseOption, False)] * verbose
        options.append(("config", ConfigOption, None))

        def called(*, config: Path | None, verbose: bool = False, **values: Any) -> None:
            _finite(values)
            for at, group in groups.items():
                values[at] = group(**{field.name: values.pop(field.name) for field in fields(group)})
            function(**values)

        kind = introspection.Parameter.KEYWORD_ONLY
        called.__signature__ = introspection.Signature(  # type: ignore[attr-defined]
            [introspection.Parameter(at, kind, default=default, annotation=hint) for at, hint, default in options]
        )
        called.__name__, called.__doc__ = function.__name__, function.__doc__
        app.command(name)(called)
        return function

    return register


def _threads(threads: int | None) -> int:
    return threads or usable_cores()


def _required(value: Any, what: str) -> Any:
    if value is None:
        raise typer.BadParameter(f"missing {what}")
    return value


def _finite(values: Mapping[str, Any]) -> None:
    """Refuse nan, which no range refuses."""
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise typer.BadParameter(f"{value} is not a finite number", param_hint=f"--{name.replace('_', '-')}")


def _dataset(source: Source, columns: Columns, *, holdout_genes: str | None = None, full_hash: bool = False) -> Any:
    """Open the dataset that the options of a command name."""
    from mi_duck.data.dataset import open_dataset

    if source.dataset is not None and source.dataset_option is not None:
        raise typer.BadParameter("name the dataset once: DATASET or --dataset")
    scores = columns.base_score_columns
    return open_dataset(
        _required(source.dataset or source.dataset_option, "DATASET"),
        gene_column=columns.gene_column,
        label_column=columns.label_column,
        classes=[name.strip() for name in columns.classes.split(",")],
        fold_by=columns.fold_by,
        exclude=columns.exclude,
        exclude_features=columns.exclude_features,
        base_score_columns=[name.strip() for name in scores.split(",")] if scores else None,
        holdout_genes=holdout_genes,
        full_hash=full_hash,
    )


def _plan_options(planning: Planning) -> Any:
    """Return what the options of ``plan`` and ``run`` ask of a plan."""
    from mi_duck.plan.make_plan import PlanOptions

    if planning.train_all_genes and planning.sample_genes is not None:
        raise typer.BadParameter("--train-all-genes and --sample-genes exclude each other; give one")
    return PlanOptions(**asdict(planning))


def _settings(training: Training) -> Any:
    """Return the settings of the training."""
    from mi_duck.run.plan import Settings

    values = asdict(training)
    return Settings(calibrate=values.pop("calibrate_per_class"), **values)


def _diagnostics(
    is_minimal: bool, monitor_overfitting: bool, scoring: Scoring, skip_shap: bool, explaining: Explaining
) -> Any:
    """Return what is written beside model and scores."""
    from mi_duck.workflow.pipeline import Diagnostics

    return Diagnostics(
        is_minimal=is_minimal,
        monitor_overfitting=monitor_overfitting,
        with_shap=not skip_shap,
        **asdict(scoring),
        **asdict(explaining),
    )


def _announce(dataset: Any) -> None:
    """Print what is a feature and what is not, and why."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in dataset.excluded:
        by_reason.setdefault(reason, []).append(name)
    logger.info(
        "%s: %s files, %s rows, %s features",
        dataset.location,
        f"{len(dataset.files):,}",
        f"{dataset.n_rows:,}",
        f"{len(dataset.features):,}",
    )
    for reason, names in by_reason.items():
        logger.info("    no feature (%s): %s", reason, ", ".join(names))
    if not dataset.base_scores:
        logger.info("    no base scores for every class: the comparison with a base model is left out")


# ---- commands ---------------------------------------------------------------------------------------------------------


@command()
def demo(
    out: Annotated[
        Path, typer.Option("--out", help="Folder for dataset, run and predictions.", callback=on_this_machine)
    ] = Path("mi_duck_demo"),
    seed: SeedOption = SEED,
    threads: ThreadsOption = None,
) -> None:
    """Run the main job on bundled real data: fruit fly chromosome 4, from genome to predictions.

    Example: mi-duck demo --out mi_duck_demo
    """
    from mi_duck.workflow.demo import run_demo

    with reporting() as report:
        paths = run_demo(out, seed=seed, threads=_threads(threads), report=report, say=logger.info)
    _print_scores(paths["run"])
    for name, path in paths.items():
        output.print(f"{name:<12} {path}", markup=False)


@command()
def build(
    fasta: Annotated[Path, typer.Option(help="Genome, FASTA, plain or gzip.")],
    annotation: Annotated[Path, typer.Option(help="Genes, GTF or GFF3, plain or gzip.")],
    out: NewFolder,
    negatives_per_site: Annotated[
        float, typer.Option(help="Rows that are not site, for each site.", min=0.0, max=1000.0)
    ] = 9.0,
    hard_negatives: Annotated[
        float,
        typer.Option(help="Share of these that are GT/AG decoys or neighbours of sites.", min=0.0, max=1.0),
    ] = 0.5,
    base_scores: Annotated[
        Path | None, typer.Option(help="Scores of a base model: Parquet, TSV or BED.", show_default=False)
    ] = None,
    annotation_features: Annotated[
        bool, typer.Option("--annotation-features", help="Add features that only annotated genes have.")
    ] = False,
    all_positions: Annotated[int, typer.Option(help="Write every position of this many genes.", min=0)] = 0,
    window: Annotated[int, typer.Option(help="Letters round a position, even.", min=44, max=100_000)] = 500,
    genes_per_file: GenesPerFile = 500,
    seed: SeedOption = SEED,
    as_json: JsonOption = False,
) -> None:
    """Task a genome and its annotation into a dataset of candidate splice positions.

    Example: mi-duck build --fasta genome.fa.gz --annotation genes.gtf.gz --out dataset
    """
    from mi_duck.genome.build import build as build_dataset

    with reporting() as report:
        summary = build_dataset(
            fasta,
            annotation,
            out,
            negatives_per_site=negatives_per_site,
            hard_negatives=hard_negatives,
            base_scores=base_scores,
            annotation_features=annotation_features,
            all_positions=all_positions,
            genes_per_file=genes_per_file,
            window=window,
            seed=seed,
            report=report,
        )
    _warn_about_build(summary)
    _print_facts(asdict(summary), as_json)


def _warn_about_build(summary: Any) -> None:
    if summary.gt_ag_fraction < 0.9:
        logger.warning(
            "warning: only %.1f %% of introns begin GT and end AG; do FASTA and annotation belong together?",
            100 * summary.gt_ag_fraction,
        )
    for name, words in {
        "n_contigs_without_sequence": "contigs of the annotation are not in the FASTA",
        "n_rows_without_scores": "rows have no base score in the file; their score features are null",
        "n_exons_without_strand": "exon lines without a strand were ignored",
        "n_exons_without_gene": "exon lines without a gene were ignored",
        "n_ambiguous_sites": "positions are donor and acceptor at once and were left out",
    }.items():
        if getattr(summary, name):
            logger.warning("warning: %s %s", f"{getattr(summary, name):,}", words)


@command()
def synth(
    out: NewFolder,
    genes: Annotated[int, typer.Option(help="Genes.", min=1)] = 1500,
    rows_per_gene: Annotated[float, typer.Option(help="Mean rows of a gene.", min=10.0)] = 391.0,
    features: Annotated[int, typer.Option(help="Features.", min=20)] = 1167,
    missing_fraction: Annotated[float, typer.Option(help="Share of nulls in a few columns.", min=0.0, max=0.9)] = 0.0,
    shuffle_rows: Annotated[
        bool, typer.Option("--shuffle-rows", help="Spread the rows of a gene over files and row groups.")
    ] = False,
    seed: SeedOption = SEED,
    as_json: JsonOption = False,
) -> None:
    """Write a dataset with planted signals at any scale, for tests and benchmarks.

    Example: mi-duck synth --genes 1500 --out synthetic
    """
    from mi_duck.genome.synthetic import synthesise

    with reporting() as report:
        summary = synthesise(
            out,
            n_genes=genes,
            rows_per_gene=rows_per_gene,
            n_features=features,
            missing_fraction=missing_fraction,
            shuffle_rows=shuffle_rows,
            seed=seed,
            report=report,
        )
    _print_facts(asdict(summary), as_json)


@command(verbose=True)
def prepare(
    *,
    source: Source,
    out: NewFolder,
    columns: Columns,
    genes_per_file: GenesPerFile = 500,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a dataset anew: sorted by gene and position, counts in one byte, page checksums; every value stays.

    Example: mi-duck prepare dataset --out sorted_dataset
    """
    from mi_duck.data.dataset import check_place
    from mi_duck.data.prepare import prepare as prepare_dataset

    opened = _dataset(source, columns)
    check_place(opened, out)
    with reporting() as report:
        summary = prepare_dataset(opened, out, genes_per_file=genes_per_file, threads=_threads(threads), report=report)
    _print_facts(asdict(summary), as_json)


@command()
def inspect(
    *,
    source: Source,
    columns: Columns,
    seed: SeedOption = SEED,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show genes, rows per gene, class mix, features and warnings of a dataset.

    Example: mi-duck inspect dataset
    """
    from mi_duck.data.statistics import inspect as inspect_dataset

    opened = _dataset(source, columns)
    found = inspect_dataset(opened, threads=_threads(threads), seed=seed)
    facts = {
        "files": len(opened.files),
        "rows": opened.n_rows,
        "genes": found.genes.n_genes,
        "fold groups": f"{found.genes.n_groups:,} of '{opened.fold_column}'",
        "rows per gene": found.quantiles,
        "class mix": dict(zip(opened.classes, found.genes.label_counts, strict=True)),
        "features": {"all": len(opened.features)} | found.kinds,
        "base scores": list(opened.base_scores),
        "excluded": dict(opened.excluded),
        "warnings": list(found.warnings),
    }
    _print_facts(facts, as_json)


@command()
def memory(
    *,
    source: Source,
    columns: Columns,
    genes_per_instance: GenesPerInstance = GENES_PER_INSTANCE,
    strategy: StrategyOption = "auto",
    layout: LayoutOption = "auto",
    cv: CrossValidation = "auto",
    sample_negatives: SampleNegatives = None,
    n_folds: FoldsOption = FOLDS,
    max_depth: DepthOption = DEPTH,
    max_bin: MaxBin = MAX_BIN,
    full_hash: FullHash = False,
    plot: Annotated[
        Path | None, typer.Option(help="Write the plot here: .pdf, .svg or .png.", show_default=False)
    ] = None,
    seed: SeedOption = SEED,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what a gene costs in memory: probes, the fit, and its check on a third of an instance and a whole one.

    Example: mi-duck memory dataset --genes-per-instance 1500 --plot memory.pdf
    """
    from mi_duck.console import table_of
    from mi_duck.plan.make_plan import PlanOptions
    from mi_duck.plan.memory_report import measure_dataset
    from mi_duck.workflow.views import gene_facts, peak_records

    training = Training(n_folds=n_folds, early_stopping_patience=0, max_depth=max_depth, max_bin=max_bin, seed=seed)
    opened = _dataset(source, columns, full_hash=full_hash)
    with tempfile.TemporaryDirectory(prefix="mi_duck_memory_") as scratch, reporting() as report:
        (found,) = measure_dataset(
            opened,
            Path(scratch),
            options=PlanOptions(
                genes_per_instance=genes_per_instance,
                strategy=strategy,
                layout=layout,
                cv=cv,
                sample_negatives=sample_negatives,
            ),
            settings=_settings(training),
            threads=_threads(threads),
            report=report,
            say=logger.info,
        )
    if plot is not None:
        from mi_duck.drawing import save
        from mi_duck.report.plots import MemoryDot, memory_figure

        dots = [
            MemoryDot(one.n_rows, float(one.measured_bytes), float(one.predicted_bytes), one.is_probe)
            for one in found.peaks
        ]
        save(memory_figure(dots, gene_bytes=list(found.gene_bytes)), plot)
    records, facts = peak_records(found), gene_facts(found, genes_per_instance)
    if as_json:
        _print_json({"sizes": records} | facts)
        return
    table = table_of(records)
    _print_table(table.columns, table.rows)
    _print_facts(facts, as_json)


@command(verbose=True)
def plan(
    *,
    source: Source,
    out: OutOption = None,
    columns: Columns,
    planning: Planning,
    training: Training,
    executor: ExecutorOption = "local",
    dask_scheduler: DaskScheduler = None,
    full_hash: FullHash = False,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Index genes, assign folds, and cut instances that fit the machine; write the plan of a run.

    Example: mi-duck plan dataset --out run --max-memory-per-instance-gb 4
    """
    from mi_duck.data.dataset import check_place
    from mi_duck.plan.make_plan import make_plan
    from mi_duck.run.locks import run_lock

    folder = _required(out, "--out RUN")
    is_elsewhere = _is_elsewhere(Executing(executor=executor, dask_scheduler=dask_scheduler))
    options, settings = _plan_options(planning), _settings(training)
    opened = _dataset(source, columns, holdout_genes=planning.holdout_genes, full_hash=full_hash)
    check_place(opened, folder)
    _announce(opened)
    with run_lock(folder), reporting() as report:
        made = make_plan(
            opened,
            folder,
            options=options,
            settings=settings,
            threads=_threads(threads),
            is_elsewhere=is_elsewhere,
            report=report,
            say=logger.info,
        )
    if as_json:
        print(made.to_json())
    else:
        _print_plan(made)


@command(verbose=True)
def run(
    *,
    source: Source,
    out: OutOption = None,
    columns: Columns,
    planning: Planning,
    resume_from_checkpoint: Annotated[
        bool,
        typer.Option(
            "--resume-from-checkpoint/--no-resume-from-checkpoint", help="Go on in a folder that holds a run."
        ),
    ] = True,
    force_retrain_all: Annotated[
        bool, typer.Option("--force-retrain-all", help="Delete what the folder's run has done first.")
    ] = False,
    minimal_diagnostics: MinimalDiagnostics = False,
    monitor_overfitting: MonitorOverfitting = True,
    scoring: Scoring,
    skip_shap: SkipShap = False,
    explaining: Explaining,
    training: Training,
    executing: Executing,
    full_hash: FullHash = False,
    threads: ThreadsOption = None,
    workers: WorkersOption = None,
    as_json: JsonOption = False,
) -> None:
    """Plan, train, consolidate and evaluate; the same command goes on after an interruption.

    With --executor slurm it plans, writes the scripts of the jobs to RUN/slurm, submits them and returns.

    Example: mi-duck run dataset --out run --train-all-genes
    """
    from mi_duck.workflow.pipeline import run as run_pipeline
    from mi_duck.workflow.runs import finish_run, plan_run

    folder = _required(out, "--out RUN")
    is_elsewhere = _is_elsewhere(executing)
    options, settings = _plan_options(planning), _settings(training)
    diagnostics = _diagnostics(minimal_diagnostics, monitor_overfitting, scoring, skip_shap, explaining)
    opened = _dataset(source, columns, holdout_genes=planning.holdout_genes, full_hash=full_hash)
    _announce(opened)
    request: dict[str, Any] = {
        "options": options,
        "settings": settings,
        "resume": resume_from_checkpoint,
        "force": force_retrain_all,
        "diagnostics": diagnostics,
        "threads": _threads(threads),
    }
    with reporting() as report:
        if executing.executor == "local":
            run_pipeline(opened, folder, **request, workers=workers or 1, report=report, say=logger.info)
        else:
            plan_run(opened, folder, **request, is_elsewhere=is_elsewhere, report=report, say=logger.info)
            if _train_elsewhere(folder, executing, threads, workers, report, diagnostics, as_json):
                return
            finish_run(folder, diagnostics=diagnostics, threads=_threads(threads), report=report, say=logger.info)
    _print_scores(folder, as_json)


@command(verbose=True)
def train(
    run: RunArgument,
    instance: Annotated[
        int | None,
        typer.Option(help="This instance alone; by default all that are to do.", min=0, show_default=False),
    ] = None,
    partition_only: Annotated[
        bool,
        typer.Option(
            "--partition-only", help="Only write the rows of all instances, so that no job waits for another."
        ),
    ] = False,
    *,
    executing: Executing,
    threads: ThreadsOption = None,
    workers: WorkersOption = None,
) -> None:
    """Train the instances of a plan that are not done yet, or one alone; doing it twice or at once does no harm.

    In a job array the array's index is the instance: SLURM_ARRAY_TASK_ID, JOB_COMPLETION_INDEX (Kubernetes) and
    PBS_ARRAY_INDEX as they are, LSB_JOBINDEX and SGE_TASK_ID, which begin at 1, less 1; --workers 1 trains all there too.

    Examples: mi-duck train run --instance 3, or mi-duck train run --workers 2
    """
    from mi_duck.executors.array_index import array_index
    from mi_duck.workflow.runs import check_trained, partition_run, train_run

    _is_elsewhere(executing)
    is_many = workers is not None or executing.executor != "local"
    if instance is not None and (partition_only or is_many):
        raise typer.BadParameter("--instance trains one; leave --workers, --executor and --partition-only out")
    if partition_only and is_many:
        raise typer.BadParameter("--partition-only trains none; leave --workers and --executor out")
    try:
        found = None if instance is not None or partition_only or is_many else array_index(os.environ)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    with reporting() as report:
        if partition_only:
            partition_run(run, threads=_threads(threads), report=report)
        elif executing.executor != "local":
            if not _train_elsewhere(run, executing, threads, workers, report):
                check_trained(run)
        else:
            if found is not None:
                logger.info("%s is %s: instance %d alone", found.variable, found.value, found.instance_id)
                instance = found.instance_id
            train_run(
                run,
                instance_id=instance,
                threads=_threads(threads),
                workers=workers or 1,
                report=report,
                say=logger.info,
            )


def _is_elsewhere(executing: Executing) -> bool:
    """Return whether instances are trained on other machines; refuse options that would do nothing."""
    for name, executor in {"slurm_options": "slurm", "dask_scheduler": "dask"}.items():
        if getattr(executing, name) is not None and executing.executor != executor:
            raise typer.BadParameter(f"--{name.replace('_', '-')} needs --executor {executor}")
    return executing.executor == "slurm" or executing.dask_scheduler is not None


def _train_elsewhere(
    folder: Path,
    executing: Executing,
    threads: int | None,
    workers: int | None,
    report: Any,
    diagnostics: Any = None,
    as_json: bool = False,
) -> bool:
    """Have instances trained; return whether jobs do the rest later."""
    if executing.executor == "dask":
        from mi_duck.executors.dask_workers import train_with_dask

        scheduler = executing.dask_scheduler
        threads = _threads(threads) if scheduler is None else threads
        train_with_dask(folder, scheduler=scheduler, threads=threads, at_once=workers, report=report, say=logger.info)
        return False
    from mi_duck.executors.slurm import MOST_CORES, submit

    jobs = submit(
        folder,
        sbatch_options=executing.slurm_options,
        threads=threads or min(_threads(None), MOST_CORES),
        at_once=workers,
        diagnostics=diagnostics,
        say=logger.info,
    )
    if jobs:
        _print_facts(jobs, as_json)
    return bool(jobs)


@command()
def status(run: RunArgument, as_json: JsonOption = False) -> None:
    """Show which instances of a run are done, running, lost or still to do.

    Example: mi-duck status run
    """
    from mi_duck.console import duration, table_of
    from mi_duck.workflow.status import run_status

    facts = run_status(run)
    if as_json:
        _print_json(facts)
        return
    rows = facts["instances"]
    table = table_of(rows)
    _print_table(table.columns, table.rows)
    output.print(
        f"{facts['n_done']} of {len(rows)} instances done, {facts['n_running']} running, {facts['n_lost']} lost; "
        f"at most {duration(facts['seconds_left'])} of training left; consolidated: {facts['is_consolidated']}; "
        f"finished: {facts['is_finished']}"
    )
    for name, cause in facts["causes_of_loss"].items():
        output.print(f"{name} was lost: {cause}", markup=False)


@command(verbose=True)
def finish(
    run: RunArgument,
    *,
    minimal_diagnostics: MinimalDiagnostics = False,
    monitor_overfitting: MonitorOverfitting = True,
    scoring: Scoring,
    skip_shap: SkipShap = False,
    explaining: Explaining,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Consolidate, evaluate, explain and report what is trained: all that run does after training.

    Exit code 69 where instances are not trained: all that the others give is written.

    Example: mi-duck finish run
    """
    from mi_duck.workflow.runs import finish_run

    with reporting() as report:
        finish_run(
            run,
            diagnostics=_diagnostics(minimal_diagnostics, monitor_overfitting, scoring, skip_shap, explaining),
            threads=_threads(threads),
            report=report,
            say=logger.info,
        )
    _print_scores(run, as_json)


@command(verbose=True)
def consolidate(
    run: RunArgument,
    voting: Annotated[
        Literal["probability", "margin", "auto"] | None,
        typer.Option(help="How votes are joined, instead of what the run was begun with.", show_default=False),
    ] = None,
    weights: Annotated[
        Literal["uniform", "f1", "fitted", "auto"] | None,
        typer.Option(help="Weights of the members, instead of what the run was begun with.", show_default=False),
    ] = None,
    threads: ThreadsOption = None,
) -> None:
    """Join the trained instances of a run into one model, with thresholds from out-of-fold scores.

    Example: mi-duck consolidate run --voting auto --weights auto
    """
    from mi_duck.workflow.runs import consolidate_alone

    with reporting() as report:
        consolidate_alone(
            run, voting=voting, weights=weights, threads=_threads(threads), report=report, say=logger.info
        )
    output.print(str(run / "consolidated_model.miduck"), markup=False)


@command(verbose=True)
def evaluate(
    run: RunArgument,
    *,
    scoring: Scoring,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score base model, members and ensemble of a run on all rows out of fold; write metrics and catalogue.

    Example: mi-duck evaluate run
    """
    from mi_duck.workflow.runs import evaluate_alone

    with reporting() as report:
        evaluate_alone(
            run,
            calibration_analysis=scoring.calibration_analysis,
            neigh_sample=scoring.neigh_sample,
            threads=_threads(threads),
            report=report,
        )
    _print_scores(run, as_json)


@command("report")
def write_report(run: RunArgument, monitor_overfitting: MonitorOverfitting = True, as_json: JsonOption = False) -> None:
    """Write report.html of an evaluated run anew, with every figure, and print what it warns of.

    Example: mi-duck report run
    """
    from mi_duck.workflow.runs import report_alone

    with reporting() as report:
        warnings = report_alone(run, with_overfitting=monitor_overfitting, report=report)
    _print_facts({"report": str(run / "report.html"), "warnings": warnings}, as_json)


@command()
def explain(
    run: RunArgument,
    *,
    explaining: Explaining,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Explain the model of a run by SHAP values: what each feature moves, in all classes, instances and together.

    Example: mi-duck explain run --shap-sample 1000
    """
    from mi_duck.workflow.runs import explain_alone

    with reporting() as report:
        facts = explain_alone(
            run,
            sample_size=explaining.shap_sample,
            background_size=explaining.shap_background,
            threads=_threads(threads),
            report=report,
        )
    if as_json:
        _print_json(facts)
        return
    tops = {"ensemble": facts["top_10_features"]}
    tops |= {name: one["top_10_features"] for name, one in facts["class_summaries"].items()}
    for name, top in tops.items():
        _print_table([f"feature, {name}", "mean |SHAP|"], [[feature, f"{value:.4f}"] for feature, value in top.items()])
    output.print(str(run / "comprehensive_shap_analysis"), markup=False)


@command()
def compare(
    run: RunArgument,
    other: Annotated[Path, typer.Argument(metavar="OTHER", help="Folder of another run.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Compare the out-of-fold scores of two runs of the same data, by the same draws of fold groups.

    Example: mi-duck compare run run_single
    """
    from mi_duck.evaluate.compare import compare_runs
    from mi_duck.workflow.views import comparison_table

    found = compare_runs(run, other)
    if as_json:
        _print_json(asdict(found))
        return
    output.print(f"{found.n_rows:,} rows, 95 % intervals over {found.n_groups:,} fold groups")
    table = comparison_table(found)
    _print_table(table.columns, table.rows)


@command(verbose=True)
def predict(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="Model file, run folder or instance folder.", show_default=False),
    ],
    dataset: DatasetArgument,
    out: Annotated[Path, typer.Option("--out", help="Parquet file to write.", callback=on_this_machine)],
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Predict every row of a dataset, in its order, with the spread over the members; go on where a killed call stopped.

    Example: mi-duck predict run dataset --out predictions.parquet
    """
    from mi_duck.ensemble.model_file import load_unified_model
    from mi_duck.ensemble.predict import predict_file

    loaded = load_unified_model(model)
    begun = time.monotonic()
    with reporting() as report:
        summary = predict_file(loaded, dataset, out, threads=_threads(threads), report=report)
    seconds = time.monotonic() - begun
    facts = asdict(summary) | {
        "seconds": round(seconds, 2),
        "rows_per_second": round((summary.n_rows - summary.n_rows_before) / seconds),
        "out": str(out),
    }
    _print_facts(facts, as_json)


@command()
def export(
    run: RunArgument,
    form: Annotated[
        Literal["pickle", "xgboost", "onnx"],
        typer.Option("--format", help="A pickle, native boosters with a recipe, or one ONNX file."),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            "--out", help="File or folder to write; by default in RUN.", callback=on_this_machine, show_default=False
        ),
    ] = None,
) -> None:
    """Write the consolidated model for other programs, after a check that it predicts the same.

    Example: mi-duck export run --format onnx
    """
    from mi_duck.export.export import export_model

    output.print(str(export_model(run, form, out=out)), markup=False)


@command()
def verify(
    run: RunArgument,
    data: Annotated[
        bool, typer.Option("--data", help="Check the dataset too: the same files, every page whole; reads all of it.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Check all that a finished or broken run claims: hashes, coverage, folds, windows, scores; write nothing.

    Exit code 0: all holds; 65: something is damaged or contradicts; 69: nothing is, but the run is incomplete.

    Example: mi-duck verify run
    """
    from mi_duck.verify.verify import exit_code, verify_run, worst_first

    with reporting() as report:
        findings = verify_run(run, with_data=data, report=report)
    if as_json:
        _print_json([asdict(one) for one in worst_first(findings)])
    else:
        fine, other = ([one for one in findings if (one.status == "ok") == is_fine] for is_fine in (True, False))
        lines = [[one.status, one.name, one.detail] for one in [*fine, *worst_first(other)]]
        _print_table(["status", "what", "found"], lines)
        output.print(f"{len(fine)} of {len(findings)} checks hold", markup=False)
    raise typer.Exit(exit_code(findings))


@command()
def sql(
    run: RunArgument,
    query: Annotated[str | None, typer.Argument(metavar="QUERY", help="SQL text.", show_default=False)] = None,
    name: Annotated[str | None, typer.Option(help="A named query instead.", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """Ask SQL of a run's catalogue; without a query, list its tables and the named queries.

    Examples: mi-duck sql run "select * from genes limit 5", or mi-duck sql run --name coverage
    """
    from mi_duck.console import unique
    from mi_duck.evaluate.catalogue import describe_catalogue, query_catalogue

    if query is not None and name is not None:
        raise typer.BadParameter("give a QUERY or --name, not both")
    if query is None and name is None:
        tables, queries = describe_catalogue(run)
        if as_json:
            _print_json({"tables": tables, "queries": queries})
            return
        _print_table(
            ["table", "rows", "columns"],
            [[table, f"{facts['n_rows']:,}", ", ".join(facts["columns"])] for table, facts in tables.items()],
        )
        _print_table(["--name", "what it shows"], [[query_name, words] for query_name, words in queries.items()])
        return
    columns, rows = query_catalogue(run, query=query, name=name)
    if as_json:
        _print_json([dict(zip(unique(columns), row, strict=True)) for row in rows])
    else:
        _print_table(columns, rows)


# ---- printing ---------------------------------------------------------------------------------------------------------


def _print_json(value: Any) -> None:
    from mi_duck.console import plain

    print(json.dumps(plain(value), indent=1, default=str, allow_nan=False))


def _print_facts(facts: Mapping[str, Any], as_json: bool) -> None:
    from mi_duck.console import fact_lines

    if as_json:
        _print_json(facts)
        return
    for line in fact_lines(facts):
        output.print(line, markup=False)


def _print_table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table: drawn on a terminal, tab-separated elsewhere so that other programs can read it."""
    texts = [["" if value is None else str(value) for value in row] for row in rows]
    if not output.is_terminal:
        for line in (columns, *texts):
            print("\t".join(line))
        return
    table = Table(*columns, header_style="bold", box=None)
    for row in texts:
        table.add_row(*row)
    # a terminal breaks lines that are too long for it; what would be cut off to fit is lost
    needed = output.measure(table, options=output.options.update(width=100_000)).maximum
    Screen(highlight=False, width=max(needed, output.width)).print(table, crop=False)


def _print_plan(made: Any) -> None:
    from mi_duck.workflow.views import alternatives_table, instances_table

    table, others = instances_table(made), alternatives_table(made)
    _print_table(table.columns, table.rows)
    slots = sum(one.n_genes for one in made.instances)
    output.print(
        f"{made.strategy}: {len(made.instances)} instances, neighbours share {made.overlap_genes:,} genes, "
        f"redundancy {slots / made.n_genes:.3f}, coverage {made.n_genes:,}/{made.n_genes:,}"
    )
    output.print("Ways to train these genes, the time if no fit stops early:", markup=False)
    _print_table(others.columns, others.rows)
    for one in made.alternatives:
        if not one["is_feasible"]:
            logger.info("    %s, %s: %s", one["strategy"], one["layout"], one["reason"])


def _print_scores(folder: Path, as_json: bool = False) -> None:
    """Print the small table of scores: average precision a class, macro F1, log loss, each with its interval."""
    from mi_duck.evaluate.catalogue import score_table

    columns, rows = score_table(folder)
    if as_json:
        _print_json([dict(zip(columns, row, strict=True)) for row in rows])
        return
    output.print(
        "Scores on all rows, each by boosters that never saw the row's fold group; 95 % intervals over fold groups:"
    )
    _print_table(columns, rows)


if __name__ == "__main__":
    without_pandas()
    app(prog_name="mi-duck")
