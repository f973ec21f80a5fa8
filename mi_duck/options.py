"""The options of `mi_duck.settings` as the command line and a ``--config`` file take them, and those of the command line alone.

A key of the file is a flag without its dashes, ``n-estimators`` or ``n_estimators``. Keys at the top are for all commands, and
a command passes over those of others; keys in a table named after a command are for it alone and win over those at the top.
`VerboseOption` and `ConfigOption` act when they are parsed: messages for debugging appear, and the values of a file become
the defaults of the command, each checked by the code that checks what is typed.
"""

import difflib
import inspect
import logging
import math
import re
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import Field, dataclass, fields, is_dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin

import typer
import typer.core

from mi_duck.errors import PlanError
from mi_duck.file_kinds import HEAD_BYTES, wrong_kind
from mi_duck.settings import (
    DATA,
    DEFAULT_PRESET,
    PANELS,
    PLAN,
    PRESETS,
    RARE,
    TRAINING,
    Preset,
    flag_of,
    is_repeated,
    is_switch,
    joined_with,
    option_of,
)

LARGEST_FILE = 1 << 20
MOST_DOTS = 100  # in a line: a key of 200,000 parts took minutes and gigabytes, tomllib keeps every prefix of it
WORDS = {
    bool: "true or false",
    int: "a whole number",
    float: "a number",
    str: "text in quotes",
    list: "text in quotes, or a list of such texts",
}


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
    """Return by parameter what a file sets for one command.

    Parameters
    ----------
    path
        At most 1 MB of UTF-8; a byte order mark is passed over.
    flags
        Of every command; by their names with dashes between words and none in front.

    Raises
    ------
    PlanError
        The file cannot be read or is not TOML; a key is unknown or stands there twice; a value is of another kind.
    """
    contents = _contents(path)
    top = {name: flag for one in flags.values() for name, flag in one.items()}
    of_all = {name: value for name, value in contents.items() if name not in flags}
    _refuse_unknown(path, of_all, top, [*top, *flags])
    found = _settings(path, of_all, flags[command])
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
        words = wrong_kind(f"--config {path}", data[:HEAD_BYTES], "TOML")
        raise PlanError(words or f"--config {path} is not UTF-8 at byte {error.start:,}; save it as UTF-8") from error
    except RecursionError as error:
        raise PlanError(f"--config {path} is nested deeper than any list of flags") from error
    except ValueError as error:  # of TOML, and of numbers with thousands of digits
        words = wrong_kind(f"--config {path}", data[:HEAD_BYTES], "TOML")
        raise PlanError(words or f"--config {path} is not TOML: {error}") from error


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
        found[flag.parameter] = Setting(key, [value] if flag.kind is list and isinstance(value, str) else value)
    return found


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if kind is list and isinstance(value, list):
        return all(_is(part, str) for part in value)
    if kind in (str, list):
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


DATASET = typer.Argument(
    metavar="DATASET", help="Parquet file, folder of them, or glob; also s3://.", show_default=False
)
DatasetArgument = Annotated[str | None, DATASET]
OutOption = Annotated[
    Path | None,
    typer.Option(
        "--out",
        "--out-dir",
        help="Folder of the run.",
        callback=on_this_machine,
        show_default=False,
        rich_help_panel=DATA,
    ),
]
NewFolder = Annotated[
    Path, typer.Option("--out", help="Folder of the dataset; absent or empty.", callback=on_this_machine)
]
OutFile = Annotated[
    Path,
    typer.Option(
        "--out", help="Parquet file to write; of a genome also .bed, .bed.gz or .bw.", callback=on_this_machine
    ),
]
RunArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="Folder of a run.", callback=on_this_machine, show_default=False)
]
InstanceOption = Annotated[
    int | None, typer.Option(help="This instance alone; by default all that are to do.", min=0, show_default=False)
]
RefitPartOption = Annotated[
    int | None,
    typer.Option(
        help="Only fit the leaves of this part together, a task of a job array; what follows uses it. With three folds and "
        "classes 0 to 8 are those of the folds, 9 to 11 the final ones, which come after.",
        min=0,
        show_default=False,
    ),
]
PartitionOption = Annotated[
    bool,
    typer.Option("--partition-only", help="Only write the rows of all instances, so that no job waits for another."),
]
LimitOption = Annotated[
    int | None,
    typer.Option(help="Most rows to print, 0 all; by default 50 on a terminal.", min=0, show_default=False),
]
ParquetOption = Annotated[
    Path | None,
    typer.Option(help="Write the answer here, as Parquet.", callback=on_this_machine, show_default=False),
]
DemoFolder = Annotated[
    Path, typer.Option("--out", help="Folder for dataset, run and predictions.", callback=on_this_machine)
]
DryRunOption = Annotated[
    bool, typer.Option("--dry-run", help="Print the plan and write nothing.", rich_help_panel=PLAN)
]
ModelArgument = Annotated[
    Path, typer.Argument(metavar="MODEL", help="Model file, run folder or instance folder.", show_default=False)
]
FormatOption = Annotated[
    Literal["pickle", "xgboost", "onnx"],
    typer.Option("--format", help="A pickle, native boosters with a recipe, or one ONNX file."),
]
ExportFile = Annotated[
    Path | None,
    typer.Option(
        "--out", help="File or folder; by default beside the model.", callback=on_this_machine, show_default=False
    ),
]
DataOption = Annotated[
    bool, typer.Option("--data", help="Check the dataset too: the same files, every page whole; reads all of it.")
]
OtherRunArgument = Annotated[Path, typer.Argument(metavar="OTHER", help="Folder of another run.", show_default=False)]
RunsArgument = Annotated[list[Path], typer.Argument(metavar="RUN RUN ...", help="Finished runs.", show_default=False)]
ModelFile = Annotated[Path, typer.Option("--out", help="File of the model, .miduck.", callback=on_this_machine)]
ModelOfRunArgument = Annotated[
    Path, typer.Argument(metavar="RUN", help="Run folder, or file of a model.", callback=on_this_machine)
]
TrustPickle = Annotated[
    bool, typer.Option("--trust-pickle", help="Read a classifier of someone's own from a pickle: it may run any code.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def _unless_argument(ctx: typer.Context, value: str | None) -> str | None:
    """Let DATASET of the command line win over the dataset of a --config file."""
    source = ctx.get_parameter_source("dataset_option")
    return None if ctx.params.get("dataset") and source is not None and source.name == "DEFAULT_MAP" else value


@dataclass(frozen=True, slots=True)
class Source:
    """Where the dataset is: as an argument, or with ``--dataset``."""

    dataset: Annotated[str | None, DATASET] = None
    dataset_option: Annotated[
        str | None,
        typer.Option(
            "--dataset",
            callback=_unless_argument,
            help="The same as DATASET.",
            show_default=False,
            rich_help_panel=DATA,
        ),
    ] = None


class Only:
    """Names the options of a record that a command takes; the others keep their defaults."""

    def __init__(self, *names: str) -> None:
        self.names = names


def parameters_of(hint: Any) -> tuple[Any, dict[str, tuple[Any, Any]]]:
    """Return the record that a parameter of a command is, and by name the annotation and default of its options.

    The record is one of `mi_duck.settings`, or has fields that are annotated for Typer already; ``Annotated[record,
    Only(...)]`` takes some of its options. Where the parameter is something else, there is no record (None).
    """
    record, names = hint, None
    if hasattr(hint, "__metadata__") and isinstance(hint.__metadata__[0], Only):
        record, names = get_args(hint)[0], hint.__metadata__[0].names
    if not is_dataclass(record):
        return None, {}
    found = {one.name: one for one in fields(record)}
    return record, {
        name: (_annotation(found[name]) if "option" in found[name].metadata else found[name].type, found[name].default)
        for name in names or found
    }


def _annotation(one: "Field[Any]") -> Any:
    """Return an option of a record as Typer takes it."""
    option, flag = option_of(one), flag_of(one)
    if is_switch(one) and one.default:
        flag = f"{flag}/{flag.replace('--', '--no-', 1)}"
    is_whole = int in (one.type, *get_args(one.type))
    low, high = (int(bound) if is_whole and bound is not None else bound for bound in (option.least, option.most))
    settings = typer.Option(
        *(flag, option.also) if option.also else (flag,),
        help=option.help,
        rich_help_panel=option.panel,
        metavar=option.metavar,
        show_default=one.default not in (None, ()),
        min=low,
        max=high,
    )
    # Typer knows an option that may be repeated as a list
    return Annotated[list[str] if is_repeated(one) else one.type, settings]


class Command(typer.core.TyperCommand):
    """A command whose help shows its options in panels, no name cut off; a mistyped value is answered with the nearest one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse the words of a command."""
        given = list(args)  # parsing takes them out
        try:
            left = list(super().parse_args(ctx, args))
            _fill_in_preset(ctx)
            return left
        except typer.BadParameter as error:
            error.message = error.message.removeprefix("Value error, ")
            found = re.search(r"'([^']*)' is not one of (.+?)\.?$", error.message)
            near = difflib.get_close_matches(found[1], re.findall(r"'([^']*)'", found[2]), n=1) if found else []
            if near:
                error.message += f" Did you mean '{near[0]}'?"
            if error.message.startswith("Input should") and error.param is not None:
                error.message = f"{_given(given, error.param.opts)}{error.message[0].lower()}{error.message[1:]}"
            raise

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the options panel by panel; a long name has its help on the next line."""
        panels: dict[str, list[tuple[str, str]]] = {}
        for one in self.get_params(ctx):
            record = one.get_help_record(ctx)
            if record is not None:
                other = "Arguments" if one.param_type_name == "argument" else "Options"
                panels.setdefault(getattr(one, "rich_help_panel", None) or other, []).append(record)
        for title, records in panels.items():
            with formatter.section(title):
                formatter.write_dl(records)


def _given(args: Sequence[str], flags: Sequence[str]) -> str:
    """Return the value that stands after a flag, as the beginning of a sentence; nothing where it is not found."""
    for at, word in enumerate(args):
        name, is_one_word, value = word.partition("=")
        if name in flags and (is_one_word or at + 1 < len(args)):
            return f"'{value if is_one_word else args[at + 1]}' cannot be used: "
    return ""


def add_command(
    app: typer.Typer, function: Callable[..., None], *, name: str | None = None, verbose: bool = False
) -> Callable[..., None]:
    """Make a function a command of an app; return the function.

    A parameter whose type is a record of options becomes these options, panel by panel. Every command takes ``--config``,
    and those that run SQL or child processes ``--verbose``. The example of the docstring comes first in the help.
    """
    records: dict[str, tuple[Any, list[str]]] = {}
    options: list[tuple[str, Any, Any]] = []
    for one in inspect.signature(function).parameters.values():
        record, found = parameters_of(one.annotation)
        if record is None:
            options.append((one.name, one.annotation, one.default))
        else:
            records[one.name] = (record, list(found))
            options += [(at, hint, default) for at, (hint, default) in found.items()]
    options += [("preset", PresetOption, DEFAULT_PRESET)] * any(at == "learning_rate" for at, *_ in options)
    options += [("verbose", VerboseOption, False)] * verbose
    options.append(("quiet", QuietOption, False))
    options.append(("config", ConfigOption, None))
    options.sort(key=lambda option: _panel_order(option[1]))

    def called(
        *, config: Path | None, verbose: bool = False, quiet: bool = False, preset: str = "", **values: Any
    ) -> None:
        _refuse_not_finite(values)
        for at, (record, names) in records.items():
            own = {field: values.pop(field) for field in names}
            values[at] = record(
                **{name: tuple(value) if isinstance(value, list) else value for name, value in own.items()}
            )
        function(**values)

    kind = inspect.Parameter.KEYWORD_ONLY
    called.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(at, kind, default=default, annotation=hint) for at, hint, default in options]
    )
    called.__name__ = function.__name__
    paragraphs = [" ".join(one.split()) for one in (function.__doc__ or "").split("\n\n")]
    examples = [one for one in paragraphs if one.startswith("Example")]
    rest = [one for one in paragraphs if one not in examples]
    app.command(name, help="\n\n".join([*examples, *rest]), short_help=rest[0], cls=Command)(called)
    return function


def _panel_order(hint: Any) -> int:
    """Return the rank of an option's panel in the help; options without one come first."""
    panel = getattr(hint.__metadata__[0], "rich_help_panel", None) if hasattr(hint, "__metadata__") else None
    return PANELS.index(panel) + 1 if panel in PANELS else 0


def _refuse_not_finite(values: Mapping[str, Any]) -> None:
    """Refuse nan, which no range refuses."""
    for name, value in values.items():
        if isinstance(value, float) and not math.isfinite(value):
            raise typer.BadParameter(f"{value} is not a finite number", param_hint=f"--{name.replace('_', '-')}")


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


def _fill_in_preset(ctx: Any) -> None:
    """Give the options of a command that are at their default the values of its preset."""
    for name, value in PRESETS[ctx.params.get("preset", DEFAULT_PRESET)].items():
        if name in ctx.params:
            is_given = ctx.get_parameter_source(name).name != "DEFAULT"
            given = ctx.params[name]
            given = tuple(given) if isinstance(given, list) else given
            ctx.params[name] = joined_with(value, given) if is_given else value


def _flags(command: Any) -> dict[str, Flag]:
    """Return the flags of a command that a file may set, by their names without dashes in front."""
    found = {}
    for one in inspect.signature(command.callback).parameters.values():
        hint, *_ = get_args(one.annotation)
        is_list = get_origin(hint) is list
        kind = next((part for part in get_args(hint) if isinstance(part, type) and part is not type(None)), hint)
        parameter = next(other for other in command.params if other.name == one.name)
        for flag in parameter.opts if one.name != "config" else ():
            if flag.startswith("--"):
                found[flag.removeprefix("--")] = Flag(
                    one.name, list if is_list else kind if kind in (bool, int, float) else str
                )
    return found


def _be_verbose(value: bool) -> None:
    if value:
        logging.getLogger("mi_duck").setLevel(logging.DEBUG)


def _be_quiet(value: bool) -> None:
    if value:
        logging.getLogger("mi_duck").setLevel(logging.WARNING)


QuietOption = Annotated[
    bool,
    typer.Option(
        "--quiet",
        callback=_be_quiet,
        rich_help_panel=RARE,
        help="Print results, warnings and errors alone: no progress, no sentences; RUN/run.log has them all the same.",
    ),
]
VerboseOption = Annotated[
    bool,
    typer.Option(
        "--verbose",
        callback=_be_verbose,
        rich_help_panel=RARE,
        help="Report every SQL file with its rows and seconds, every child process, and where an error came from.",
    ),
]
PresetOption = Annotated[
    Preset,
    typer.Option(
        rich_help_panel=TRAINING,
        help="Values for options that are not given: fast leaves out rows and columns, best learns in smaller steps, "
        "levels grows shallow trees for tables of text columns.",
    ),
]
ConfigOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.toml",
        callback=_configure,
        is_eager=True,
        show_default=False,
        rich_help_panel=RARE,
        help="Flags as TOML, such as n-estimators = 400, for every command or under [COMMAND]; the command line wins. "
        "Paths in it count from the working directory.",
    ),
]
