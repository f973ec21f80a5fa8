"""Trains one instance: cross-validation on the global folds, final boosters, calibration; runs in a child process.

One quantised matrix serves all classes. Each fold is trained on a matrix of its own rows, one after the other, or on the
matrix of all rows with those of the test fold at weight zero; both give the same trees, because the cuts are those of
all rows (missing values may tie splits otherwise). The first is faster where there are many rounds, the second where
there are few. Margins of the test fold come from the rows themselves, so rows that training leaves out are scored too.

Every fit is saved as it goes (`mi_duck.boosting.boosters`); a training that was killed begins with what was saved.
"""

import math
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from mi_duck.boosting.boosters import (
    SavedFits,
    final_name,
    fit_booster,
    fold_name,
    open_saved_fits,
    predict_margins,
    report_resumption,
)
from mi_duck.boosting.forest import complement, most_nodes
from mi_duck.boosting.matrix import PASSES, build_matrix, cut_reference, trim_heap
from mi_duck.boosting.write_instance import (
    Fit,
    booster_files,
    curve_lines,
    instance_training_data,
    write_instance,
)
from mi_duck.metrics.calibrate import allowed_methods, calibrate
from mi_duck.processes import Report
from mi_duck.resources import check_device
from mi_duck.rows.segments import SegmentReader, is_trained_on, row_weights, segments_of, training_weights
from mi_duck.run.constraints import as_xgboost_has_them
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import read_gene_folds, stopping_groups
from mi_duck.run.plan import Instance, Plan, Settings, fitted_classes
from mi_duck.usage import peak_bytes


def train_instance(*, run: str, instance_id: int, threads: int, report: Report) -> dict[str, Any]:
    """Train one instance and write its folder, the manifest last; go on with what an earlier process saved of it.

    The result does not depend on the threads.

    Returns
    -------
    dict
        ``rounds`` of each final booster; ``phases``: peak memory of each phase in bytes, where the system reports it and the
        phase was not done before; ``nodes`` of the largest tree of any fit on the matrix of all rows, above its last level;
        ``build_seconds`` and ``boost_seconds`` of all matrices and of all rounds, ``later_seconds`` of all rounds but the
        first of each fit;
        ``rounds_before``, ``seconds_before`` and ``peak_before``: of earlier processes.
    """
    folder = RunFolder(Path(run))
    plan = folder.read_plan()
    instance, settings = plan.cut.instance(instance_id), plan.settings
    genes = read_gene_folds(folder, plan, instance.first_rank, instance.stop_rank)
    rows = _read_rows(folder, plan, instance)
    fold = genes.fold[rows.gene].astype(np.int8)
    check_device(settings.device, plan.cut.strategy_used)
    cache = folder.scratch / "pages" / instance.name / "page" if plan.cut.is_external else None
    if cache is not None:
        shutil.rmtree(cache.parent, ignore_errors=True)  # the pages of a process that was killed
    saved_fits = open_saved_fits(folder, plan, instance)
    training = _Training(plan, rows, saved_fits, threads, report, cache)
    margins = np.zeros((rows.reader.n_rows, len(plan.data.classes)), dtype=np.float32)
    fold_fits, weight_of_fold = [], []
    for number in range(settings.n_folds):
        stopping = stopping_groups(genes.group, genes.fold, number, settings.seed)
        in_test_fold, is_stopping = fold == number, np.isin(genes.group, stopping)[rows.gene]
        weight_of_fold.append(rows.weight[rows.is_trained_on & ~in_test_fold & ~is_stopping].sum(dtype=np.float64))
        fits = training.fit_fold(number, in_test_fold, is_stopping)
        margins[in_test_fold] = predict_margins(rows.reader, in_test_fold, [one.raw for one in fits], threads)
        fold_fits.append(fits)
    more_rows = float(rows.weight[rows.is_trained_on].sum(dtype=np.float64) / np.mean(weight_of_fold))
    rounds = [
        final_rounds([fit.rounds for fit in of_class], more_rows, most=settings.n_estimators)
        for of_class in zip(*fold_fits, strict=True)
    ]
    final = training.fit_final(rounds)
    on_all_rows = [*final, *chain.from_iterable(fold_fits)] if training.by_weight else final
    report("calibrating", 0, 1)
    methods = allowed_methods(settings.calibrate)
    keys = rows.reader.keys()
    weights = row_weights(keys)
    calibration = calibrate(margins, rows.label, fold, n_folds=settings.n_folds, methods=methods, weights=weights)
    known = instance_training_data(folder, plan, instance, genes)
    models = booster_files(plan, instance, fold_fits, final, calibration, known)
    curves = curve_lines(plan, fold_fits)
    write_instance(folder, plan, instance, genes, keys, fold, margins, calibration, models, curves)
    saved_fits.clear()
    report("calibrating", 1, 1)
    training.meter.mark("finish")
    return {
        "rounds": rounds,
        "phases": training.meter.peaks,
        "nodes": max(most_nodes(one.raw, settings.max_depth) for one in on_all_rows),
        **training.seconds,
        "rounds_before": saved_fits.rounds_before,
        "seconds_before": saved_fits.seconds_before,
        "peak_before": saved_fits.peak_before,
    }


def final_rounds(of_folds: Sequence[int], more_rows: float, *, most: int) -> int:
    """Return the rounds of a final booster: the median of its folds', times the square root of how many times their rows it has.

    More rows bear more rounds: see `benchmarks/bench_final_rounds.py`, where 1.2 and 1.35 times were better than 1 and 1.5.

    Examples
    --------
    >>> final_rounds([40, 50, 70], 1.69, most=800), final_rounds([40, 50, 70], 1.69, most=60)
    (65, 60)
    """
    return min(most, round(float(np.median(of_folds)) * math.sqrt(more_rows)))


def feature_gains(*, run: str, instance_id: int, threads: int, report: Report) -> dict[str, float]:
    """Fit the boosters of all rows of an instance, without folds, and return the total gain of every feature."""
    folder = RunFolder(Path(run))
    plan = folder.read_plan()
    settings, rows = plan.settings, _read_rows(folder, plan, plan.cut.instance(instance_id))
    label, weight = rows.label[rows.is_trained_on], rows.weight[rows.is_trained_on]
    reference = cut_reference(rows.reader, rows.is_trained_on, max_bin=settings.max_bin, threads=threads)
    matrix = build_matrix(
        rows.reader,
        rows.is_trained_on,
        reference,
        max_bin=settings.max_bin,
        threads=threads,
        report=lambda done: report("pilot matrix", done, PASSES * len(weight)),
    )
    gains = dict.fromkeys(plan.data.features, 0.0)
    for index in fitted_classes(len(plan.data.classes)):
        name = plan.data.classes[index]
        fit = fit_booster(
            matrix,
            label == index,
            weight,
            settings,
            threads,
            _reporting(report, f"pilot {name}", settings),
            constraints=as_xgboost_has_them(settings.xgb_parameters, plan.data, index),
            rounds=settings.n_estimators,
        )
        booster = xgb.Booster(model_file=bytearray(fit.raw))
        for feature, gain in booster.get_score(importance_type="total_gain").items():
            gains[plan.data.features[int(feature[1:])]] += float(gain)
    return gains


@dataclass(frozen=True, slots=True)
class _Rows:
    """The rows of an instance; of each its label, its gene counted from the instance's first, its use and its weight."""

    reader: SegmentReader
    label: NDArray[np.uint8]
    gene: NDArray[np.int32]
    is_trained_on: NDArray[np.bool_]
    weight: NDArray[np.float32]


def _read_rows(folder: RunFolder, plan: Plan, instance: Instance) -> _Rows:
    reader = SegmentReader(plan, segments_of(plan, instance), folder.segments)
    keys = reader.keys()  # not kept: 14 bytes per row that only writing needs again
    weight = training_weights(keys, plan.settings.easy_share)
    gene = keys["gene_rank"] - instance.first_rank
    return _Rows(reader, keys["label"].copy(), gene, is_trained_on(keys), weight)


class PeakMeter:
    """Reads the peak memory of this process phase by phase, where the system lets a process reset its peak (Linux)."""

    def __init__(self) -> None:
        self.peaks: dict[str, int] = {}
        self._resets = self._reset()

    def mark(self, phase: str) -> None:
        """End a phase: note its peak in bytes and begin the next."""
        if self._resets:
            self.peaks[phase] = peak_bytes()
            self._reset()

    @staticmethod
    def _reset() -> bool:
        try:
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        except OSError:
            return False
        return True


class _Training:
    """Fits the boosters of one instance, those of each fold and the final ones, with one matrix in memory at a time."""

    def __init__(
        self, plan: Plan, rows: _Rows, saved_fits: SavedFits, threads: int, report: Report, cache: Path | None
    ) -> None:
        self.settings, self.rows, self.saved_fits = plan.settings, rows, saved_fits
        self.threads, self.report, self.cache = threads, report, cache
        self.fitted = fitted_classes(len(plan.data.classes))
        classes, n_folds = [(index, plan.data.classes[index]) for index in self.fitted], plan.settings.n_folds
        self.n_classes = len(plan.data.classes)
        self.constraints = [
            as_xgboost_has_them(plan.settings.xgb_parameters, plan.data, index) for index in range(self.n_classes)
        ]
        self.titles = {
            fold_name(number, index): f"fold {number + 1}/{n_folds} {name}"
            for number in range(n_folds)
            for index, name in classes
        } | {final_name(index): f"final {name}" for index, name in classes}
        self.to_do = {name for name in self.titles if saved_fits.finished(name) is None}
        report_resumption(saved_fits, self.titles, plan.settings, report)
        self.meter = PeakMeter()
        self.seconds = {"build_seconds": 0.0, "boost_seconds": 0.0, "later_seconds": 0.0}
        self._counted = time.monotonic()
        self.matrix: xgb.QuantileDMatrix | None = None
        self.reference: xgb.QuantileDMatrix | None = None
        if self.to_do:
            self.reference = cut_reference(
                rows.reader, rows.is_trained_on, max_bin=plan.settings.max_bin, threads=threads, cache=cache
            )
            self.meter.mark("cuts")
        self.by_weight = plan.settings.cv_used == "weights" or self.reference is None
        if self.by_weight and self.to_do:
            self._build(rows.is_trained_on, "of all rows")
            self.meter.mark("matrix")

    def fit_fold(self, number: int, in_test_fold: NDArray[np.bool_], is_stopping: NDArray[np.bool_]) -> list[Fit]:
        """Fit the boosters of a fold, one for each class.

        ``in_test_fold`` and ``is_stopping`` mark, of all rows, those of the fold and those that early stopping watches.
        """
        names = [fold_name(number, index) for index in self.fitted]
        rows, weight = self.rows.is_trained_on, self.rows.weight
        if not self.by_weight:
            rows = rows & ~in_test_fold
            if not self.to_do.isdisjoint(names):
                self._build(rows, f"of fold {number + 1}")
        fits = self._fit(
            names,
            rows,
            (weight * (~in_test_fold & ~is_stopping))[rows],
            stopping_weight=(weight * (is_stopping & ~in_test_fold))[rows],
        )
        if not self.by_weight:
            self._drop_matrix()
        self._count("boost_seconds")
        return fits

    def fit_final(self, rounds: Sequence[int]) -> list[Fit]:
        """Fit the final booster of each class on all rows, with its number of rounds."""
        names = [final_name(index) for index in self.fitted]
        rows = self.rows.is_trained_on
        if not self.by_weight and not self.to_do.isdisjoint(names):
            self._build(rows, "of all rows")
            self.meter.mark("matrix")
        self.reference = None
        fits = self._fit(names, rows, self.rows.weight[rows], rounds=rounds)
        self._drop_matrix()
        self._count("boost_seconds")
        if self.to_do:
            self.meter.mark("boost")
        return fits

    def _fit(
        self,
        names: Sequence[str],
        rows: NDArray[np.bool_],
        weight: NDArray[np.float32],
        *,
        stopping_weight: NDArray[np.float32] | None = None,
        rounds: Sequence[int] | None = None,
    ) -> list[Fit]:
        """Return one fit per class on the rows of the matrix, as it was saved where it is finished.

        Of two classes the second is fitted, and the first is its complement.
        """
        fits = [
            self.saved_fits.finished(name)
            or fit_booster(
                self.matrix,
                self.rows.label[rows] == index,
                weight,
                self.settings,
                self.threads,
                self._on_round(f"rounds of {self.titles[name]}"),
                constraints=self.constraints[index],
                stopping_weight=stopping_weight,
                rounds=None if rounds is None else rounds[index],
                begun=self.saved_fits.begun_fit(name),
                save=partial(self.saved_fits.save, name),
            )
            for index, name in zip(self.fitted, names, strict=True)
        ]
        if len(fits) == self.n_classes:
            return fits
        return [replace(fits[0], raw=complement(fits[0].raw)), *fits]

    def _on_round(self, stage: str) -> Callable[[int], None]:
        """Return what is called after each round of a fit: it reports them, and adds up the time since the first."""
        report = _reporting(self.report, stage, self.settings)
        before: float | None = None

        def on_round(done: int) -> None:
            nonlocal before
            now = time.monotonic()
            if before is not None:
                self.seconds["later_seconds"] += now - before
            before = now
            report(done)

        return on_round

    def _build(self, wanted: NDArray[np.bool_], title: str) -> None:
        total = PASSES * int(wanted.sum())
        self.matrix = build_matrix(
            self.rows.reader,
            wanted,
            self.reference,
            max_bin=self.settings.max_bin,
            threads=self.threads,
            report=lambda done: self.report(f"building the matrix {title}", done, total),
            cache=self.cache,
        )
        self._count("build_seconds")

    def _drop_matrix(self) -> None:
        self.matrix = None
        trim_heap()

    def _count(self, name: str) -> None:
        """Add the time since the last call."""
        before, self._counted = self._counted, time.monotonic()
        self.seconds[name] += self._counted - before


def _reporting(report: Report, stage: str, settings: Settings) -> Callable[[int], None]:
    return lambda done: report(stage, done, settings.n_estimators)
