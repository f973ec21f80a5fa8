"""Checks plan and genes against each other: folds, windows and segments, by the queries of ``sql/checks``."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mi_duck.data.database import Database
from mi_duck.errors import CheckpointError
from mi_duck.run.genes import genes_file
from mi_duck.verify.findings import DAMAGED, MISSING, OK, Finding, Verdict, guarded, listed, skipped, verdict
from mi_duck.verify.subject import Subject

GENES = pa.schema(
    [
        ("gene_id", pa.string()),
        ("fold_group", pa.string()),
        ("n_rows", pa.int64()),
        ("label_counts", pa.list_(pa.int64())),
        ("gene_rank", pa.int64()),
        ("first_row", pa.int64()),
        ("fold", pa.int64()),
        ("is_holdout", pa.bool_()),
        ("n_training_rows", pa.int64()),
    ]
)
WINDOWS = pa.schema(
    [(name, pa.int64()) for name in ("instance_id", "first_rank", "stop_rank", "n_genes", "n_rows", "n_training_rows")]
    + [("predicted_bytes", pa.int64()), ("is_member", pa.bool_())]
)
SEGMENTS = pa.schema(
    [(name, pa.int64()) for name in ("segment_id", "first_rank", "stop_rank", "first_row", "stop_row")]
)


def read_run_genes(subject: Subject) -> pa.Table:
    """Return the genes of a run in the order of their ranks; call it once the hash of the file was checked.

    Raises
    ------
    CheckpointError
        The file is not the plan's, or lacks a column.
    """
    with pq.ParquetFile(genes_file(subject.folder, subject.plan), page_checksum_verification=True) as parquet:
        table = parquet.read()
    missing = [name for name in GENES.names if name not in table.column_names]
    if missing:
        raise CheckpointError(f"genes.parquet lacks {', '.join(missing)}")
    table = table.select(GENES.names).cast(GENES)
    nulls = [name for name in GENES.names if name != "fold" and table[name].null_count]
    if nulls:
        raise CheckpointError(f"genes.parquet has nulls in {', '.join(nulls)}")
    return table.sort_by("gene_rank")


def load_tables(db: Database, subject: Subject, genes: pa.Table) -> None:
    """Load what the checks in SQL read: ``run_genes``, ``windows``, ``segments``."""
    members = {one["instance_id"] for one in (subject.summary or {}).get("members", [])}
    db.load("run_genes", genes)
    lines: list[dict[str, Any]] = [
        asdict(one) | {"is_member": one.instance_id in members} for one in subject.plan.cut.instances
    ]
    db.load("windows", pa.Table.from_pylist(lines, schema=WINDOWS))
    segments = [asdict(one) for one in subject.plan.cut.all_segments]
    db.load("segments", pa.Table.from_pylist(segments, schema=SEGMENTS))


def check_genes(db: Database, subject: Subject, genes: pa.Table | None) -> Iterator[Finding]:
    """Yield the findings about folds, windows and segments."""
    plan = subject.plan

    def rows_of(name: str, fine: str, what: str, **parameters: Any) -> Verdict:
        found = db.rows(f"checks/{name}", **parameters)
        words = [", ".join(f"{key} {value}" for key, value in row.items()) for row in found]
        return (DAMAGED, f"{what}: {listed(words, '; ')}") if found else (OK, fine)

    n_pairs = len(plan.cut.instances) - 1
    checks: dict[str, tuple[str, str, str, dict[str, Any]]] = {
        "genes are listed once": ("repeated_gene", f"{plan.data.n_genes:,} genes", "listed more than once", {}),
        "genes lie in the order of ranks": (
            *(
                "misplaced_gene",
                "ranks, first rows and rows per class agree",
                "rank, first row or rows per class are wrong",
            ),
            {"n_genes": plan.data.n_genes},
        ),
        "every gene has one fold": (
            *("foldless_gene", f"folds 0 to {plan.settings.n_folds - 1}", "no fold of the run"),
            {"n_folds": plan.settings.n_folds},
        ),
        "no fold group is split": ("split_group", "each in one fold", "fold groups in several folds", {}),
        "every gene is in an instance": ("uncovered_gene", f"{len(plan.cut.instances)} windows", "in no window", {}),
        "no held-out gene is trained on": (
            *("trained_holdout", f"{plan.data.n_holdout_genes:,} held-out genes", "held out and in a window"),
            {},
        ),
        "windows hold their genes": ("wrong_window", "genes and rows as planned", "other genes or rows", {}),
        "neighbouring windows overlap": (
            *(
                "wrong_overlap",
                f"{n_pairs} pairs share {plan.cut.overlap_genes:,} genes, other pairs none",
                "other overlap",
            ),
            {"overlap_genes": plan.cut.overlap_genes, "n_planned": subject.n_planned},
        ),
        "predicted peaks keep the budget": (
            *("over_budget", f"at most {plan.cut.budget.budget_bytes:,} bytes", "above the budget"),
            {"budget_bytes": plan.cut.budget.budget_bytes},
        ),
        "segments tile the rows": (
            "segment_gap",
            f"{len(plan.cut.all_segments)} segments",
            "gap, overlap or other rows",
            {},
        ),
    }
    if genes is None:
        for name in ("plan and genes agree", *checks):
            yield skipped(name, "genes.parquet cannot be used")
        return
    yield guarded("plan and genes agree", lambda: _numbers(subject, genes))
    for name, (file, fine, what, parameters) in checks.items():
        yield guarded(name, lambda: rows_of(file, fine, what, **parameters))  # noqa: B023 - called before the loop goes on


def _numbers(subject: Subject, genes: pa.Table) -> Verdict:
    plan = subject.plan
    n, n_rows = plan.data.n_genes, sum(genes["n_rows"].to_pylist()[: plan.data.n_genes])
    there = f"{genes.num_rows:,} genes, {n_rows:,} rows of genes that are not held out"
    fits = (
        genes.num_rows == n + plan.data.n_holdout_genes
        and n_rows == plan.data.n_rows
        and n <= plan.data.n_genes_dataset
    )
    return verdict(
        [] if fits else [f"genes.parquet holds {there}; the plan says {n:,} and {plan.data.n_rows:,}"], there
    )


def check_genes_file(subject: Subject) -> Verdict:
    """Check that ``genes.parquet`` is the one that the plan was made with."""
    if not subject.folder.genes.is_file():
        return MISSING, "genes.parquet is not there; restore it from a copy or plan anew into another folder"
    if subject.sha256(subject.folder.genes) != subject.plan.data.genes_sha256:
        return DAMAGED, "its hash is not the one in plan.json"
    return OK, f"hash {subject.plan.data.genes_sha256[:12]} as in plan.json"
