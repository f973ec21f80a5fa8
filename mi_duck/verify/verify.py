"""Checks a finished or broken run against everything that it states; writes nothing.

A file is given to a native parser only once its hash was found right, because a flipped bit may crash such a parser. Files
without a hash (the plan, the manifests) are read by Python, and their structure is checked.

What was hashed when it was written is not compared field by field: two JSON files with the right hashes agree. Everything that
can be computed again from data is: genes, folds, windows, rows, scores, thresholds, coverage, the catalogue and the text.
"""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from mi_duck.data.database import SQL_BYTES, Database
from mi_duck.errors import CheckpointError, RunBusyError
from mi_duck.processes import Report
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import genes_file
from mi_duck.verify.members import check_consolidated, check_instance
from mi_duck.verify.scores import check_scores
from mi_duck.verify.subject import (
    DAMAGED,
    MISSING,
    OK,
    STATUSES,
    UNREADABLE,
    Finding,
    Subject,
    Verdict,
    check_inventory,
    check_source,
    guarded,
    listed,
    open_subject,
    skipped,
    verdict,
)
from mi_duck.wording import Noun

DAMAGED_CODE, INCOMPLETE_CODE = 65, 69
GENES = pa.schema(
    [("gene_id", pa.string()), ("fold_group", pa.string()), ("label_counts", pa.list_(pa.int64()))]
    + [(name, pa.int64()) for name in ("n_rows", "gene_rank", "first_row", "fold", "n_training_rows")]
    + [("is_holdout", pa.bool_())]
)
WINDOWS = pa.schema(
    [(name, pa.int64()) for name in ("instance_id", "first_rank", "stop_rank", "n_genes", "n_rows", "n_training_rows")]
    + [("predicted_bytes", pa.int64()), ("is_member", pa.bool_())]
)
SEGMENTS = pa.schema(
    [(name, pa.int64()) for name in ("segment_id", "first_rank", "stop_rank", "first_row", "stop_row")]
)


def verify_run(root: Path, *, with_data: bool = False, report: Report) -> list[Finding]:
    """Check a run against everything that it states; findings come in the order of a run, see `worst_first`.

    Parameters
    ----------
    with_data
        Whether to check the dataset too, which reads all of it.

    Raises
    ------
    RunBusyError
        Another process works in the folder.

    Notes
    -----
    Memory: 1 byte, and 4 bytes per class, for each row of the run, and what sorting them takes; other files are read one row
    group at a time.
    """
    with _shared_lock(root):
        return list(_findings(root, with_data=with_data, report=report))


def _in_words_of(noun: Noun, found: Iterator[Finding]) -> Iterator[Finding]:
    """Yield findings in the words of a table whose groups may not be genes."""
    for one in found:
        yield Finding(noun.words(one.name), one.status, noun.words(one.detail))


def worst_first(findings: list[Finding]) -> list[Finding]:
    """Return findings with damaged ones first, then missing ones, otherwise in their order."""
    return sorted(findings, key=lambda one: -STATUSES.index(one.status))


def exit_code(findings: list[Finding]) -> int:
    """Return 65 where something is damaged, 69 where something is missing, else 0."""
    there = {one.status for one in findings}
    return DAMAGED_CODE if DAMAGED in there else INCOMPLETE_CODE if MISSING in there else 0


def _findings(root: Path, *, with_data: bool, report: Report) -> Iterator[Finding]:
    folder = RunFolder(root)
    subjects: list[Subject] = []

    def plan() -> tuple[str, str]:
        if not folder.plan.is_file():
            return (
                MISSING,
                f"no plan in {root}; name the folder of a run, or begin one with 'mi-duck plan DATASET --out {root}'",
            )
        subjects.append(open_subject(folder))
        return OK, f"{len(subjects[0].plan.cut.instances)} instances, {len(subjects[0].plan.data.features):,} features"

    yield guarded("plan.json", plan)
    if subjects:
        found = _checks(subjects[0], with_data=with_data, report=report)
        yield from _in_words_of(subjects[0].plan.data.noun, found)


def _checks(subject: Subject, *, with_data: bool, report: Report) -> Iterator[Finding]:
    n_steps = len(subject.plan.cut.instances) + 2
    report("verifying", 0, n_steps)
    file = guarded("genes.parquet", lambda: check_genes_file(subject))
    genes = None
    if file.status == OK:
        try:
            genes = read_run_genes(subject)
        except UNREADABLE as error:
            file = Finding(file.name, DAMAGED, " ".join(str(error).split()))
    yield file
    with Database(memory_bytes=SQL_BYTES, threads=1) as db:
        if genes is not None:
            load_tables(db, subject, genes)
        yield from check_genes(db, subject, genes)
        report("verifying", 1, n_steps)
        for done, instance in enumerate(subject.plan.cut.instances, 2):
            yield from check_instance(db, subject, instance, genes)
            report("verifying", done, n_steps)
        yield from check_consolidated(subject)
        yield from check_scores(db, subject, genes)
    yield from check_inventory(subject)
    report("verifying", n_steps, n_steps)
    if with_data:
        yield from check_source(subject, report)


@contextmanager
def _shared_lock(root: Path) -> Iterator[None]:
    """Hold the lock of a run, shared with other readers; nothing is written."""
    try:
        handle = os.open(root / ".lock", os.O_RDONLY)
    except OSError:  # there is no run, or it was copied without its lock
        yield
        return
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RunBusyError(f"another mi-duck works on {root}; verify it when that has ended") from error
        yield
    finally:
        os.close(handle)


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
    members, cut = {one["instance_id"] for one in (subject.summary or {}).get("members", [])}, subject.plan.cut
    db.load("run_genes", genes)
    windows = [asdict(one) | {"is_member": one.instance_id in members} for one in cut.instances]
    db.load("windows", pa.Table.from_pylist(windows, schema=WINDOWS))
    segments = [asdict(one) for one in cut.all_segments]
    db.load("segments", pa.Table.from_pylist(segments, schema=SEGMENTS))


def check_genes(db: Database, subject: Subject, genes: pa.Table | None) -> Iterator[Finding]:
    """Yield the findings about folds, windows and segments, by the queries of ``sql/checks``."""
    data, cut, n_folds = subject.plan.data, subject.plan.cut, subject.plan.settings.n_folds

    def check(name: str, file: str, fine: str, what: str, **parameters: Any) -> Finding:
        if genes is None:
            return skipped(name, "genes.parquet cannot be used")

        def found() -> Verdict:
            rows = db.rows(f"checks/{file}", **parameters)
            words = [", ".join(f"{key} {value}" for key, value in row.items()) for row in rows]
            return (DAMAGED, f"{what}: {listed(words, '; ')}") if rows else (OK, fine)

        return guarded(name, found)

    n_instances, overlap = len(cut.instances), cut.overlap_genes
    name = "plan and genes agree"
    yield check(name, "", "", "") if genes is None else guarded(name, lambda: _numbers(subject, genes))
    yield check("genes are listed once", "repeated_gene", f"{data.n_genes:,} genes", "listed more than once")
    fine, what = "ranks, first rows and rows per class agree", "rank, first row or rows per class are wrong"
    yield check("genes lie in the order of ranks", "misplaced_gene", fine, what, n_genes=data.n_genes)
    fine, what = f"folds 0 to {n_folds - 1}", "no fold of the run"
    yield check("every gene has one fold", "foldless_gene", fine, what, n_folds=n_folds)
    yield check("no fold group is split", "split_group", "each in one fold", "fold groups in several folds")
    yield check("every gene is in an instance", "uncovered_gene", f"{n_instances} windows", "in no window")
    fine, what = f"{data.n_holdout_genes:,} held-out genes", "held out and in a window"
    yield check("no held-out gene is trained on", "trained_holdout", fine, what)
    yield check("windows hold their genes", "wrong_window", "genes and rows as planned", "other genes or rows")
    name, fine = "neighbouring windows overlap", f"{n_instances - 1} pairs share {overlap:,} genes, other pairs none"
    planned = subject.n_planned
    yield check(name, "wrong_overlap", fine, "other overlap", overlap_genes=overlap, n_planned=planned)
    name, budget = "predicted peaks keep the budget", cut.budget.budget_bytes
    yield check(name, "over_budget", f"at most {budget:,} bytes", "above the budget", budget_bytes=budget)
    fine = f"{len(cut.all_segments)} segments"
    yield check("segments tile the rows", "segment_gap", fine, "gap, overlap or other rows")


def _numbers(subject: Subject, genes: pa.Table) -> Verdict:
    data = subject.plan.data
    n, n_rows = data.n_genes, sum(genes["n_rows"].to_pylist()[: data.n_genes])
    there = f"{genes.num_rows:,} genes, {n_rows:,} rows of genes that are not held out"
    fits = genes.num_rows == n + data.n_holdout_genes and n_rows == data.n_rows and n <= data.n_genes_dataset
    return verdict([] if fits else [f"genes.parquet holds {there}; the plan says {n:,} and {data.n_rows:,}"], there)


def check_genes_file(subject: Subject) -> Verdict:
    """Check that ``genes.parquet`` is the one that the plan was made with."""
    if not subject.folder.genes.is_file():
        return MISSING, "genes.parquet is not there; restore it from a copy or plan anew into another folder"
    if subject.sha256(subject.folder.genes) != subject.plan.data.genes_sha256:
        return DAMAGED, "its hash is not the one in plan.json"
    return OK, f"hash {subject.plan.data.genes_sha256[:12]} as in plan.json"
