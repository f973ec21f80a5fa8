"""Checks the folder of every instance: manifest, hashes, genes, models, out-of-fold predictions, measured peak.

Files of predictions are checked row by row, one row group at a time.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mi_duck.data.database import Database
from mi_duck.ensemble.model import InstanceModel
from mi_duck.ensemble.model_file import load_unified_model
from mi_duck.ensemble.out_of_fold import read_fold_models
from mi_duck.numbers import gibibytes
from mi_duck.report.instance_files import CURVES, IMPORTANCE, IMPORTANCE_PLOT, SCORES, UNSEEN
from mi_duck.run.genes import codes_of
from mi_duck.run.instance_folder import differences_of, instance_state, made_of, read_manifest
from mi_duck.run.plan import Instance
from mi_duck.verify.findings import (
    DAMAGED,
    MISSING,
    NOT_APPLICABLE,
    OK,
    Finding,
    Verdict,
    guarded,
    listed,
    skipped,
    verdict,
)
from mi_duck.verify.subject import Subject

SUM_TOLERANCE = 1e-5
LINES = pa.schema(
    [("gene_id", pa.string())] + [(name, pa.int64()) for name in ("fold", "label", "n_rows", "first_row", "last_row")]
)
BESIDE = ("manifest.json", "measurement.json")
SHAP = "shap_analysis"
DESCRIBING = {*SCORES, *UNSEEN, *CURVES.values(), IMPORTANCE, IMPORTANCE_PLOT}
"""Files that are not in the manifest while they are written again."""


@dataclass(frozen=True, slots=True)
class ScoredFile:
    """Content of a file of predictions.

    Parameters
    ----------
    problems
        What is wrong.
    n_rows
        Its rows.
    label
        Class of each row, shape (n_rows,).
    probabilities
        Probabilities, shape (n_rows, n_classes), or (0, n_classes) where they are not kept.
    """

    problems: tuple[str, ...]
    n_rows: int
    label: NDArray[np.uint8]
    probabilities: NDArray[np.float32]


def read_scored(
    db: Database,
    path: Path,
    classes: Sequence[str],
    *,
    first_row: int,
    ranks: tuple[int, int],
    has_margins: bool = False,
    keeps: bool = False,
) -> ScoredFile:
    """Read a file of predictions, and compare its rows with the genes of the run; call it once its hash was checked.

    Parameters
    ----------
    db
        Holds ``run_genes``.
    path, classes
        The file and the names of the classes.
    first_row
        The row_id of its first row; each further row must have the next.
    ranks
        Half-open range of the gene ranks whose rows it must hold.
    has_margins
        Whether it has margins beside the probabilities.
    keeps
        Whether to return labels (1 byte per row) and probabilities (4 bytes per row and class).
    """
    problems: list[str] = []
    names = [f"p_{name}" for name in classes]
    margins = [f"margin_{name}" for name in classes] if has_margins else []
    columns = ["row_id", "gene_id", "position", "label", "fold", *names, *margins]
    index_of = {name: index for index, name in enumerate(classes)}
    lines, labels, probabilities = [], [], []
    expected = first_row
    n_jumps = n_bad = n_infinite = 0
    with pq.ParquetFile(path, page_checksum_verification=True) as parquet:
        if parquet.schema_arrow.names != columns:
            return ScoredFile(
                (f"its columns are {', '.join(parquet.schema_arrow.names)}",),
                *(0, np.empty(0, np.uint8), np.empty((0, len(classes)), np.float32)),
            )
        for group in range(parquet.num_row_groups):
            table = parquet.read_row_group(group)
            row_id = table["row_id"].to_numpy()
            n_jumps += int(np.count_nonzero(row_id != np.arange(expected, expected + len(table))))
            expected += len(table)
            matrix = np.column_stack([table[name].to_numpy() for name in names])
            is_right = np.abs(matrix.sum(axis=1, dtype=np.float64) - 1) <= SUM_TOLERANCE
            n_bad += int(np.count_nonzero(~(is_right & (matrix >= 0).all(axis=1))))
            for name in margins:
                n_infinite += int(np.count_nonzero(~np.isfinite(table[name].to_numpy())))
            label = codes_of(table["label"].cast(pa.string()), index_of)
            lines.append(_by_gene(table, label))
            if keeps:
                labels.append(label.astype(np.uint8))
                probabilities.append(matrix)
    n_rows = expected - first_row
    if n_jumps:
        problems.append(f"{n_jumps:,} rows whose row_id does not count on from {first_row:,}")
    if n_bad:
        problems.append(f"{n_bad:,} rows whose probabilities are not finite or do not sum to 1")
    if n_infinite:
        problems.append(f"{n_infinite:,} margins that are not finite")
    db.load("scored_rows", pa.concat_tables(lines) if lines else LINES.empty_table())
    wrong = db.rows("checks/wrong_score", first_rank=ranks[0], stop_rank=ranks[1])
    if wrong:
        words = [f"{row['gene_id']} ({row['rows_scored']} rows, {row['n_rows']} expected)" for row in wrong]
        problems.append(f"rows, fold or classes of {listed(words)} are not those of genes.parquet")
    return ScoredFile(
        tuple(problems),
        n_rows,
        np.concatenate(labels) if labels else np.empty(0, np.uint8),
        np.concatenate(probabilities) if probabilities else np.empty((0, len(classes)), np.float32),
    )


def _by_gene(table: pa.Table, label: NDArray[np.int64]) -> pa.Table:
    """Return the rows of each gene, fold and class with the first and last row_id."""
    rows = pa.table(
        {
            "gene_id": table["gene_id"].cast(pa.string()),
            "fold": table["fold"].cast(pa.int64()),
            "label": pa.array(label),
            "row_id": table["row_id"].cast(pa.int64()),
        }
    )
    counted = rows.group_by(["gene_id", "fold", "label"], use_threads=False).aggregate(
        [("row_id", "count"), ("row_id", "min"), ("row_id", "max")]
    )
    columns = ["gene_id", "fold", "label", "row_id_count", "row_id_min", "row_id_max"]
    return counted.select(columns).rename_columns(LINES.names).cast(LINES)


def check_instance(db: Database, subject: Subject, instance: Instance, genes: pa.Table | None) -> Iterator[Finding]:
    """Yield the findings about the folder of one instance."""
    where, name = subject.folder.instance(instance), instance.name
    if not (where / "manifest.json").is_file():
        lost = instance_state(subject.folder, subject.plan, instance).detail
        why = f"lost: {lost}" if lost else "not trained"
        yield Finding(name, MISSING, f"{why}; 'mi-duck train {subject.folder.root}' goes on")
        return
    manifest: dict[str, str] = {}
    yield guarded(f"{name}: manifest", lambda: _manifest(subject, instance, manifest))
    if not manifest:
        return
    yield guarded(f"{name}: files", lambda: _files(subject, where, manifest))
    yield guarded(f"{name}: nothing else there", lambda: _strangers(subject, where, manifest))

    def whole(file: str) -> bool:
        return (where / file).is_file() and subject.sha256(where / file) == manifest.get(file)

    checks = {
        "genes.txt": lambda: _genes(where, instance, genes),
        "model_multiclass.miduck": lambda: _model(where),
        "fold_models.miduck": lambda: _fold_models(where),
        "oof_predictions.parquet": lambda: _predictions(db, subject, where, instance, genes),
    }
    for file, check in checks.items():
        if not whole(file):
            yield skipped(f"{name}: {file}", "its hash is not that of the manifest, so it is not opened")
        elif genes is None and file in ("genes.txt", "oof_predictions.parquet"):
            yield skipped(f"{name}: {file}", "genes.parquet cannot be used")
        else:
            yield guarded(f"{name}: {file}", check)
    yield guarded(f"{name}: measured peak", lambda: _peak(subject, where))


def _manifest(subject: Subject, instance: Instance, into: dict[str, str]) -> Verdict:
    """Check that the manifest belongs to the plan; add the hashes of its files to ``into``, none where it leads elsewhere."""
    found = read_manifest(subject.folder.instance(instance))
    hashes = {str(file): str(digest) for file, digest in found["sha256"].items()}
    outside = [file for file in hashes if PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts]
    problems = [f"names {file}, which lies elsewhere" for file in outside]
    wanted = made_of(subject.plan, instance)
    if found["made_of"] != wanted:
        problems.append(f"belongs to another plan: {differences_of(found['made_of'], wanted)}")
    if not outside:
        into |= hashes
    return verdict(problems, f"{len(hashes)} files, made for this plan")


def _files(subject: Subject, where: Path, hashes: dict[str, str]) -> Verdict:
    gone = [file for file in hashes if not (where / file).is_file()]
    changed = [file for file, digest in hashes.items() if file not in gone and subject.sha256(where / file) != digest]
    if changed:
        return verdict([f"{file} has another hash than the manifest says" for file in changed], "")
    if gone:
        return MISSING, f"{', '.join(gone)} named by the manifest and not there"
    return OK, f"{len(hashes)} hashes"


def _strangers(subject: Subject, where: Path, hashes: dict[str, str]) -> Verdict:
    names = {file.relative_to(where).as_posix() for file in where.rglob("*") if not file.is_dir()}
    unknown = sorted(name for name in names - set(hashes) - set(BESIDE) if not name.startswith(f"{SHAP}/"))
    foreign = [name for name in unknown if name not in DESCRIBING]
    if foreign:
        return verdict([f"{name} is not a file of an instance" for name in foreign], "")
    if unknown:
        return MISSING, f"{', '.join(unknown)} not in the manifest: the run ended while they were written again"
    return OK, f"{len(names)} files"


def _genes(where: Path, instance: Instance, genes: pa.Table | None) -> Verdict:
    there = (where / "genes.txt").read_bytes().decode().split("\n")
    window = [] if genes is None else genes["gene_id"].to_pylist()[instance.first_rank : instance.stop_rank]
    same = there == [*window, ""]
    return verdict([] if same else ["its genes are not those of the window in plan.json"], f"{len(window):,} genes")


def _model(where: Path) -> Verdict:
    model = load_unified_model(where / "model_multiclass.miduck")
    if not isinstance(model, InstanceModel):
        return DAMAGED, "it is not the model of an instance"
    return OK, f"{len(model.boosters)} boosters of {model.metadata['rounds']} rounds"


def _fold_models(where: Path) -> Verdict:
    boosters = read_fold_models(where / "fold_models.miduck").boosters
    return OK, f"{len(boosters)} folds of {len(boosters[0])} boosters"


def _predictions(db: Database, subject: Subject, where: Path, instance: Instance, genes: pa.Table | None) -> Verdict:
    found = read_scored(
        db,
        where / "oof_predictions.parquet",
        subject.plan.data.classes,
        first_row=0 if genes is None else genes["first_row"][instance.first_rank].as_py(),
        ranks=(instance.first_rank, instance.stop_rank),
        has_margins=True,
    )
    return verdict(found.problems, f"{found.n_rows:,} rows, each once, in the folds of their genes")


def _peak(subject: Subject, where: Path) -> Verdict:
    try:
        peak = json.loads((where / "measurement.json").read_bytes())["peak_bytes"]
    except FileNotFoundError:
        return NOT_APPLICABLE, "not measured: the run ended between training and measurement"
    budget = subject.plan.cut.budget.budget_bytes
    words = f"{gibibytes(peak)} GiB of {gibibytes(budget)}"
    return (OK, words) if 0 < peak <= budget else (DAMAGED, f"{words}: more than the budget")
