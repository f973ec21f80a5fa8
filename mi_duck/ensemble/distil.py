"""Distillation: one booster per class, of few trees, fitted to what the ensemble says; fast, and nearly as good.

The ensemble is the teacher. Each row of the run is given the teacher's probability of a class instead of its label, and a
booster is fitted to these by the log loss, whose gradient is the difference of the two probabilities. So the student minimises
the Kullback-Leibler divergence from its teacher to itself, and rows that the teacher is unsure of tell it how unsure.

What a student is worth is known out of fold. The teacher of fold k is the ensemble of the fold-k boosters, which never saw a fold
group of fold k; the student of fold k is fitted on the rows outside fold k, to the margins of this teacher, and is scored on
fold k. The student that users get is fitted in the same way on all rows, to the margins of the consolidated model. Calibrators on
top and thresholds are fitted on the students' margins out of fold, as those of an ensemble are on its members'.

References
----------
Breiman and Shang, Born again trees (University of California, Berkeley, 1996). Bucila, Caruana and Niculescu-Mizil, Model
compression (KDD 2006). Hinton, Vinyals and Dean, Distilling the knowledge in a neural network (arXiv 1503.02531, 2015); their
temperature is 1 here.
"""

import shutil
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray
from scipy.special import expit

from mi_duck.archive import pack, read_parts
from mi_duck.atomic_files import digest_of, write_file
from mi_duck.boosting.boosters import final_name, fit_booster, fold_name, predict_margins, saved_fits_in
from mi_duck.boosting.forest import of_all_classes
from mi_duck.boosting.matrix import PASSES, build_matrix, cut_reference, trim_heap
from mi_duck.ensemble.fold_ensembles import consolidated_model, read_fold_ensembles
from mi_duck.ensemble.model import ConsolidatedMetaModel, InstanceModel, vote
from mi_duck.ensemble.model_file import model_sha256
from mi_duck.errors import CheckpointError
from mi_duck.metrics.calibrate import Calibration, Calibrator, log_odds
from mi_duck.metrics.ranking import Floats32, Thresholds, values_of
from mi_duck.processes import Report
from mi_duck.rows.segments import SegmentReader, is_trained_on, training_weights
from mi_duck.run.constraints import as_xgboost_has_them, constraints_in
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import read_gene_folds
from mi_duck.run.plan import Plan, Settings, fitted_classes
from mi_duck.run.training_data import KEY_BYTES

FOLDER = "distil"  # in the scratch of the run
BATCH_BYTES = 64 << 20  # of features
STEP, DEEPEST = 0.2, 6


@dataclass(frozen=True, slots=True)
class Distilled:
    """What distillation gives; rows are in the total order of the run.

    Parameters
    ----------
    teacher
        The consolidated model.
    boosters
        The student of all rows, one per class.
    keys, fold
        Of each row, see `mi_duck.rows.segments.KEYS`; shape (n_rows,).
    taught, margins
        Log-odds of each row by the teacher and by the student of its fold, before calibration on top, shape (n_rows, n_classes).
    n_fitted_rows
        Rows that the student of all rows was fitted on.
    """

    teacher: ConsolidatedMetaModel
    boosters: tuple[xgb.Booster, ...]
    keys: NDArray[np.void]
    fold: NDArray[np.int8]
    taught: Floats32
    margins: Floats32
    n_fitted_rows: int

    def model(self, calibration: Calibration, thresholds: Thresholds) -> ConsolidatedMetaModel:
        """Return the student of all rows as a model, with calibrators and thresholds that were fitted out of fold."""
        training = self.teacher.training
        facts = {
            "instance_id": 0,
            "n_genes": len(training.gene_keys) // KEY_BYTES or self.teacher.n_genes,
            "n_rows": len(self.keys),
            "n_training_rows": self.n_fitted_rows,
            "rounds": [one.num_boosted_rounds() for one in self.boosters],
        }
        first = self.teacher.members[0]
        plain = (Calibrator("none"),) * len(self.boosters)
        member = InstanceModel(first.features, first.classes, self.boosters, plain, facts, first.encoding, training)
        return ConsolidatedMetaModel(
            (member,), (1.0,), "distilled", values_of(thresholds), self.teacher.n_genes, calibration.final
        )


def distil(folder: RunFolder, plan: Plan, *, trees: int, threads: int, report: Report) -> Distilled:
    """Fit the students of all folds and of all rows; go on with what an earlier process saved.

    The run is consolidated and its rows are in segments. The result depends neither on threads nor on this machine's memory.

    Raises
    ------
    CheckpointError
        There is no ensemble, or an instance of it is no longer what it was.
    """
    genes = read_gene_folds(folder, plan)
    reader = SegmentReader(plan, plan.cut.segments, folder.segments)
    keys = reader.keys()
    fold = genes.fold[keys["gene_rank"]].astype(np.int8)
    teachers = _teachers(folder, plan)
    shown = _Shown(folder, plan, reader, teachers, threads, report)
    folds: list[int | None] = [*range(plan.settings.n_folds), None]
    for number in folds:
        shown.margins(number)
    final = teachers[None]
    teachers.clear()  # the trees of all folds would lie beside the matrix
    students = _Students(folder, plan, reader, shown.key, trees, threads, report)
    fits = {number: students.fit(number, fold, shown.margins(number)) for number in folds}
    students.close()
    taught, margins = (np.empty((len(keys), len(plan.data.classes)), dtype=np.float32) for _ in range(2))
    for number in range(plan.settings.n_folds):
        own = fold == number
        taught[own] = shown.margins(number)[own]
        margins[own] = predict_margins(reader, own, fits[number], threads)
        report("scoring every row out of fold", number + 1, plan.settings.n_folds)
    boosters = tuple(xgb.Booster(model_file=bytearray(raw)) for raw in fits[None])
    return Distilled(final, boosters, keys, fold, taught, margins, int(students.weight.size))


# ---- teachers ---------------------------------------------------------------------------------------------------------


def _teachers(folder: RunFolder, plan: Plan) -> dict[int | None, ConsolidatedMetaModel]:
    """Return the ensemble of the boosters of each fold and, under None, the consolidated model."""
    found: dict[int | None, ConsolidatedMetaModel] = {None: consolidated_model(folder)}
    return found | dict(enumerate(read_fold_ensembles(folder, plan)))


def joined_margins(model: ConsolidatedMetaModel, matrix: Floats32, *, threads: int) -> Floats32:
    """Return the log-odds of an ensemble before calibration on top, shape (n_rows, n_classes).

    Of a mean of probabilities they are its log-odds; of one member alone they are its own, before any calibration.
    """
    margins = model.margins_of_members(matrix, threads=threads)
    if model.is_additive or len(model.members) == 1:
        return vote(margins, model.weights).astype(np.float32)
    return log_odds(vote(model.probabilities_of_members(margins), model.weights)).astype(np.float32)


class _Shown:
    """What the teacher of each fold says of every row, on disk, so that each is asked once.

    Parameters
    ----------
    key
        Hash of all that it depends on.
    """

    def __init__(
        self,
        folder: RunFolder,
        plan: Plan,
        reader: SegmentReader,
        teachers: dict[int | None, ConsolidatedMetaModel],
        threads: int,
        report: Report,
    ) -> None:
        self.where, self.plan, self.reader, self.teachers = folder.scratch / FOLDER, plan, reader, teachers
        self.threads, self.report = threads, report
        made_of = [plan.data.fingerprint, plan.data.genes_sha256, *(model_sha256(one) for one in teachers.values())]
        self.key = digest_of(made_of)

    def margins(self, fold: int | None) -> Floats32:
        """Return the log-odds of all rows by the teacher of a fold, or by the consolidated model, (n_rows, n_classes)."""
        name = "final" if fold is None else f"fold_{fold}"
        path, shape = self.where / f"teacher_{name}.miduck", (self.reader.n_rows, len(self.plan.data.classes))
        try:
            parts = read_parts(path)
            if parts["key"] == self.key.encode():
                return np.frombuffer(parts["margins.f4"], dtype=np.float32).reshape(shape)
        except (CheckpointError, KeyError, ValueError):  # not there, torn, or of something else
            pass
        margins, begin = np.empty(shape, dtype=np.float32), 0
        for matrix in self.reader.matrices(max(256, BATCH_BYTES // (4 * len(self.plan.data.features)))):
            rows = slice(begin, begin + len(matrix))
            margins[rows] = joined_margins(self.teachers[fold], matrix, threads=self.threads)
            begin += len(matrix)
            self.report(f"asking the ensemble, {_title(fold, self.plan.settings)}", begin, self.reader.n_rows)
        write_file(path, pack({"key": self.key.encode(), "margins.f4": margins.tobytes()}, level=1))
        return margins


# ---- students ---------------------------------------------------------------------------------------------------------


def student_settings(settings: Settings, trees: int) -> Settings:
    """Return how a student is trained: as the run was, constraints too, but for its trees and the step and depth that suit."""
    constraints = constraints_in(settings.xgb_parameters)
    depth = min(settings.max_depth, DEEPEST)
    return replace(settings, n_estimators=trees, learning_rate=STEP, max_depth=depth, xgb_parameters=constraints)


class _Students:
    """Fits students, with one matrix of all rows in memory, in which those of a fold have weight zero."""

    def __init__(
        self,
        folder: RunFolder,
        plan: Plan,
        reader: SegmentReader,
        taught: str,
        trees: int,
        threads: int,
        report: Report,
    ) -> None:
        self.settings, self.reader, self.threads, self.report = (
            student_settings(plan.settings, trees),
            reader,
            threads,
            report,
        )
        keys = reader.keys()
        self.wanted = is_trained_on(keys)
        self.weight = training_weights(keys, plan.settings.easy_share)[self.wanted]
        made_of: list[Any] = [taught, asdict(self.settings), plan.data.features, plan.data.classes]
        self.saved_fits = saved_fits_in(folder.scratch / FOLDER / "students", digest_of(made_of))
        self.cache = folder.scratch / FOLDER / "pages" / "page" if lies_on_disk(plan, len(self.weight)) else None
        self.matrix: xgb.QuantileDMatrix | None = None

    def fit(self, fold: int | None, folds: NDArray[np.int8], taught: Floats32) -> list[bytes]:
        """Return the boosters of each class, fitted to the margins of a teacher on the rows outside a fold, or on all."""
        fits = []
        probability = expit(taught[self.wanted])
        weight = self.weight if fold is None else self.weight * (folds[self.wanted] != fold)
        classes = self.reader.plan.data.classes
        for index in fitted_classes(len(classes)):
            title = classes[index]
            name = final_name(index) if fold is None else fold_name(fold, index)
            done = self.saved_fits.finished(name)
            if done is None:
                stage = f"rounds of distilled {title}, {_title(fold, self.settings)}"
                done = fit_booster(
                    self._built(),
                    probability[:, index],
                    weight,
                    self.settings,
                    self.threads,
                    partial(self._on_round, stage),
                    constraints=as_xgboost_has_them(self.settings.xgb_parameters, self.reader.plan.data, index),
                    rounds=self.settings.n_estimators,
                    begun=self.saved_fits.begun_fit(name),
                    save=partial(self.saved_fits.save, name),
                )
            fits.append(done.raw)
        return of_all_classes(fits, len(classes))

    def close(self) -> None:
        """Give the memory of the matrix back, and its pages."""
        self.matrix = None
        trim_heap()
        if self.cache is not None:
            shutil.rmtree(self.cache.parent, ignore_errors=True)

    def _built(self) -> xgb.QuantileDMatrix:
        if self.matrix is None:
            if self.cache is not None:
                shutil.rmtree(self.cache.parent, ignore_errors=True)  # the pages of a process that was killed
            max_bin, threads, total = self.settings.max_bin, self.threads, PASSES * len(self.weight)
            self.matrix = build_matrix(
                self.reader,
                self.wanted,
                cut_reference(self.reader, self.wanted, max_bin=max_bin, threads=threads, cache=self.cache),
                max_bin=max_bin,
                threads=threads,
                report=lambda done: self.report("building the matrix of all rows", done, total),
                cache=self.cache,
            )
        return self.matrix

    def _on_round(self, stage: str, done: int) -> None:
        self.report(stage, done, self.settings.n_estimators)


def lies_on_disk(plan: Plan, n_rows: int) -> bool:
    """Return whether the matrix of a student is too large for the budget of the run, and so is kept on disk."""
    model = plan.costs.model
    by_weight = model.with_layout(replace(model.layout, cv="weights"))
    return plan.cut.is_external or by_weight.needed_bytes(n_rows, plan.data.n_genes) > plan.cut.budget.budget_bytes


def _title(fold: int | None, settings: Settings) -> str:
    return "all rows" if fold is None else f"fold {fold + 1}/{settings.n_folds}"
