"""Every option of a run, written once: its name, type, default, range and help.

Each option is a field of one of the frozen records below. The command line, the ``--config`` file, the scripts of Slurm and
the report's list of settings are made from these fields (`mi_duck.options`), and the records themselves are what the code
reads. To add an option, add a field here, and use it where it acts.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, get_origin

DATA, PLAN, TRAINING = "Data", "Plan", "Training"
ENSEMBLE, DIAGNOSTICS, WHERE, RARE = "Ensemble", "Diagnostics", "Where it runs", "Rarely needed"
PANELS = (DATA, PLAN, TRAINING, ENSEMBLE, DIAGNOSTICS, WHERE, RARE)
"""The groups in which ``mi-duck run --help`` shows options, in this order."""


@dataclass(frozen=True, slots=True)
class Option:
    """What is known of an option besides its name, type and default.

    Parameters
    ----------
    least, most
        Range of a number, both included; None: no bound.
    flag
        Its name on the command line where that is not the field's, such as ``--cv``.
    metavar
        What stands for its value in the help; None: its type.
    also
        A second flag that means the same.
    """

    help: str
    panel: str
    least: float | None = None
    most: float | None = None
    flag: str | None = None
    metavar: str | None = None
    also: str | None = None


def option(
    default: Any,
    text: str,
    panel: str,
    *,
    least: float | None = None,
    most: float | None = None,
    flag: str | None = None,
    metavar: str | None = None,
    also: str | None = None,
) -> Any:
    """Return a field of a record that is an option; see `Option`."""
    return field(default=default, metadata={"option": Option(text, panel, least, most, flag, metavar, also)})


class Record(Protocol):
    """A record of options."""

    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]


def option_of(one: "Field[Any]") -> Option:
    """Return the option that a field of a record is."""
    found: Option = one.metadata["option"]
    return found


def flag_of(one: "Field[Any]") -> str:
    """Return the flag of an option, such as ``--n-folds``."""
    return option_of(one).flag or f"--{one.name.replace('_', '-')}"


def is_switch(one: "Field[Any]") -> bool:
    """Return whether an option takes no value: ``--name``, and ``--no-name`` where it is on by default."""
    return one.type is bool


def is_repeated(one: "Field[Any]") -> bool:
    """Return whether an option may be given several times: its value is a tuple of texts."""
    return get_origin(one.type) is tuple


def flags_of(record: Record, *, with_defaults: bool = False, names: Collection[str] | None = None) -> Iterator[str]:
    """Yield the words of the command line that ask for a record, options at their default left out.

    Parameters
    ----------
    with_defaults
        Whether to name options that are at their default too; None, which no flag says, is left out all the same.
    names
        The options to name; None: all.

    Examples
    --------
    >>> list(flags_of(Diagnostics(skip_shap=True, monitor_overfitting=False, shap_sample=50)))
    ['--no-monitor-overfitting', '--skip-shap', '--shap-sample', '50']
    """
    for one in fields(record):
        value = getattr(record, one.name)
        if names is not None and one.name not in names:
            continue
        if value is None or (value == one.default and not with_defaults):
            continue
        if is_repeated(one):
            for part in value:
                yield from (flag_of(one), part)
        elif not is_switch(one):
            yield from (flag_of(one), str(value))
        elif value:
            yield flag_of(one)
        elif one.default is not MISSING and one.default:
            yield flag_of(one).replace("--", "--no-", 1)


@dataclass(frozen=True, slots=True)
class Columns:
    """What the columns of the dataset are, and how carefully its bytes are checked."""

    gene_column: str = option(
        "gene_id",
        "Column with the gene, or another group that must not be split, such as a patient: what options call genes.",
        DATA,
        also="--group-column",
    )
    label_column: str = option("splice_type", "Column with the label.", DATA)
    classes: str | None = option(
        None,
        "Class names, comma separated, the background first; their order is the label's number. By default "
        "neither,donor,acceptor where the labels are these, else those found, the most frequent first.",
        DATA,
        metavar="NAMES",
    )
    fold_by: str | None = option(
        None,
        "Column with the unit of independence; by default paralog_group or overlap_cluster if present, else the gene.",
        DATA,
    )
    exclude: str | None = option(None, "Regular expression of columns that are not features.", DATA)
    exclude_features: Path | None = option(
        None, "Text file with one column name per line; these are not features.", DATA
    )
    max_levels: int = option(
        64,
        "Most levels of a text column that become features, one of 0 and 1 each; the rarer ones share COLUMN=other. 0 leaves "
        "text columns out.",
        DATA,
        least=0,
        most=10_000,
    )
    date_columns: str | None = option(
        None,
        "Columns of dates or times, or text in ISO form, whose days since 1970, year, month, day and weekday become features, "
        "comma separated; other dates are left out.",
        DATA,
        metavar="NAMES",
    )
    base_score_columns: str | None = option(
        None,
        "Columns with the base model's score of each class, comma separated; by default CLASS_score.",
        DATA,
        metavar="NAMES",
    )
    keep: str | None = option(
        None,
        "Columns of the dataset that out-of-fold predictions keep, comma separated; by default the gene or group under its own "
        "name, chrom, strand and absolute_position, where there.",
        DATA,
        metavar="NAMES",
    )
    weight_column: str | None = option(
        None,
        "Column with the weight of each row in training, early stopping, refit, calibration and thresholds, 0 or more; scores "
        "count every row once.",
        DATA,
        metavar="NAME",
    )
    full_hash: bool = option(
        False, "Hash every byte of the dataset, and check that again before its rows are read.", RARE
    )


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of a plan and of the training; what is decided is in `mi_duck.run.plan`."""

    train_all_genes: bool = option(False, "Use all genes, as by default; refused beside --sample-genes.", PLAN)
    sample_genes: int | None = option(None, "Use this many whole genes, chosen by seed.", PLAN, least=2)
    genes_per_instance: int = option(
        1500, "Genes per instance: a target, see --auto-adjust-instance-size.", PLAN, least=1, most=10**7
    )
    max_instances: int = option(10, "Most instances.", PLAN, least=1, most=10_000)
    instance_overlap: float = option(0.1, "Share of the target that neighbours share.", PLAN, least=0.0, most=0.5)
    max_memory_per_instance_gb: float = option(15.0, "Most memory of one instance, GiB.", PLAN, least=0.1, most=1e6)
    strategy: Literal["auto", "single", "multi", "external"] = option(
        "auto", "One model (single), several (multi), what fits of these (auto), or one with its matrix on disk.", PLAN
    )
    sample_negatives: float | None = option(
        None,
        "Share of the easy negatives to train on, with the inverse as weight; 1 is all, as always without base scores. By "
        "default all of fewer than 200,000 rows, else a quarter.",
        PLAN,
        least=0.01,
        most=1.0,
    )
    screen_features: int | None = option(
        None,
        "Keep the best features of a pilot on 200 genes, which are then not scored, and the base scores; 0 keeps all. By default "
        "300 of 450 or more, from 2,000 genes on.",
        PLAN,
        least=0,
    )
    holdout_genes: str | None = option(
        None,
        "Genes that nothing is trained on: a share of the fold groups, a text file of genes, a column of 0 and 1, or values of a "
        "column, such as chrom=1,3,5,7,9.",
        PLAN,
        metavar="WHICH",
        also="--holdout",
    )
    group_identical: bool = option(
        False,
        "Join the fold groups of genes that share identical rows, so that no copy of a training row is scored.",
        PLAN,
    )
    auto_exclude_leaky: bool = option(False, "Leave out features that the leakage report suspects.", PLAN)
    memory_safety_factor: float = option(
        0.6, "Share of the available memory that a plan may take.", RARE, least=0.05, most=1.0
    )
    memory_per_gene_mb: float | None = option(
        None, "MiB per gene, instead of the memory model.", RARE, least=0.001, most=1e6
    )
    auto_adjust_instance_size: bool = option(
        True, "Let the genes per instance follow memory and --max-instances.", RARE
    )
    layout: Literal["auto", "missing", "zeros", "sentinel"] = option(
        "auto",
        "Missing values stay missing, zeros of byte columns are missing too, or missing is a number below all others.",
        RARE,
    )
    cv: Literal["auto", "matrices", "weights"] = option(
        "auto", "Hold folds out by a matrix for each, or by weight zero; auto takes the faster.", RARE
    )
    n_estimators: int = option(1600, "Most boosting rounds.", TRAINING, least=1, most=100_000)
    n_folds: int = option(3, "Folds of the cross-validation.", TRAINING, least=2, most=100)
    early_stopping_patience: int = option(
        30, "Rounds without gain before a fit stops; 0 never stops.", TRAINING, least=0, most=100_000
    )
    max_depth: int = option(8, "Depth of the trees.", TRAINING, least=1, most=16)
    learning_rate: float = option(0.05, "Step of boosting.", TRAINING, least=1e-4, most=1.0)
    max_bin: int = option(256, "Most histogram bins per feature.", TRAINING, least=2, most=65_536)
    xgb: tuple[str, ...] = option(
        (),
        "A parameter of XGBoost that has no option here, such as gamma=1 or monotone_constraints=dose:1,age:-1; repeat for "
        "several. By default min_child_weight is a thousandth of the rows, 1 to 10, and colsample_bynode .3 of 30 features or "
        "more.",
        TRAINING,
        metavar="NAME=VALUE",
    )
    device: Literal["cpu", "cuda"] = option(
        "cpu",
        "Where trees and networks are trained; cuda is passed on as it is and has not been tried on a device yet.",
        WHERE,
    )
    seed: int = option(42, "Seed of every choice.", TRAINING, least=0, most=2**31 - 1)
    calibrate_per_class: bool = option(True, "Calibrate each class if it lowers the log loss.", ENSEMBLE)
    consolidation: Literal["auto", "refit", "voting"] = option(
        "auto",
        "How instances become one model: refit fits the leaves of all of them together on all genes; voting takes the mean of "
        "their scores; auto does both and keeps what has the lower log loss.",
        ENSEMBLE,
    )
    voting: Literal["probability", "margin", "auto"] = option(
        "probability",
        "What votes are: probabilities, or log-odds, both calibrated on top; auto takes what has the lower log loss.",
        ENSEMBLE,
    )
    weights: Literal["uniform", "f1", "fitted", "auto"] = option(
        "uniform",
        "Weights of the members: equal, by F1, or fitted to the log loss; auto takes what has the lowest.",
        ENSEMBLE,
    )


Preset = Literal["fast", "balanced", "best", "levels"]
PRESETS: Mapping[Preset, Mapping[str, Any]] = {
    "fast": {"sample_negatives": 0.1, "screen_features": 200, "n_estimators": 800, "learning_rate": 0.1},
    "balanced": {},
    "best": {"n_estimators": 4000, "learning_rate": 0.02},
    "levels": {
        "n_estimators": 3000,
        "max_depth": 2,
        "learning_rate": 0.1,
        "xgb": ("min_child_weight=1", "colsample_bynode=1"),
        "max_levels": 128,
    },
}
"""Values for options that are left at their default, by name of the preset; what they give is measured in
``benchmarks/README.md``."""
DEFAULT_PRESET: Preset = "balanced"


def joined_with(preset: Any, given: Any) -> Any:
    """Return the value of an option that a preset and the user set: the user's; of ``NAME=VALUE`` the user's names alone.

    Examples
    --------
    >>> joined_with(8, 6), joined_with(("gamma=1", "lambda=2"), ("gamma=3",))
    (6, ('lambda=2', 'gamma=3'))
    """
    if not isinstance(preset, tuple):
        return given
    names = {one.partition("=")[0] for one in given}
    return (*(one for one in preset if one.partition("=")[0] not in names), *given)


@dataclass(frozen=True, slots=True)
class Classifying:
    """Which classifier a cross-validation trains, and for how long where it learns in epochs."""

    estimator: str | None = option(
        None,
        "Classifier: logistic or sgd (scikit-learn), mlp or tabnet (PyTorch, extra 'deep'), or package.module:factory, a "
        "function that returns a new one of your own.",
        TRAINING,
        metavar="NAME",
    )
    parameters: tuple[str, ...] = option(
        (),
        "A parameter of the classifier, such as C=0.5 or hidden=256,64; repeat for several.",
        TRAINING,
        flag="--set",
        metavar="NAME=VALUE",
    )
    epochs: int = option(
        20, "Most passes over the rows, where it learns from blocks of them.", TRAINING, least=1, most=10_000
    )
    epoch_patience: int = option(
        3, "Epochs without gain before such training stops; 0 never stops.", TRAINING, least=0, most=10_000
    )


@dataclass(frozen=True, slots=True)
class Blending:
    """How runs are joined into one."""

    blend_weights: Literal["fitted", "greedy"] = option(
        "fitted",
        "Weights of the runs: of least log loss, or by greedy selection with replacement (Caruana et al. 2004).",
        ENSEMBLE,
        flag="--weights",
    )


CV_OPTIONS = (
    *("train_all_genes", "sample_genes", "sample_negatives", "screen_features", "holdout_genes"),
    *(
        "group_identical",
        "auto_exclude_leaky",
        "max_memory_per_instance_gb",
        "memory_safety_factor",
        "n_folds",
        "device",
        "seed",
    ),
    "calibrate_per_class",
)
"""What of `Asked` a cross-validated classifier takes."""


@dataclass(frozen=True, slots=True)
class Diagnostics:
    """What is written beside model, scores and catalogue."""

    minimal_diagnostics: bool = option(
        False, "Leave out plots, curves, 95 % intervals out of fold, and scores on genes never seen.", DIAGNOSTICS
    )
    monitor_overfitting: bool = option(
        True, "Check the learning curves of every fold for overfitting: overfitting/.", DIAGNOSTICS
    )
    calibration_analysis: bool = option(
        True,
        "Write what calibration did and how far probabilities can be believed: calibration_analysis/.",
        DIAGNOSTICS,
    )
    true_rate_genes: int = option(
        100,
        "Genes, drawn by seed, of which every position is scored out of fold, up to 500,000 in all, where the dataset was made "
        "by build and its genome is at hand; 0 is none.",
        DIAGNOSTICS,
        least=0,
    )
    neigh_sample: int = option(
        0, "True sites whose neighbourhood is written to neighbour_diagnostics/; 0 is none.", DIAGNOSTICS, least=0
    )
    skip_shap: bool = option(False, "Leave out SHAP values.", DIAGNOSTICS)
    shap_sample: int = option(1000, "Rows to explain by SHAP values.", DIAGNOSTICS, least=1, most=1_000_000)
    figure_format: Literal["pdf", "svg", "png"] | None = option(
        None,
        "Format of all figures in files; by default PDF, those of SHAP values PNG and all in one PDF, that of leaks SVG too.",
        DIAGNOSTICS,
    )
    shap_background: int = option(
        0, "Rows of a background that makes SHAP values interventional; 0 for exact path-dependent ones.", RARE, least=0
    )

    @property
    def sites_shown(self) -> int:
        """Sites whose neighbourhood is written."""
        return 0 if self.minimal_diagnostics else self.neigh_sample


@dataclass(frozen=True, slots=True)
class Resuming:
    """What becomes of a run that the folder holds already."""

    resume_from_checkpoint: bool = option(True, "Go on in a folder that holds a run.", RARE)
    replace: bool = option(False, "Do a finished run anew; its results stay until the new ones are complete.", RARE)
    force_retrain_all: bool = option(
        False, "Train all instances anew, whatever is done; as --replace if finished.", RARE
    )

    @property
    def replaces(self) -> bool:
        """Whether a finished run may be done anew."""
        return self.replace or self.force_retrain_all


@dataclass(frozen=True, slots=True)
class Executing:
    """Where instances are trained, and by how much at once."""

    threads: int | None = option(None, "Threads; by default all cores of this process.", WHERE, least=1, most=1024)
    workers: int | None = option(
        None,
        "Most instances to train at once, as memory allows; here they share the threads. By default as many as there are "
        "threads and memory for.",
        WHERE,
        least=1,
        most=1024,
    )
    executor: Literal["local", "slurm", "dask"] = option(
        "local",
        "Where instances are trained: here, by jobs of Slurm, or by workers of Dask. On other machines "
        "--max-memory-per-instance-gb alone is the budget.",
        WHERE,
    )
    slurm_options: str | None = option(
        None,
        "With --executor slurm, more options of sbatch, such as '--partition=long --account=lab'; they win over ours.",
        WHERE,
        metavar="TEXT",
    )
    dask_scheduler: str | None = option(
        None,
        "With --executor dask, the address of a scheduler whose workers see RUN and the dataset under the same paths; "
        "by default workers are started here.",
        WHERE,
        metavar="ADDRESS",
    )


@dataclass(frozen=True, slots=True)
class Building:
    """Which positions of a genome become rows, and what is known of them."""

    negatives_per_site: float = option(9.0, "Rows that are not sites, for each site.", DATA, least=0.0, most=1000.0)
    hard_negatives: float = option(
        0.5, "Share of these that are GT/AG decoys or neighbours of sites.", DATA, least=0.0, most=1.0
    )
    base_scores: tuple[str, ...] = option(
        (),
        "Scores of a base model: Parquet, TSV, CSV, BED, bedGraph, bigWig; repeat for several files, donor+=FILE where a file "
        "has one class and strand.",
        DATA,
        metavar="FILE",
    )
    base_score_offset: tuple[str, ...] = option(
        (),
        "Shift of the scores' positions along the strand, such as acceptor=+1, or auto.",
        DATA,
        metavar="CLASS=SHIFT",
    )
    annotation_features: bool = option(False, "Add features that only annotated genes have.", DATA)
    gene_features: bool = option(
        True, "Features of the gene around a position; a model without them needs no genes to predict sequence.", DATA
    )
    like: Path | None = option(
        None,
        "Make features as for the model of this run, base scores by its weight matrices; nothing is fitted to the labels.",
        DATA,
        metavar="RUN",
    )
    paralogs: bool = option(
        False,
        "Join genes whose transcripts align (identity .8, half of the shorter one) into one fold group: column paralog_group.",
        DATA,
    )
    all_positions: int = option(0, "Write every position of this many genes.", DATA, least=0)
    window: int = option(500, "Nucleotides around a position, even.", DATA, least=44, most=100_000)
    genes_per_file: int = option(500, "Genes per Parquet file.", DATA, least=1)


@dataclass(frozen=True, slots=True)
class Synthesising:
    """How large a synthetic dataset is."""

    n_genes: int = option(1500, "Genes.", DATA, least=1, flag="--genes")
    rows_per_gene: float = option(391.0, "Mean rows per gene.", DATA, least=10.0)
    n_features: int = option(1167, "Features.", DATA, least=20, flag="--features")
    missing_fraction: float = option(0.0, "Share of nulls in a few columns.", DATA, least=0.0, most=0.9)
    shuffle_rows: bool = option(False, "Spread the rows of a gene over files and row groups.", DATA)


@dataclass(frozen=True, slots=True)
class Scanning:
    """Which positions of a genome are predicted, instead of the rows of a dataset."""

    fasta: Path | None = option(None, "Genome to predict instead of a DATASET: FASTA, plain or gzip.", DATA)
    annotation: Path | None = option(None, "Score every position of the genes in this GTF or GFF3.", DATA)
    regions: Path | None = option(
        None, "Score every position of the regions in this BED file, on both strands where it names none.", DATA
    )
    whole_contigs: bool = option(False, "Score every position of both strands of all contigs.", DATA)
    candidates: Literal["all", "gt-ag"] = option(
        "all", "Score all positions, or those alone that GT follows or AG precedes.", DATA
    )
    min_score: float | None = option(
        None,
        "Leave out positions where no site reaches this probability; of BED, by default those below the model's thresholds for "
        "the best F1.",
        DATA,
        least=0.0,
        most=1.0,
    )
    base_scores: tuple[str, ...] = option(
        (), "Scores of the base model, as for build, where the model was trained on such files.", DATA, metavar="FILE"
    )
    base_score_offset: tuple[str, ...] = option(
        (),
        "Shift of the scores' positions along the strand, such as acceptor=+1, or auto.",
        DATA,
        metavar="CLASS=SHIFT",
    )


def scanning_of(values: Mapping[str, Any]) -> Scanning:
    """Return a record that passed through JSON: paths are texts there, and tuples lists."""
    paths = {name: None if values[name] is None else Path(values[name]) for name in ("fasta", "annotation", "regions")}
    lists = {name: tuple(values[name]) for name in ("base_scores", "base_score_offset")}
    return Scanning(**{**values, **paths, **lists})


@dataclass(frozen=True, slots=True)
class Distilling:
    """How large a distilled model is."""

    trees: int = option(200, "Trees of each class.", TRAINING, least=1, most=100_000)
