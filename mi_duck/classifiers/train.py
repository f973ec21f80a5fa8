"""Cross-validates a classifier on the global folds of a run and trains it on all genes; runs in a child process.

Each fold is a model of the rows outside it. One that learns in epochs watches the stopping groups, which are neither trained on
nor scored, and keeps what it knew when their log loss was lowest; the final model takes the median of these epochs. One that is
fitted at once needs no stopping groups and trains on all rows outside the fold. What a fold gave is saved as soon as it is
known, so a training that was killed goes on after the last whole fold, to the same bytes where the classifier itself gives the
same bytes.
"""

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from mi_duck.archive import pack, unpack
from mi_duck.atomic_files import storage_errors, write_file
from mi_duck.boosting.write_instance import instance_training_data, write_instance
from mi_duck.classifiers.arrays import array_bytes, read_array
from mi_duck.classifiers.blocks import TrainingRows
from mi_duck.classifiers.estimators import Estimator, estimator_of
from mi_duck.classifiers.fitted import Fitted
from mi_duck.classifiers.learners import fit_whole, learner_of, log_losses
from mi_duck.classifiers.model import model_facts
from mi_duck.classifiers.preparation import Moments, Preparation, columns_of, moments_of
from mi_duck.errors import CheckpointError, DataError
from mi_duck.metrics.calibrate import allowed_methods, calibrate, log_odds
from mi_duck.metrics.ranking import Booleans, Floats32
from mi_duck.processes import Report
from mi_duck.resources import check_device
from mi_duck.rows.segments import SegmentReader, row_weights, segments_of, training_weights
from mi_duck.run.folder import RunFolder
from mi_duck.run.genes import GeneFolds, read_gene_folds, stopping_groups
from mi_duck.run.instance_folder import checkpoint_key
from mi_duck.run.plan import Instance, Plan
from mi_duck.usage import peak_bytes


@dataclass(frozen=True, slots=True)
class Fit:
    """A classifier of one fold, or of all genes.

    Parameters
    ----------
    form, parts
        Of `mi_duck.classifiers.fitted`, the parts together with those of the preparation.
    margins
        Log-odds of the rows of the fold, shape (n_rows_of_fold, n_classes); no rows for the final one.
    curve
        For each epoch: log loss on training rows and on stopping rows; empty where it was fitted at once.
    epochs
        Epochs kept; 1 where it was fitted at once.
    peak, seconds
        Peak memory of the process that trained it, in bytes, and the time that took.
    """

    form: str
    parts: dict[str, bytes]
    margins: Floats32
    curve: tuple[tuple[float, float], ...]
    epochs: int
    peak: int
    seconds: float


def train_classifier(*, run: str, threads: int, report: Report) -> dict[str, Any]:
    """Train the classifier of a run and write the folder of its instance; go on with the folds that are saved.

    Returns
    -------
    dict
        ``rounds``: epochs of the final model; ``phases``, empty; ``build_seconds``, ``boost_seconds``: of reading and of
        training; ``folds_before``, ``seconds_before``, ``peak_before``: of earlier processes; ``messages`` for the user.
    """
    folder = RunFolder(Path(run))
    plan = folder.read_plan()
    (instance,) = plan.cut.instances
    estimator = estimator_of(plan.settings)
    check_device(plan.settings.device, plan.cut.strategy_used)
    genes = read_gene_folds(folder, plan)
    training = _Training(folder, plan, instance, genes, estimator, report)
    margins = np.zeros((training.rows.reader.n_rows, len(plan.data.classes)), dtype=np.float32)
    fits = []
    for number in range(plan.settings.n_folds):
        fits.append(training.fit_fold(number))
        margins[training.rows.fold == number] = fits[-1].margins
    final = training.fit_final(int(np.median([fit.epochs for fit in fits])))
    report("calibrating", 0, 1)
    keys, n_folds = training.rows.reader.keys(), plan.settings.n_folds
    label, fold = training.rows.label, training.rows.fold
    methods = allowed_methods(plan.settings.calibrate)
    calibration = calibrate(
        margins, label.astype(np.uint8), fold, n_folds=n_folds, methods=methods, weights=row_weights(keys)
    )
    known = instance_training_data(folder, plan, instance, genes)
    facts = partial(model_facts, plan, known)
    of_final = facts(form=final.form, calibrators=calibration.final, rounds=final.epochs)
    of_folds = {"kind": "classifier folds", "forms": [fit.form for fit in fits]} | {
        "calibrators": [[one.to_dict() for one in row] for row in calibration.by_fold]
    }
    parts = {f"fold_{n}/{name}": data for n, fit in enumerate(fits) for name, data in fit.parts.items()}
    models = {
        "model_multiclass.miduck": pack({"model.json": _json(of_final), "genes.bin": known.gene_keys} | final.parts),
        "fold_models.miduck": pack({"model.json": _json(of_folds)} | parts),
    }
    curves = _curve_lines(fits)
    write_instance(folder, plan, instance, genes, keys, fold, margins, calibration, models, curves)
    training.saved.clear()
    report("calibrating", 1, 1)
    return {"rounds": [final.epochs], "phases": {}} | training.measured()


def _curve_lines(fits: Sequence[Fit]) -> list[dict[str, Any]]:
    return [
        {
            "fold": number,
            "class": "all",
            "round": step + 1,
            "training_log_loss": training,
            "stopping_log_loss": stopping,
            "is_kept": int(step < fit.epochs),
        }
        for number, fit in enumerate(fits)
        for step, (training, stopping) in enumerate(fit.curve)
    ]


class _Training:
    """Fits the classifiers of a run, one after the other."""

    def __init__(
        self, folder: RunFolder, plan: Plan, instance: Instance, genes: GeneFolds, estimator: Estimator, report: Report
    ) -> None:
        self.plan, self.genes, self.estimator, self.report = plan, genes, estimator, report
        self.settings, self.n_classes = plan.settings, len(plan.data.classes)
        self.rows = _read_rows(folder, plan, instance, genes)
        self.has_weight = self.rows.weight > 0
        if not estimator.takes_weights and plan.settings.easy_share < 1:
            raise DataError(
                f"{estimator.name} takes no sample_weight, which sampled negatives need; give --sample-negatives 1"
            )
        self.saved = _Saved(folder.scratch / "classifier", checkpoint_key(plan, instance))
        self.messages: list[str] = []
        self._moments: Moments | None = None
        self._before: list[Fit] = []
        self._read_seconds = self._fit_seconds = 0.0

    def fit_fold(self, number: int) -> Fit:
        """Train without a fold, and predict the fold."""
        in_test_fold = self.rows.fold == number
        title = f"fold {number + 1}/{self.settings.n_folds}"

        def fit() -> Fit:
            groups = stopping_groups(self.genes.group, self.genes.fold, number, self.settings.seed)
            stopping = np.isin(self.genes.group, groups)[self.rows.gene] & self.has_weight & ~in_test_fold
            return self._fit(number, self.has_weight & ~in_test_fold, stopping, in_test_fold, None, title)

        return self._saved_or(f"fold_{number}", fit)

    def fit_final(self, epochs: int) -> Fit:
        """Train on all genes, for so many epochs."""
        none = np.zeros_like(self.has_weight)
        return self._saved_or("final", lambda: self._fit(None, self.has_weight, none, none, epochs, "all genes"))

    def measured(self) -> dict[str, Any]:
        """Return what this process and those before it took, and what is to be said."""
        return {
            "build_seconds": self._read_seconds,
            "boost_seconds": self._fit_seconds,
            "folds_before": len(self._before),
            "seconds_before": sum(fit.seconds for fit in self._before),
            "peak_before": max((fit.peak for fit in self._before), default=0),
            "messages": self.messages,
        }

    def _saved_or(self, name: str, fit: Callable[[], Fit]) -> Fit:
        found = self.saved.read(name, self.n_classes)
        if found is not None:
            self._before.append(found)
            return found
        made = fit()
        self.saved.write(name, made)
        return made

    def _fit(
        self,
        number: int | None,
        wanted: Booleans,
        stopping: Booleans,
        in_test_fold: Booleans,
        epochs: int | None,
        title: str,
    ) -> Fit:
        """Train on wanted rows, of a streamed classifier without the stopping ones, and predict those of the test fold."""
        begun = time.monotonic()
        preparation = self._preparation(number)
        read = time.monotonic()
        self._read_seconds += read - begun
        if self.estimator.is_streamed:
            fitted, curve, kept = self._stream(preparation, wanted & ~stopping, stopping, number, epochs, title)
        else:
            self.report(f"fitting {title}", 0, 1)
            x = self.rows.whole(wanted, preparation)
            curve, kept = (), 1
            fitted = fit_whole(
                self.estimator,
                *(x, self.rows.label[wanted], self.rows.weight[wanted]),
                n_classes=self.n_classes,
                seed=self.settings.seed,
                title=title,
                say=self.messages.append,
            )
            del x
            self.report(f"fitting {title}", 1, 1)
        self._fit_seconds += time.monotonic() - read
        margins = np.zeros((int(in_test_fold.sum()), self.n_classes), dtype=np.float32)
        done = 0
        for matrix, _ in self.rows.in_order(in_test_fold):
            rows = slice(done, done + len(matrix))
            margins[rows] = log_odds(fitted.probabilities(preparation.apply(matrix)))
            done += len(matrix)
            self.report(f"scoring {title}", done, len(margins))
        parts = preparation.parts() | fitted.parts()
        return Fit(fitted.form, parts, margins, curve, kept, peak_bytes(), time.monotonic() - begun)

    def _stream(
        self,
        preparation: Preparation,
        wanted: Booleans,
        stopping: Booleans,
        number: int | None,
        epochs: int | None,
        title: str,
    ) -> tuple[Fitted, tuple[tuple[float, float], ...], int]:
        """Learn in epochs; return what was known at the best one, the log losses of all, and how many epochs that were."""
        seed = [self.settings.seed, 0 if number is None else number + 1]
        learner = learner_of(
            self.estimator,
            n_columns=preparation.n_columns,
            n_classes=self.n_classes,
            seed=self.settings.seed,
            device=self.settings.device,
        )
        n_epochs = epochs or self.settings.n_estimators
        curve: list[tuple[float, float]] = []
        best: tuple[float, Fitted, int] | None = None
        for epoch in range(n_epochs):
            self.report(f"epochs of {title}", epoch, n_epochs)
            for matrix, rows in self.rows.shuffled(wanted, [*seed, epoch], learner.batch_rows):
                learner.learn(preparation.apply(matrix), self.rows.label[rows], self.rows.weight[rows])
            fitted = learner.fitted()
            if epochs is not None or not stopping.any():
                best = (0.0, fitted, epoch + 1)
                continue
            loss = self._log_loss(fitted, preparation, stopping)
            curve.append((self._log_loss(fitted, preparation, self._thinned(wanted, int(stopping.sum()))), loss))
            if best is None or loss < best[0]:
                best = (loss, fitted, epoch + 1)
            patience = self.settings.early_stopping_patience
            if patience and epoch + 1 - best[2] >= patience:
                break
        self.report(f"epochs of {title}", n_epochs, n_epochs)
        if best is None:
            raise CheckpointError("a training without epochs; plan anew into another folder")
        if curve and best[2] == n_epochs:
            words = f"{title} still gained in the last of {n_epochs} epochs; --epochs {2 * n_epochs} allows more"
            self.messages.append(f"{self.estimator.name} of {words}")
        return best[1], tuple(curve), best[2]

    def _thinned(self, wanted: Booleans, n: int) -> Booleans:
        """Return about n of the wanted rows, spread evenly, by which the training log loss is known."""
        indices = np.flatnonzero(wanted)
        some = np.zeros_like(wanted)
        some[indices[:: max(1, len(indices) // max(n, 1))]] = True
        return some

    def _log_loss(self, fitted: Fitted, preparation: Preparation, rows: Booleans) -> float:
        """Return the weighted mean log loss on some rows, nats."""
        total = weight = 0.0
        for matrix, indices in self.rows.in_order(rows):
            losses = log_losses(fitted.probabilities(preparation.apply(matrix)), self.rows.label[indices])
            total += float(losses @ self.rows.weight[indices])
            weight += float(self.rows.weight[indices].sum())
        return total / weight

    def _preparation(self, number: int | None) -> Preparation:
        """Return the preparation without a fold, or by all rows; the rows are read once for all of them."""
        data = self.plan.data
        if self._moments is None:
            n_done, n_all = 0, int(self.has_weight.sum())

            def batches() -> Any:
                nonlocal n_done
                for matrix, rows in self.rows.in_order(self.has_weight):
                    yield matrix, self.rows.fold[rows], self.rows.weight[rows]
                    n_done += len(rows)
                    self.report("means and variances", n_done, n_all)

            n_folds = self.settings.n_folds
            self._moments = moments_of(
                batches(),
                n_folds=n_folds,
                n_features=len(data.features),
                scores=columns_of(data.features, data.base_scores),
            )
        names = [name for one in data.levels for name in one.features]
        return self._moments.without(number, columns_of(data.features, names))


def _read_rows(folder: RunFolder, plan: Plan, instance: Instance, genes: GeneFolds) -> TrainingRows:
    reader = SegmentReader(plan, segments_of(plan, instance), folder.segments)
    keys = reader.keys()
    weight = training_weights(keys, plan.settings.easy_share)
    gene = keys["gene_rank"].copy()
    return TrainingRows(reader, keys["label"].astype(np.int64), gene, genes.fold[gene].astype(np.int8), weight)


class _Saved:
    """What folds gave, in the scratch of the run, each in a file that is there whole or not at all."""

    def __init__(self, folder: Path, key: str) -> None:
        self._folder, self._key = folder, key

    def read(self, name: str, n_classes: int) -> Fit | None:
        """Return what was saved under a name by this same training, or None."""
        path = self._folder / f"{name}.miduck"
        try:
            parts = unpack(path.read_bytes(), str(path))
            facts: Mapping[str, Any] = json.loads(parts.pop("fit.json"))
            if facts["key"] != self._key:
                return None
            margins = read_array(parts.pop("margins.npy"), np.float32, (None, n_classes))
            curve = tuple((float(one), float(other)) for one, other in facts["curve"])
            return Fit(facts["form"], parts, margins, curve, facts["epochs"], facts["peak"], facts["seconds"])
        except FileNotFoundError:
            return None
        except (CheckpointError, ValueError, KeyError, TypeError):  # damaged: it is trained again
            return None

    def write(self, name: str, fit: Fit) -> None:
        """Save what a fold gave."""
        names = ("form", "curve", "epochs", "peak", "seconds")
        facts = {one: getattr(fit, one) for one in names} | {"key": self._key}
        with storage_errors(self._folder):
            self._folder.mkdir(parents=True, exist_ok=True)
        parts = {"fit.json": _json(facts), "margins.npy": array_bytes(fit.margins)} | fit.parts
        write_file(self._folder / f"{name}.miduck", pack(parts, level=1))

    def clear(self) -> None:
        """Delete what was saved; the instance has it."""
        with storage_errors(self._folder):
            for path in self._folder.glob("*.miduck"):
                path.unlink()


def _json(values: Any) -> bytes:
    return json.dumps(values, sort_keys=True).encode()
