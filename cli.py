"""Command line of mi_duck: parse, call one function, print. Results go to stdout, progress and messages to stderr."""

import io
import json
import logging
import math
import os
import signal
import sys
import tempfile
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
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


class Commands(typer.core.TyperGroup):
    """Turns the errors of mi_duck into one line and their exit code, in one place."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; print ``error: ...`` for what the user can mend."""
        try:
            result = super().invoke(ctx)
            sys.stdout.flush()  # here, where a reader that left is no error
            return result
        except MiDuckError as error:
            errors.print(f"error: {' '.join(str(error).splitlines())}", markup=False)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            errors.print("interrupted; the same command goes on where it stopped")
            raise typer.Exit(130) from error
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
    """Set up messages and signals."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack letters of a name
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[_Messages()], force=True)
    signal.signal(signal.SIGTERM, _terminated)


def _terminated(number: int, frame: FrameType | None) -> None:
    errors.print("terminated; the same command goes on where it stopped")
    raise SystemExit(143)


class _Messages(logging.Handler):
    """Prints messages above the progress bar, whole lines, without markup."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        errors.print(self.format(record), markup=False)


@contextmanager
def reporting() -> Iterator[Any]:
    """Give a function report(stage, done, total): a bar on a terminal, a line now and then elsewhere."""
    if errors.is_terminal:
        columns = (
            TextColumn("{task.description:<40}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=errors, transient=True) as progress:
            tasks: dict[str, Any] = {}

            def show(stage: str, done: int, total: int) -> None:
                if stage not in tasks:
                    for old in tasks.values():
                        progress.remove_task(old)
                    tasks.clear()
                    tasks[stage] = progress.add_task(stage, total=total)
                progress.update(tasks[stage], completed=done, total=total)

            yield show
    else:
        import time

        last: dict[str, float] = {"": time.monotonic()}

        def line(stage: str, done: int, total: int) -> None:
            now = time.monotonic()
            if now - max(last.values()) > SECONDS_BETWEEN_LINES:
                last[stage] = now
                logger.info("    %s: %s of %s", stage, f"{done:,}", f"{total:,}")

        yield line


# ---- options that several commands share ------------------------------------------------------------------------------

DatasetArgument = Annotated[
    str | None,
    typer.Argument(metavar="DATASET", help="Parquet file, folder of them, or glob.", show_default=False),
]
DatasetOption = Annotated[str | None, typer.Option("--dataset", help="The same as DATASET.", show_default=False)]
OutOption = Annotated[Path | None, typer.Option("--out", "--out-dir", help="Folder of the run.", show_default=False)]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="Folder of a run.", show_default=False)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
SeedOption = Annotated[int, typer.Option(help="Seed of every choice.", min=0, max=2**31 - 1)]
ThreadsOption = Annotated[
    int | None,
    typer.Option(help="Threads; by default all cores of this process.", min=1, max=1024, show_default=False),
]
GeneColumn = Annotated[str, typer.Option(help="Column with the gene.")]
LabelColumn = Annotated[str, typer.Option(help="Column with the label.")]
ClassNames = Annotated[str, typer.Option(help="Class names, comma separated; their order is the label's number.")]
FoldBy = Annotated[
    str | None,
    typer.Option(
        help="Column with the unit of independence; by default overlap_cluster if present, else the gene.",
        show_default=False,
    ),
]
Exclude = Annotated[
    str | None, typer.Option(help="Regular expression of columns that are no features.", show_default=False)
]
ExcludeFeatures = Annotated[
    Path | None,
    typer.Option(help="Text file with a column name a line; these are no features.", show_default=False),
]
BaseScoreColumns = Annotated[
    str | None,
    typer.Option(
        help="Columns with the base model's score of each class, comma separated; by default CLASS_score.",
        show_default=False,
    ),
]
TrainAllGenes = Annotated[
    bool, typer.Option("--train-all-genes", help="Use all genes, in several instances above 1,500.")
]
SampleGenes = Annotated[
    int | None, typer.Option(help="Use this many whole genes, chosen by seed.", min=2, show_default=False)
]
GenesPerInstance = Annotated[
    int, typer.Option(help="Genes an instance: a target, see --auto-adjust-instance-size.", min=1, max=10**7)
]
MaxInstances = Annotated[int, typer.Option(help="Most instances.", min=1, max=10_000)]
InstanceOverlap = Annotated[float, typer.Option(help="Share of the target that neighbours share.", min=0.0, max=0.5)]
MemoryPerGene = Annotated[
    float | None,
    typer.Option(help="MiB a gene, instead of the memory model.", min=0.001, max=1e6, show_default=False),
]
MaxMemory = Annotated[float, typer.Option(help="Most memory of one instance, GiB.", min=0.1, max=1e6)]
SafetyFactor = Annotated[
    float, typer.Option(help="Share of the available memory that a plan may take.", min=0.05, max=1.0)
]
AutoAdjust = Annotated[
    bool,
    typer.Option(
        "--auto-adjust-instance-size/--no-auto-adjust-instance-size",
        help="Let the genes an instance follow memory and --max-instances.",
    ),
]
Estimators = Annotated[int, typer.Option(help="Most boosting rounds.", min=1, max=100_000)]
Folds = Annotated[int, typer.Option(help="Folds of the cross-validation.", min=2, max=100)]
Patience = Annotated[
    int, typer.Option(help="Rounds without gain before a fit stops; 0 never stops.", min=0, max=100_000)
]
Depth = Annotated[int, typer.Option(help="Depth of the trees.", min=1, max=16)]
LearningRate = Annotated[float, typer.Option(help="Step of boosting.", min=1e-4, max=1.0)]
MaxBin = Annotated[int, typer.Option(help="Most histogram bins a feature.", min=2, max=65_536)]
Calibrate = Annotated[
    bool,
    typer.Option(
        "--calibrate-per-class/--no-calibrate-per-class",
        help="Calibrate each class if it lowers the log loss.",
    ),
]
HoldoutGenes = Annotated[
    str | None,
    typer.Option(
        help="Genes that nothing is trained on: a share of the fold groups, a text file of genes, or a column of 0 and 1.",
        show_default=False,
    ),
]
AutoExcludeLeaky = Annotated[
    bool, typer.Option("--auto-exclude-leaky", help="Leave out features that the leakage report suspects.")
]
Voting = Annotated[
    Literal["probability", "margin", "auto"],
    typer.Option(
        help="Mean of the members' probabilities, or of their log-odds, calibrated on top; auto takes the lower log loss."
    ),
]
Weights = Annotated[
    Literal["uniform", "f1", "fitted", "auto"],
    typer.Option(
        help="Weights of the members: equal, by F1, or fitted to the log loss; auto takes what has the lowest."
    ),
]
CalibrationAnalysis = Annotated[
    bool,
    typer.Option(
        "--calibration-analysis/--no-calibration-analysis",
        help="Write what calibration did and how far probabilities can be believed: calibration_analysis/.",
    ),
]
NeighSample = Annotated[
    int,
    typer.Option(help="True sites whose neighbourhood is written to neighbour_diagnostics/; 0 is none.", min=0),
]
MonitorOverfitting = Annotated[
    bool,
    typer.Option(
        "--monitor-overfitting/--no-monitor-overfitting",
        help="Judge the learning curves of every fold: overfitting/.",
    ),
]
ShapSample = Annotated[int, typer.Option(help="Rows to explain by SHAP values.", min=1, max=1_000_000)]
ShapBackground = Annotated[
    int,
    typer.Option(
        help="Rows of a background that makes SHAP values interventional; 0 for exact path-dependent ones.", min=0
    ),
]
Strategy = Annotated[
    Literal["auto", "single", "multi", "external"],
    typer.Option(
        help="One model (single), several (multi), what fits of these (auto), or one with its matrix on disk."
    ),
]
LayoutOption = Annotated[
    Literal["auto", "missing", "zeros", "sentinel"],
    typer.Option(
        help="Missing values stay missing, zeros of byte columns are missing too, or missing is a number below all others."
    ),
]
CrossValidation = Annotated[
    Literal["auto", "matrices", "weights"],
    typer.Option("--cv", help="Hold folds out by a matrix for each, or by weight zero; auto takes the faster."),
]
SampleNegatives = Annotated[
    float,
    typer.Option(
        help="Share of the easy negatives to train on, with the inverse as weight; 1 is all.", min=0.01, max=1.0
    ),
]
ScreenFeatures = Annotated[
    int | None,
    typer.Option(
        help="Keep the best features of a pilot on some genes, and the base scores.", min=1, show_default=False
    ),
]


def _threads(threads: int | None) -> int:
    return threads or len(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))


def _required(value: Any, what: str) -> Any:
    if value is None:
        raise typer.BadParameter(f"missing {what}")
    return value


def _finite(values: Mapping[str, Any]) -> None:
    """Refuse nan, which no range refuses."""
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise typer.BadParameter(f"{value} is not a finite number", param_hint=f"--{name.replace('_', '-')}")


def _dataset(values: dict[str, Any]) -> Any:
    """Open the dataset that the options of a command name."""
    from mi_duck.data.dataset import open_dataset

    if values["dataset"] is not None and values["dataset_option"] is not None:
        raise typer.BadParameter("name the dataset once: DATASET or --dataset")
    scores = values["base_score_columns"]
    return open_dataset(
        _required(values["dataset"] or values["dataset_option"], "DATASET"),
        gene_column=values["gene_column"],
        label_column=values["label_column"],
        classes=[name.strip() for name in values["classes"].split(",")],
        fold_by=values["fold_by"],
        exclude=values["exclude"],
        exclude_features=values["exclude_features"],
        base_score_columns=[name.strip() for name in scores.split(",")] if scores else None,
        holdout_genes=values.get("holdout_genes"),
    )


def _options(values: dict[str, Any]) -> Any:
    """Return what the options of ``plan`` and ``run`` ask of a plan."""
    from mi_duck.plan.planning import PlanOptions

    _finite(values)
    if values["train_all_genes"] and values["sample_genes"] is not None:
        raise typer.BadParameter("--train-all-genes and --sample-genes exclude each other; give one")
    return PlanOptions(**{name: values[name] for name in PlanOptions.__slots__})


def _settings(values: dict[str, Any]) -> Any:
    """Return the settings of the training."""
    from mi_duck.plan.plan import Settings

    return Settings(
        seed=values["seed"],
        n_folds=values["n_folds"],
        n_estimators=values["n_estimators"],
        early_stopping_patience=values["early_stopping_patience"],
        max_depth=values["max_depth"],
        learning_rate=values["learning_rate"],
        max_bin=values["max_bin"],
        calibrate=values["calibrate_per_class"],
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


@app.command()
def demo(
    out: Annotated[Path, typer.Option("--out", help="Folder for dataset, run and predictions.")] = Path("mi_duck_demo"),
    seed: SeedOption = 42,
    threads: ThreadsOption = None,
) -> None:
    """Run the main job on bundled real data: fruit fly chromosome 4, from genome to predictions.

    Example: mi-duck demo --out mi_duck_demo
    """
    from mi_duck.demo import run_demo

    with reporting() as report:
        paths = run_demo(out, seed=seed, threads=_threads(threads), report=report, say=logger.info)
    _print_scores(paths["run"])
    for name, path in paths.items():
        output.print(f"{name:<12} {path}", markup=False)


@app.command()
def build(
    fasta: Annotated[Path, typer.Option(help="Genome, FASTA, plain or gzip.")],
    annotation: Annotated[Path, typer.Option(help="Genes, GTF or GFF3, plain or gzip.")],
    out: Annotated[Path, typer.Option("--out", help="Folder of the dataset; absent or empty.")],
    negatives_per_site: Annotated[
        float, typer.Option(help="Rows that are no site, for each site.", min=0.0, max=1000.0)
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
    genes_per_file: Annotated[int, typer.Option(help="Genes a Parquet file.", min=1)] = 500,
    seed: SeedOption = 42,
    as_json: JsonOption = False,
) -> None:
    """Turn a genome and its annotation into a dataset of candidate splice positions.

    Example: mi-duck build --fasta genome.fa.gz --annotation genes.gtf.gz --out dataset
    """
    from mi_duck.genome.build import build as build_dataset

    _finite(locals())
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


@app.command()
def synth(
    out: Annotated[Path, typer.Option("--out", help="Folder of the dataset; absent or empty.")],
    genes: Annotated[int, typer.Option(help="Genes.", min=1)] = 1500,
    rows_per_gene: Annotated[float, typer.Option(help="Mean rows of a gene.", min=10.0)] = 391.0,
    features: Annotated[int, typer.Option(help="Features.", min=20)] = 1167,
    missing_fraction: Annotated[float, typer.Option(help="Share of nulls in a few columns.", min=0.0, max=0.9)] = 0.0,
    shuffle_rows: Annotated[
        bool, typer.Option("--shuffle-rows", help="Spread the rows of a gene over files and row groups.")
    ] = False,
    seed: SeedOption = 42,
    as_json: JsonOption = False,
) -> None:
    """Write a dataset with planted signals at any scale, for tests and benchmarks.

    Example: mi-duck synth --genes 1500 --out synthetic
    """
    from mi_duck.genome.synthetic import synthesise

    _finite(locals())
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


@app.command()
def inspect(
    dataset: DatasetArgument = None,
    dataset_option: DatasetOption = None,
    gene_column: GeneColumn = "gene_id",
    label_column: LabelColumn = "splice_type",
    classes: ClassNames = "neither,donor,acceptor",
    fold_by: FoldBy = None,
    exclude: Exclude = None,
    exclude_features: ExcludeFeatures = None,
    base_score_columns: BaseScoreColumns = None,
    seed: SeedOption = 42,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show genes, rows a gene, class mix, features and warnings of a dataset.

    Example: mi-duck inspect dataset
    """
    from mi_duck.data.inspection import inspect as inspect_dataset

    opened = _dataset(locals())
    found = inspect_dataset(opened, threads=_threads(threads), seed=seed)
    facts = {
        "files": len(opened.files),
        "rows": opened.n_rows,
        "genes": found.genes.n_genes,
        "fold groups": f"{found.genes.n_groups:,} of '{opened.fold_column}'",
        "rows a gene": found.quantiles,
        "class mix": dict(zip(opened.classes, found.genes.label_counts, strict=True)),
        "features": {"all": len(opened.features)} | found.kinds,
        "base scores": list(opened.base_scores),
        "excluded": dict(opened.excluded),
        "warnings": list(found.warnings),
    }
    _print_facts(facts, as_json)


@app.command()
def memory(
    dataset: DatasetArgument = None,
    dataset_option: DatasetOption = None,
    gene_column: GeneColumn = "gene_id",
    label_column: LabelColumn = "splice_type",
    classes: ClassNames = "neither,donor,acceptor",
    fold_by: FoldBy = None,
    exclude: Exclude = None,
    exclude_features: ExcludeFeatures = None,
    base_score_columns: BaseScoreColumns = None,
    genes_per_instance: GenesPerInstance = 1500,
    strategy: Strategy = "auto",
    layout: LayoutOption = "auto",
    cv: CrossValidation = "auto",
    sample_negatives: SampleNegatives = 1.0,
    n_folds: Folds = 3,
    max_depth: Depth = 6,
    max_bin: MaxBin = 256,
    plot: Annotated[
        Path | None, typer.Option(help="Write the plot here: .pdf, .svg or .png.", show_default=False)
    ] = None,
    seed: SeedOption = 42,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure what a gene costs in memory: probes, the fit, and its check on a third of an instance and a whole one.

    Example: mi-duck memory dataset --genes-per-instance 1500 --plot memory.pdf
    """
    from mi_duck.plan.measuring import measure_dataset
    from mi_duck.plan.planning import PlanOptions

    values = locals()
    defaults = {
        "n_estimators": 800,
        "early_stopping_patience": 0,
        "learning_rate": 0.1,
        "calibrate_per_class": True,
    }
    settings = _settings(values | defaults)
    opened = _dataset(values)
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
            settings=settings,
            threads=_threads(threads),
            report=report,
            say=logger.info,
        )
    if plot is not None:
        from mi_duck.report.canvas import save
        from mi_duck.report.plots import MemoryDot, memory_figure

        dots = [
            MemoryDot(one.n_rows, float(one.measured_bytes), float(one.predicted_bytes), one.is_probe)
            for one in found.peaks
        ]
        save(memory_figure(dots, gene_bytes=list(found.gene_bytes)), plot)
    _print_memory(found, genes_per_instance, as_json)


@app.command()
def plan(
    dataset: DatasetArgument = None,
    dataset_option: DatasetOption = None,
    out: OutOption = None,
    gene_column: GeneColumn = "gene_id",
    label_column: LabelColumn = "splice_type",
    classes: ClassNames = "neither,donor,acceptor",
    fold_by: FoldBy = None,
    exclude: Exclude = None,
    exclude_features: ExcludeFeatures = None,
    base_score_columns: BaseScoreColumns = None,
    train_all_genes: TrainAllGenes = False,
    sample_genes: SampleGenes = None,
    genes_per_instance: GenesPerInstance = 1500,
    max_instances: MaxInstances = 10,
    instance_overlap: InstanceOverlap = 0.1,
    memory_per_gene_mb: MemoryPerGene = None,
    max_memory_per_instance_gb: MaxMemory = 15.0,
    memory_safety_factor: SafetyFactor = 0.6,
    auto_adjust_instance_size: AutoAdjust = True,
    strategy: Strategy = "auto",
    layout: LayoutOption = "auto",
    cv: CrossValidation = "auto",
    sample_negatives: SampleNegatives = 1.0,
    screen_features: ScreenFeatures = None,
    voting: Voting = "probability",
    weights: Weights = "uniform",
    auto_exclude_leaky: AutoExcludeLeaky = False,
    holdout_genes: HoldoutGenes = None,
    n_estimators: Estimators = 800,
    n_folds: Folds = 3,
    early_stopping_patience: Patience = 30,
    max_depth: Depth = 6,
    learning_rate: LearningRate = 0.1,
    max_bin: MaxBin = 256,
    calibrate_per_class: Calibrate = True,
    seed: SeedOption = 42,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Index genes, assign folds, and cut instances that fit the machine; write the plan of a run.

    Example: mi-duck plan dataset --out run --max-memory-per-instance-gb 4
    """
    from mi_duck.plan.planning import check_place, make_plan
    from mi_duck.stages import run_lock

    values = locals()
    folder = _required(out, "--out RUN")
    options, settings = _options(values), _settings(values)
    opened = _dataset(values)
    check_place(opened, folder)
    _announce(opened)
    with run_lock(folder), reporting() as report:
        made = make_plan(
            opened,
            folder,
            options=options,
            settings=settings,
            threads=_threads(threads),
            report=report,
            say=logger.info,
        )
    if as_json:
        print(made.to_json())
    else:
        _print_plan(made)


@app.command()
def run(
    dataset: DatasetArgument = None,
    dataset_option: DatasetOption = None,
    out: OutOption = None,
    gene_column: GeneColumn = "gene_id",
    label_column: LabelColumn = "splice_type",
    classes: ClassNames = "neither,donor,acceptor",
    fold_by: FoldBy = None,
    exclude: Exclude = None,
    exclude_features: ExcludeFeatures = None,
    base_score_columns: BaseScoreColumns = None,
    train_all_genes: TrainAllGenes = False,
    sample_genes: SampleGenes = None,
    genes_per_instance: GenesPerInstance = 1500,
    max_instances: MaxInstances = 10,
    instance_overlap: InstanceOverlap = 0.1,
    memory_per_gene_mb: MemoryPerGene = None,
    max_memory_per_instance_gb: MaxMemory = 15.0,
    memory_safety_factor: SafetyFactor = 0.6,
    auto_adjust_instance_size: AutoAdjust = True,
    strategy: Strategy = "auto",
    layout: LayoutOption = "auto",
    cv: CrossValidation = "auto",
    sample_negatives: SampleNegatives = 1.0,
    screen_features: ScreenFeatures = None,
    voting: Voting = "probability",
    weights: Weights = "uniform",
    auto_exclude_leaky: AutoExcludeLeaky = False,
    holdout_genes: HoldoutGenes = None,
    resume_from_checkpoint: Annotated[
        bool,
        typer.Option(
            "--resume-from-checkpoint/--no-resume-from-checkpoint", help="Go on in a folder that holds a run."
        ),
    ] = True,
    force_retrain_all: Annotated[
        bool, typer.Option("--force-retrain-all", help="Delete what the folder's run has done first.")
    ] = False,
    minimal_diagnostics: Annotated[
        bool, typer.Option("--minimal-diagnostics", help="Leave out plots, curves and scores on genes never seen.")
    ] = False,
    monitor_overfitting: MonitorOverfitting = True,
    calibration_analysis: CalibrationAnalysis = True,
    neigh_sample: NeighSample = 0,
    skip_shap: Annotated[bool, typer.Option("--skip-shap", help="Leave out SHAP values.")] = False,
    shap_sample: ShapSample = 1000,
    shap_background: ShapBackground = 0,
    n_estimators: Estimators = 800,
    n_folds: Folds = 3,
    early_stopping_patience: Patience = 30,
    max_depth: Depth = 6,
    learning_rate: LearningRate = 0.1,
    max_bin: MaxBin = 256,
    calibrate_per_class: Calibrate = True,
    seed: SeedOption = 42,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Plan, train, consolidate and evaluate; the same command goes on after an interruption.

    Example: mi-duck run dataset --out run --train-all-genes
    """
    from mi_duck.pipeline import run as run_pipeline

    values = locals()
    folder = _required(out, "--out RUN")
    options, settings = _options(values), _settings(values)
    opened = _dataset(values)
    _announce(opened)
    with reporting() as report:
        run_pipeline(
            opened,
            folder,
            options=options,
            settings=settings,
            threads=_threads(threads),
            resume=resume_from_checkpoint,
            force=force_retrain_all,
            minimal_diagnostics=minimal_diagnostics,
            monitor_overfitting=monitor_overfitting,
            calibration_analysis=calibration_analysis,
            neigh_sample=neigh_sample,
            with_shap=not skip_shap,
            shap_sample=shap_sample,
            shap_background=shap_background,
            report=report,
            say=logger.info,
        )
    _print_scores(folder, as_json)


@app.command()
def train(
    run: RunArgument,
    instance: Annotated[
        int | None,
        typer.Option(help="This instance alone; by default all that are to do.", min=0, show_default=False),
    ] = None,
    threads: ThreadsOption = None,
) -> None:
    """Train the instances of a plan that are not done yet, or one alone.

    Example: mi-duck train run --instance 3
    """
    from mi_duck.runs import train_run

    with reporting() as report:
        train_run(run, instance_id=instance, threads=_threads(threads), report=report, say=logger.info)


@app.command()
def status(run: RunArgument, as_json: JsonOption = False) -> None:
    """Show which instances of a run are done.

    Example: mi-duck status run
    """
    from mi_duck.runs import run_status

    facts = run_status(run)
    if as_json:
        _print_json(facts)
        return
    rows = facts["instances"]
    _print_table(list(rows[0]), [list(row.values()) for row in rows])
    output.print(
        f"{facts['n_done']} of {len(rows)} instances done, at most {_duration(facts['seconds_left'])} of training left; "
        f"consolidated: {facts['is_consolidated']}; "
        f"finished: {facts['is_finished']}"
    )


@app.command()
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
    from mi_duck.runs import consolidate_alone

    with reporting() as report:
        consolidate_alone(
            run, voting=voting, weights=weights, threads=_threads(threads), report=report, say=logger.info
        )
    output.print(str(run / "consolidated_model.miduck"), markup=False)


@app.command()
def evaluate(
    run: RunArgument,
    calibration_analysis: CalibrationAnalysis = True,
    neigh_sample: NeighSample = 0,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score base model, members and ensemble of a run on all rows out of fold; write metrics and catalogue.

    Example: mi-duck evaluate run
    """
    from mi_duck.runs import evaluate_alone

    with reporting() as report:
        evaluate_alone(
            run,
            calibration_analysis=calibration_analysis,
            neigh_sample=neigh_sample,
            threads=_threads(threads),
            report=report,
        )
    _print_scores(run, as_json)


@app.command(name="report")
def write_report(run: RunArgument, monitor_overfitting: MonitorOverfitting = True, as_json: JsonOption = False) -> None:
    """Write report.html of an evaluated run anew, with every figure, and print what it warns of.

    Example: mi-duck report run
    """
    from mi_duck.runs import report_alone

    with reporting() as report:
        warnings = report_alone(run, with_overfitting=monitor_overfitting, report=report)
    _print_facts({"report": str(run / "report.html"), "warnings": warnings}, as_json)


@app.command()
def explain(
    run: RunArgument,
    shap_sample: ShapSample = 1000,
    shap_background: ShapBackground = 0,
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Explain the model of a run by SHAP values: what each feature moves, in all classes, instances and together.

    Example: mi-duck explain run --shap-sample 1000
    """
    from mi_duck.runs import explain_alone

    with reporting() as report:
        facts = explain_alone(
            run,
            sample_size=shap_sample,
            background_size=shap_background,
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


@app.command()
def compare(
    run: RunArgument,
    other: Annotated[Path, typer.Argument(metavar="OTHER", help="Folder of another run.", show_default=False)],
    as_json: JsonOption = False,
) -> None:
    """Compare the out-of-fold scores of two runs of the same data, by the same draws of fold groups.

    Example: mi-duck compare run run_single
    """
    from mi_duck.ensemble.versus import compare_runs

    found = compare_runs(run, other)
    rows = [
        {"metric": one.metric, "class": one.class_name}
        | {title: _interval(part) for title, part in (("run", one), ("other", two), ("run - other", gap))}
        for one, two, gap in zip(found.one, found.other, found.difference, strict=True)
    ]
    if as_json:
        _print_json(asdict(found))
        return
    output.print(f"{found.n_rows:,} rows, 95 % intervals over {found.n_groups:,} fold groups")
    _print_table(list(rows[0]), [list(row.values()) for row in rows])


def _interval(metric: Any) -> str:
    return f"{metric.value:.4f} ({metric.low:.4f} to {metric.high:.4f})"


@app.command()
def predict(
    model: Annotated[
        Path,
        typer.Argument(metavar="MODEL", help="Model file, run folder or instance folder.", show_default=False),
    ],
    dataset: Annotated[
        str,
        typer.Argument(metavar="DATASET", help="Parquet file, folder of them, or glob.", show_default=False),
    ],
    out: Annotated[Path, typer.Option("--out", help="Parquet file to write.")],
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Predict every row of a dataset, in its order, with the spread over the members.

    Example: mi-duck predict run dataset --out predictions.parquet
    """
    import time

    from mi_duck.ensemble.model_files import load_unified_model
    from mi_duck.ensemble.predict import predict_file

    loaded = load_unified_model(model)
    for booster in loaded.get_base_models():
        booster.set_param({"nthread": _threads(threads)})
    begun = time.monotonic()
    with reporting() as report:
        summary = predict_file(loaded, dataset, out, report=report)
    seconds = time.monotonic() - begun
    facts = asdict(summary) | {
        "seconds": round(seconds, 2),
        "rows_per_second": round(summary.n_rows / seconds),
        "out": str(out),
    }
    _print_facts(facts, as_json)


@app.command()
def export(
    run: RunArgument,
    form: Annotated[
        Literal["pickle", "xgboost", "onnx"],
        typer.Option("--format", help="A pickle, native boosters with a recipe, or one ONNX file."),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", help="File or folder to write; by default in RUN.", show_default=False)
    ] = None,
) -> None:
    """Write the consolidated model for other programs, after a check that it predicts the same.

    Example: mi-duck export run --format onnx
    """
    from mi_duck.export import export_model

    output.print(str(export_model(run, form, out=out)), markup=False)


@app.command()
def sql(
    run: RunArgument,
    query: Annotated[str | None, typer.Argument(metavar="QUERY", help="SQL text.", show_default=False)] = None,
    name: Annotated[str | None, typer.Option(help="A named query instead.", show_default=False)] = None,
    as_json: JsonOption = False,
) -> None:
    """Ask SQL of a run's catalogue; without a query, list its tables and the named queries.

    Examples: mi-duck sql run "select * from genes limit 5", or mi-duck sql run --name coverage
    """
    from mi_duck.catalogue import describe_catalogue, query_catalogue

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
        _print_json([dict(zip(_unique(columns), row, strict=True)) for row in rows])
    else:
        _print_table(columns, rows)


# ---- printing ---------------------------------------------------------------------------------------------------------


def _print_json(value: Any) -> None:
    print(json.dumps(_plain(value), indent=1, default=str, allow_nan=False))


def _plain(value: Any) -> Any:
    """Return a value without NaN and infinities, which JSON lacks: they become null."""
    if isinstance(value, Mapping):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _unique(names: list[str]) -> list[str]:
    """Return names of which none is lost as a key: the second ``a`` becomes ``a_2``."""
    return [name if name not in names[:at] else f"{name}_{names[:at].count(name) + 1}" for at, name in enumerate(names)]


def _print_facts(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(facts)
        return
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {_number(number)}" for key, number in value.items()) or "none"
        elif isinstance(value, list | tuple):
            value = "; ".join(str(item) for item in value) or "none"
        output.print(f"{name.replace('_', ' '):<28} {_number(value)}", markup=False)


def _number(value: Any) -> str:
    return (
        f"{value:,}"
        if isinstance(value, int) and not isinstance(value, bool)
        else f"{value:.4g}"
        if isinstance(value, float)
        else str(value)
    )


def _print_table(columns: list[str], rows: list[Any]) -> None:
    """Print a table: drawn on a terminal, tab-separated elsewhere so that other programs can read it."""
    if not output.is_terminal:
        print("\t".join(columns))
        for row in rows:
            print("\t".join("" if value is None else str(value) for value in row))
        return
    table = Table(*columns, header_style="bold", box=None)
    for row in rows:
        table.add_row(*("" if value is None else str(value) for value in row))
    # a terminal breaks lines that are too long for it; what would be cut off to fit is lost
    needed = output.measure(table, options=output.options.update(width=100_000)).maximum
    Screen(highlight=False, width=max(needed, output.width)).print(table, crop=False)


def _print_memory(found: Any, genes_per_instance: int, as_json: bool) -> None:
    """Print predicted and measured peaks, and what a gene costs."""
    mib = 1 << 20
    rows = [
        {
            "use": "probe" if one.is_probe else "check",
            "layout": one.layout,
            "genes": one.n_genes,
            "rows": one.n_rows,
            "predicted_mib": round(one.predicted_bytes / mib, 1),
            "measured_mib": round(one.measured_bytes / mib, 1),
            "ratio": round(one.ratio, 3),
        }
        for one in found.peaks
    ]
    ordered = sorted(found.gene_bytes)
    facts = {
        "bytes_per_row": round(found.bytes_per_row, 1),
        "fixed_mib": {phase: round(size / mib, 1) for phase, size in found.fixed_bytes.items()},
        "slope_measured_over_computed": {
            phase: None if slope is None else round(slope, 3) for phase, slope in found.slopes.items()
        },
        "mib_per_gene": {
            "smallest": round(ordered[0] / mib, 3),
            "median": round(ordered[len(ordered) // 2] / mib, 3),
            "mean": round(sum(ordered) / len(ordered) / mib, 3),
            "largest": round(ordered[-1] / mib, 3),
        },
        "instance_at_8_mib_a_gene": 8.0 * min(genes_per_instance, len(ordered)),
    }
    if as_json:
        print(json.dumps({"sizes": rows} | facts, indent=1))
        return
    _print_table(list(rows[0]), [list(row.values()) for row in rows])
    _print_facts(facts, False)


def _print_plan(made: Any) -> None:
    rows = [
        [
            one.name,
            f"{one.first_rank:,}",
            f"{one.stop_rank:,}",
            f"{one.n_genes:,}",
            f"{one.n_training_rows:,}",
            f"{one.predicted_bytes / 2**30:.2f}",
            _duration(one.predicted_seconds),
        ]
        for one in made.instances
    ]
    _print_table(["instance", "first gene", "stop", "genes", "rows", "predicted GiB", "at most"], rows)
    slots = sum(one.n_genes for one in made.instances)
    output.print(
        f"{made.strategy}: {len(made.instances)} instances, neighbours share {made.overlap_genes:,} genes, "
        f"redundancy {slots / made.n_genes:.3f}, coverage {made.n_genes:,}/{made.n_genes:,}"
    )
    output.print("Ways to train these genes, the time if no fit stops early:", markup=False)
    rows = [
        [
            one["strategy"],
            one["layout"],
            f"{one['n_instances']:,}" if one["is_feasible"] else "-",
            f"{one['peak_bytes'] / 2**30:.2f}" if one["peak_bytes"] else "-",
            _duration(one["seconds"]) if one["is_feasible"] else "-",
            f"{one['disk_bytes'] / 1e9:.1f}",
            "yes" if one["is_feasible"] else "no",
        ]
        for one in made.alternatives
    ]
    _print_table(["strategy", "layout", "instances", "peak GiB", "at most", "disk GB", "fits"], rows)
    for one in made.alternatives:
        if not one["is_feasible"]:
            logger.info("    %s, %s: %s", one["strategy"], one["layout"], one["reason"])


def _duration(seconds: float) -> str:
    """Return a time as people say it."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _print_scores(folder: Path, as_json: bool = False) -> None:
    """Print the small table of scores: average precision a class, macro F1, log loss, each with its interval."""
    from mi_duck.catalogue import score_table

    columns, rows = score_table(folder)
    if as_json:
        _print_json([dict(zip(columns, row, strict=True)) for row in rows])
        return
    output.print(
        "Scores on all rows, each by boosters that never saw the row's fold group; 95 % intervals over fold groups:"
    )
    _print_table(columns, rows)


if __name__ == "__main__":
    app(prog_name="mi-duck")
