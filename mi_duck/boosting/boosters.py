"""Fits one booster, round by round, from the beginning or from where it was saved; and predicts with boosters.

What a training has done so far is kept, so that a killed one goes on inside its instance and ends with the same bytes.
``.scratch/progress/instance_00/`` holds a file per booster: ``fold_0_class_1.miduck``, ``final_class_1.miduck``. It is written
every 50 rounds (less often where columns or rows are drawn, see below), when the process is asked to end, and when the fit is
done. In it stands what the fit was made of, as a hash (the key). What is torn, of another key or of another XGBoost is deleted
and trained anew.

Why boosters that go on are those that were never interrupted: XGBoost sums the margins of a loaded booster tree by tree in
the order in which training did, and its numbers survive UBJSON exactly; early stopping is a function of the learning curve,
which is kept in float64, and not a state of XGBoost's. Where columns or rows are drawn by chance (``colsample_bynode``,
as by default from 30 features on, or ``--xgb subsample=0.5``), whose state XGBoost does not save, every training begins anew from
the saved rounds at the rounds that `chunk_after` gives, with a seed of its own, and only such rounds are saved.
"""

import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import xgboost as xgb
from numpy.typing import NDArray

from mi_duck.archive import pack, read_parts
from mi_duck.atomic_files import storage_errors, write_file
from mi_duck.boosting.forest import forest_of
from mi_duck.boosting.write_instance import Fit
from mi_duck.errors import CheckpointError
from mi_duck.processes import Report, ending_deferred
from mi_duck.rows.segments import SegmentReader
from mi_duck.run.costs import BATCH_ROWS
from mi_duck.run.folder import RunFolder
from mi_duck.run.instance_folder import checkpoint_key
from mi_duck.run.plan import Instance, Plan, Settings
from mi_duck.run.xgboost_parameters import as_dict, is_drawing
from mi_duck.usage import peak_bytes

CHUNK = 50  # rounds; what a kill costs at most, unless rows or columns are drawn (`chunk_after`)


def fit_booster(
    matrix: xgb.QuantileDMatrix,
    truth: NDArray[np.bool_ | np.float32],
    weight: NDArray[np.float32],
    settings: Settings,
    threads: int,
    on_round: Callable[[int], None],
    *,
    constraints: Mapping[str, str] | None = None,
    stopping_weight: NDArray[np.float32] | None = None,
    rounds: int | None = None,
    begun: Fit | None = None,
    save: Callable[[Fit, bool], None] = lambda fit, is_finished: None,
) -> Fit:
    """Fit one one-vs-rest booster on the rows whose weight is not zero.

    Parameters
    ----------
    matrix
        Quantised matrix; its labels and weights are replaced.
    truth, weight
        Label and weight of each row of the matrix, shape (n_rows,); a label is true or false, or a probability to be matched.
    on_round
        Progress callback, called with the number of rounds done.
    constraints
        As `mi_duck.run.constraints.as_xgboost_has_them` returns them.
    stopping_weight
        Weight of each row in early stopping, shape (n_rows,); zero where a row is trained on.
    rounds
        Exact number of rounds; by default early stopping decides, within ``n_estimators``.
    begun
        The rounds and the curve to go on with, of an earlier call with the same arguments that was not finished.
    save
        Called with (fit, is_finished) every `CHUNK` rounds or by `chunk_after`, when the process is asked to end, and at the end.

    Raises
    ------
    SystemExit
        The process was asked to end (143); all rounds done are saved.
    """
    matrix.set_label(truth.astype(np.float32))
    matrix.set_weight(weight)
    parameters = {
        "objective": "binary:logistic",
        "tree_method": "hist",
        "device": settings.device,
        "max_depth": settings.max_depth,
        "learning_rate": settings.learning_rate,
        "max_bin": settings.max_bin,
        "nthread": threads,
        "disable_default_eval_metric": True,
    }
    parameters |= as_dict(settings.xgb_parameters) | dict(constraints or {})
    is_watched = rounds is None
    last = settings.n_estimators if rounds is None else rounds
    first = 0 if begun is None else begun.rounds
    draws = is_drawing(settings.xgb_parameters)
    start, end = first, last  # of one call of XGBoost
    patience = settings.early_stopping_patience if is_watched else 0
    stops = bool(patience and stopping_weight is not None and stopping_weight.any())
    curve: list[tuple[float, float]] = [] if begun is None else [(one, two) for one, two in begun.curve.tolist()]

    def is_done(n_rounds: int) -> bool:
        return n_rounds == last or (stops and has_stopped([stopping for _, stopping in curve], patience))

    def fit_of(booster: xgb.Booster, n_rounds: int) -> Fit:
        return Fit(bytes(booster.save_raw("ubj")), n_rounds, np.array(curve, dtype=np.float64).reshape(-1, 2))

    with ending_deferred() as is_asked_to_end:

        def after_round(booster: xgb.Booster, n_rounds: int) -> bool:
            on_round(n_rounds)
            if is_done(n_rounds) or is_asked_to_end():
                return True
            if n_rounds == end if draws else n_rounds % CHUNK == 0:
                save(fit_of(booster, n_rounds), False)
            return False

        n_rounds, raw = first, None if begun is None else begun.raw
        log_losses = _log_losses(truth, weight, stopping_weight if stops else None, curve) if is_watched else None
        while True:
            start, end = n_rounds, min(n_rounds + chunk_after(n_rounds), last) if draws else last
            booster = xgb.train(
                parameters | {"seed": settings.seed + (start // CHUNK if draws else 0)},
                matrix,
                end - start,
                evals=[(matrix, "rows")] if is_watched else None,
                custom_metric=log_losses,
                callbacks=[_Watch(n_rounds, after_round)],
                verbose_eval=False,
                xgb_model=None if raw is None else bytearray(raw),
            )
            n_rounds = booster.num_boosted_rounds()
            is_finished = is_done(n_rounds)
            if is_finished or is_asked_to_end():
                break
            raw = bytes(booster.save_raw("ubj"))
            del booster
        if draws and not is_finished and n_rounds != end:  # the process ends: what is saved are whole chunks
            n_rounds = start
            del curve[n_rounds:]
            if not n_rounds:
                return Fit(b"", 0, np.empty((0, 2)))
            booster = booster[:n_rounds]
        if is_finished:
            if stops:
                n_rounds = best_round([stopping for _, stopping in curve])
                # what XGBoost's own early stopping notes, for whoever reads the booster elsewhere
                booster.set_attr(best_iteration=str(n_rounds - 1), best_score=str(curve[n_rounds - 1][1]))
            booster = booster[:n_rounds]
        fit = fit_of(booster, n_rounds)
        del booster  # its margins, gradients and histograms go before more memory is taken
        save(fit, is_finished)
    return fit


def _log_losses(
    truth: NDArray[np.bool_ | np.float32],
    weight: NDArray[np.float32],
    stopping_weight: NDArray[np.float32] | None,
    curve: list[tuple[float, float]],
) -> Callable[[NDArray[np.float32], xgb.DMatrix], list[tuple[str, float]]]:
    """Return XGBoost's custom metric: log loss on training and on stopping rows, also kept in ``curve``."""
    # once a round, on one core: a few passes over one array, weights of zero for what does not count
    is_other = (~truth.astype(bool)).astype(np.float32)
    log_likelihood = np.empty(len(truth), dtype=np.float32)

    def mean_loss(weights: NDArray[np.float32], total: float) -> float:
        return -float(np.einsum("i,i->", log_likelihood, weights, dtype=np.float64)) / total

    totals = [float(one.sum(dtype=np.float64)) for one in (weight, stopping_weight) if one is not None]

    def log_losses(probability: NDArray[np.float32], _: xgb.DMatrix) -> list[tuple[str, float]]:
        np.subtract(probability, is_other, out=log_likelihood)
        np.abs(log_likelihood, out=log_likelihood)  # p of the rows that are of the class, 1 - p of the others
        np.clip(log_likelihood, 1e-7, 1, out=log_likelihood)
        np.log(log_likelihood, out=log_likelihood)
        training = mean_loss(weight, totals[0])
        stopping = float("nan") if stopping_weight is None else mean_loss(stopping_weight, totals[1])
        curve.append((training, stopping))
        return [("training", training), ("stopping", stopping)]

    return log_losses


class _Watch(xgb.callback.TrainingCallback):  # type: ignore[misc]
    """Hands over the booster and the number of its rounds after each of them; stops where the callback says so."""

    def __init__(self, first: int, after_round: Callable[[xgb.Booster, int], bool]) -> None:
        super().__init__()
        self._first = first
        self._after_round = after_round

    def after_iteration(self, model: Any, epoch: int, evals_log: Any) -> bool:
        """Return whether to stop; ``epoch`` counts from where this process began."""
        return self._after_round(model, self._first + epoch + 1)


def chunk_after(n_rounds: int) -> int:
    """Return after how many more rounds a fit that draws rows or columns is saved, and begins to draw anew.

    XGBoost saves no state of what it draws by, so a chunk is drawn by a seed of its own, whole or not at all. Each one scores all
    rows again at its start, so later ones are longer, never more than half of what is there.

    >>> [chunk_after(n_rounds) for n_rounds in (0, 50, 150, 200, 300, 400, 800)]
    [50, 50, 50, 100, 100, 200, 400]
    """
    return CHUNK << max((n_rounds // CHUNK).bit_length() - 2, 0)


def best_round(stopping: list[float]) -> int:
    """Return how many rounds to keep: up to the first minimum of the log loss on the stopping rows.

    >>> best_round([0.5, 0.4, 0.4, 0.6])
    2
    """
    return stopping.index(min(stopping)) + 1


def has_stopped(stopping: list[float], patience: int) -> bool:
    """Return whether so many rounds passed without a smaller log loss; a patience of 0 never ends.

    >>> has_stopped([0.5, 0.4, 0.4, 0.6], 2)
    True
    """
    return patience > 0 and len(stopping) - best_round(stopping) >= patience


def predict_margins(
    reader: SegmentReader, wanted: NDArray[np.bool_], boosters: Sequence[bytes], threads: int
) -> NDArray[np.float32]:
    """Return log-odds of the wanted rows in their order, shape (n_wanted, n_boosters)."""
    forest = forest_of(
        [xgb.Booster(model_file=bytearray(raw)) for raw in boosters], reader.plan.data.features, reader.encoding
    )
    margins = np.empty((int(wanted.sum()), len(boosters)), dtype=np.float32)
    begin = 0
    for rows in reader.matrices(BATCH_ROWS, wanted):
        margins[begin : begin + len(rows)] = forest.margins(rows, threads=threads)
        begin += len(rows)
    return margins


@dataclass(frozen=True, slots=True)
class SavedFit:
    """A fit as it was saved.

    Parameters
    ----------
    fit
        Where it is not finished, ``raw`` holds all ``rounds`` rounds that were done.
    seconds
        Of training the instance up to then, all its processes together.
    peak_bytes
        Peak memory of the phase in which it was saved, or of an earlier process.
    """

    fit: Fit
    is_finished: bool
    seconds: float
    peak_bytes: int


@dataclass(frozen=True, slots=True)
class SavedFits:
    """The saved fits of one instance, as they were when this process began, and where to save more.

    Parameters
    ----------
    key
        See `mi_duck.run.instance_folder.checkpoint_key`.
    saved
        By name, see `fold_name` and `final_name`.
    begun
        When this process began, by the monotonic clock, in seconds.
    """

    where: Path
    key: str
    saved: Mapping[str, SavedFit]
    begun: float

    @property
    def seconds_before(self) -> float:
        """Seconds that earlier processes trained."""
        return max((one.seconds for one in self.saved.values()), default=0.0)

    @property
    def peak_before(self) -> int:
        """Peak memory of earlier processes in bytes."""
        return max((one.peak_bytes for one in self.saved.values()), default=0)

    @property
    def rounds_before(self) -> int:
        """Rounds that earlier processes trained, over all fits."""
        return sum(max(one.fit.rounds, len(one.fit.curve)) for one in self.saved.values())

    def finished(self, name: str) -> Fit | None:
        """Return a fit that needs no more training; None where it does."""
        one = self.saved.get(name)
        return one.fit if one is not None and one.is_finished else None

    def begun_fit(self, name: str) -> Fit | None:
        """Return a fit to go on with; None where there is none."""
        one = self.saved.get(name)
        return None if one is None else one.fit

    def save(self, name: str, fit: Fit, is_finished: bool) -> None:
        """Write a fit whole or not at all."""
        facts = {
            "key": self.key,
            "xgboost": xgb.__version__,
            "rounds": fit.rounds,
            "is_finished": is_finished,
            "seconds": self.seconds_before + time.monotonic() - self.begun,
            "peak_bytes": max(self.peak_before, peak_bytes()),
        }
        parts = {"progress.json": json.dumps(facts).encode(), "curve.f8": fit.curve.tobytes(), "booster.ubj": fit.raw}
        write_file(self.where / f"{name}.miduck", pack(parts, level=1))  # the memory of training is planned to the MiB

    def clear(self) -> None:
        """Delete all of it, once the instance's own folder is written."""
        shutil.rmtree(self.where, ignore_errors=True)


def fold_name(fold: int, index: int) -> str:
    """Return the name of the fit of a fold and a class."""
    return f"fold_{fold}_class_{index}"


def final_name(index: int) -> str:
    """Return the name of the final fit of a class."""
    return f"final_class_{index}"


def open_saved_fits(folder: RunFolder, plan: Plan, instance: Instance) -> SavedFits:
    """Return what was saved of an instance; delete what cannot be used, and what belongs to no instance of the plan."""
    root = folder.scratch / "progress"
    with storage_errors(root):
        for stray in sorted(root.iterdir()) if root.is_dir() else ():
            if stray.name not in {one.name for one in plan.cut.instances}:
                shutil.rmtree(stray, ignore_errors=True)  # others that train at the same time delete it too
    return saved_fits_in(root / instance.name, checkpoint_key(plan, instance))


def saved_fits_in(where: Path, key: str) -> SavedFits:
    """Return what was saved in a folder under a key; delete what cannot be used."""
    saved = {}
    with storage_errors(where):
        for file in sorted(where.iterdir()) if where.is_dir() else ():
            one = _read(file, key)
            if one is None:
                file.unlink()
            else:
                saved[file.stem] = one
    return SavedFits(where, key, saved, time.monotonic())


def report_resumption(saved_fits: SavedFits, titles: Mapping[str, str], settings: Settings, report: Report) -> None:
    """Report where training goes on, if something was saved."""
    if not saved_fits.saved:
        return
    name = next((name for name in titles if saved_fits.finished(name) is None), None)
    begun = None if name is None else saved_fits.begun_fit(name)
    done = 0 if begun is None else begun.rounds
    where = "after the last round" if name is None else f"at {titles[name]}, round {done}"
    report(f"resuming {where}", done, settings.n_estimators)


def _read(file: Path, key: str) -> SavedFit | None:
    """Return a saved fit; None where it is torn or is not of this instance and this XGBoost."""
    try:
        parts = read_parts(file)
        facts = json.loads(parts["progress.json"])
        if (facts["key"], facts["xgboost"]) != (key, xgb.__version__):
            return None
        curve = np.frombuffer(parts["curve.f8"], dtype=np.float64).reshape(-1, 2)
        fit = Fit(parts["booster.ubj"], int(facts["rounds"]), curve)
        return SavedFit(fit, bool(facts["is_finished"]), float(facts["seconds"]), int(facts["peak_bytes"]))
    except (CheckpointError, ValueError, KeyError, TypeError, RecursionError):
        return None
