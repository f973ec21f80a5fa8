"""Checks the dataset of a run: it is still the one that was planned, and its pages are whole."""

from collections.abc import Iterator

from mi_duck.children import Report
from mi_duck.data.files import open_parquet
from mi_duck.data.stores import ObjectFile, data_file
from mi_duck.stages import open_planned
from mi_duck.verify.findings import MISSING, OK, Finding, Verdict, guarded
from mi_duck.verify.subject import Subject


def check_source(subject: Subject, report: Report) -> Iterator[Finding]:
    """Yield what is found about the dataset; reads every page that the run used."""
    yield guarded("dataset: fingerprint", lambda: _fingerprint(subject))
    yield guarded("dataset: page checksums", lambda: _pages(subject, report))


def _fingerprint(subject: Subject) -> Verdict:
    gone = [file for file in subject.plan.files if not _is_there(file)]
    if gone:
        return MISSING, f"{len(gone)} of {len(subject.plan.files)} files are not there, such as {gone[0]}"
    dataset = open_planned(subject.plan)
    return OK, f"{dataset.n_rows:,} rows in {len(dataset.files)} files, as planned"


def _is_there(text: str) -> bool:
    """Return whether a file is there; a store is asked when its files are opened."""
    file = data_file(text)
    return isinstance(file, ObjectFile) or file.is_file()


def _pages(subject: Subject, report: Report) -> Verdict:
    plan = subject.plan
    files = [data_file(file) for file in plan.files if _is_there(file)]
    used = [plan.gene_column, plan.label_column, plan.fold_column, plan.position_column, *plan.features]
    for done, file in enumerate(files):
        report("reading every page of the dataset", done, len(files))
        with open_parquet(file) as parquet:
            columns = [name for name in parquet.schema_arrow.names if name in set(used)]
            for group in range(parquet.num_row_groups):
                parquet.read_row_group(group, columns=columns)
    report("reading every page of the dataset", len(files), len(files))
    if not files:
        return MISSING, "no file of the dataset is there"
    return OK, f"{len(files)} files read; a page without a checksum can change unseen"
