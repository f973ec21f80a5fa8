"""From a model and sampled rows of a dataset to the folder ``comprehensive_shap_analysis``, whole or not at all.

SQL chooses the rows, and only their row groups are read.
"""

import json
import logging
import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from mi_duck.atomic_files import file_sha256, storage_errors, sync_folder, write_csv, write_file, write_json
from mi_duck.data.database import Database
from mi_duck.data.dataset import Dataset, open_dataset, open_planned
from mi_duck.data.parquet import UNREADABLE, DataFile, damaged, data_file, metadata_of, row_group_batches, schema_of
from mi_duck.ensemble.feature_matrix import check_features, feature_matrix
from mi_duck.ensemble.model import ConsolidatedMetaModel, InstanceModel
from mi_duck.ensemble.model_file import load_unified_model, model_file
from mi_duck.ensemble.shap import TOLERANCE, Contributions, explain
from mi_duck.errors import CheckpointError, DataError
from mi_duck.explain.figures import ValueFiles, write_figures
from mi_duck.explain.tables import Names, agreement, kind_of, summary_facts, write_tables
from mi_duck.metrics.ranking import Floats32
from mi_duck.processes import Report
from mi_duck.run.feature_names import feature_groups, kmer_families
from mi_duck.run.folder import SHAP_SUMMARY, SHAP_VERSION, RunFolder, read_suspects
from mi_duck.run.made import Made
from mi_duck.run.plan import instance_name

logger = logging.getLogger("mi_duck")

BATCH_BYTES = 128 << 20  # of a batch whose values have 8 bytes; most have one

EXPLAINS = {
    "probability": "The ensemble averages the members' calibrated probabilities, and SHAP values add up only in log-odds. "
    "So each member's margins are explained, exactly, before calibration, and the members' values are averaged by the "
    "ensemble's weights: this explains the members, not the averaged probability itself.",
    "margin": "The ensemble averages the members' margins, so it equals one merged model of all trees with leaves scaled "
    "by the weights: the weighted sum of the members' SHAP values, whose mean the tables call mean_value, is exactly that "
    "model's, before calibration. Importance is the weighted mean of the members' absolute values.",
    "refit": "The leaves of all members were fitted together, and the ensemble averages the members' margins: the weighted sum "
    "of the members' SHAP values, whose mean the tables call mean_value, is exactly that of one merged model, before "
    "calibration. Importance is the weighted mean of the members' absolute values.",
    "distilled": "There is one model, fitted to an ensemble, and its margins are explained, exactly, before calibration.",
    "single": "There is one model, and its margins are explained, exactly, before calibration.",
}
SAMPLING = (
    "Every (N/n)-th row of a list ordered by class, then by fold group and gene in seeded order, then by position: "
    "every row has the same probability, classes and genes their share. Rows may be among those that the model was trained on: "
    "this shows what the model uses, not how good it is."
)
STANDARD_ERROR = (
    "Of a mean over the sampled rows, clustered by fold group (overlapping genes; the gene where the data name none): "
    "sqrt(G/(G-1) sum_g (S_g - n_g m)^2) / n. 95 % intervals are 1.96 of them to each side."
)


# ---- rows -------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SampledRows:
    """Rows of a dataset, those of one cluster (fold group) together; the matrix is of shape (n_rows, n_features)."""

    gene_id: tuple[str, ...]
    cluster: NDArray[np.int64]
    position: tuple[int | None, ...]
    label: NDArray[np.int64]
    matrix: Floats32


def sample_rows(
    dataset: Dataset,
    features: Sequence[str],
    made: Sequence[Made] = (),
    *,
    n_rows: Sequence[int],
    seed: int,
    threads: int,
    report: Report,
) -> list[SampledRows]:
    """Choose rows of a dataset by SQL and read their features; only row groups with such rows are read.

    Parameters
    ----------
    n_rows
        Rows of each sample; all rows where the dataset has fewer.
    seed
        Seed of the first sample; the others have the next ones.

    Raises
    ------
    DataError
        A row has no gene or an unknown label, a feature is missing or not a number, a file is damaged.

    Notes
    -----
    The rows are ordered by class, then by fold group and gene in seeded order, then by position, and every (N / n)-th is
    taken. So every row has the same probability, each class and each gene of a class its share to within one row, and a
    plain mean over the sample estimates the mean over the dataset.
    """
    with Database(threads=threads) as db:
        db.open_source(
            dataset.files,
            gene_column=dataset.gene_column,
            label_column=dataset.label_column,
            fold_column=dataset.fold_column,
            position_column=dataset.position_column,
        )
        db.table("label_counts", labels=list(dataset.labels))
        for check in ("null_gene", "null_group", "unknown_label"):
            for row in db.rows(f"checks/{check}"):
                raise DataError(
                    f"{dataset.location} has rows that cannot be sampled ({check.replace('_', ' ')}, first in "
                    f"{row['first_file']}); 'mi-duck inspect {dataset.location}' says more"
                )
        tables = [
            db.arrow("shap_sample", seed=seed + number, n_rows=min(wanted, dataset.n_rows))
            for number, wanted in enumerate(n_rows)
        ]
    matrix = _read_features(pa.concat_tables(tables), features, made, report)
    dataset.check_unchanged()
    parts = np.split(matrix, np.cumsum([len(table) for table in tables])[:-1])
    return [_sampled(table, part) for table, part in zip(tables, parts, strict=True)]


def _sampled(table: pa.Table, matrix: Floats32) -> SampledRows:
    # the rows are ordered by fold group, so numbers in order of appearance keep a cluster's rows together
    groups = table["fold_group"].combine_chunks().dictionary_encode()
    return SampledRows(
        gene_id=tuple(table["gene_id"].to_pylist()),
        cluster=groups.indices.to_numpy().astype(np.int64),
        position=tuple(table["position"].to_pylist()),
        label=table["label"].to_numpy().astype(np.int64),
        matrix=matrix,
    )


def _read_features(chosen: pa.Table, features: Sequence[str], made: Sequence[Made], report: Report) -> Floats32:
    """Read the features of chosen rows, a few thousand rows of a row group at a time."""
    matrix = np.empty((len(chosen), len(features)), dtype=np.float32)
    of_file: dict[str, list[int]] = {}
    for index, file in enumerate(chosen["file"].to_pylist()):
        of_file.setdefault(file, []).append(index)
    row_numbers = chosen["row_number"].to_numpy()
    for done, (file, found) in enumerate(sorted(of_file.items())):
        report("reading the rows to explain", done, len(of_file))
        indices = np.array(found)
        indices = indices[np.argsort(row_numbers[indices], kind="stable")]
        try:
            taken = _taken(data_file(file), row_numbers[indices], features, made)
            matrix[indices] = feature_matrix(taken, features)
        except UNREADABLE as error:
            raise damaged(file, error) from error
    report("reading the rows to explain", len(of_file), len(of_file))
    return matrix


def _taken(file: DataFile, numbers: NDArray[np.int64], features: Sequence[str], made: Sequence[Made]) -> pa.Table:
    """Return rows of a file by their ascending numbers; row groups without one of them are not read."""
    check_features(schema_of(file), features, file, made)
    facts = metadata_of(file)
    starts = np.cumsum([0, *(facts.row_group(group).num_rows for group in range(facts.num_row_groups))])
    groups = np.unique(np.searchsorted(starts[1:], numbers, side="right")).tolist()
    batch_rows = max(256, BATCH_BYTES // (8 * len(features)))
    taken: list[pa.RecordBatch] = []
    for group, batch in row_group_batches(file, features, groups, batch_rows=batch_rows, made=made):
        begin = int(starts[group])
        starts[group] += batch.num_rows  # the next batch of the row group begins here
        inside = slice(*np.searchsorted(numbers, [begin, begin + batch.num_rows]))
        if inside.start < inside.stop:
            taken.append(batch.take(pa.array(numbers[inside] - begin)))
    return pa.Table.from_batches(taken)


# ---- analysis ---------------------------------------------------------------------------------------------------------


def run_comprehensive_ensemble_shap_analysis(
    dataset_path: str | Path,
    model_path: str | Path,
    out_dir: str | Path,
    sample_size: int = 1000,
    background_size: int = 0,
    verbose: bool = False,
    *,
    gene_column: str = "gene_id",
    label_column: str = "splice_type",
    fold_by: str | None = None,
    seed: int = 42,
    with_figures: bool = True,
    threads: int = 1,
    figure_format: str | None = None,
) -> dict[str, Any]:
    """Explain every booster of a model on sampled rows and write tables, summary and figures.

    Parameters
    ----------
    dataset_path
        Parquet file, folder or glob with the model's features.
    model_path
        Model file, run folder or instance folder.
    out_dir
        Folder of the results: absent, empty, or of an earlier analysis, which is replaced.
    sample_size
        Rows to explain; all where there are fewer.
    background_size
        Rows of a background that makes the values interventional; 0 for path-dependent values.
    verbose
        Whether progress goes to the log.
    gene_column, label_column, fold_by, seed, threads, with_figures, figure_format
        As for a run.

    Returns
    -------
    dict
        What ``shap_analysis_summary.json`` holds.

    Raises
    ------
    DataError
        The dataset lacks a feature, has unknown labels, a value does not add up, the folder holds other files.
    CheckpointError
        There is no model, or it is damaged.
    StorageError
        The folder cannot be written.
    """
    model = load_unified_model(model_path)
    dataset = open_dataset(
        str(dataset_path),
        gene_column=gene_column,
        label_column=label_column,
        classes=model.classes,
        fold_by=fold_by,
        made=model.made,
    )

    def say(stage: str, done: int, total: int) -> None:
        if verbose:
            logger.info("    %s: %s of %s", stage, f"{done:,}", f"{total:,}")

    return analyse(
        dataset,
        model,
        Path(model_path),
        Path(out_dir),
        sample_size=sample_size,
        background_size=background_size,
        seed=seed,
        with_figures=with_figures,
        figure_format=figure_format,
        threads=threads,
        report=say,
    )


def explain_run(
    *,
    run: str,
    sample_size: int,
    background_size: int,
    with_figures: bool,
    threads: int,
    report: Report,
    figure_format: str | None = None,
) -> None:
    """Explain the consolidated model of a run on its dataset and copy the tables to where a run has them."""
    folder = RunFolder(Path(run))
    plan = folder.read_plan()
    if not folder.model.is_file():
        raise CheckpointError(f"{run} has no consolidated model yet; run 'mi-duck consolidate {run}'")
    analyse(
        open_planned(plan.data),
        load_unified_model(folder.root),
        folder.root,
        folder.shap,
        sample_size=sample_size,
        background_size=background_size,
        seed=plan.settings.seed,
        with_figures=with_figures,
        figure_format=figure_format,
        threads=threads,
        report=report,
    )
    write_file(folder.shap_importance, (folder.shap / "shap_importance_incremental.csv").read_bytes())
    for instance in plan.cut.instances:
        table = folder.shap / "per_instance_results" / f"{instance.name}_shap_importance.csv"
        if table.is_file() and folder.instance(instance).is_dir():
            write_file(folder.instance(instance) / "shap_analysis" / "shap_importance.csv", table.read_bytes())


def analyse(
    dataset: Dataset,
    model: ConsolidatedMetaModel | InstanceModel,
    model_path: Path,
    out: Path,
    *,
    sample_size: int,
    background_size: int,
    seed: int,
    with_figures: bool,
    threads: int,
    report: Report,
    figure_format: str | None = None,
) -> dict[str, Any]:
    """Explain a model on rows of an open dataset; see `run_comprehensive_ensemble_shap_analysis`."""
    if sample_size < 1 or background_size < 0:
        raise DataError(
            f"cannot explain {sample_size} rows against a background of {background_size}; give at least 1 and 0"
        )
    ensemble = model.as_ensemble() if isinstance(model, InstanceModel) else model
    if tuple(dataset.classes) != ensemble.classes:
        raise DataError(
            f"the model has classes {', '.join(ensemble.classes)}, the dataset {', '.join(dataset.classes)}"
        )
    _check_replaceable(out)
    wanted = [sample_size, background_size] if background_size else [sample_size]
    rows, *others = sample_rows(
        dataset, ensemble.features, ensemble.made, n_rows=wanted, seed=seed, threads=threads, report=report
    )
    background = others[0] if others else None
    families, notes = kmer_families(ensemble.features)
    names = Names(
        features=ensemble.features,
        classes=ensemble.classes,
        instances=tuple(instance_name(one.metadata["instance_id"]) for one in ensemble.members),
        groups=(*feature_groups([kind_of(name) for name in ensemble.features]), *families),
        suspects=read_suspects(model_path) if model_path.is_dir() else None,
    )
    with _replaced_folder(out) as folder:
        (folder / "values").mkdir()
        values = ValueFiles(folder / "values", len(names.classes))
        found = explain(
            [member.boosters for member in ensemble.members],
            ensemble.weights,
            encoding=ensemble.members[0].encoding,
            features=ensemble.features,
            matrix=rows.matrix,
            clusters=rows.cluster,
            groups=names.groups,
            background=None if background is None else background.matrix,
            threads=threads,
            keep=values.keep,
            report=report,
        )
        report("writing tables and figures", 0, 2)
        correlations = agreement(found)
        write_tables(folder, found, names, correlations)
        _write_sample(folder / "shap_sample.csv", rows, names.classes)
        if background is not None:
            _write_sample(folder / "shap_background.csv", background, names.classes)
        report("writing tables and figures", 1, 2)
        if with_figures:
            write_figures(folder, found, names, correlations, values, rows.matrix, figure_format)
        shutil.rmtree(folder / "values")
        files = [file for file in sorted(folder.rglob("*")) if file.is_file()]
        summary = {
            "version": SHAP_VERSION,
            "model_type": type(model).__name__,
            "model_sha256": file_sha256(model_file(model_path)),
            "dataset_fingerprint": dataset.fingerprint,
            "voting": ensemble.voting,
            "instance_weights": list(ensemble.weights),
            "explains": EXPLAINS[ensemble.voting],
            "notes": notes,
            "files": {file.relative_to(folder).as_posix(): file_sha256(file) for file in files},
        }
        summary |= _method_facts(found, names, rows, background, sample_size, background_size, seed)
        summary |= summary_facts(found, names, correlations)
        write_json(folder / SHAP_SUMMARY, summary)
    report("writing tables and figures", 2, 2)
    return summary


def _method_facts(
    found: Contributions,
    names: Names,
    rows: SampledRows,
    background: SampledRows | None,
    sample_size: int,
    background_size: int,
    seed: int,
) -> dict[str, Any]:
    """Return the part of the summary that says how the values were made: method, rows, background, additivity."""
    counts = np.bincount(rows.label, minlength=len(names.classes))
    return {
        "method": "exact path-dependent TreeSHAP" if background is None else "interventional TreeSHAP",
        "unit": "log-odds",
        "sampling": {
            "n_rows": found.n_rows,
            "n_genes": len(set(rows.gene_id)),
            "n_fold_groups": found.n_clusters,
            "rows_by_class": dict(zip(names.classes, counts.tolist(), strict=True)),
            "n_rows_wanted": sample_size,
            "seed": seed,
            "rule": SAMPLING,
            "standard_error": STANDARD_ERROR,
        },
        "background": {
            "n_rows_wanted": background_size,
            "n_rows": 0 if background is None else len(background.label),
            "seed": None if background is None else seed + 1,
        },
        "additivity": {
            "largest_gap": found.largest_gap,
            "tolerance": TOLERANCE,
            "n_checked": found.n_rows * len(names.instances) * len(names.classes),
            "rule": "abs(sum of values + base value - margin) / max(1, abs(margin)), every row and booster",
        },
        "n_row_trees": found.n_row_trees,
    }


def _write_sample(path: Path, rows: SampledRows, classes: tuple[str, ...]) -> None:
    """Write which rows were explained."""
    write_csv(
        path,
        [
            {"gene_id": gene, "position": "" if position is None else position, "label": classes[label]}
            for gene, position, label in zip(rows.gene_id, rows.position, rows.label, strict=True)
        ],
    )


def _check_replaceable(out: Path) -> None:
    """Refuse a folder with files that no earlier analysis wrote: the folder is replaced as a whole."""
    if not out.exists():
        return
    if not out.is_dir():
        raise DataError(f"{out} is not a folder; choose another")
    try:
        ours = {*json.loads((out / SHAP_SUMMARY).read_bytes())["files"], SHAP_SUMMARY}
    except (OSError, ValueError, KeyError, TypeError):
        ours = set()
    files = [file.relative_to(out).as_posix() for file in sorted(out.rglob("*")) if file.is_file()]
    other = [name for name in files if name not in ours]
    if other:
        raise DataError(f"{out} holds other files than an earlier analysis, such as {other[0]}; choose another folder")


@contextmanager
def _replaced_folder(out: Path) -> Iterator[Path]:
    """Yield a hidden folder beside ``out``; at the end it takes the name and what was there is deleted."""
    temporary = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    with storage_errors(out):
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir(parents=True)
            yield temporary
            if out.exists():
                shutil.rmtree(out)
            temporary.rename(out)
            sync_folder(out.parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
