"""The folder of a trained instance: what is in it, how it is written whole or not at all, when it counts as done.

Its models are boosters (`booster_files`), or whatever else was trained in their place.
"""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from mi_duck.archive import pack
from mi_duck.atomic_files import file_sha256, sealed, storage_errors, sync_files, sync_folder, write_csv, write_json
from mi_duck.metrics.calibrate import Calibration, cross_fitted
from mi_duck.metrics.metrics import point_scores
from mi_duck.rows.segments import has_weights, read_density, segments_of
from mi_duck.run.feature_names import feature_kind as kind_of_name
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import GeneFolds
from mi_duck.run.instance_folder import checkpoint_key, made_of
from mi_duck.run.plan import Instance, Plan
from mi_duck.run.training_data import TrainingData, training_data


@dataclass(frozen=True, slots=True)
class Fit:
    """One booster and its learning curve; as bytes, because a booster in memory keeps its training matrix there.

    Parameters
    ----------
    raw
        Its first ``rounds`` rounds, UBJSON.
    curve
        For each round trained: log loss on the training rows and on the stopping rows, shape (n_rounds, 2).
    """

    raw: bytes
    rounds: int
    curve: NDArray[np.float64]


def write_instance(
    folder: RunFolder,
    plan: Plan,
    instance: Instance,
    genes: GeneFolds,
    keys: NDArray[np.void],
    fold: NDArray[np.int8],
    margins: NDArray[np.float32],
    calibration: Calibration,
    models: Mapping[str, bytes],
    curves: Sequence[Mapping[str, Any]],
) -> None:
    """Write the instance's folder under another name beside it and rename it, so that it is whole or absent.

    Parameters
    ----------
    models
        The files of its models, by their names.
    curves
        The lines of ``learning_curves.csv``; see `curve_lines`.
    """
    where = folder.instance(instance)
    temporary = where.with_name(f".{where.name}.tmp")
    probabilities = cross_fitted(margins, calibration, fold)
    with storage_errors(temporary):
        _remove(temporary)
        temporary.mkdir(parents=True)
        for name, data in models.items():
            (temporary / name).write_bytes(data)
        _write_tables(temporary, plan, keys, fold, probabilities)
        write_csv(temporary / "learning_curves.csv", curves)
        (temporary / "genes.txt").write_text("".join(f"{gene}\n" for gene in genes.gene_id), encoding="utf-8")
        chosen = zip(plan.data.classes, calibration.final, calibration.log_loss, strict=True)
        write_json(
            temporary / "calibration.json",
            {name: {"method": one.method, "cross_fitted_log_loss": log_loss} for name, one, log_loss in chosen},
        )
        pq.write_table(
            out_of_fold_table(plan, genes, keys, fold, probabilities, margins),
            temporary / "oof_predictions.parquet",
            compression="zstd",
            write_page_checksum=True,
        )
        _write_manifest(temporary, plan, instance)
        _remove(where)
        temporary.replace(where)
        sync_folder(where.parent)


def instance_training_data(folder: RunFolder, plan: Plan, instance: Instance, genes: GeneFolds) -> TrainingData:
    """Return what the model of an instance keeps of its genes and of the features of the dataset."""
    n_missing = read_density(plan, segments_of(plan, instance), folder.segments).missing
    incomplete = [name for name, n in n_missing.items() if n]
    unused = [name for name in plan.data.leaky_features + plan.data.screened_features if name not in plan.data.kept]
    return training_data(plan.data.gene_column, genes.gene_id, incomplete, unused)


def booster_files(
    plan: Plan,
    instance: Instance,
    fold_fits: list[list[Fit]],
    final: list[Fit],
    calibration: Calibration,
    training: TrainingData,
) -> dict[str, bytes]:
    """Return the files of the boosters of an instance by their names: the final ones, and those of the folds."""
    encoding = plan.encoding
    facts = {"features": plan.data.features, "classes": plan.data.classes, "encoding": encoding.to_dict()}
    of_instance = facts | {
        "kind": "instance",
        "instance_id": instance.instance_id,
        "n_genes": instance.n_genes,
        "n_rows": instance.n_rows,
        "n_training_rows": instance.n_training_rows,
        "rounds": [fit.rounds for fit in final],
        "calibrators": [one.to_dict() for one in calibration.final],
        "gene_column": training.gene_column,
        "incomplete_features": training.incomplete_features,
        **training.unused(),
    }
    parts = {f"booster_{index}.ubj": fit.raw for index, fit in enumerate(final)} | {"genes.bin": training.gene_keys}
    of_folds = facts | {
        "kind": "folds",
        "rounds": [[fit.rounds for fit in fits] for fits in fold_fits],
        "calibrators": [[one.to_dict() for one in row] for row in calibration.by_fold],
    }
    boosters = {
        f"booster_{number}_{index}.ubj": fit.raw
        for number, fits in enumerate(fold_fits)
        for index, fit in enumerate(fits)
    }
    return {
        "model_multiclass.miduck": pack({"model.json": _json(of_instance)} | parts),
        "fold_models.miduck": pack({"model.json": _json(of_folds)} | boosters),
    }


def _write_tables(
    folder: Path,
    plan: Plan,
    keys: NDArray[np.void],
    fold: NDArray[np.int8],
    probabilities: NDArray[np.floating[Any]],
) -> None:
    """Write the scores of each fold, and what each feature is."""
    data, encoding = plan.data, plan.encoding
    small = set(data.small_features)
    scores = []
    for number in np.unique(fold).tolist():
        rows = fold == number
        n_genes = len(np.unique(keys["gene_rank"][rows]))
        scores.append(
            {"fold": number, "test_rows": int(rows.sum()), "test_genes": n_genes}
            | point_scores(probabilities[rows], keys["label"][rows], data.classes)
        )
    write_csv(folder / "gene_cv_metrics.csv", scores)
    features = [
        {
            "feature": name,
            "kind": feature_kind(name, data.base_scores),
            "dtype": "uint8" if name in small else "float32",
            "missing_as": encoding.missing_as(name),
        }
        for name in data.features
    ]
    write_csv(folder / "feature_manifest.csv", features)


def curve_lines(plan: Plan, fold_fits: list[list[Fit]]) -> list[dict[str, Any]]:
    """Return the lines of ``learning_curves.csv``: the log losses after each round of each fold and class."""
    return [
        {
            "fold": number,
            "class": name,
            "round": step + 1,
            "training_log_loss": float(training),
            "stopping_log_loss": float(stopping),
            "is_kept": int(step < fit.rounds),
        }
        for number, fits in enumerate(fold_fits)
        for name, fit in zip(plan.data.classes, fits, strict=True)
        for step, (training, stopping) in enumerate(fit.curve)
    ]


def _write_manifest(folder: Path, plan: Plan, instance: Instance) -> None:
    """Write, last, the hashes of all files and what the models were made of; all are on the disk by then."""
    hashes = {name: file_sha256(folder / name) for name in sorted(file.name for file in folder.iterdir())}
    sync_files(folder)
    values = {
        "key": checkpoint_key(plan, instance),
        "made_of": made_of(plan, instance),
        "instance_id": instance.instance_id,
        "n_genes": instance.n_genes,
        "n_rows": instance.n_rows,
        "sha256": hashes,
    }
    write_json(folder / "manifest.json", sealed(values))


def out_of_fold_table(
    plan: Plan,
    genes: GeneFolds,
    keys: NDArray[np.void],
    fold: NDArray[np.int8],
    probabilities: NDArray[np.floating[Any]],
    margins: NDArray[np.float32] | None = None,
    first_row: int | None = None,
) -> pa.Table:
    """Return the rows of an ``oof_predictions.parquet``: row_id, gene_id, position, label, fold, is_pilot, p_<class>, margins.

    Where the data have weights, ``weight`` too.

    A row_id is the index of the row in the total order of the run, so it names the same row in every file of it. The rows
    begin at ``first_row``, or with the first gene of a segment. ``is_pilot`` marks rows of genes that chose the features: no
    booster of their fold saw them, but the choice did, so they are never scored.
    """
    n = len(keys)
    if first_row is None:
        first_row = next(one.first_row for one in plan.cut.segments if one.first_rank == keys["gene_rank"][0])
    ranks, codes = np.unique(keys["gene_rank"], return_inverse=True)
    columns: dict[str, Any] = {
        "row_id": pa.array(np.arange(first_row, first_row + n)),
        "gene_id": pa.DictionaryArray.from_arrays(
            pa.array(codes.astype(np.int32)), pa.array(genes.gene_id[ranks - genes.first_rank], pa.string())
        ),
        "position": pa.array(keys["position"]) if plan.data.position_column else pa.nulls(n, pa.int64()),
        "label": pa.DictionaryArray.from_arrays(pa.array(keys["label"].astype(np.int32)), pa.array(plan.data.classes)),
        "fold": pa.array(fold),
        "is_pilot": pa.array(keys["gene_rank"] < plan.data.pilot_genes),
    }
    if has_weights(keys):
        columns["weight"] = pa.array(np.ascontiguousarray(keys["weight"]))
    for index, name in enumerate(plan.data.classes):
        columns[f"p_{name}"] = pa.array(probabilities[:, index].astype(np.float32))
    if margins is not None:
        for index, name in enumerate(plan.data.classes):
            columns[f"margin_{name}"] = pa.array(margins[:, index])
    return pa.table(columns)


def feature_kind(name: str, base_scores: Sequence[str]) -> str:
    """Return ``base score``, ``k-mer`` (such as ``5mer_GTAAG``) or ``other``."""
    if name in base_scores:
        return "base score"
    return "k-mer" if kind_of_name(name) == "k-mer" else "other"


def _remove(folder: Path) -> None:
    """Delete a folder of ours, manifest first, so that a half-deleted one never counts as finished.

    Of a link the link goes, and what it points to stays as it is.
    """
    if folder.is_symlink():
        folder.unlink()
    elif folder.is_dir():
        (folder / "manifest.json").unlink(missing_ok=True)
        shutil.rmtree(folder)


def _json(values: Any) -> bytes:
    return json.dumps(values, sort_keys=True).encode()
