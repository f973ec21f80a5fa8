"""Trains one instance: cross-validation on the global folds, final boosters, calibration; runs in a child process.

One quantised matrix serves all classes. Each fold is trained on a matrix of its own rows, one after the other, or on the
matrix of all rows with those that are held out at weight zero; both give the same trees, because the cuts are those of
all rows (values that are missing may tie splits otherwise). The first is faster where there are many rounds, the second where
there are few. Margins of the held-out rows come from the rows themselves, so rows that training leaves out are scored too.
"""

import hashlib
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from mi_duck.children import PeakMeter, Report
from mi_duck.folders import RunFolder
from mi_duck.plan.memory import BATCH_ROWS
from mi_duck.plan.plan import Settings
from mi_duck.train.batches import PASSES, build_matrix, cut_carrier, trim_heap
from mi_duck.train.calibrate import METHODS, calibrate
from mi_duck.train.instances import Fit, read_genes, write_instance
from mi_duck.train.segments import LEFT_OUT, USED_FOR_MANY, SegmentReader, segments_of

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
        ``rounds`` of each final booster; ``phases``: peak memory of each phase in bytes, where the system tells;
        ``build_seconds`` and ``boost_seconds`` of all matrices and of all rounds.
    """
    folder = RunFolder(Path(run))
    plan = folder.read_plan()
    instance = plan.instance(instance_id)
    genes = read_genes(folder, plan, instance.first_rank, instance.stop_rank)
    reader = SegmentReader(plan, segments_of(plan, instance.first_rank, instance.stop_rank), folder.segments)
    keys = reader.keys()
    label, use = keys["label"].copy(), keys["use"].copy()
    gene = keys["gene_rank"] - instance.first_rank
    del keys  # 14 bytes a row that only writing needs again
    fold = genes.fold[gene].astype(np.int8)
    settings = plan.settings
    is_used = use != LEFT_OUT
    row_weight = np.where(use == USED_FOR_MANY, 1 / settings.sample_negatives, 1).astype(np.float32)
    cache = folder.scratch / "pages" / instance.name / "page" if plan.strategy == "external" else None
    meter = PeakMeter()
    clock = _Clock()
    carrier = cut_carrier(reader, is_used, max_bin=settings.max_bin, threads=threads, cache=cache)
    meter.mark("cuts")

    def matrix_of(cuts: xgb.QuantileDMatrix | None, wanted: NDArray[np.bool_], title: str) -> xgb.QuantileDMatrix:
        total = PASSES * int(wanted.sum())
        return build_matrix(
            reader,
            wanted,
            cuts,
            max_bin=settings.max_bin,
            threads=threads,
            report=lambda rows: report(f"building the matrix {title}", rows, total),
            cache=cache,
        )

    by_weight = settings.cv == "weights" or carrier is None
    matrix = matrix_of(carrier, is_used, "of all rows") if by_weight else None
    clock.built()
    if by_weight:
        meter.mark("matrix")
    margins = np.zeros((reader.n_rows, len(plan.classes)), dtype=np.float32)
    fold_fits: list[list[Fit]] = []
    for number in range(settings.n_folds):
        stopping = stopping_groups(genes.group, genes.fold, number, settings.seed)
        is_stopping = np.isin(genes.group, stopping)[gene]
        held_out = fold == number
        rows = is_used if by_weight else is_used & ~held_out
        if not by_weight:
            matrix = matrix_of(carrier, rows, f"of fold {number + 1}")
            clock.built()
        weight = row_weight * (~held_out & ~is_stopping)
        fits = [
            fit_booster(
                matrix,
                label[rows] == index,
                weight[rows],
                settings,
                threads,
                _rounds(report, f"fold {number + 1}/{settings.n_folds} {name}", settings),
                stopping_weight=(row_weight * (is_stopping & ~held_out))[rows],
            )
            for index, name in enumerate(plan.classes)
        ]
        if not by_weight:
            matrix = None
            trim_heap()
        clock.boosted()
        margins[held_out] = predict_margins(reader, held_out, [fit.raw for fit in fits], threads)
        fold_fits.append(fits)
    if not by_weight:
        matrix = matrix_of(carrier, is_used, "of all rows")
        clock.built()
        meter.mark("matrix")
    del carrier
    rounds = [
        int(np.median([fold_fits[number][index].rounds for number in range(settings.n_folds)]))
        for index in range(len(plan.classes))
    ]
    final = [
        fit_booster(
            matrix,
            label[is_used] == index,
            row_weight[is_used],
            settings,
            threads,
            _rounds(report, f"final {name}", settings),
            rounds=rounds[index],
        )
        for index, name in enumerate(plan.classes)
    ]
    del matrix
    trim_heap()
    clock.boosted()
    meter.mark("boost")
    report("calibrating", 0, 1)
    calibration = calibrate(
        margins, label, fold, n_folds=settings.n_folds, methods=METHODS if settings.calibrate else ("none",)
    )
    write_instance(folder, plan, instance, genes, reader.keys(), fold, margins, fold_fits, final, calibration)
    report("calibrating", 1, 1)
    meter.mark("finish")
    return {
        "rounds": rounds,
        "phases": meter.peaks,
        "build_seconds": clock.build_seconds,
        "boost_seconds": clock.boost_seconds,
    }


def feature_gains(*, run: str, instance_id: int, threads: int, report: Report) -> dict[str, float]:
    """Fit one booster a class on all rows of an instance, without folds, and return the total gain of every feature.

    Parameters
    ----------
    run, instance_id, threads, report
        As for `train_instance`.
    """
    folder = RunFolder(Path(run))
    plan = folder.read_plan()
    instance = plan.instance(instance_id)
    reader = SegmentReader(plan, segments_of(plan, instance.first_rank, instance.stop_rank), folder.segments)
    keys = reader.keys()
    is_used = keys["use"] != LEFT_OUT
    many = keys["use"][is_used] == USED_FOR_MANY
    weight = np.where(many, 1 / plan.settings.sample_negatives, 1).astype(np.float32)
    max_bin = plan.settings.max_bin
    carrier = cut_carrier(reader, is_used, max_bin=max_bin, threads=threads)
    matrix = build_matrix(
        reader,
        is_used,
        carrier,
        max_bin=max_bin,
        threads=threads,
        report=lambda rows: report("pilot matrix", rows, PASSES * len(weight)),
    )
    gains = dict.fromkeys(plan.features, 0.0)
    for index, name in enumerate(plan.classes):
        fit = fit_booster(
            matrix,
            keys["label"][is_used] == index,
            weight,
            plan.settings,
            threads,
            _rounds(report, f"pilot {name}", plan.settings),
            rounds=plan.settings.n_estimators,
        )
        booster = xgb.Booster()
        booster.load_model(bytearray(fit.raw))
        for feature, gain in booster.get_score(importance_type="total_gain").items():
            gains[plan.features[int(feature[1:])]] += float(gain)
    return gains


class _Clock:
    """Adds up the time of building and of boosting."""

    def __init__(self) -> None:
        self.build_seconds = 0.0
        self.boost_seconds = 0.0
        self._last = time.monotonic()

    def built(self) -> None:
        """Count the time since the last call as building."""
        now = time.monotonic()
        self.build_seconds, self._last = self.build_seconds + now - self._last, now

    def boosted(self) -> None:
        """Count the time since the last call as boosting."""
        now = time.monotonic()
        self.boost_seconds, self._last = self.boost_seconds + now - self._last, now


def predict_margins(
    reader: SegmentReader, wanted: NDArray[np.bool_], boosters: Sequence[bytes], threads: int
) -> NDArray[np.float32]:
    """Return log-odds of the wanted rows in their order, shape (n_wanted, n_boosters)."""
    loaded = []
    for raw in boosters:
        booster = xgb.Booster({"nthread": threads})
        booster.load_model(bytearray(raw))
        loaded.append(booster)
    margins = np.empty((int(wanted.sum()), len(boosters)), dtype=np.float32)
    begin = 0
    for rows in reader.matrices(BATCH_ROWS, wanted):
        encoded = reader.encoding.apply(rows, reader.plan.features)
        for index, booster in enumerate(loaded):
            margins[begin : begin + len(rows), index] = booster.inplace_predict(encoded, predict_type="margin")
        begin += len(rows)
    return margins


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
    stopping_weight: NDArray[np.float32] | None = None,
    rounds: int | None = None,
) -> Fit:
    """Fit one one-vs-rest booster on the rows whose weight is not zero.

    Parameters
    ----------
    matrix
        Quantised matrix; its labels and weights are replaced.
    truth, weight
        Label and weight of each row of the matrix, shape (n_rows,).
    settings, threads
        Of the training.
    on_round
        Told the number of rounds done.
    stopping_weight
        Weight of each row in early stopping, shape (n_rows,); zero where a row is trained on.
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
        stops = bool(settings.early_stopping_patience and stopping_weight is not None and stopping_weight.any())
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
            custom_metric=_log_losses(truth, weight, stopping_weight if stops else None, curve),
            callbacks=watch,
            verbose_eval=False,
        )
        rounds = booster.best_iteration + 1 if stops else booster.num_boosted_rounds()
    return Fit(bytes(booster[:rounds].save_raw("ubj")), rounds, np.array(curve).reshape(-1, 2))


def _log_losses(
    truth: NDArray[np.bool_],
    weight: NDArray[np.float32],
    stopping_weight: NDArray[np.float32] | None,
    curve: list[tuple[float, float]],
) -> Callable[[NDArray[np.float32], xgb.DMatrix], list[tuple[str, float]]]:
    """Return XGBoost's custom metric: log loss on training and on stopping rows, also kept in ``curve``."""
    rows = (weight > 0, None if stopping_weight is None else stopping_weight > 0)
    weights = (weight[rows[0]], None if stopping_weight is None else stopping_weight[rows[1]])

    def mean(surprise: NDArray[np.float32], of: int) -> float:
        return float(np.average(surprise[rows[of]].astype(np.float64), weights=weights[of]))

    def log_losses(chance: NDArray[np.float32], _: xgb.DMatrix) -> list[tuple[str, float]]:
        surprise = -np.log(np.clip(np.where(truth, chance, 1 - chance), 1e-7, 1))
        training = mean(surprise, 0)
        stopping = float("nan") if stopping_weight is None else mean(surprise, 1)
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
