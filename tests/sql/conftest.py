"""Given tables for the tests of single SQL files, typed as the header of the file that makes them says."""

from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
from headers import header_of, sql_files

from mi_duck.data.database import Database

TYPES = {
    "varchar": pa.string(),
    "bigint": pa.int64(),
    "integer": pa.int32(),
    "hugeint": pa.int64(),
    "ubigint": pa.uint64(),
    "boolean": pa.bool_(),
    "double": pa.float64(),
    "bigint[]": pa.list_(pa.int64()),
}
MADE_ELSEWHERE = {
    "source_rows": {
        "gene_id": "varchar",
        "fold_group": "varchar",
        "label_text": "varchar",
        "position": "bigint",
        "site_score": "double",
        "content": "varchar",
        "digest": "ubigint",
        "weight": "double",
        "file": "varchar",
        "row_number": "bigint",
    },
    "source_columns": {
        "gene_id": "varchar",
        "position": "bigint",
        "file": "varchar",
        "row_number": "bigint",
        "column_0": "varchar",
        "column_1": "double",
    },
    "row_sources": {"number": "bigint", "file": "varchar", "row_number": "bigint"},
    "scored_positions": {
        "chrom": "varchar",
        "absolute_position": "integer",
        "strand": "varchar",
        "p_donor": "double",
        "p_acceptor": "double",
    },
    "row_groups": {"file": "varchar", "row_group": "bigint", "first_row": "bigint", "n_rows": "bigint"},
    "instances": {
        "instance_id": "bigint",
        "first_rank": "bigint",
        "stop_rank": "bigint",
        "n_genes": "bigint",
        "n_rows": "bigint",
        "predicted_bytes": "bigint",
        "measured_peak_bytes": "bigint",
        "wall_seconds": "double",
        "status": "varchar",
        "weight": "double",
    },
    "stages": {
        "step": "varchar",
        "instance_id": "bigint",
        "stage": "varchar",
        "wall_seconds": "double",
        "cpu_seconds": "double",
        "peak_bytes": "bigint",
        "bytes_read": "bigint",
    },
    "metrics": {
        "scope": "varchar",
        "instance_id": "bigint",
        "variant": "varchar",
        "is_chosen": "boolean",
        "metric": "varchar",
        "class": "varchar",
        "value": "double",
        "low": "double",
        "high": "double",
        "evaluated_on": "varchar",
        "too_narrow": "varchar",
        "n_rows": "bigint",
    },
    "joined_groups": {"fold_group": "varchar", "joined": "varchar"},
    "run_genes": {
        "gene_id": "varchar",
        "fold_group": "varchar",
        "n_rows": "bigint",
        "label_counts": "bigint[]",
        "gene_rank": "bigint",
        "first_row": "bigint",
        "fold": "bigint",
        "is_holdout": "boolean",
        "n_training_rows": "bigint",
    },
    "windows": {
        "instance_id": "bigint",
        "first_rank": "bigint",
        "stop_rank": "bigint",
        "n_genes": "bigint",
        "n_rows": "bigint",
        "n_training_rows": "bigint",
        "predicted_bytes": "bigint",
        "is_member": "boolean",
    },
    "segments": {
        "segment_id": "bigint",
        "first_rank": "bigint",
        "stop_rank": "bigint",
        "first_row": "bigint",
        "stop_row": "bigint",
    },
    "scored_rows": {
        "gene_id": "varchar",
        "fold": "bigint",
        "label": "bigint",
        "n_rows": "bigint",
        "first_row": "bigint",
        "last_row": "bigint",
    },
    "annotation_lines": {
        "line": "bigint",
        "chrom": "varchar",
        "kind": "varchar",
        "start": "bigint",
        "stop": "bigint",
        "strand": "varchar",
        "attributes": "varchar",
    },
    "left_out_introns": {"chrom": "varchar", "strand": "varchar", "left_end": "bigint", "right_start": "bigint"},
    "score_lines": {
        "chrom": "varchar",
        "position": "varchar",
        "strand": "varchar",
        "donor_score": "varchar",
        "acceptor_score": "varchar",
        "neither_score": "varchar",
        "start": "varchar",
        "stop": "varchar",
        "name": "varchar",
        "score": "varchar",
    },
    "coverage_report": {
        "gene_id": "varchar",
        "n_rows": "varchar",
        "fold": "varchar",
        "instances": "varchar",
        "trained": "varchar",
        "held_out": "varchar",
        "is_pilot": "varchar",
    },
}
"""Tables that Python makes, not a file in ``sql/``: a view over Parquet, the plan's instances, the files of a run."""

Given = Callable[[str, str], None]


@pytest.fixture
def given(db: Database) -> Given:
    """Return ``given(table, text)``: loads a table written as text.

    The first line names columns, each further line is a row; cells are divided by white space, ``-`` is null, ``''`` is
    the empty text, ``1/2/3`` a list.
    """

    def load(table: str, text: str) -> None:
        heading, *lines = [line.split() for line in text.strip().splitlines()]
        kinds = header_of(table).columns if table in sql_files("*.sql") else MADE_ELSEWHERE[table]
        rows = [dict(zip(heading, map(_cell, line, (kinds[name] for name in heading)), strict=True)) for line in lines]
        schema = pa.schema([(name, TYPES[kinds[name]]) for name in heading])
        db.load(table, pa.Table.from_pylist(rows, schema=schema))

    return load


def _cell(text: str, kind: str) -> Any:
    if text == "-":
        return None
    if kind == "varchar":
        return text.replace("''", "")
    if kind == "boolean":
        return text == "true"
    if kind == "bigint[]":
        return [int(part) for part in text.split("/")]
    return float(text) if kind == "double" else int(text)
