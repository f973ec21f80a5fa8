"""Checks the folder of every instance, and whether the consolidated model is made of these instances.

Of an instance: manifest, hashes, genes, models, measured peak, and out-of-fold predictions row by row.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mi_duck.archive import read_parts
from mi_duck.boosting.forest import without_leaves
from mi_duck.classifiers.model import checked_model
from mi_duck.data.database import Database
from mi_duck.data.parquet import row_group_batches, schema_of
from mi_duck.ensemble.model import ConsolidatedMetaModel, InstanceModel
from mi_duck.ensemble.model_file import load_unified_model, read_fold_models
from mi_duck.numbers import gibibytes
from mi_duck.report.instance_files import CURVES, IMPORTANCE, IMPORTANCE_PLOT, SCORES, UNSEEN
from mi_duck.run.genes import codes_of
from mi_duck.run.instance_folder import MEASUREMENT, differences_of, instance_state, made_of, read_manifest
from mi_duck.run.plan import Instance, PlannedData
from mi_duck.verify.subject import (
    DAMAGED,
    MISSING,
    NOT_APPLICABLE,
    OK,
    Finding,
    Subject,
    Verdict,
    guarded,
    listed,
    skipped,
    verdict,
)

SUM_TOLERANCE = 1e-5
LINES = pa.schema(
    [("gene_id", pa.string())] + [(name, pa.int64()) for name in ("fold", "label", "n_rows", "first_row", "last_row")]
)
BESIDE = ("manifest.json", MEASUREMENT)
SHAP = "shap_analysis"
DESCRIBING = {*SCORES, *UNSEEN, *CURVES.values(), IMPORTANCE, IMPORTANCE_PLOT}
"""Files that are not in the manifest while they are written again."""
MEMBER_FILES = {
    "model_sha256": "model_multiclass.miduck",
    "fold_models_sha256": "fold_models.miduck",
    "genes_sha256": "genes.txt",
}
"""Hashes that the summary of the consolidated model states of each member."""


@dataclass(frozen=True, slots=True)
class ScoredFile:
    """Content of a file of predictions.

    Parameters
    ----------
    label, fold
        Class and fold of each row, shape (n_rows,); empty where rows are not kept.
    probabilities
        Shape (n_rows, n_classes), or (0, n_classes).
    """

    problems: tuple[str, ...]
    n_rows: int
    label: NDArray[np.uint8]
    fold: NDArray[np.int8]
    probabilities: NDArray[np.float32]


def read_scored(
    db: Database,
    path: Path,
    data: PlannedData,
    *,
    first_row: int,
    n_pilot_rows: int,
    ranks: tuple[int, int],
    has_margins: bool = False,
    keeps: bool = False,
    further: Sequence[str] = (),
) -> ScoredFile:
    """Read a file of predictions, and compare its rows with the genes of the run; call it once its hash was checked.

    Parameters
    ----------
    db
        Holds ``run_genes``.
    first_row
        The row_id of its first row; each further row must have the next.
    n_pilot_rows
        Rows of the run, from its first on, that must be marked as of genes that chose the features.
    ranks
        Half-open range of the gene ranks whose rows it must hold.
    keeps
        Whether to return labels and folds (1 byte per row each) and probabilities (4 bytes per row and class).
    further
        Columns that must follow on these.
    """
    classes = data.classes
    names = [f"p_{name}" for name in classes]
    margins = [f"margin_{name}" for name in classes] if has_margins else []
    weight = [] if data.weight_column is None else ["weight"]
    columns = ["row_id", "gene_id", "position", "label", "fold", "is_pilot", *weight, *names, *margins]
    index_of = {name: index for index, name in enumerate(classes)}
    lines = [LINES.empty_table()]
    labels, folds = [np.empty(0, np.uint8)], [np.empty(0, np.int8)]
    probabilities = [np.empty((0, len(classes)), np.float32)]
    there = schema_of(path).names
    if there != [*columns, *further]:
        return ScoredFile((f"its columns are {', '.join(there)}",), 0, labels[0], folds[0], probabilities[0])
    expected = first_row
    n_jumps = n_bad = n_infinite = n_mismarked = 0
    for _, batch in row_group_batches(path, columns):
        table = pa.Table.from_batches([batch])
        row_id = table["row_id"].to_numpy()
        n_jumps += int(np.count_nonzero(row_id != np.arange(expected, expected + len(table))))
        expected += len(table)
        n_mismarked += int(np.count_nonzero(table["is_pilot"].to_numpy() != (row_id < n_pilot_rows)))
        matrix = np.column_stack([table[name].to_numpy() for name in names])
        is_right = np.abs(matrix.sum(axis=1, dtype=np.float64) - 1) <= SUM_TOLERANCE
        n_bad += int(np.count_nonzero(~(is_right & (matrix >= 0).all(axis=1))))
        n_infinite += sum(int(np.count_nonzero(~np.isfinite(table[name].to_numpy()))) for name in margins)
        label = codes_of(table["label"].cast(pa.string()), index_of)
        lines.append(_by_gene(table, label))
        if keeps:
            labels.append(label.astype(np.uint8))
            folds.append(table["fold"].to_numpy().astype(np.int8))
            probabilities.append(matrix)
    counts = {
        f"rows whose row_id does not count on from {first_row:,}": n_jumps,
        "rows whose probabilities are not finite or do not sum to 1": n_bad,
        "margins that are not finite": n_infinite,
        "rows whose is_pilot is not that of their gene": n_mismarked,
    }
    problems = [f"{n:,} {words}" for words, n in counts.items() if n]
    db.load("scored_rows", pa.concat_tables(lines))
    wrong = db.rows("checks/wrong_score", first_rank=ranks[0], stop_rank=ranks[1])
    if wrong:
        words = [f"{row['gene_id']} ({row['rows_scored']} rows, {row['n_rows']} expected)" for row in wrong]
        problems.append(f"rows, fold or classes of {listed(words)} are not those of genes.parquet")
    n_rows = expected - first_row
    return ScoredFile(
        tuple(problems), n_rows, np.concatenate(labels), np.concatenate(folds), np.concatenate(probabilities)
    )


def n_pilot_rows(subject: Subject, genes: pa.Table) -> int:
    """Return the rows of a run, from its first on, whose genes chose the features."""
    return int(genes["first_row"][subject.plan.data.pilot_genes].as_py())


def _by_gene(table: pa.Table, label: NDArray[np.int64]) -> pa.Table:
    """Return the rows of each gene, fold and class with the first and last row_id."""
    fold, row_id = (table[name].cast(pa.int64()) for name in ("fold", "row_id"))
    columns = {"gene_id": table["gene_id"].cast(pa.string()), "fold": fold, "label": pa.array(label), "row_id": row_id}
    rows = pa.table(columns)
    keys, facts = ["gene_id", "fold", "label"], ("count", "min", "max")
    counted = rows.group_by(keys, use_threads=False).aggregate([("row_id", fact) for fact in facts])
    return counted.select([*keys, *(f"row_id_{fact}" for fact in facts)]).rename_columns(LINES.names).cast(LINES)


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
    yield guarded(f"{name}: nothing else there", lambda: _foreign_files(subject, where, manifest))

    def whole(file: str) -> bool:
        return (where / file).is_file() and subject.sha256(where / file) == manifest.get(file)

    is_boosted = subject.plan.settings.is_boosted
    checks = {
        "genes.txt": lambda: _genes(where, instance, genes),
        "model_multiclass.miduck": lambda: _model(where) if is_boosted else _other_model(where),
        "fold_models.miduck": lambda: _fold_models(where) if is_boosted else _other_fold_models(where),
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
    if gone and not changed:
        return MISSING, f"{', '.join(gone)} named by the manifest and not there"
    return verdict([f"{file} has another hash than the manifest says" for file in changed], f"{len(hashes)} hashes")


def _foreign_files(subject: Subject, where: Path, hashes: dict[str, str]) -> Verdict:
    names = {file.relative_to(where).as_posix() for file in where.rglob("*") if not file.is_dir()}
    unknown = sorted(name for name in names - set(hashes) - set(BESIDE) if not name.startswith(f"{SHAP}/"))
    foreign = [name for name in unknown if name not in DESCRIBING]
    if unknown and not foreign:
        return MISSING, f"{', '.join(unknown)} not in the manifest: the run ended while they were written again"
    return verdict([f"{name} is not a file of an instance" for name in foreign], f"{len(names)} files")


def _genes(where: Path, instance: Instance, genes: pa.Table | None) -> Verdict:
    there = (where / "genes.txt").read_bytes().decode().split("\n")
    window = [] if genes is None else genes["gene_id"].to_pylist()[instance.first_rank : instance.stop_rank]
    same = there == [*window, ""]
    return verdict([] if same else ["its genes are not those of the window in plan.json"], f"{len(window):,} genes")


def _other_model(where: Path) -> Verdict:
    """Check the model of a classifier or a blend; what could run code is not read."""
    words, training = checked_model(where / "model_multiclass.miduck")
    if (
        training is not None
        and not training.has_gene((where / "genes.txt").read_bytes().decode().split("\n")[:-1]).all()
    ):
        return DAMAGED, "it does not know a gene of genes.txt, so predictions would not be marked as trained on"
    return OK, words


def _other_fold_models(where: Path) -> Verdict:
    return OK, f"{len(read_parts(where / 'fold_models.miduck'))} parts, whole by their own hash"


def _same_parts(subject: Subject, summary: dict[str, Any]) -> Verdict:
    """Check that the model of a classifier or a blend is that of its instance, but for the thresholds."""
    (instance,) = subject.plan.cut.instances
    own = subject.folder.instance(instance) / "model_multiclass.miduck"
    there, wanted = (read_parts(path) for path in (subject.folder.model, own))
    differ = sorted(name for name in {*there, *wanted} - {"model.json"} if there.get(name) != wanted.get(name))
    facts = [json.loads(parts["model.json"]) | {"thresholds": {}} for parts in (there, wanted)]
    differ += ["model.json"] if facts[0] != facts[1] else []
    return verdict([f"{name} is not that of the instance" for name in differ], f"{len(there)} parts as of the instance")


def _model(where: Path) -> Verdict:
    model = load_unified_model(where / "model_multiclass.miduck")
    if not isinstance(model, InstanceModel):
        return DAMAGED, "it is not the model of an instance"
    if not model.training.has_gene((where / "genes.txt").read_bytes().decode().split("\n")[:-1]).all():
        return DAMAGED, "it does not know a gene of genes.txt, so predictions would not be marked as trained on"
    return OK, f"{len(model.boosters)} boosters of {model.metadata['rounds']} rounds"


def _fold_models(where: Path) -> Verdict:
    boosters = read_fold_models(where / "fold_models.miduck").boosters
    return OK, f"{len(boosters)} folds of {len(boosters[0])} boosters"


def _predictions(db: Database, subject: Subject, where: Path, instance: Instance, genes: pa.Table | None) -> Verdict:
    found = read_scored(
        db,
        where / "oof_predictions.parquet",
        subject.plan.data,
        first_row=0 if genes is None else genes["first_row"][instance.first_rank].as_py(),
        n_pilot_rows=0 if genes is None else n_pilot_rows(subject, genes),
        ranks=(instance.first_rank, instance.stop_rank),
        has_margins=True,
    )
    return verdict(found.problems, f"{found.n_rows:,} rows, each once, in the folds of their genes")


def _peak(subject: Subject, where: Path) -> Verdict:
    try:
        peak = json.loads((where / MEASUREMENT).read_bytes())["peak_bytes"]
    except FileNotFoundError:
        return NOT_APPLICABLE, "not measured: the run ended between training and measurement"
    budget = subject.plan.cut.budget.budget_bytes
    words = f"{gibibytes(peak)} GiB of {gibibytes(budget)}"
    return (OK, words) if 0 < peak <= budget else (DAMAGED, f"{words}: more than the budget")


def check_consolidated(subject: Subject) -> Iterator[Finding]:
    """Yield the findings about the consolidated model and its summary."""
    folder, summary = subject.folder, subject.summary
    if not folder.summary.is_file() and not folder.model.is_file():
        why = f"not consolidated; 'mi-duck consolidate {folder.root}' joins the trained instances"
        yield Finding("consolidated model", MISSING, why)
        return
    yield guarded("consolidated model: file", lambda: _consolidated_file(subject))
    if summary is None:
        yield guarded("consolidation_summary.json", lambda: _unread(subject))
        return
    yield guarded("consolidation_summary.json", lambda: _summary(subject, summary))
    if subject.is_whole(folder.model):
        same = _same_boosters if subject.plan.settings.is_boosted else _same_parts
        yield guarded("consolidated model: members", lambda: same(subject, summary))
    else:
        yield skipped("consolidated model: members", "its hash is not that of the summary, so it is not opened")


def _unread(subject: Subject) -> Verdict:
    found = json.loads(subject.folder.summary.read_bytes())
    if not isinstance(found, dict):
        return DAMAGED, "it is not a JSON object"
    lacks = [name for name in ("model_sha256", "out_of_fold_sha256") if name not in found]
    return MISSING, f"lacks {' and '.join(lacks)}; 'mi-duck consolidate {subject.folder.root}' writes it anew"


def _consolidated_file(subject: Subject) -> Verdict:
    model = subject.folder.model
    if not model.is_file():
        return MISSING, "consolidated_model.miduck is not there; 'mi-duck consolidate' writes it again"
    if subject.summary is None:
        read_parts(model)
        return OK, "whole by its own hash"
    stated = subject.summary["model_sha256"]
    if subject.sha256(model) != stated:
        return DAMAGED, "its hash is not the one in consolidation_summary.json"
    return OK, f"hash {str(stated)[:12]} as in consolidation_summary.json"


def _summary(subject: Subject, summary: dict[str, Any]) -> Verdict:
    """Check the members against the plan, the coverage against their windows, and the hashes of what was consolidated."""
    plan = subject.plan
    of_id = {instance.instance_id: instance for instance in plan.cut.instances}
    members = summary["members"]
    ids = [one["instance_id"] for one in members]
    if not ids or len(set(ids)) < len(ids) or not set(ids) <= set(of_id):
        return DAMAGED, f"its members {ids} are not instances of the plan"
    is_covered = np.zeros(plan.data.n_genes, dtype=bool)
    for number in ids:
        is_covered[of_id[number].first_rank : of_id[number].stop_rank] = True
    n_genes, n_covered = plan.data.n_genes, int(is_covered.sum())
    expected = {"n_genes_trained": n_covered, "coverage_fraction": n_covered / n_genes}
    problems = [
        f"{name} is {str(summary[name])[:60]}, by the windows of its members {value}"
        for name, value in expected.items()
        if summary[name] != value
    ]
    for one in members:
        instance = of_id[one["instance_id"]]
        where = subject.folder.instance(instance)
        problems += [
            f"{file} of {instance.name} is not the one that was consolidated"
            for key, file in MEMBER_FILES.items()
            if (where / file).is_file() and subject.sha256(where / file) != one[key]
        ]
    lost = [instance.name for number, instance in of_id.items() if number not in ids]
    if problems or not lost:
        return verdict(problems, f"{len(members)} members, {n_covered:,} of {n_genes:,} genes")
    return MISSING, f"{', '.join(lost)} not in it: it covers {n_covered:,} of {n_genes:,} genes"


def _same_boosters(subject: Subject, summary: dict[str, Any]) -> Verdict:
    """Check that the model can be loaded and has the boosters of its instances, byte for byte; of a refit but for leaves."""
    plan, path = subject.plan, subject.folder.model
    model = load_unified_model(path)
    if not isinstance(model, ConsolidatedMetaModel):
        return DAMAGED, "it is not an ensemble"
    known: Callable[[bytes], bytes] = without_leaves if model.voting == "refit" else bytes
    parts = read_parts(path)
    of_id = {instance.instance_id: instance for instance in plan.cut.instances}
    members, problems = summary["members"], []
    for number, one in enumerate(members):
        instance = of_id[one["instance_id"]]
        own = subject.folder.instance(instance) / "model_multiclass.miduck"
        if own.is_file() and subject.sha256(own) == one["model_sha256"]:
            boosters = read_parts(own)
            problems += [
                f"booster {index} of {instance.name} is not the instance's"
                for index in range(len(plan.data.classes))
                if known(parts[f"booster_{number}_{index}.ubj"]) != known(boosters[f"booster_{index}.ubj"])
            ]
            if parts[f"genes_{number}.bin"] != boosters["genes.bin"]:
                problems.append(f"genes of {instance.name} are not the instance's")
    return verdict(problems, f"{len(members)} members with the boosters of their instances")
