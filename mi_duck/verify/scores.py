"""Recomputes scores, coverage, catalogue and text of a run from its predictions and tables, and compares them."""

import errno
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mi_duck.data.columns import SOURCE_COLUMNS
from mi_duck.data.database import Database
from mi_duck.evaluate.catalogue import describe_catalogue, open_catalogue
from mi_duck.metrics.metrics import drawn_scores
from mi_duck.metrics.ranking import find_thresholds
from mi_duck.report.records import read_rows
from mi_duck.report.summary import training_summary
from mi_duck.rows.segments import weights_or_none
from mi_duck.run.plan import Instance
from mi_duck.verify.members import ScoredFile, n_pilot_rows, read_scored
from mi_duck.verify.subject import DAMAGED, MISSING, Finding, Subject, Verdict, guarded, listed, skipped, verdict

METRICS = ("average_precision", "f1", "log_loss")
TOLERANCE = 1e-9
INDEPENDENT_TOLERANCE = 1e-6
"""scikit-learn sums in another order and precision."""
NOT_COMPARED = ("Warnings", "Files")
"""Sections of the text that depend on when it was written."""
COVERAGE = pa.schema(
    [(name, pa.string()) for name in ("gene_id", "n_rows", "fold", "instances", "trained", "held_out", "is_pilot")]
)


def check_scores(db: Database, subject: Subject, genes: pa.Table | None) -> Iterator[Finding]:
    """Yield the findings about predictions, metrics, coverage report, catalogue and text of a run."""
    folder = subject.folder
    names = ("oof_predictions.parquet", "thresholds by predictions", "metrics.csv")
    scored: list[ScoredFile] = []
    if not folder.out_of_fold.is_file():
        yield Finding(names[0], MISSING, "not there; 'mi-duck consolidate' writes it")
    elif genes is None:
        yield skipped(names[0], "genes.parquet cannot be used")
    elif not subject.is_whole(folder.out_of_fold):
        yield _unopened(subject, folder.out_of_fold)
    else:
        yield guarded(names[0], lambda: _predictions(db, subject, genes, scored))
    if scored and not scored[0].problems and genes is not None:
        first = n_pilot_rows(subject, genes)
        label, probabilities = scored[0].label[first:], scored[0].probabilities[first:]
        fold = scored[0].fold[first:]
        yield guarded(names[1], lambda: _thresholds(subject, probabilities, label, fold))
        if subject.is_evaluated:
            yield guarded(names[2], lambda: _metrics(subject, ("ensemble", "", "oof"), probabilities, label))
        else:
            yield skipped(names[2], "older than the consolidated model")
    else:
        yield from (skipped(name, "there are no whole predictions to compare with") for name in names[1:])
    if not subject.is_evaluated:
        yield from (skipped(name, "older than the consolidated model") for name in ("gene coverage", "run.duckdb"))
        return
    if genes is not None:
        yield from _members(db, subject, genes)
    if genes is None or subject.summary is None:
        yield skipped("gene_coverage_report.csv", "genes or consolidation_summary.json cannot be used")
    else:
        yield guarded("gene_coverage_report.csv", lambda: _coverage(db, subject))
    if not folder.catalogue.is_file():
        yield Finding("run.duckdb", MISSING, "not there; 'mi-duck evaluate' writes it")
        return
    if not subject.is_whole(folder.catalogue):
        yield _unopened(subject, folder.catalogue)
        return
    yield guarded("run.duckdb", lambda: _catalogue(subject))
    if subject.summary is None or not subject.is_complete:
        yield skipped("unified_training_summary.txt", "files that it describes are not there")
    else:
        yield guarded("unified_training_summary.txt", lambda: _text(subject))


def _unopened(subject: Subject, file: Path) -> Finding:
    """Return why a file is not given to a native parser."""
    if subject.stated_hash(file) is None:
        return skipped(file.name, "no file of the run states its hash yet, so it is not opened")
    return Finding(file.name, DAMAGED, "its hash is not the one that the run states, so it is not opened")


def _predictions(db: Database, subject: Subject, genes: pa.Table, into: list[ScoredFile]) -> Verdict:
    plan, n_pilot = subject.plan, n_pilot_rows(subject, genes)
    path, ranks = subject.folder.out_of_fold, (0, plan.data.n_genes)
    found = read_scored(
        db,
        path,
        plan.data,
        first_row=0,
        n_pilot_rows=n_pilot,
        ranks=ranks,
        keeps=True,
        further=(*SOURCE_COLUMNS, *plan.data.kept),
    )
    into.append(found)
    same = [] if found.n_rows == plan.data.n_rows else [f"{found.n_rows:,} rows, the plan says {plan.data.n_rows:,}"]
    return verdict([*found.problems, *same], f"{found.n_rows:,} rows, each once, in the folds of their genes")


def _thresholds(
    subject: Subject, probabilities: NDArray[np.float32], label: NDArray[np.uint8], fold: NDArray[np.int8]
) -> Verdict:
    weights = None
    if subject.plan.data.weight_column is not None:
        found_weights = pq.read_table(subject.folder.out_of_fold, columns=["weight"])["weight"].to_numpy()
        weights = weights_or_none(found_weights)
        weights = None if weights is None else weights[-len(label) :]
    found = find_thresholds(probabilities, label, fold, subject.plan.data.classes, weights=weights)
    stated = json.loads(subject.folder.thresholds.read_bytes())
    file = "oof_predictions.parquet"
    wrong = [f"those of {name} differ from {file}" for name, facts in found.items() if stated.get(name) != facts]
    return verdict(wrong, f"as in {file}")


def _members(db: Database, subject: Subject, genes: pa.Table) -> Iterator[Finding]:
    """Compare the scores of each member on its own rows with its own file of predictions."""
    plan = subject.plan
    for instance in plan.cut.instances:
        file = subject.folder.instance(instance) / "oof_predictions.parquet"
        if not file.is_file() or not subject.is_whole(file):
            continue  # the checks of the instance say so

        def compare(instance: Instance = instance, file: Path = file) -> Verdict:
            first, ranks = genes["first_row"][instance.first_rank].as_py(), (instance.first_rank, instance.stop_rank)
            n_pilot = n_pilot_rows(subject, genes)
            found = read_scored(
                db,
                file,
                plan.data,
                first_row=first,
                n_pilot_rows=n_pilot,
                ranks=ranks,
                has_margins=True,
                keeps=True,
            )
            skip = max(0, n_pilot - first)
            kind = ("member", str(instance.instance_id), "own")
            return _metrics(subject, kind, found.probabilities[skip:], found.label[skip:])

        yield guarded(f"{instance.name}: scores of its own rows", compare)


def _metrics(
    subject: Subject, kind: tuple[str, str, str], probabilities: NDArray[np.float32], label: NDArray[np.uint8]
) -> Verdict:
    """Recompute lines of ``metrics.csv`` with the code of the evaluation and with scikit-learn.

    Parameters
    ----------
    kind
        ``scope``, ``instance_id`` and ``evaluated_on`` of the lines.
    """
    classes = subject.plan.data.classes
    lines = [
        line
        for line in _lines(subject.folder.metrics)
        if (line["scope"], line["instance_id"], line["evaluated_on"]) == kind
        and (line["scope"] != "ensemble" or line["is_chosen"] == "1")
    ]
    is_ensemble = kind[0] == "ensemble"
    who = "the chosen ensemble" if is_ensemble else f"instance {kind[1]} on its own rows"
    stated = {(line["metric"], line["class"]): line["value"] for line in lines}
    no_draws, groups = np.ones((1, 1), dtype=np.uint8), np.zeros(len(label), dtype=np.int32)
    # on own rows of members only the classes other than the background are ranked
    sites_only = not is_ensemble
    own = drawn_scores(
        probabilities, label, groups, classes, group_draws=no_draws, metrics=METRICS, sites_only=sites_only
    )
    others = {key: value for key, value in _independent(probabilities, label, classes).items() if key in own}
    problems = []
    for source, tolerance, values in (
        ("recomputed", TOLERANCE, {key: float(one[0]) for key, one in own.items()}),
        ("by scikit-learn", INDEPENDENT_TOLERANCE, others),
    ):
        for key, value in values.items():
            text = stated.get(key)
            if text is None:
                problems.append(f"no line of {who} for {key[0]} of {key[1]}")
            elif math.isnan(value) != (text == "") or (text and not _is_close(float(text), value, tolerance)):
                problems.append(f"{key[0]} of {key[1]} is {text}, {source} {value!r}")
    counts = {line["n_rows"] for line in lines}
    if counts != {str(len(label))}:
        problems.append(f"rows of {who} are {sorted(counts)}, not {len(label)}")
    n_genes = {str(subject.plan.data.n_genes - subject.plan.data.pilot_genes)}
    counts = {line["n_genes"] for line in lines}
    if is_ensemble and counts != n_genes:
        problems.append(f"genes of {who} are {sorted(counts)}, not {sorted(n_genes)}")
    return verdict(problems, f"{len(own)} scores recomputed, and by scikit-learn")


def _lines(path: Path) -> list[dict[str, str]]:
    lines = read_rows(path)
    if lines is None:
        raise FileNotFoundError(errno.ENOENT, "not there", str(path))
    return lines


def _is_close(one: float, other: float, tolerance: float) -> bool:
    return math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance)


def _independent(
    probabilities: NDArray[np.float32], label: NDArray[np.uint8], classes: tuple[str, ...]
) -> dict[tuple[str, str], float]:
    """Return average precision, F1 and log loss by scikit-learn, of the classes that have rows."""
    from sklearn.metrics import average_precision_score, f1_score, log_loss

    found: dict[tuple[str, str], float] = {}
    for index, name in enumerate(classes):
        truth = label == index
        if truth.any():
            found["average_precision", name] = float(average_precision_score(truth, probabilities[:, index]))
    numbers = range(len(classes))
    f1 = f1_score(label, probabilities.argmax(axis=1), labels=numbers, average=None, zero_division=0)
    found |= {("f1", name): float(f1[index]) for index, name in enumerate(classes)}
    real = probabilities.astype(np.float64)
    real /= real.sum(axis=1, keepdims=True)
    found["log_loss", "all"] = float(log_loss(label, real, labels=numbers))
    return found


def _coverage(db: Database, subject: Subject) -> Verdict:
    lines = _lines(subject.folder.gene_coverage)
    table = [{name: line[name] for name in COVERAGE.names} for line in lines]
    db.load("coverage_report", pa.Table.from_pylist(table, schema=COVERAGE))
    wrong = db.rows("checks/wrong_coverage", n_pilot_genes=subject.plan.data.pilot_genes)
    words = [f"{row['gene_id']}: {row['reported']} instead of {row['expected']}" for row in wrong]
    return verdict([listed(words, "; ")] if wrong else [], f"{len(lines):,} genes as in genes.parquet and plan.json")


def _catalogue(subject: Subject) -> Verdict:
    """Compare the number of rows of every table with its file, and the metrics value by value."""
    folder, plan = subject.folder, subject.plan
    lines = _lines(folder.metrics)
    n_all = plan.data.n_genes + plan.data.n_holdout_genes
    expected = {
        "genes": n_all,
        "instances": len(plan.cut.instances) + len(plan.cut.split_instances),
        "instance_genes": sum(one.n_genes for one in plan.cut.instances),
        "coverage": 1,
        "metrics": len(lines),
        "predictions": plan.data.n_rows,
        "runs": 1,
    }
    tables, _ = describe_catalogue(folder.root)
    problems = [
        f"table {name} has {tables[name]['n_rows']:,} rows instead of {n:,}" if name in tables else f"no table {name}"
        for name, n in expected.items()
        if name not in tables or tables[name]["n_rows"] != n
    ]
    if problems:
        return verdict(problems, "")
    with open_catalogue(folder) as db:
        metrics, coverage, runs = (db.read(name).to_pylist() for name in ("metrics", "coverage", "runs"))
    for line, row in zip(lines, metrics, strict=True):
        if not all(_same_cell(line[name], row[name]) for name in line):
            problems.append(f"metrics: {row['scope']} {row['metric']} of {row['class']} is not as in metrics.csv")
    covered = (subject.summary or coverage[0]).get("n_genes_trained")
    if coverage[0]["n_genes_trained"] != covered or coverage[0]["n_rows"] != plan.data.n_rows:
        problems.append(f"coverage: {coverage[0]['n_genes_trained']} genes trained, the summary says {covered}")
    if runs[0]["dataset_fingerprint"] != plan.data.fingerprint:
        problems.append("runs: another dataset than the plan's")
    return verdict(problems, f"{len(tables)} tables with the rows of their files")


def _same_cell(text: str, value: Any) -> bool:
    if value is None or text == "":
        return value is None and text == ""
    if isinstance(value, bool | int | float):
        return float(text) == float(value)
    return text == str(value)


def _text(subject: Subject) -> Verdict:
    """Compare the text, section by section, with the same text written again."""
    if subject.provenance is None:
        return MISSING, "the run is not finished"
    there = _sections(subject.folder.training_summary.read_text(encoding="utf-8"))
    again = _sections(training_summary(subject.folder, subject.plan, subject.provenance, warnings=[]))
    names = [name for name in again if name not in NOT_COMPARED]
    problems = [f"section '{name}' is not what the files say" for name in names if there.get(name) != again[name]]
    return verdict(problems, f"{len(names)} sections as plan, metrics and instances say")


def _sections(text: str) -> dict[str, list[str]]:
    """Return the lines under each underlined title."""
    lines = text.splitlines()
    found: dict[str, list[str]] = {"": []}
    title = ""
    for number, line in enumerate(lines):
        below = lines[number + 1] if number + 1 < len(lines) else ""
        if line and len(below) == len(line) and set(below) <= {"-", "="}:
            title = line
            found[title] = []
        elif line:
            found[title].append(line)
    return found
