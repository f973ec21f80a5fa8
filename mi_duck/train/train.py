"""Trains one instance: cross-validation on the global folds, final boosters, calibration; runs in a child process.

One quantised matrix serves all classes. Each fold is trained on a matrix of its own rows, one after the other, or on the
matrix of all rows with those that are held out at weight zero; both give the same trees, because the cuts are those of
all rows (values that are missing may tie splits otherwise). The first is faster where there are many rounds, the second where
there are few. Margins of the held-out rows come from the rows themselves, so rows that training leaves out are scored too.

Every fit is saved as it goes (`mi_duck.train.boosters`); a training that was killed begins with what was saved.
"""

import hashlib
import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from mi_duck.metrics.calibrate import METHODS, calibrate
from mi_duck.processes import PeakMeter, Report
from mi_duck.resources import check_device
from mi_duck.rows.segments import LEFT_OUT, USED_FOR_MANY, SegmentReader, segments_of
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import read_genes
from mi_duck.run.plan import Settings
from mi_duck.train.boosters import final_name, fit_booster, fold_name, open_progress, predict_margins, report_resumption
from mi_duck.train.matrix import PASSES, build_matrix, cut_reference, trim_heap
from mi_duck.train.write_instance import Fit, write_instance

STOPPING_SHARE = 0.1


def train_instance(*, run: str, instance_id: int, threads: int, report: Report) -> dict[str, Any]:
    """Train one instance and write its folder, the manifest last; go on with what an earlier process saved of it.

    Parameters
    ----------
    run
        Run folder with a plan and the instance's segments.
    instance_id
        Which instance.
    threads
        Threads of XGBoost; the result does not depend on them.
    report
        Progress callback, called with (stage, done, total).

    Returns
    -------
    dict
        ``rounds`` of each final booster; ``phases``: peak memory of each phase in bytes, where the system tells and the
        phase was not done before; ``build_seconds`` and ``boost_seconds`` of all matrices and of all rounds;
        ``rounds_before``, ``seconds_before`` and ``peak_before``: of earlier processes.
    """
    folder = RunFolder(Path(run))
    plan = folder.read_plan()
    instance = plan.cut.instance(instance_id)
    genes = read_genes(folder, plan, instance.first_rank, instance.stop_rank)
    reader = SegmentReader(plan, segments_of(plan, instance.first_rank, instance.stop_rank), folder.segments)
    keys = reader.keys()
    label, use = keys["label"].copy(), keys["use"].copy()
    gene = keys["gene_rank"] - instance.first_rank
    del keys  # 14 bytes a row that only writing needs again
    fold = genes.fold[gene].astype(np.int8)
    settings = plan.settings
    check_device(settings.device, plan.cut.strategy_used)
    is_used = use != LEFT_OUT
    row_weight = np.where(use == USED_FOR_MANY, 1 / settings.easy_share, 1).astype(np.float32)
    cache = folder.scratch / "pages" / instance.name / "page" if plan.cut.strategy_used == "external" else None
    if cache is not None:
        shutil.rmtree(cache.parent, ignore_errors=True)  # the pages of a process that was killed
    progress = open_progress(folder, plan, instance)
    classes = range(len(plan.data.classes))
    fold_titles = [f"fold {number + 1}/{settings.n_folds}" for number in range(settings.n_folds)]
    titles = {
        fold_name(number, index): f"{title} {plan.data.classes[index]}"
        for number, title in enumerate(fold_titles)
        for index in classes
    } | {final_name(index): f"final {plan.data.classes[index]}" for index in classes}
    to_do = {name for name in titles if progress.finished(name) is None}
    report_resumption(progress, titles, settings, report)
    meter = PeakMeter()
    clock = _Clock()
    reference = (
        cut_reference(reader, is_used, max_bin=settings.max_bin, threads=threads, cache=cache) if to_do else None
    )
    if to_do:
        meter.mark("cuts")

    def matrix_of(wanted: NDArray[np.bool_], title: str) -> xgb.QuantileDMatrix:
        total = PASSES * int(wanted.sum())
        matrix = build_matrix(
            reader,
            wanted,
            reference,
            max_bin=settings.max_bin,
            threads=threads,
            report=lambda rows: report(f"building the matrix {title}", rows, total),
            cache=cache,
        )
        clock.built()
        return matrix

    def fit(
        name: str,
        truth: NDArray[np.bool_],
        weight: NDArray[np.float32],
        *,
        stopping_weight: NDArray[np.float32] | None = None,
        rounds: int | None = None,
    ) -> Fit:
        return progress.finished(name) or fit_booster(
            matrix,
            truth,
            weight,
            settings,
            threads,
            _rounds(report, titles[name], settings),
            stopping_weight=stopping_weight,
            rounds=rounds,
            begun=progress.begun_fit(name),
            save=partial(progress.save, name),
        )

    by_weight = settings.cv_used == "weights" or reference is None
    matrix = None
    if by_weight and to_do:
        matrix = matrix_of(is_used, "of all rows")
        meter.mark("matrix")
    margins = np.zeros((reader.n_rows, len(plan.data.classes)), dtype=np.float32)
    fold_fits: list[list[Fit]] = []
    for number in range(settings.n_folds):
        held_out = fold == number
        names = [fold_name(number, index) for index in classes]
        rows = is_used if by_weight else is_used & ~held_out
        if not by_weight and not to_do.isdisjoint(names):
            matrix = matrix_of(rows, f"of fold {number + 1}")
        stopping = stopping_groups(genes.group, genes.fold, number, settings.seed)
        is_stopping = np.isin(genes.group, stopping)[gene]
        weight = (row_weight * (~held_out & ~is_stopping))[rows]
        stopping_weight = (row_weight * (is_stopping & ~held_out))[rows]
        fits = [
            fit(name, label[rows] == index, weight, stopping_weight=stopping_weight) for index, name in enumerate(names)
        ]
        if not by_weight:
            matrix = None
            trim_heap()
        clock.boosted()
        margins[held_out] = predict_margins(reader, held_out, [one.raw for one in fits], threads)
        fold_fits.append(fits)
    names = [final_name(index) for index in classes]
    if not by_weight and not to_do.isdisjoint(names):
        matrix = matrix_of(is_used, "of all rows")
        meter.mark("matrix")
    reference = None
    rounds = [int(np.median([fits[index].rounds for fits in fold_fits])) for index in classes]
    final = [
        fit(name, label[is_used] == index, row_weight[is_used], rounds=rounds[index])
        for index, name in enumerate(names)
    ]
    matrix = None
    trim_heap()
    clock.boosted()
    if to_do:
        meter.mark("boost")
    report("calibrating", 0, 1)
    calibration = calibrate(
        margins, label, fold, n_folds=settings.n_folds, methods=METHODS if settings.calibrate else ("none",)
    )
    write_instance(folder, plan, instance, genes, reader.keys(), fold, margins, fold_fits, final, calibration)
    progress.clear()
    report("calibrating", 1, 1)
    meter.mark("finish")
    return {
        "rounds": rounds,
        "phases": meter.peaks,
        "build_seconds": clock.build_seconds,
        "boost_seconds": clock.boost_seconds,
        "rounds_before": progress.rounds_before,
        "seconds_before": progress.seconds_before,
        "peak_before": progress.peak_before,
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
    instance = plan.cut.instance(instance_id)
    reader = SegmentReader(plan, segments_of(plan, instance.first_rank, instance.stop_rank), folder.segments)
    keys = reader.keys()
    is_used = keys["use"] != LEFT_OUT
    many = keys["use"][is_used] == USED_FOR_MANY
    weight = np.where(many, 1 / plan.settings.easy_share, 1).astype(np.float32)
    max_bin = plan.settings.max_bin
    reference = cut_reference(reader, is_used, max_bin=max_bin, threads=threads)
    matrix = build_matrix(
        reader,
        is_used,
        reference,
        max_bin=max_bin,
        threads=threads,
        report=lambda rows: report("pilot matrix", rows, PASSES * len(weight)),
    )
    gains = dict.fromkeys(plan.data.features, 0.0)
    for index, name in enumerate(plan.data.classes):
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
            gains[plan.data.features[int(feature[1:])]] += float(gain)
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


def stopping_groups(groups: NDArray[np.object_], folds: NDArray[np.int64], fold: int, seed: int) -> NDArray[np.object_]:
    """Return a tenth of the fold groups outside a fold, at least one, chosen by hash.

    Early stopping looks at these: they are neither trained on nor scored in this fold.
    """
    candidates = sorted(set(groups[folds != fold]))
    candidates.sort(key=lambda group: hashlib.md5(f"{seed}:stopping:{fold}:{group}".encode()).digest())
    # with two groups or fewer none can be spared
    n = max(1, round(STOPPING_SHARE * len(candidates))) if len(candidates) > 2 else 0
    return np.array(candidates[:n], dtype=object)


def _rounds(report: Report, stage: str, settings: Settings) -> Callable[[int], None]:
    return lambda done: report(stage, done, settings.n_estimators)
