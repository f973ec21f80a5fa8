"""Files of a run to records that figures and the page show; what was not made is None, and nothing is filled in."""

import csv
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from mi_duck.atomic_files import unguarded
from mi_duck.errors import CheckpointError
from mi_duck.evaluate.catalogue import open_catalogue
from mi_duck.numbers import interval, typeset
from mi_duck.report.plots import Curve, MemoryDot, Reliability
from mi_duck.run.folder import RunFolder
from mi_duck.run.plan import Plan
from mi_duck.wording import Noun

Line = TypeVar("Line")
Record = TypeVar("Record")


class Score(msgspec.Struct, frozen=True, kw_only=True, rename={"class_name": "class"}):
    """One line of ``metrics.csv``; None where the file has no value, ``too_narrow`` why the interval is, or empty."""

    scope: str
    instance_id: int | None = None
    evaluated_on: str
    variant: str = ""
    is_chosen: bool = False
    fold: int | None = None
    class_name: str
    metric: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    too_narrow: str = ""
    n_genes: int | None = None
    n_rows: int | None = None


@dataclass(frozen=True, slots=True)
class RunRecords:
    """What is known of a finished run.

    Parameters
    ----------
    scores
        ``metrics.csv``, the lines over all folds; those of single folds are left out.
    facts
        The row of the catalogue's table ``runs``: dates, settings, versions.
    genes, coverage, instances
        The catalogue's tables of these names.
    gene_bytes
        Predicted memory of every gene, in bytes.
    """

    root: Path
    plan: Plan
    scores: tuple[Score, ...]
    facts: dict[str, Any]
    genes: list[dict[str, Any]]
    coverage: dict[str, Any]
    gene_bytes: list[float]
    instances: list[dict[str, Any]]

    @property
    def classes(self) -> list[str]:
        """Names of the classes; the first is the background."""
        return list(self.plan.data.classes)

    @property
    def distinct_classes(self) -> list[str]:
        """See `mi_duck.run.plan.distinct_classes`."""
        return list(self.plan.data.distinct_classes)

    @property
    def n_instances(self) -> int:
        """How many instances the model is of; one that was split in halves is none."""
        return len(self.plan.cut.instances)

    @property
    def kind(self) -> str:
        """What sentences call the result: an ensemble or, of one instance, a model."""
        return "ensemble" if self.n_instances > 1 else "model"

    @property
    def noun(self) -> Noun:
        """What the groups are called."""
        return self.plan.data.noun

    @property
    def scored_genes(self) -> list[dict[str, Any]]:
        """The genes that are scored out of fold: neither held out, nor those that chose the features."""
        return [gene for gene in self.genes if not (gene["is_holdout"] or gene["is_pilot"])]

    @property
    def n_rows_scored(self) -> int:
        """Rows of the genes that are scored out of fold."""
        return sum(gene["n_rows"] for gene in self.scored_genes)

    def find(self, scope: str, metric: str, class_name: str, *, instance_id: int | None = None) -> Score | None:
        """Return the score from out-of-fold predictions of all scored rows; of the chosen variant where several were tried."""
        found = [
            score
            for score in self.scores
            if (score.scope, score.metric, score.class_name) == (scope, metric, class_name)
            and score.instance_id == instance_id
            and score.evaluated_on == "oof"
            and not score.variant.startswith("without ")  # the ensemble without one of its members
        ]
        return next((score for score in found if score.is_chosen), found[0] if found else None)

    @property
    def too_narrow(self) -> str:
        """Why the intervals of out-of-fold scores are too narrow; empty where they are not."""
        return next((one.too_narrow for one in self.scores if one.evaluated_on == "oof" and one.too_narrow), "")

    def lookup(
        self, scope: str, instance_id: int | None, variant: str, where: str, metric: str, class_name: str
    ) -> Score | None:
        """Return the score of exactly this variant on ``where``, the value of ``evaluated_on``."""
        wanted = (scope, instance_id, variant, where, metric, class_name)
        for one in self.scores:
            if (one.scope, one.instance_id, one.variant, one.evaluated_on, one.metric, one.class_name) == wanted:
                return one
        return None


def read_run(root: Path) -> RunRecords:
    """Read a finished run.

    Raises
    ------
    CheckpointError
        There is no plan, no catalogue or no ``metrics.csv``, or the plan is damaged.
    """
    folder = RunFolder(root)
    plan = folder.read_plan()
    scores = read_records(folder.metrics, Score)
    if scores is None:
        raise CheckpointError(f"{root} is not evaluated yet; run 'mi-duck evaluate {root}'")
    with open_catalogue(folder) as db:
        facts = db.read("runs").to_pylist()[0]
        genes = db.read("genes").to_pylist()
        coverage = db.read("coverage").to_pylist()[0]
        gene_bytes = db.read("memory_per_gene")["predicted_bytes"].to_pylist()
        instances = db.read("instances").to_pylist()
    over_folds = tuple(score for score in scores if score.fold is None)
    return RunRecords(root, plan, over_folds, facts, genes, coverage, gene_bytes, instances)


def read_rows(path: Path) -> list[dict[str, str]] | None:
    """Return the lines of a table that mi_duck wrote by column, or None where there is no such file.

    Raises
    ------
    CheckpointError
        It is not text.
    """
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return [
                {unguarded(name or ""): unguarded(value or "") for name, value in row.items()}
                for row in csv.DictReader(file)
            ]
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise CheckpointError(f"cannot read {path}: {error}; make it again") from error


def read_records(path: Path, kind: type[Record]) -> list[Record] | None:
    """Return the lines of a table as typed records, or None where there is no such file.

    Parameters
    ----------
    kind
        A struct with a field per column; columns that it lacks are ignored, an empty cell takes the field's default.

    Raises
    ------
    CheckpointError
        It is not text, or a value is missing or of another type.
    """
    lines = read_rows(path)
    if lines is None:
        return None
    try:
        return [
            msgspec.convert({name: value for name, value in line.items() if value}, kind, strict=False)
            for line in lines
        ]
    except msgspec.ValidationError as error:
        raise CheckpointError(f"{path} is damaged ({error}); make it again") from error


def read_json(path: Path) -> Any:
    """Return what a JSON file holds, or None where there is no such file.

    Raises
    ------
    CheckpointError
        It is not JSON.
    """
    try:
        return json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); make it again") from error


def value_of(text: str | None) -> float | None:
    """Return the number that a cell of a table holds, None for an empty one and for NaN.

    Examples
    --------
    >>> value_of("0.5"), value_of(""), value_of("nan")
    (0.5, None, None)
    """
    value = float(text) if text else float("nan")
    return None if value != value else value


def with_interval(score: Score | None, digits: int = 4) -> str:
    """Return a score and its 95 % interval as the page shows them, differences with a sign; a dash where there is none."""
    if score is None:
        return "–"
    return typeset(interval(score.value, score.low, score.high, digits, signed=score.scope == "difference"))


def curve_panels(run: RunRecords, kind: str) -> list[tuple[str, list[Curve]]] | None:
    """Return title and curves of each class from ``curves.csv``, or None where there is none.

    Parameters
    ----------
    kind
        ``roc`` or ``pr``; their areas are ``roc_auc`` and ``average_precision`` of ``metrics.csv``.
    """
    lines = read_rows(RunFolder(run.root).curves)
    if lines is None:
        return None
    metric = "roc_auc" if kind == "roc" else "average_precision"

    def curve(scope: str, name: str) -> Curve | None:
        some = [line for line in lines if (line["scope"], line["class"], line["kind"]) == (scope, name, kind)]
        area = run.find(scope, metric, name)
        words = with_interval(area, 3) if area else ""
        return Curve(scope, _column(some, "x"), _column(some, "y"), words) if some else None

    return _panels(run, curve)


def reliability_panels(run: RunRecords) -> list[tuple[str, list[Reliability]]] | None:
    """Return title and lines of each class from ``reliability.csv``, or None where there is none."""
    lines = read_rows(RunFolder(run.root).calibration_analysis / "reliability.csv")
    if lines is None:
        return None

    def reliability(scope: str, name: str) -> Reliability | None:
        some = [line for line in lines if (line["scope"], line["class"]) == (scope, name)]
        some.sort(key=lambda line: int(line["bin"]))
        columns = ("n_rows", "mean_probability", "observed_fraction", "low", "high")
        return Reliability(scope, *(_column(some, column) for column in columns)) if some else None

    return _panels(run, reliability)


def _panels(run: RunRecords, line: Callable[[str, str], Line | None]) -> list[tuple[str, list[Line]]]:
    """Return title and lines (of base model and ensemble) of each distinct class that has any."""
    found = [(name, [line(scope, name) for scope in ("base", "ensemble")]) for name in run.distinct_classes]
    return [(name, [one for one in lines if one is not None]) for name, lines in found if any(lines)]


def _column(lines: Sequence[dict[str, str]], name: str) -> list[float]:
    return [float(line[name] or "nan") for line in lines]


def gene_delta_lines(run: RunRecords) -> list[dict[str, str]]:
    """Return the lines of ``gene_deltas.csv`` of the genes that are scored; none where there is no such file."""
    return [line for line in read_rows(RunFolder(run.root).gene_deltas) or [] if line["is_pilot"] == "0"]


def scan_facts(run: RunRecords) -> dict[str, Any] | None:
    """Return what ``true_rate.json`` says of the genes whose every position was scored, or why none was; None without it."""
    found = read_json(RunFolder(run.root).true_rate)
    return None if found is None else {"left_out": found.get("left_out"), **found.get("facts", {})}


def suspects_of(run: RunRecords) -> list[str] | None:
    """Return the features that the leakage report suspects and that were not left out, or None where there is no report."""
    found = read_json(RunFolder(run.root).leakage / "leakage.json")
    if found is None:
        return None
    return [one["feature"] for one in found["suspects"] if one["feature"] not in found["excluded"]]


def memory_dots(run: RunRecords) -> list[MemoryDot]:
    """Return measured and predicted peak memory of the instances, and the probes of ``memory.json`` where there are any.

    A probe's peak is that of its largest phase.
    """
    probes: dict[int, int] = {}
    for point in (read_json(RunFolder(run.root).memory) or {}).get("points", []):
        probes[point["n_rows"]] = max(probes.get(point["n_rows"], 0), point["peak_bytes"])
    dots = [MemoryDot(rows, peak, None, True) for rows, peak in sorted(probes.items())]
    return dots + [
        MemoryDot(one["n_training_rows"], one["measured_peak_bytes"], one["predicted_bytes"], False)
        for one in run.instances
        if one["measured_peak_bytes"] is not None
    ]
