"""The steps of training that run in a child process; XGBoost is loaded there, and never in the parent.

Each is a typed front of the function that does the work, for `mi_duck.processes.in_child`.
"""

from typing import Any

from mi_duck.processes import Report, without_sklearn


def train_instance(report: Report, run: str, instance_id: int, threads: int) -> dict[str, Any]:
    """Train one instance; see `mi_duck.boosting.train.train_instance`."""
    with without_sklearn():
        from mi_duck.boosting import train
    return train.train_instance(run=run, instance_id=instance_id, threads=threads, report=report)


def feature_gains(report: Report, run: str, instance_id: int, threads: int) -> dict[str, float]:
    """Return the gain of every feature in a pilot; see `mi_duck.boosting.train.feature_gains`."""
    with without_sklearn():
        from mi_duck.boosting import train
    return train.feature_gains(run=run, instance_id=instance_id, threads=threads, report=report)
