"""The steps of cross-validating and blending that run in a child process; each is a typed front of the function that works."""

from dataclasses import asdict
from typing import Any

from mi_duck.processes import Report, with_pandas, without_sklearn


def try_estimator(report: Report, name: str, options: list[str], n_classes: int, seed: int) -> dict[str, Any]:
    """Try a factory of the user's own; see `mi_duck.classifiers.estimators.tried`."""
    from mi_duck.classifiers.estimators import named_estimator, tried

    with_pandas()
    return asdict(tried(named_estimator(name, options), n_classes=n_classes, seed=seed))


def train_classifier(report: Report, run: str, threads: int) -> dict[str, Any]:
    """Train the classifier of a run; see `mi_duck.classifiers.train.train_classifier`."""
    from mi_duck.classifiers import train

    with_pandas()
    return train.train_classifier(run=run, threads=threads, report=report)


def blend_runs(report: Report, run: str, members: dict[str, str], method: str) -> dict[str, Any]:
    """Fit the weights of runs; see `mi_duck.classifiers.blend.blend_runs`."""
    with without_sklearn():
        from mi_duck.classifiers import blend
    return blend.blend_runs(run=run, members=members, method=method, report=report)


def join_classifier(report: Report, run: str) -> None:
    """Write scores and model of a run; see `mi_duck.classifiers.join.join_classifier`."""
    with without_sklearn():
        from mi_duck.classifiers import join
    join.join_classifier(run=run, report=report)
