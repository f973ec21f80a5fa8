"""The overfitting monitor: from the learning curves of every fold and class to one line each, a verdict, and plots.

Early stopping keeps the round at which the log loss on the stopping genes was lowest; these genes are neither trained on
nor scored. So what matters is whether that round was reached (``ran out of rounds``), whether boosting improved anything
(``no gain``), and how far the log loss on training genes lies below that on stopping genes (``wide gap``). Boosted trees always
fit their own genes better; the rule of thumb here is a third of the log loss on stopping genes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from mi_duck.atomic_files import write_csv, write_json
from mi_duck.drawing import save_as
from mi_duck.errors import CheckpointError
from mi_duck.report.plots import LearningCurve, learning_figure
from mi_duck.report.records import RunRecords, read_records
from mi_duck.run.folder import RunFolder
from mi_duck.run.plan import instance_name
from mi_duck.wording import Noun

WIDE = 1 / 3
ADVICE = {
    "best round found": "later rounds were worse; the best was kept",
    "ran out of rounds": "the last round was the best or nearly so; raise --n-estimators (of a classifier --epochs)",
    "wide gap": "the log loss on training rows is less than a third of that on stopping rows; use more {many} per instance, or "
    "a lower --max-depth (of a classifier more regularisation)",
    "no gain": "no round after the first lowered the log loss on stopping rows; the features add nothing here",
    "not watched": "without early stopping no {many} are kept aside, so overfitting is not measured",
}
"""Every verdict and what it means; ``{many}`` stands for what groups are called."""


class FitRecord(msgspec.Struct, frozen=True, kw_only=True, rename={"class_name": "class"}):
    """How one booster of one fold was fitted.

    Parameters
    ----------
    best_round, rounds_trained
        Rounds kept, and rounds until the fit ended.
    training_log_loss, stopping_log_loss, gap
        At the best round, in nats per row; the gap is their difference. None where no genes were kept aside.
    final_gap
        The gap at the last round.
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
    stopping_log_loss: float | None = None
    gap: float | None = None
    final_gap: float | None = None
    has_stopped_early: bool
    verdict: str


class RoundLosses(msgspec.Struct, frozen=True, rename={"class_name": "class"}):
    """One line of ``learning_curves.csv``; the log loss on stopping genes is NaN where no genes were kept aside."""

    fold: int
    class_name: str
    round: int
    training_log_loss: float
    is_kept: bool
    stopping_log_loss: float = float("nan")


def classify_fit(
    curve: LearningCurve, *, instance_id: int, class_name: str, n_estimators: int, patience: int
) -> FitRecord:
    """Return the record of one learning curve, with its verdict.

    Parameters
    ----------
    n_estimators, patience
        Most rounds, and rounds without gain before a fit stops.
    """
    trained, best = len(curve.training), curve.best_round
    training, stopping = curve.training[best - 1], curve.stopping[best - 1]
    is_watched = stopping == stopping
    if not is_watched:
        verdict = "not watched"
    elif best == 1 < trained:
        verdict = "no gain"
    elif trained >= n_estimators and trained - best < patience / 2:
        verdict = "ran out of rounds"
    elif training < WIDE * stopping:
        verdict = "wide gap"
    else:
        verdict = "best round found"
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
    path = RunFolder(root).instances / instance_name(instance_id) / "learning_curves.csv"
    lines = read_records(path, RoundLosses)
    if lines is None:
        return None
    by_fit: dict[tuple[str, int], list[RoundLosses]] = {}
    for line in lines:
        by_fit.setdefault((line.class_name, line.fold), []).append(line)
    found: dict[str, list[LearningCurve]] = {}
    for (name, fold), some in by_fit.items():
        some.sort(key=lambda line: line.round)
        losses = [one.training_log_loss for one in some], [one.stopping_log_loss for one in some]
        curve = LearningCurve(fold, *losses, sum(one.is_kept for one in some))
        if curve.best_round < 1:
            raise CheckpointError(f"{path} is damaged (no round is kept); train the instance again")
        found.setdefault(name, []).append(curve)
    return found


def distinct_curves(run: RunRecords, instance_id: int) -> dict[str, list[LearningCurve]]:
    """Return the learning curves of an instance for each class that has its own; none where it was not trained."""
    found = read_curves(run.root, instance_id) or {}
    return {name: curves for name, curves in found.items() if name in run.distinct_classes}


def fit_records(run: RunRecords) -> list[FitRecord]:
    """Return the record of every fold fit of every trained instance; of two classes of the second, which alone is fitted."""
    settings = run.plan.settings
    return [
        classify_fit(
            curve,
            instance_id=one.instance_id,
            class_name=name,
            n_estimators=settings.n_estimators,
            patience=settings.early_stopping_patience,
        )
        for one in run.plan.cut.instances
        for name, curves in distinct_curves(run, one.instance_id).items()
        for curve in curves
    ]


def write_overfitting(
    run: RunRecords, *, with_plots: bool = True, formats: Sequence[str] = ("pdf",)
) -> list[FitRecord]:
    """Write ``overfitting/``: one line per fit, a summary, and the learning curves of every instance drawn."""
    records = fit_records(run)
    folder = RunFolder(run.root).overfitting
    write_csv(folder / "overfitting.csv", msgspec.to_builtins(records))
    write_json(folder / "overfitting.json", summary(records, run.noun))
    for one in run.plan.cut.instances:
        curves = distinct_curves(run, one.instance_id) if with_plots else None
        if curves:
            figure = learning_figure(list(curves.items()), run.noun)
            save_as(figure, folder / f"learning_curves_{one.name}", formats)
    return records


def read_overfitting(run: RunRecords) -> list[FitRecord] | None:
    """Return what `write_overfitting` wrote, or None where the monitor was off.

    Raises
    ------
    CheckpointError
        The file is damaged.
    """
    found = read_records(RunFolder(run.root).overfitting / "overfitting.csv", FitRecord)
    # a table that an earlier version wrote has another word for this verdict
    return found and [
        msgspec.structs.replace(one, verdict="best round found") if one.verdict == "stopped early" else one
        for one in found
    ]


def summary(records: Sequence[FitRecord], noun: Noun) -> dict[str, Any]:
    """Return the number of fits of every verdict, in total and by class, and what the verdicts mean."""
    names = dict.fromkeys(record.class_name for record in records)
    return {
        "n_fits": len(records),
        "verdicts": counts(records),
        "by_class": {name: _class_summary([one for one in records if one.class_name == name]) for name in names},
        "meaning": {verdict: words.format(many=noun.many) for verdict, words in ADVICE.items()},
    }


def counts(records: Sequence[FitRecord]) -> dict[str, int]:
    """Return the number of fits of every verdict."""
    return {verdict: sum(record.verdict == verdict for record in records) for verdict in ADVICE}


def _class_summary(records: Sequence[FitRecord]) -> dict[str, Any]:
    watched = [record for record in records if record.gap is not None]
    return {
        "verdicts": counts(records),
        "best_round": [min(one.best_round for one in records), max(one.best_round for one in records)],
        "mean_training_log_loss": sum(one.training_log_loss for one in records) / len(records),
        "mean_stopping_log_loss": _mean([one.stopping_log_loss for one in watched]),
        "mean_gap": _mean([one.gap for one in watched]),
    }


def _mean(values: Sequence[float | None]) -> float | None:
    some = [value for value in values if value is not None]
    return sum(some) / len(some) if some else None
