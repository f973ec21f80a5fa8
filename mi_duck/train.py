"""Trains one instance: cross-validation on the global folds, final boosters, calibration; runs in a child process.

One quantised matrix serves all three classes and all folds: rows of the held-out fold and of the stopping groups get
weight zero, which gives the same trees as a matrix of the training rows (up to where the bins are cut), and
out-of-fold margins come from the same matrix.
"""

import csv
import hashlib
import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import xgboost as xgb
from numpy.typing import NDArray

from mi_duck.batches import PASSES, build_matrix, trim_heap
from mi_duck.calibrate import METHODS, Calibration, calibrate, probabilities
from mi_duck.checkpoint import file_sha256, pack, storage_errors, sync_files, sync_folder, write_json
from mi_duck.children import Report, peak_bytes
from mi_duck.errors import CheckpointError
from mi_duck.evaluate import point_scores
from mi_duck.folders import RunFolder
from mi_duck.plan import Instance, Plan, Settings
from mi_duck.segments import SegmentReader, segments_of

INSTANCE_VERSION = 1
STOPPING_SHARE = 0.1
UNHASHED = ("measurement.json",)  # times and peaks differ between equal runs


@dataclass(frozen=True, slots=True)
class Fit:
    """One booster and how it came to be; as bytes, because a booster in memory keeps its training matrix there.

    Parameters
    ----------
    raw
        Its first ``rounds`` rounds, UBJSON.
    rounds
        Rounds kept.
    curve
        For each round trained: log loss on the training rows and on the stopping rows, shape (n_rounds, 2).
    held_out_margins
        Log-odds of the held-out rows, shape (n_held_out,).
    """

    raw: bytes
    rounds: int
    curve: NDArray[np.float64]
    held_out_margins: NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Genes:
    """Genes of the run by rank: id, fold group and fold, each of shape (n_genes,)."""

    gene_id: NDArray[np.object_]
    group: NDArray[np.object_]
    fold: NDArray[np.int64]


def read_genes(folder: RunFolder, plan: Plan) -> Genes:
    """Read the genes of a run by rank.

    Raises
    ------
    CheckpointError
        The file is not the one that the plan was made with.
    """
    if not folder.genes.is_file() or file_sha256(folder.genes) != plan.genes_sha256:
        raise CheckpointError(
            f"{folder.genes} is not the one that plan.json was made with; plan anew into another folder"
        )
    # not read_table: it loads Arrow's query engine and starts its threads, 48 MB in the process that trains
    with pq.ParquetFile(folder.genes) as parquet:
        table = parquet.read(columns=["gene_id", "fold_group", "fold"], use_threads=False)
    # to_pylist, because to_numpy of a table's column loads pandas: 30 MB
    return Genes(
        gene_id=np.array(table["gene_id"].to_pylist(), dtype=object),
        group=np.array(table["fold_group"].to_pylist(), dtype=object),
        fold=np.array(table["fold"].to_pylist(), dtype=np.int64),
    )


def checkpoint_key(plan: Plan, instance: Instance) -> str:
    """Return the hash of all that an instance's models depend on: data, genes, folds, features, settings, format."""
    facts = {
        "version": INSTANCE_VERSION,
        "dataset": plan.dataset_fingerprint,
        "genes": plan.genes_sha256,
        "ranks": [instance.first_rank, instance.stop_rank],
        "features": plan.features,
        "classes": plan.classes,
        "settings": {name: getattr(plan.settings, name) for name in Settings.__slots__},
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def is_trained(folder: RunFolder, plan: Plan, instance: Instance) -> bool:
    """Return whether an instance is finished for this plan and all its files are whole."""
    where = folder.instance(instance)
    try:
        manifest = json.loads((where / "manifest.json").read_bytes())
        return manifest["key"] == checkpoint_key(plan, instance) and all(
            file_sha256(where / name) == digest for name, digest in manifest["sha256"].items()
        )
    except (OSError, ValueError, KeyError):
        return False


def train_instance(*, run: str, instance_id: int, threads: int, report: Report) -> dict[str, Any]:
    """Train one instance and write its folder, the manifest last.

    Parameters
    ----------
    run
        Run folder with a plan and the instance's segments.
    instance_id
        Which instance.
    threads
        Threads of XGBoost; the result does not depend on them.
    report
        Told (stage, done, total).

    Returns
    -------
    dict
        ``rounds`` of each final booster.
    """
    folder = RunFolder(Path(run))
    plan = folder.read_plan()
    genes = read_genes(folder, plan)
    instance = plan.instances[instance_id]
    reader = SegmentReader(plan, segments_of(plan, instance.first_rank, instance.stop_rank), folder.segments)
    keys = reader.keys()
    label = keys["label"]
    gene = keys["gene_rank"]
    fold = genes.fold[gene].astype(np.int8)
    settings = plan.settings
    matrix = build_matrix(
        reader,
        max_bin=settings.max_bin,
        threads=threads,
        report=lambda rows: report("building the matrix", rows, PASSES * reader.n_rows),
    )
    window = slice(instance.first_rank, instance.stop_rank)
    margins = np.zeros((reader.n_rows, len(plan.classes)), dtype=np.float32)
    fold_fits: list[list[Fit]] = []
    for number in range(settings.n_folds):
        stopping = stopping_groups(genes.group[window], genes.fold[window], number, settings.seed)
        is_stopping = np.isin(genes.group[window], stopping)[gene - instance.first_rank]
        held_out = fold == number
        weight = (~held_out & ~is_stopping).astype(np.float32)
        fits = []
        for index, name in enumerate(plan.classes):
            stage = f"fold {number + 1}/{settings.n_folds} {name}"
            fit = fit_booster(
                matrix,
                label == index,
                weight,
                settings,
                threads,
                _rounds(report, stage, settings),
                is_stopping=is_stopping & ~held_out,
                held_out=held_out,
            )
            margins[held_out, index] = fit.held_out_margins
            fits.append(fit)
        fold_fits.append(fits)
    rounds = [
        int(np.median([fold_fits[number][index].rounds for number in range(settings.n_folds)]))
        for index in range(len(plan.classes))
    ]
    everything = np.ones(reader.n_rows, dtype=np.float32)
    final = [
        fit_booster(
            matrix,
            label == index,
            everything,
            settings,
            threads,
            _rounds(report, f"final {name}", settings),
            rounds=rounds[index],
        )
        for index, name in enumerate(plan.classes)
    ]
    del matrix
    trim_heap()
    report("calibrating", 0, 1)
    calibration = calibrate(
        margins, label, fold, n_folds=settings.n_folds, methods=METHODS if settings.calibrate else ("none",)
    )
    _write(folder, plan, instance, genes, keys, fold, margins, fold_fits, final, calibration)
    report("calibrating", 1, 1)
    return {"rounds": rounds}


def stopping_groups(groups: NDArray[np.object_], folds: NDArray[np.int64], fold: int, seed: int) -> NDArray[np.object_]:
    """Return a tenth of the fold groups outside a fold, at least one, chosen by hash.

    Early stopping looks at these: they are neither trained on nor scored in this fold.
    """
    candidates = sorted(set(groups[folds != fold]))
    candidates.sort(key=lambda group: hashlib.md5(f"{seed}:stopping:{fold}:{group}".encode()).digest())
    # with two groups or fewer none can be spared
    n = max(1, round(STOPPING_SHARE * len(candidates))) if len(candidates) > 2 else 0
    return np.array(candidates[:n], dtype=object)


def fit_booster(
    matrix: xgb.QuantileDMatrix,
    truth: NDArray[np.bool_],
    weight: NDArray[np.float32],
    settings: Settings,
    threads: int,
    on_round: Callable[[int], None],
    *,
    is_stopping: NDArray[np.bool_] | None = None,
    held_out: NDArray[np.bool_] | None = None,
    rounds: int | None = None,
) -> Fit:
    """Fit one one-vs-rest booster on the rows of weight 1.

    Parameters
    ----------
    matrix
        Quantised matrix of all rows; its labels and weights are replaced.
    truth, weight
        Label and weight of each row, shape (n_rows,).
    settings, threads
        Of the training.
    on_round
        Told the number of rounds done.
    is_stopping, held_out
        Rows that early stopping looks at, and rows to predict, shape (n_rows,).
    rounds
        Exact number of rounds; by default early stopping decides, within ``n_estimators``.
    """
    matrix.set_label(truth.astype(np.float32))
    matrix.set_weight(weight)
    parameters = {
        "objective": "binary:logistic",
        "tree_method": "hist",
        "max_depth": settings.max_depth,
        "learning_rate": settings.learning_rate,
        "max_bin": settings.max_bin,
        "nthread": threads,
        "seed": settings.seed,
        "disable_default_eval_metric": True,
    }
    watch: list[xgb.callback.TrainingCallback] = [_Watch(on_round)]
    curve: list[tuple[float, float]] = []
    if rounds is not None:
        booster = xgb.train(parameters, matrix, rounds, callbacks=watch)
    else:
        stops = bool(settings.early_stopping_patience and is_stopping is not None and is_stopping.any())
        if stops:
            watch.append(
                xgb.callback.EarlyStopping(
                    rounds=settings.early_stopping_patience, metric_name="stopping", data_name="rows", maximize=False
                )
            )
        booster = xgb.train(
            parameters,
            matrix,
            settings.n_estimators,
            evals=[(matrix, "rows")],
            custom_metric=_log_losses(truth, weight > 0, is_stopping if stops else None, curve),
            callbacks=watch,
            verbose_eval=False,
        )
        rounds = booster.best_iteration + 1 if stops else booster.num_boosted_rounds()
    margins = (
        np.empty(0, dtype=np.float32)
        if held_out is None
        else booster.predict(matrix, output_margin=True, iteration_range=(0, rounds))[held_out]
    )
    return Fit(bytes(booster[:rounds].save_raw("ubj")), rounds, np.array(curve).reshape(-1, 2), margins)


def _log_losses(
    truth: NDArray[np.bool_],
    in_training: NDArray[np.bool_],
    is_stopping: NDArray[np.bool_] | None,
    curve: list[tuple[float, float]],
) -> Callable[[NDArray[np.float32], xgb.DMatrix], list[tuple[str, float]]]:
    """Return XGBoost's custom metric: log loss on training and on stopping rows, also kept in ``curve``."""

    def log_losses(chance: NDArray[np.float32], _: xgb.DMatrix) -> list[tuple[str, float]]:
        surprise = -np.log(np.clip(np.where(truth, chance, 1 - chance), 1e-7, 1))
        training = float(surprise[in_training].mean(dtype=np.float64))
        stopping = float("nan") if is_stopping is None else float(surprise[is_stopping].mean(dtype=np.float64))
        curve.append((training, stopping))
        return [("training", training), ("stopping", stopping)]

    return log_losses


class _Watch(xgb.callback.TrainingCallback):  # type: ignore[misc]
    """Tells the number of rounds done."""

    def __init__(self, on_round: Callable[[int], None]) -> None:
        super().__init__()
        self._on_round = on_round

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        """Report one round; never stop."""
        self._on_round(epoch + 1)
        return False


def _rounds(report: Report, stage: str, settings: Settings) -> Callable[[int], None]:
    return lambda done: report(stage, done, settings.n_estimators)


def _write(
    folder: RunFolder,
    plan: Plan,
    instance: Instance,
    genes: Genes,
    keys: NDArray[np.void],
    fold: NDArray[np.int8],
    margins: NDArray[np.float32],
    fold_fits: list[list[Fit]],
    final: list[Fit],
    calibration: Calibration,
) -> None:
    """Write the instance's folder beside its place and rename it there."""
    where = folder.instance(instance)
    temporary = where.with_name(f".{where.name}.tmp")
    chances = np.zeros(margins.shape)
    for number, calibrators in enumerate(calibration.by_fold):
        chances[fold == number] = probabilities(margins[fold == number], calibrators)
    facts = {"features": plan.features, "classes": plan.classes}
    with storage_errors(temporary):
        _remove(temporary)
        temporary.mkdir(parents=True)
        (temporary / "model_multiclass.miduck").write_bytes(
            pack(
                {
                    "model.json": _json(
                        facts
                        | {
                            "kind": "instance",
                            "instance_id": instance.instance_id,
                            "n_genes": instance.n_genes,
                            "n_rows": instance.n_rows,
                            "rounds": [fit.rounds for fit in final],
                            "calibrators": [one.to_dict() for one in calibration.final],
                        }
                    )
                }
                | {f"booster_{index}.ubj": fit.raw for index, fit in enumerate(final)}
            )
        )
        (temporary / "fold_models.miduck").write_bytes(
            pack(
                {
                    "model.json": _json(
                        facts
                        | {
                            "kind": "folds",
                            "rounds": [[fit.rounds for fit in fits] for fits in fold_fits],
                            "calibrators": [[one.to_dict() for one in row] for row in calibration.by_fold],
                        }
                    )
                }
                | {
                    f"booster_{number}_{index}.ubj": fit.raw
                    for number, fits in enumerate(fold_fits)
                    for index, fit in enumerate(fits)
                }
            )
        )
        (temporary / "genes.txt").write_text(
            "".join(f"{gene}\n" for gene in genes.gene_id[instance.first_rank : instance.stop_rank]),
            encoding="utf-8",
        )
        _write_csv(
            temporary / "gene_cv_metrics.csv",
            [
                {
                    "fold": number,
                    "test_rows": int(rows.sum()),
                    "test_genes": len(np.unique(keys["gene_rank"][rows])),
                }
                | point_scores(chances[rows], keys["label"][rows], plan.classes)
                for number in range(plan.settings.n_folds)
                for rows in [fold == number]
                if rows.any()
            ],
        )
        _write_csv(
            temporary / "feature_manifest.csv",
            [
                {
                    "feature": name,
                    "stored_as": "uint8" if name in set(plan.small_features) else "float32",
                    "missing_as": "missing",
                }
                for name in plan.features
            ],
        )
        _write_csv(
            temporary / "learning_curves.csv",
            [
                {
                    "fold": number,
                    "class": name,
                    "round": step + 1,
                    "training_log_loss": repr(float(training)),
                    "stopping_log_loss": repr(float(stopping)),
                    "is_kept": int(step < fits[index].rounds),
                }
                for number, fits in enumerate(fold_fits)
                for index, name in enumerate(plan.classes)
                for step, (training, stopping) in enumerate(fits[index].curve)
            ],
        )
        write_json(
            temporary / "calibration.json",
            {
                name: {
                    "method": calibration.final[index].method,
                    "cross_fitted_log_loss": calibration.log_loss[index],
                }
                for index, name in enumerate(plan.classes)
            },
        )
        pq.write_table(
            out_of_fold_table(plan, genes, keys, fold, chances, margins),
            temporary / "oof_predictions.parquet",
            compression="zstd",
            write_page_checksum=True,
        )
        names = sorted(file.name for file in temporary.iterdir())
        hashes = {name: file_sha256(temporary / name) for name in names}
        write_json(temporary / "measurement.json", {"peak_bytes": peak_bytes()})
        sync_files(temporary)
        write_json(
            temporary / "manifest.json",
            {
                "key": checkpoint_key(plan, instance),
                "version": INSTANCE_VERSION,
                "instance_id": instance.instance_id,
                "dataset_fingerprint": plan.dataset_fingerprint,
                "n_genes": instance.n_genes,
                "n_rows": instance.n_rows,
                "sha256": hashes,
            },
        )
        _remove(where)
        temporary.replace(where)
        sync_folder(where.parent)


def out_of_fold_table(
    plan: Plan,
    genes: Genes,
    keys: NDArray[np.void],
    fold: NDArray[np.int8],
    chances: NDArray[np.floating[Any]],
    margins: NDArray[np.float32] | None = None,
    first_row: int | None = None,
) -> pa.Table:
    """Return the rows of an ``oof_predictions.parquet``: row_id, gene_id, position, label, fold, p_<class>, margins.

    A row_id is the place of the row in the total order of the run, so it names the same row in every file of it.
    """
    n = len(keys)
    begin = plan_first_row(plan, int(keys["gene_rank"][0])) if first_row is None else first_row
    ranks, codes = np.unique(keys["gene_rank"], return_inverse=True)
    columns: dict[str, Any] = {
        "row_id": pa.array(np.arange(begin, begin + n)),
        "gene_id": pa.DictionaryArray.from_arrays(
            pa.array(codes.astype(np.int32)), pa.array(genes.gene_id[ranks], pa.string())
        ),
        "position": pa.array(keys["position"]) if plan.position_column else pa.nulls(n, pa.int64()),
        "label": pa.DictionaryArray.from_arrays(pa.array(keys["label"].astype(np.int32)), pa.array(plan.classes)),
        "fold": pa.array(fold),
    }
    for index, name in enumerate(plan.classes):
        columns[f"p_{name}"] = pa.array(chances[:, index].astype(np.float32))
    if margins is not None:
        for index, name in enumerate(plan.classes):
            columns[f"margin_{name}"] = pa.array(margins[:, index])
    return pa.table(columns)


def plan_first_row(plan: Plan, rank: int) -> int:
    """Return the place in the total order of the first row of a segment's first gene."""
    return next(segment.first_row for segment in plan.segments if segment.first_rank == rank)


def _remove(folder: Path) -> None:
    """Delete a flat folder of ours, manifest first, so that a half-deleted one never counts as finished."""
    if folder.is_dir():
        (folder / "manifest.json").unlink(missing_ok=True)
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()


def _json(values: Any) -> bytes:
    return json.dumps(values, sort_keys=True).encode()


def _write_csv(path: Path, rows: list[dict[str, Any]]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else [], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    path.write_text(text.getvalue(), encoding="utf-8")
