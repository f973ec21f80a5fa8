"""The overfitting monitor: learning curves of every fold and class to one line each, a verdict in plain words, and plots.

Early stopping keeps the round at which the log loss on the stopping genes was lowest; these genes are neither trained on
nor scored. So what matters is whether that round was reached (``ran out of rounds``), whether boosting gave anything
(``no gain``), and how far the log loss on training genes lies below that on new ones (``wide gap``). Boosted trees always
fit their own genes better; the rule of thumb here is a third of the log loss on new genes.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from mi_duck.atomic_files import write_csv, write_json
from mi_duck.drawing import save
from mi_duck.errors import CheckpointError
from mi_duck.report.plots import LearningCurve, learning_figure
from mi_duck.report.records import RunRecords, number, read_rows
from mi_duck.run.folder import RunFolder

WIDE = 1 / 3
ADVICE = {
    "stopped early": "the best round was found and kept",
    "ran out of rounds": "the last round was the best or nearly so: raise --n-estimators",
    "wide gap": "training genes are fitted more than three times better than new ones: more genes per instance, or a lower "
    "--max-depth",
    "no gain": "no round after the first lowered the log loss on new genes: the features add nothing here",
    "not watched": "without early stopping no genes were kept aside to look at",
}
"""Every verdict and what it means."""


@dataclass(frozen=True, slots=True)
class FitRecord:
    """How one booster of one fold was fitted.

    Parameters
    ----------
    instance_id, fold, class_name
        Which one.
    best_round, rounds_trained
        Rounds kept, and rounds until the fit ended.
    training_log_loss, stopping_log_loss, gap
        At the best round, nats a row; the gap is their difference. None where no genes were kept aside.
    final_gap
        The same at the last round.
    has_stopped_early
        Whether early stopping ended it before ``n_estimators``.
    verdict
        One of `ADVICE`.
    """

    instance_id: int
    fold: int
    class_name: str
    best_round: int
    rounds_trained: int
    training_log_loss: float
    stopping_log_loss: float | None
    gap: float | None
    final_gap: float | None
    has_stopped_early: bool
    verdict: str


def judge(curve: LearningCurve, *, instance_id: int, class_name: str, n_estimators: int, patience: int) -> FitRecord:
    """Return the record of one learning curve.

    Parameters
    ----------
    curve
        Log loss by round.
    instance_id, class_name
        Whose it is.
    n_estimators, patience
        Of the training: most rounds, and rounds without gain before a fit stops.
    """
    trained, best = len(curve.training), curve.best_round
    training, stopping = curve.training[best - 1], curve.stopping[best - 1]
    is_watched = stopping == stopping  # NaN where no genes were kept aside
    if not is_watched:
        verdict = "not watched"
    elif best == 1 < trained:
        verdict = "no gain"
    elif trained >= n_estimators and trained - best < patience / 2:
        verdict = "ran out of rounds"
    elif training < WIDE * stopping:
        verdict = "wide gap"
    else:
        verdict = "stopped early"
    return FitRecord(
        instance_id=instance_id,
        fold=curve.fold,
        class_name=class_name,
        best_round=best,
        rounds_trained=trained,
        training_log_loss=training,
        stopping_log_loss=stopping if is_watched else None,
        gap=stopping - training if is_watched else None,
        final_gap=curve.stopping[-1] - curve.training[-1] if is_watched else None,
        has_stopped_early=trained < n_estimators,
        verdict=verdict,
    )


def read_curves(root: Path, instance_id: int) -> dict[str, list[LearningCurve]] | None:
    """Return the learning curves of an instance by class, folds in order, or None where it was not trained.

    Raises
    ------
    CheckpointError
        The file is damaged.
    """
    path = root / "multi_instance_training" / f"instance_{instance_id:02d}" / "learning_curves.csv"
    lines = read_rows(path)
    if lines is None:
        return None
    by_fit: dict[tuple[str, int], list[dict[str, str]]] = {}
    try:
        for line in lines:
            by_fit.setdefault((line["class"], int(line["fold"])), []).append(line)
        found: dict[str, list[LearningCurve]] = {}
        for (name, fold), some in by_fit.items():
            some.sort(key=lambda line: int(line["round"]))
            curve = LearningCurve(
                fold,
                [float(line["training_log_loss"]) for line in some],
                [float(line["stopping_log_loss"] or "nan") for line in some],
                sum(line["is_kept"] == "1" for line in some),
            )
            if curve.best_round < 1:
                raise ValueError("no round is kept")
            found.setdefault(name, []).append(curve)
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); train the instance again") from error
    return found


def fit_records(run: RunRecords) -> list[FitRecord]:
    """Return the record of every fold fit of every trained instance."""
    settings = run.plan["settings"]
    return [
        judge(
            curve,
            instance_id=one["instance_id"],
            class_name=name,
            n_estimators=settings["n_estimators"],
            patience=settings["early_stopping_patience"],
        )
        for one in run.plan["instances"]
        for name, curves in (read_curves(run.root, one["instance_id"]) or {}).items()
        for curve in curves
    ]


def write_overfitting(run: RunRecords, *, with_plots: bool = True) -> list[FitRecord]:
    """Write ``overfitting/``: a line a fit as CSV, the summary as JSON, and the learning curves of every instance as PDF."""
    records = fit_records(run)
    folder = RunFolder(run.root).overfitting
    rows: list[dict[str, Any]] = []
    for record in records:
        values = asdict(record)
        name = values.pop("class_name")
        rows.append({"instance_id": values.pop("instance_id"), "fold": values.pop("fold"), "class": name} | values)
    write_csv(folder / "overfitting.csv", rows)
    write_json(folder / "overfitting.json", summary(records))
    for one in run.plan["instances"]:
        curves = read_curves(run.root, one["instance_id"]) if with_plots else None
        if curves:
            figure = learning_figure(list(curves.items()))
            save(figure, folder / f"learning_curves_instance_{one['instance_id']:02d}.pdf")
    return records


def read_overfitting(run: RunRecords) -> list[FitRecord] | None:
    """Return what `write_overfitting` wrote, or None where the monitor was off.

    Raises
    ------
    CheckpointError
        The file is damaged.
    """
    path = RunFolder(run.root).overfitting / "overfitting.csv"
    lines = read_rows(path)
    try:
        return None if lines is None else [_record(line) for line in lines]
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); 'mi-duck report {run.root}' makes it again") from error


def _record(line: dict[str, str]) -> FitRecord:
    return FitRecord(
        instance_id=int(line["instance_id"]),
        fold=int(line["fold"]),
        class_name=line["class"],
        best_round=int(line["best_round"]),
        rounds_trained=int(line["rounds_trained"]),
        training_log_loss=float(line["training_log_loss"]),
        stopping_log_loss=number(line["stopping_log_loss"]),
        gap=number(line["gap"]),
        final_gap=number(line["final_gap"]),
        has_stopped_early=line["has_stopped_early"] == "1",
        verdict=line["verdict"],
    )


def summary(records: Sequence[FitRecord]) -> dict[str, Any]:
    """Return the number of fits of every verdict, in all and by class, and what the verdicts mean."""
    names = dict.fromkeys(record.class_name for record in records)
    return {
        "n_fits": len(records),
        "verdicts": _counts(records),
        "by_class": {name: _class_summary([one for one in records if one.class_name == name]) for name in names},
        "meaning": ADVICE,
    }


def _counts(records: Sequence[FitRecord]) -> dict[str, int]:
    return {verdict: sum(record.verdict == verdict for record in records) for verdict in ADVICE}


def _class_summary(records: Sequence[FitRecord]) -> dict[str, Any]:
    watched = [record for record in records if record.gap is not None]
    return {
        "verdicts": _counts(records),
        "best_round": [min(one.best_round for one in records), max(one.best_round for one in records)],
        "mean_training_log_loss": sum(one.training_log_loss for one in records) / len(records),
        "mean_stopping_log_loss": _mean([one.stopping_log_loss for one in watched]),
        "mean_gap": _mean([one.gap for one in watched]),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    some = [value for value in values if value is not None]
    return sum(some) / len(some) if some else None
