"""Reads the values of flags from a TOML file: checks its keys; the values are checked by the command line, as flags are.

A key is a flag without its dashes, ``n-estimators`` or ``n_estimators``. Keys at the top are for all commands, and a command
passes over those of others; keys in a table named after a command are for it alone and win over those at the top.

The options that commands share, each written once with its help, range and default; groups of them are dataclasses.

`VerboseOption` and `ConfigOption` act when they are parsed: messages for debugging appear, and the values of a file become
the defaults of the command, each checked by the code that checks what is typed.
"""

import difflib
import inspect
import logging
import math
import re
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from mi_duck.errors import PlanError

LARGEST_FILE = 1 << 20
MOST_DOTS = 100  # in a line: a key of 200,000 parts took minutes and gigabytes, tomllib keeps every beginning of it
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text in quotes"}


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag that a file may set: the parameter it fills, and what its value is: bool, int, float or str."""

    parameter: str
    kind: type


@dataclass(frozen=True, slots=True)
class Setting:
    """A value of a file, and the key under which it stands there."""

    key: str
    value: Any


def read_settings(path: Path, command: str, flags: Mapping[str, Mapping[str, Flag]]) -> dict[str, Setting]:
    """Return what a file sets for one command.

    Parameters
    ----------
    path
        The file, at most 1 MB of UTF-8; a byte order mark is passed over.
    command
        Name of the command.
    flags
        For every command its flags, by their names with dashes between words and none in front.

    Returns
    -------
    dict[str, Setting]
        By parameter.

    Raises
    ------
    PlanError
        The file cannot be read or is not TOML; a key is unknown or stands there twice; a value is of another kind.
    """
    contents = _contents(path)
    top = {name: flag for one in flags.values() for name, flag in one.items()}
    _refuse_unknown(path, [name for name in contents if name not in flags], top, [*top, *flags])
    found = _settings(path, {name: value for name, value in contents.items() if name not in flags}, flags[command])
    for table in flags.keys() & contents.keys():
        if not isinstance(contents[table], dict):
            raise PlanError(f"{path}: '{table}' is a command; write its flags under [{table}]")
        _refuse_unknown(path, contents[table], flags[table], flags[table], table=table)
    return found | _settings(path, contents.get(command, {}), flags[command], table=command)


def _contents(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise PlanError(f"cannot read --config {path}: {error.strerror}; give a TOML file") from error
    if len(data) > LARGEST_FILE:
        raise PlanError(f"--config {path} is larger than 1 MB, more than any list of flags; give a TOML file")
    if any(line.count(b".") > MOST_DOTS for line in data.splitlines()):
        raise PlanError(f"--config {path} has a line with more than {MOST_DOTS} dots, more than any flag needs")
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise PlanError(f"--config {path} is not UTF-8 at byte {error.start:,}; save it as UTF-8") from error
    except RecursionError as error:
        raise PlanError(f"--config {path} is nested deeper than any list of flags") from error
    except ValueError as error:  # of TOML, and of numbers with thousands of digits
        raise PlanError(f"--config {path} is not TOML: {error}") from error


def _refuse_unknown(
    path: Path, keys: Iterable[str], known: Mapping[str, Flag], offered: Iterable[str], *, table: str = ""
) -> None:
    for key in keys:
        if _name(key) not in known:
            close = difflib.get_close_matches(_name(key), list(offered), n=1)
            where = f" in [{table}]" if table else ""
            advice = f"did you mean '{close[0]}'?" if close else f"'mi-duck {table or 'COMMAND'} --help' lists them"
            raise PlanError(f"{path}: unknown key '{key}'{where}; {advice}")


def _settings(
    path: Path, values: Mapping[str, Any], flags: Mapping[str, Flag], *, table: str = ""
) -> dict[str, Setting]:
    """Return by parameter the values that the command knows, each of the kind that its flag takes."""
    found: dict[str, Setting] = {}
    for name, value in values.items():
        flag = flags.get(_name(name))
        if flag is None:
            continue
        key = f"{table}.{name}" if table else name
        if flag.parameter in found:
            raise PlanError(f"{path}: '{found[flag.parameter].key}' and '{key}' are the same flag; keep one")
        if not _is(value, flag.kind):
            raise PlanError(f"{path}: '{key}' needs {WORDS[flag.kind]}, not {_short(value)}")
        found[flag.parameter] = Setting(key, value)
    return found


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if kind is str:
        return isinstance(value, str) and "\0" not in value
    return type(value) is kind


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:60]}..."


def _name(key: str) -> str:
    return key.replace("_", "-")


STORE = re.compile(r"(s3[an]?|gs|gcs|az|abfss?|https?|hdfs):/")


def on_this_machine(value: Path | None) -> Path | None:
    """Refuse the URL of an object store for what is written: a run needs locks, renames and files that grow."""
    if value is not None and STORE.match(str(value)):
        raise PlanError(
            f"{value.name} is to be written to an object store, which has no locks and no rename; name a folder or file of this "
            "machine, and copy it to the store when it is finished"
        )
    return value


DatasetArgument = Annotated[
    str,
    typer.Argument(metavar="DATASET", help="Parquet file, folder of them, or glob; also s3://.", show_default=False),
]
OutOption = Annotated[
    Path | None,
    typer.Option("--out", "--out-dir", help="Folder of the run.", callback=on_this_machine, show_default=False),
]
NewFolder = Annotated[
    Path, typer.Option("--out", help="Folder of the dataset; absent or empty.", callback=on_this_machine)
]
GenesPerFile = Annotated[int, typer.Option(help="Genes a Parquet file.", min=1)]
RunArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="Folder of a run.", callback=on_this_machine, show_default=False)
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
ThreadsOption = Annotated[
    int | None,
    typer.Option(help="Threads; by default all cores of this process.", min=1, max=1024, show_default=False),
]
WorkersOption = Annotated[
    int | None,
    typer.Option(
        help="Most instances to train at once, as memory allows; here they share the threads. By default one here, and with "
        "--executor as many as there is room for.",
        min=1,
        max=1024,
        show_default=False,
    ),
]
MonitorOverfitting = Annotated[
    bool,
    typer.Option(
        "--monitor-overfitting/--no-monitor-overfitting", help="Judge the learning curves of every fold: overfitting/."
    ),
]
MinimalDiagnostics = Annotated[
    bool, typer.Option("--minimal-diagnostics", help="Leave out plots, curves and scores on genes never seen.")
]
SkipShap = Annotated[bool, typer.Option("--skip-shap", help="Leave out SHAP values.")]
FullHash = Annotated[
    bool,
    typer.Option("--full-hash", help="Hash every byte of the dataset, and check that again before its rows are read."),
]
SeedOption = Annotated[int, typer.Option(help="Seed of every choice.", min=0, max=2**31 - 1)]
SEED = 42
GenesPerInstance = Annotated[
    int, typer.Option(help="Genes an instance: a target, see --auto-adjust-instance-size.", min=1, max=10**7)
]
GENES_PER_INSTANCE = 1500
StrategyOption = Annotated[
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
    float | None,
    typer.Option(
        help="Share of the easy negatives to train on, with the inverse as weight; 1 is all. By default all of fewer than "
        "200,000 rows or without base scores, else a quarter.",
        min=0.01,
        max=1.0,
        show_default=False,
    ),
]
FoldsOption = Annotated[int, typer.Option(help="Folds of the cross-validation.", min=2, max=100)]
FOLDS = 3
DepthOption = Annotated[int, typer.Option(help="Depth of the trees.", min=1, max=16)]
DEPTH = 6
ExecutorOption = Annotated[
    Literal["local", "slurm", "dask"],
    typer.Option(
        help="Where instances are trained: here, by jobs of Slurm, or by workers of Dask. On other machines "
        "--max-memory-per-instance-gb alone is the budget."
    ),
]
DaskScheduler = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        help="With --executor dask, the address of a scheduler whose workers see RUN and the dataset under the same paths; "
        "by default workers are started here.",
        show_default=False,
    ),
]
MaxBin = Annotated[int, typer.Option(help="Most histogram bins a feature.", min=2, max=65_536)]
MAX_BIN = 256


def _unless_argument(ctx: typer.Context, value: str | None) -> str | None:
    """Let DATASET of the command line win over the dataset of a --config file."""
    source = ctx.get_parameter_source("dataset_option")
    return None if ctx.params.get("dataset") and source is not None and source.name == "DEFAULT_MAP" else value


@dataclass(frozen=True, slots=True)
class Source:
    """Where the dataset is; the two ways of the seeds to say so."""

    dataset: Annotated[
        str | None,
        typer.Argument(
            metavar="DATASET", help="Parquet file, folder of them, or glob; also s3://.", show_default=False
        ),
    ] = None
    dataset_option: Annotated[
        str | None,
        typer.Option("--dataset", callback=_unless_argument, help="The same as DATASET.", show_default=False),
    ] = None


@dataclass(frozen=True, slots=True)
class Columns:
    """What the columns of the dataset are."""

    gene_column: Annotated[str, typer.Option(help="Column with the gene.")] = "gene_id"
    label_column: Annotated[str, typer.Option(help="Column with the label.")] = "splice_type"
    classes: Annotated[str, typer.Option(help="Class names, comma separated; their order is the label's number.")] = (
        "neither,donor,acceptor"
    )
    fold_by: Annotated[
        str | None,
        typer.Option(
            help="Column with the unit of independence; by default overlap_cluster if present, else the gene.",
            show_default=False,
        ),
    ] = None
    exclude: Annotated[
        str | None, typer.Option(help="Regular expression of columns that are not features.", show_default=False)
    ] = None
    exclude_features: Annotated[
        Path | None,
        typer.Option(help="Text file with a column name a line; these are not features.", show_default=False),
    ] = None
    base_score_columns: Annotated[
        str | None,
        typer.Option(
            help="Columns with the base model's score of each class, comma separated; by default CLASS_score.",
            show_default=False,
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class Planning:
    """What is asked of a plan: the fields of `mi_duck.plan.make_plan.PlanOptions`."""

    train_all_genes: Annotated[
        bool, typer.Option("--train-all-genes", help="Use all genes, in several instances above 1,500.")
    ] = False
    sample_genes: Annotated[
        int | None, typer.Option(help="Use this many whole genes, chosen by seed.", min=2, show_default=False)
    ] = None
    genes_per_instance: GenesPerInstance = GENES_PER_INSTANCE
    max_instances: Annotated[int, typer.Option(help="Most instances.", min=1, max=10_000)] = 10
    instance_overlap: Annotated[
        float, typer.Option(help="Share of the target that neighbours share.", min=0.0, max=0.5)
    ] = 0.1
    memory_per_gene_mb: Annotated[
        float | None,
        typer.Option(help="MiB a gene, instead of the memory model.", min=0.001, max=1e6, show_default=False),
    ] = None
    max_memory_per_instance_gb: Annotated[
        float, typer.Option(help="Most memory of one instance, GiB.", min=0.1, max=1e6)
    ] = 15.0
    memory_safety_factor: Annotated[
        float, typer.Option(help="Share of the available memory that a plan may take.", min=0.05, max=1.0)
    ] = 0.6
    auto_adjust_instance_size: Annotated[
        bool,
        typer.Option(
            "--auto-adjust-instance-size/--no-auto-adjust-instance-size",
            help="Let the genes per instance follow memory and --max-instances.",
        ),
    ] = True
    strategy: StrategyOption = "auto"
    layout: LayoutOption = "auto"
    cv: CrossValidation = "auto"
    sample_negatives: SampleNegatives = None
    screen_features: Annotated[
        int | None,
        typer.Option(
            help="Keep the best features of a pilot on some genes, and the base scores.", min=1, show_default=False
        ),
    ] = None
    voting: Annotated[
        Literal["probability", "margin", "auto"],
        typer.Option(
            help="Mean of the members' probabilities, or of their log-odds, calibrated on top; auto takes the lower log loss."
        ),
    ] = "probability"
    weights: Annotated[
        Literal["uniform", "f1", "fitted", "auto"],
        typer.Option(
            help="Weights of the members: equal, by F1, or fitted to the log loss; auto takes what has the lowest."
        ),
    ] = "uniform"
    auto_exclude_leaky: Annotated[
        bool, typer.Option("--auto-exclude-leaky", help="Leave out features that the leakage report suspects.")
    ] = False
    holdout_genes: Annotated[
        str | None,
        typer.Option(
            help="Genes that nothing is trained on: a share of the fold groups, a text file of genes, or a column of 0 and 1.",
            show_default=False,
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class Training:
    """How instances are trained."""

    n_estimators: Annotated[int, typer.Option(help="Most boosting rounds.", min=1, max=100_000)] = 800
    n_folds: FoldsOption = FOLDS
    early_stopping_patience: Annotated[
        int, typer.Option(help="Rounds without gain before a fit stops; 0 never stops.", min=0, max=100_000)
    ] = 30
    max_depth: DepthOption = DEPTH
    learning_rate: Annotated[float, typer.Option(help="Step of boosting.", min=1e-4, max=1.0)] = 0.1
    max_bin: MaxBin = MAX_BIN
    device: Annotated[
        Literal["cpu", "cuda"],
        typer.Option(help="Where XGBoost trains; cuda is passed on as it is and has not been tried on a device yet."),
    ] = "cpu"
    calibrate_per_class: Annotated[
        bool,
        typer.Option(
            "--calibrate-per-class/--no-calibrate-per-class", help="Calibrate each class if it lowers the log loss."
        ),
    ] = True
    seed: SeedOption = SEED


@dataclass(frozen=True, slots=True)
class Scoring:
    """What is written beside the scores."""

    calibration_analysis: Annotated[
        bool,
        typer.Option(
            "--calibration-analysis/--no-calibration-analysis",
            help="Write what calibration did and how far probabilities can be believed: calibration_analysis/.",
        ),
    ] = True
    neigh_sample: Annotated[
        int,
        typer.Option(help="True sites whose neighbourhood is written to neighbour_diagnostics/; 0 is none.", min=0),
    ] = 0


@dataclass(frozen=True, slots=True)
class Explaining:
    """Which rows are explained."""

    shap_sample: Annotated[int, typer.Option(help="Rows to explain by SHAP values.", min=1, max=1_000_000)] = 1000
    shap_background: Annotated[
        int,
        typer.Option(
            help="Rows of a background that makes SHAP values interventional; 0 for exact path-dependent ones.", min=0
        ),
    ] = 0


@dataclass(frozen=True, slots=True)
class Executing:
    """Where instances are trained."""

    executor: ExecutorOption = "local"
    slurm_options: Annotated[
        str | None,
        typer.Option(
            metavar="TEXT",
            help="With --executor slurm, more options of sbatch, such as '--partition=long --account=lab'; they win over ours.",
            show_default=False,
        ),
    ] = None
    dask_scheduler: DaskScheduler = None


def _configure(ctx: typer.Context, path: Path | None) -> None:
    """Make the values of a --config file the defaults of a command, each checked as if it were typed."""
    if path is None or ctx.parent is None:
        return
    commands: dict[str, Any] = ctx.parent.command.commands  # type: ignore[attr-defined]
    settings = read_settings(path, str(ctx.info_name), {name: _flags(one) for name, one in commands.items()})
    for parameter in ctx.command.params:
        if parameter.name in settings:
            setting = settings[parameter.name]
            try:
                parameter.process_value(ctx, setting.value)
            except typer.BadParameter as error:
                raise PlanError(f"{path}: '{setting.key}': {error.message}") from error
    ctx.default_map = {name: setting.value for name, setting in settings.items()}


def _flags(command: Any) -> dict[str, Flag]:
    """Return the flags of a command that a file may set, by their names without dashes in front."""
    found = {}
    for one in inspect.signature(command.callback).parameters.values():
        hint, *_ = get_args(one.annotation)
        kind = next((part for part in get_args(hint) if isinstance(part, type) and part is not type(None)), hint)
        parameter = next(other for other in command.params if other.name == one.name)
        for flag in parameter.opts if one.name != "config" else ():
            if flag.startswith("--"):
                found[flag.removeprefix("--")] = Flag(one.name, kind if kind in (bool, int, float) else str)
    return found


def _be_verbose(value: bool) -> None:
    if value:
        logging.getLogger("mi_duck").setLevel(logging.DEBUG)


VerboseOption = Annotated[
    bool,
    typer.Option(
        "--verbose",
        callback=_be_verbose,
        help="Tell of every SQL file with its rows and seconds, every child process, and where an error came from.",
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.toml",
        callback=_configure,
        is_eager=True,
        show_default=False,
        help=r"Flags as TOML, such as n-estimators = 400, for every command or under \[COMMAND]; the command line wins. "
        "Paths in it count from the working directory.",
    ),
]
