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
from pathlib import Path

from mi_duck.data.database import SQL_BYTES, Database
from mi_duck.errors import RunBusyError
from mi_duck.processes import Report
from mi_duck.run.folder import RunFolder
from mi_duck.verify.consolidated import check_consolidated
from mi_duck.verify.findings import DAMAGED, MISSING, OK, STATUSES, UNREADABLE, Finding, guarded
from mi_duck.verify.genes import check_genes, check_genes_file, load_tables, read_run_genes
from mi_duck.verify.members import check_instance
from mi_duck.verify.scores import check_scores
from mi_duck.verify.subject import Subject, check_inventory, check_source, open_subject

DAMAGED_CODE, INCOMPLETE_CODE = 65, 69


def verify_run(root: Path, *, with_data: bool = False, report: Report) -> list[Finding]:
    """Check a run against everything that it states.

    Parameters
    ----------
    root
        Run folder.
    with_data
        Whether to check the dataset too, which reads all of it.
    report
        Progress callback, called with (stage, done, total).

    Returns
    -------
    list of Finding
        In the order of a run; see `worst_first`.

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
            return MISSING, f"no plan in {root}; make one with 'mi-duck plan DATASET --out {root}'"
        subjects.append(open_subject(folder))
        return OK, f"{len(subjects[0].plan.cut.instances)} instances, {len(subjects[0].plan.data.features):,} features"

    yield guarded("plan.json", plan)
    if not subjects:
        return
    subject = subjects[0]
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
    """Hold the lock of a run, shared with other readers; nothing is written.

    Raises
    ------
    RunBusyError
        A process that changes files holds it.
    """
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
