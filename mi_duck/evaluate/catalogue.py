"""Builds ``run.duckdb``: tables over the run's files, materialised, so that the file opens anywhere and survives a move.

It is built under another name and renamed, and can be built again from the files at any time. What the tables and columns
hold stands in ``sql/catalogue.toml``, and as comments in the file itself.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mi_duck.atomic_files import file_sha256, publish, published_file, storage_errors
from mi_duck.data.database import Database
from mi_duck.data.sql_files import named_queries, named_text
from mi_duck.errors import DataError
from mi_duck.evaluate.report_tables import comments_of, read_typed, report_tables
from mi_duck.metrics.metrics import GAIN, title_of
from mi_duck.numbers import interval
from mi_duck.run.costs import growing_bytes
from mi_duck.run.folder import RunFolder
from mi_duck.run.instance_folder import instance_state, measurement, status_of
from mi_duck.run.plan import Plan, instance_name
from mi_duck.run.stage_times import stage_times

OLDEST_READER = "v1.2.0"
"""The oldest DuckDB that opens ``run.duckdb``."""
COUNTS = ("instance_id", "first_rank", "stop_rank", "n_genes", "n_rows", "n_training_rows", "predicted_bytes")
OF_PLAN = (*COUNTS, "predicted_seconds")
"""Columns of an instance that are fields of the plan's record."""
INSTANCES = pa.schema(
    [
        *((name, pa.int64()) for name in (*COUNTS, "measured_peak_bytes")),
        ("predicted_seconds", pa.float64()),
        ("wall_seconds", pa.float64()),
        ("status", pa.string()),
        ("weight", pa.float64()),
    ]
)
MEASURED = ("instance_id", "n_genes", "n_rows", "n_features", "predicted_bytes", "peak_bytes")
MEASUREMENTS = pa.schema([("phase", pa.string()), *((name, pa.int64()) for name in MEASURED)])
STAGES = pa.schema(
    [
        *(("step", pa.string()), ("instance_id", pa.int64()), ("stage", pa.string())),
        *(("wall_seconds", pa.float64()), ("cpu_seconds", pa.float64())),
        *((name, pa.int64()) for name in ("peak_bytes", "n_rows", "bytes_read")),
    ]
)


def write_catalogue(folder: RunFolder, plan: Plan, provenance: dict[str, Any] | None) -> None:
    """Write ``run.duckdb`` from the plan, the genes, the instances, the scores, the predictions and the tables of the report."""
    temporary = folder.catalogue.with_name(".run.duckdb.tmp")
    with storage_errors(folder.root):
        for stale in (temporary, temporary.with_name(f"{temporary.name}.wal")):
            stale.unlink(missing_ok=True)
        with Database(temporary, storage_version=OLDEST_READER) as db:
            _fill(db, folder, plan, provenance)
            db.flush()
        publish(temporary, folder.catalogue)


def complete_stages(folder: RunFolder, plan: Plan) -> None:
    """Write the table of stages anew, now that the steps which read the catalogue or make it have ended too."""
    with Database(folder.catalogue, storage_version=OLDEST_READER) as db:
        _load_stages(db, folder, plan)
        db.comment({"stages": comments_of("stages", STAGES.names, plan.data.classes)})
        db.flush()


def _fill(db: Database, folder: RunFolder, plan: Plan, provenance: dict[str, Any] | None) -> None:
    """Make the tables of a run that are known by now, each with its comments."""
    n_pilot = plan.data.pilot_genes
    db.load("run_genes", pq.read_table(folder.genes))
    db.load("instances", _instances(folder, plan))
    db.table("instance_genes")
    db.table("coverage", n_genes_dataset=plan.data.n_genes_dataset)
    db.load("genes", _with_class_columns(db.arrow("catalogue_genes", n_pilot_genes=n_pilot), plan))
    db.load("gene_folds", db.arrow("catalogue_folds", n_pilot_genes=n_pilot))
    db.table("memory_per_gene", bytes_per_row=plan.costs.bytes_per_row)
    db.load("memory_measurements", _measurements(folder, plan))
    _load_stages(db, folder, plan)
    if folder.metrics.is_file():
        db.load("metrics", read_typed(folder.metrics))
    if folder.out_of_fold.is_file():
        db.load_parquet("predictions", folder.out_of_fold)
    db.load("runs", _run(folder, plan, provenance))
    for name, table in report_tables(folder, plan):
        db.load(name, table)
    db.drop("run_genes")
    db.comment({name: comments_of(name, columns, plan.data.classes) for name, columns in db.columns().items()})


def _with_class_columns(genes: pa.Table, plan: Plan) -> pa.Table:
    """Replace the list of rows per class by one column per class, named after it."""
    counts = list(zip(*genes["label_counts"].to_pylist(), strict=True))
    at = genes.schema.get_field_index("label_counts")
    genes = genes.remove_column(at)
    for index, name in enumerate(plan.data.classes):
        genes = genes.add_column(at + index, f"n_{name}", pa.array(counts[index], pa.int64()))
    return genes


def _instances(folder: RunFolder, plan: Plan) -> pa.Table:
    weights = {}
    if folder.summary.is_file():
        members = json.loads(folder.summary.read_bytes())["members"]
        weights = {member["instance_id"]: member["weight"] for member in members}
    rows = []
    for instance in sorted((*plan.cut.instances, *plan.cut.split_instances), key=lambda one: one.instance_id):
        measured = measurement(folder, instance)
        is_split = instance in plan.cut.split_instances
        rows.append(
            {name: getattr(instance, name) for name in OF_PLAN}
            | {
                "measured_peak_bytes": measured.get("peak_bytes"),
                "wall_seconds": measured.get("wall_seconds"),
                "status": "split" if is_split else status_of(instance_state(folder, plan, instance)),
                "weight": weights.get(instance.instance_id),
            }
        )
    return pa.Table.from_pylist(rows, schema=INSTANCES)


def _measurements(folder: RunFolder, plan: Plan) -> pa.Table:
    rows = [
        {
            "phase": "training",
            "instance_id": instance.instance_id,
            "n_genes": instance.n_genes,
            "n_rows": instance.n_training_rows,
            "n_features": len(plan.data.features),
            "predicted_bytes": instance.predicted_bytes,
            "peak_bytes": measurement(folder, instance).get("peak_bytes"),
        }
        for instance in plan.cut.instances
    ] + _probes(folder, plan)
    return pa.Table.from_pylist(rows, schema=MEASUREMENTS)


def _load_stages(db: Database, folder: RunFolder, plan: Plan) -> None:
    db.load("stages", pa.Table.from_pylist(stage_times(folder, plan), schema=STAGES))


def _probes(folder: RunFolder, plan: Plan) -> list[dict[str, Any]]:
    """Return the peak memory of every phase of the probes that the plan rests on, empty where it was made without."""
    try:
        points = json.loads(folder.memory.read_bytes())["points"]
    except (OSError, ValueError, KeyError):
        return []
    model = plan.costs.model
    return [
        {name: value for name, value in point.items() if name != "n_nodes"}
        | {
            "phase": f"probe, {point['phase']}",
            "predicted_bytes": model.constant_bytes(point["phase"])
            + growing_bytes(point["phase"], point["n_rows"], model.layout, n_nodes=point.get("n_nodes")),
        }
        for point in points
    ]


def _run(folder: RunFolder, plan: Plan, provenance: dict[str, Any] | None) -> pa.Table:
    known = provenance or {
        "plan_sha256": file_sha256(folder.plan),
        "settings": asdict(plan.settings),
        "status": "unfinished",
    }
    line = {
        "run_id": known["plan_sha256"],
        "dataset_fingerprint": plan.data.fingerprint,
        "settings": json.dumps(known["settings"], sort_keys=True),
        "versions": json.dumps(known.get("versions", {}), sort_keys=True),
    }
    line |= {name: known.get(name) for name in ("started_at", "finished_at", "status")}
    return pa.table({name: pa.array([value], pa.string()) for name, value in line.items()})


def open_catalogue(folder: RunFolder) -> Database:
    """Open ``run.duckdb`` for reading, locked against everything else.

    Of a run that is not finished the tables that are known by now are made in memory.
    """
    if folder.catalogue.is_file():
        return Database(folder.catalogue, read_only=True)
    db = Database()
    _fill(db, folder, folder.read_plan(), None)
    db.lock()
    return db


def describe_catalogue(root: Path) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    """Return rows and columns of every table of a run's catalogue, and the named queries."""
    with open_catalogue(RunFolder(root)) as db:
        return db.describe(), named_queries()


def query_catalogue(
    root: Path, *, query: str | None = None, name: str | None = None
) -> tuple[list[str], list[tuple[Any, ...]]]:
    """Return columns and rows of a query, or of a named one, over a run's catalogue."""
    text = named_or(query, name)
    with open_catalogue(RunFolder(root)) as db:
        return db.query(text)


def named_or(query: str | None, name: str | None) -> str:
    """Return the text of a named query, or the query itself where no name is given."""
    if name is None:
        return query or ""
    if name not in named_queries():
        raise DataError(f"no query named '{name}'; there are {', '.join(named_queries())}")
    return named_text(name)


def write_answer(root: Path, query: str, file: Path) -> int:
    """Write the answer to a query as Parquet, batch by batch; return its rows.

    Raises
    ------
    DataError
        The file is there already, or the query is not one valid statement.
    """
    if file.exists():
        raise DataError(f"{file} exists; choose another --parquet")
    n_rows = 0
    with open_catalogue(RunFolder(root)) as db, storage_errors(file.parent), published_file(file) as temporary:
        batches = db.relation(query).to_arrow_reader()
        with pq.ParquetWriter(temporary, batches.schema) as writer:
            for batch in batches:
                writer.write_batch(batch)
                n_rows += batch.num_rows
    return n_rows


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """The scores of a run as text: columns, lines of cells, the rows scored, and why intervals are too narrow, or empty."""

    columns: list[str]
    lines: list[list[str]]
    n_rows: int
    has_intervals: bool
    too_narrow: str


def score_table(root: Path, *, query: str = "scores") -> ScoreTable:
    """Return the scores of a run as a small table: base model, each member, the ensemble, and ensemble - base.

    They are average precision per class, macro F1 and log loss, each with its interval where there is one. ``query`` names
    the query: ``scores`` out of fold, or those of ``held_out`` genes, which may be none.
    """
    _, rows = query_catalogue(root, name=query)
    classes = dict.fromkeys(row[3] for row in rows if row[2] == "average_precision" and row[3] != "macro")
    left_out = (
        {*list(classes)[:1], "macro"} if len(classes) == 2 else set()
    )  # of two classes one average precision tells all
    columns = ["model"]
    lines: dict[str, list[str]] = {}
    wanted = ("average_precision", "f1", "log_loss")
    reason, n_scored, has_intervals = "", 0, False
    for scope, instance_id, metric, name, value, low, high, too_narrow, n_rows in rows:
        reason, n_scored, has_intervals = reason or too_narrow or "", n_rows, has_intervals or low is not None
        if metric not in wanted or (metric == "f1" and name != "macro") or (metric == "log_loss" and name != "all"):
            continue
        if metric == "average_precision" and name in left_out:
            continue
        title = title_of(metric, name)
        if title not in columns:
            columns.append(title)
        who = GAIN if scope == "difference" else scope if instance_id is None else instance_name(instance_id)
        lines.setdefault(who, [who]).append(interval(value, low, high, signed=who == GAIN))
    last = {"base": 0, "ensemble": 2, GAIN: 3}
    order = sorted(lines, key=lambda who: (last.get(who, 1), who))
    return ScoreTable(columns, [lines[who] for who in order], n_scored, has_intervals, reason)
