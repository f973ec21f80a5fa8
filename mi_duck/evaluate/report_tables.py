"""Tables of the catalogue that are the files behind the report, and the comments of all tables."""

import json
import re
import tomllib
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv

from mi_duck.atomic_files import unguarded
from mi_duck.data.sql_files import sql_folder
from mi_duck.run.folder import RunFolder
from mi_duck.run.plan import Plan

TEXTS = {"gene_id", "scope", "class", "kind", "feature", "comparison", "constant", "equal_to", "verdict", "reason"}
TEXTS |= {"evaluated_on", "variant", "metric", "too_narrow", "run"}
WHOLE = re.compile(r"n_.+|fold|round|rank|bin|instance_id|errors_.+")
FLAG = re.compile(r"(is|has)_.+")


def report_tables(folder: RunFolder, plan: Plan) -> Iterator[tuple[str, pa.Table]]:
    """Yield the name and the rows of every table whose file is there."""
    files = {
        "leakage": folder.leakage / "leakage.csv",
        "gene_deltas": folder.gene_deltas,
        "curves": folder.curves,
        "reliability": folder.calibration_analysis / "reliability.csv",
        "scan_errors": folder.scan_errors,
    }
    for name, file in files.items():
        if file.is_file():
            yield name, read_typed(file)
    if folder.thresholds.is_file():
        yield "thresholds", _thresholds(folder)
    curves = [
        _with_instance(read_typed(file), one.instance_id)
        for one in plan.cut.instances
        if (file := folder.instance(one) / "learning_curves.csv").is_file() and file.stat().st_size > 1  # it has lines
    ]
    if curves:
        yield "learning_curves", pa.concat_tables(curves)
    if folder.shap_importance.is_file():
        yield "importance", _importance(folder, plan)


def read_typed(file: Path) -> pa.Table:
    """Return a table that mi_duck wrote as CSV, its types by the names of its columns."""
    with pa_csv.open_csv(file) as lines:
        kinds = {name: _kind(name) for name in lines.schema.names}
    options = pa_csv.ConvertOptions(column_types=kinds, strings_can_be_null=True, null_values=[""])
    table = pa_csv.read_csv(file, convert_options=options)
    for index, name in enumerate(kinds):
        if kinds[name] == pa.string():
            texts = [one if one is None else unguarded(one) for one in table[name].to_pylist()]
            table = table.set_column(index, name, pa.array(texts, pa.string()))
    return table


def _kind(name: str) -> pa.DataType:
    if name in TEXTS:
        return pa.string()
    if FLAG.fullmatch(name):
        return pa.bool_()
    return pa.int64() if WHOLE.fullmatch(name) else pa.float64()


def _with_instance(table: pa.Table, instance_id: int) -> pa.Table:
    return table.add_column(0, "instance_id", pa.array([instance_id] * len(table), pa.int64()))


def _thresholds(folder: RunFolder) -> pa.Table:
    names = ("threshold", "precision", "recall", "f1")
    rows = [
        {"class": name, "kind": kind} | {one: (facts or {}).get(one) for one in names}
        for name, kinds in json.loads(folder.thresholds.read_bytes()).items()
        for kind, facts in kinds.items()
    ]
    schema = pa.schema([("class", pa.string()), ("kind", pa.string()), *((one, pa.float64()) for one in names)])
    return pa.Table.from_pylist(rows, schema=schema)


def _importance(folder: RunFolder, plan: Plan) -> pa.Table:
    """Return a row for each feature and class instead of a column for each class."""
    wide = read_typed(folder.shap_importance)
    parts = []
    for name, column in (*((one, f"importance_{one}") for one in plan.data.classes), ("all", "importance_mean")):
        rank = pc.rank(wide[column], sort_keys="descending", tiebreaker="first").cast(pa.int64())
        parts.append(
            pa.table(
                {
                    "feature": wide["feature"],
                    "class": pa.array([name] * len(wide), pa.string()),
                    "importance": wide[column],
                    "rank": rank,
                }
            ).sort_by("rank")
        )
    return pa.concat_tables(parts)


# ---- comments -----------------------------------------------------------------------------------------------------------


@cache
def table_texts() -> dict[str, dict[str, str]]:
    """Return ``sql/catalogue.toml``: for each table what it holds (``table``), and what its columns do."""
    return tomllib.loads((sql_folder() / "catalogue.toml").read_text(encoding="utf-8"))


def comments_of(table: str, columns: Sequence[str], classes: Sequence[str]) -> tuple[str, dict[str, str]]:
    """Return the comment of a table, and those of its columns by their names."""
    texts: dict[str, Any] = table_texts()[table]
    found = {}
    for column in columns:
        patterns = (column, *(column.replace(name, "CLASS", 1) for name in classes))
        found[column] = next((texts[one] for one in patterns if one in texts), texts.get("OTHER", ""))
    return texts["table"], found
