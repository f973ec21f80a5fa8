"""Trains one instance: cross-validation on the global folds, final boosters, calibration; runs in a child process.

One quantised matrix serves all three classes and all folds: rows of the held-out fold and of the stopping groups get
weight zero, which gives the same trees as a matrix of the training rows (up to where the bins are cut), and
out-of-fold margins come from the same matrix.
"""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from mi_duck.children import PeakMeter, Report
from mi_duck.folders import RunFolder
from mi_duck.plan.plan import Settings
from mi_duck.train.batches import PASSES, build_matrix, cut_carrier, trim_heap
from mi_duck.train.calibrate import METHODS, calibrate
from mi_duck.train.instances import Fit, read_genes, write_instance
from mi_duck.train.segments import SegmentReader, segments_of

STOPPING_SHARE = 0.1


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
        ``rounds`` of each final booster, and ``phases``: peak memory of each phase in bytes, where the system tells.
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
    meter = PeakMeter()
    carrier = cut_carrier(reader, max_bin=settings.max_bin, threads=threads)
    meter.mark("cuts")
    matrix = build_matrix(
        reader,
        carrier,
        max_bin=settings.max_bin,
        threads=threads,
        report=lambda rows: report("building the matrix", rows, PASSES * reader.n_rows),
    )
    del carrier
    meter.mark("matrix")
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
    meter.mark("boost")
    report("calibrating", 0, 1)
    calibration = calibrate(
        margins, label, fold, n_folds=settings.n_folds, methods=METHODS if settings.calibrate else ("none",)
    )
    write_instance(folder, plan, instance, genes, keys, fold, margins, fold_fits, final, calibration)
    report("calibrating", 1, 1)
    meter.mark("finish")
    return {"rounds": rounds, "phases": meter.peaks}


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
