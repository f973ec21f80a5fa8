"""`cross_validate` and `blend`: what ``mi-duck cv`` and ``mi-duck blend`` do, as functions."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mi_duck.api.arguments import options_of, records_of, with_options
from mi_duck.api.run import Run
from mi_duck.api.showing import showing
from mi_duck.api.tables import open_data
from mi_duck.errors import DataError
from mi_duck.settings import CV_OPTIONS, Asked, Blending, Classifying, Columns, Diagnostics, Executing, Resuming
from mi_duck.workflow import classify

RECORDS = (Columns, Classifying, Asked, Resuming, Diagnostics, Executing)
NAMES = (
    *(one.name for record in (Columns, Classifying) for one in options_of([record]) if one.name != "estimator"),
    *CV_OPTIONS,
    *("replace", "minimal_diagnostics", "calibration_analysis", "neigh_sample", "threads"),
)
BLEND_RECORDS = (Blending, Diagnostics, Executing)
BLEND_NAMES = ("blend_weights", "minimal_diagnostics", "calibration_analysis", "threads")


@with_options(RECORDS, NAMES)
def cross_validate(
    estimator: str | Callable[..., Any],
    data: Any,
    out: str | Path,
    *,
    progress: bool | None = None,
    **options: Any,
) -> Run:
    """Cross-validate any classifier on the folds of a run, train it on all groups, and score it as a run is scored.

    Parameters
    ----------
    estimator
        ``logistic``, ``sgd``, ``mlp``, ``tabnet``, ``package.module:factory``, or a function of a module that can be imported; it
        returns a new classifier of scikit-learn's contract, and is called in processes of its own.
    data, out, progress
        As of `mi_duck.train`.
    {options}

    Returns
    -------
    Run
        The scores, the model and all else that the folder holds.

    Raises
    ------
    TypeError
        There is no such option.
    mi_duck.errors.MiDuckError
        The classifier, the data, the request or the disk cannot be used as they are; the message says what to do.
    """
    columns, classifying, asked, resuming, diagnostics, executing = records_of(
        "cross_validate", options | {"estimator": _name_of(estimator)}, RECORDS, (*NAMES, "estimator")
    )
    out = Path(out)
    dataset = open_data(data, out, columns, asked)
    with showing(executing.threads, progress) as context:
        classify.cross_validate(dataset, out, asked, classifying, context, resuming, diagnostics)
    return Run(out)


@with_options(BLEND_RECORDS, BLEND_NAMES)
def blend(runs: Sequence[str | Path | Run], out: str | Path, *, progress: bool | None = None, **options: Any) -> Run:
    """Join finished runs of the same rows and folds into one, by weights fitted without the fold they are used on.

    Parameters
    ----------
    runs
        Runs, or their folders, two or more.
    out, progress
        As of `mi_duck.train`.
    {options}

    Returns
    -------
    Run
        The blend; ``blend.csv`` in its folder has the weight of each run, and what the blend gains over it.

    Raises
    ------
    TypeError
        There is no such option.
    mi_duck.errors.MiDuckError
        A run is not finished, or runs differ in rows or folds.
    """
    blending, diagnostics, executing = records_of("blend", options, BLEND_RECORDS, BLEND_NAMES)
    folders = [one.folder if isinstance(one, Run) else Path(one) for one in runs]
    with showing(executing.threads, progress) as context:
        classify.blend(folders, Path(out), blending.blend_weights, context, diagnostics)
    return Run(out)


def _name_of(estimator: Any) -> str:
    """Return the name by which a child process finds a classifier or a function that makes one."""
    if isinstance(estimator, str):
        return estimator
    module, name = getattr(estimator, "__module__", ""), getattr(estimator, "__qualname__", "")
    if not callable(estimator) or module in ("", "__main__") or not all(one.isidentifier() for one in name.split(".")):
        raise DataError(
            f"{estimator!r:.80} cannot be imported by another process; give the name of a classifier, or a function of a module "
            "that returns a new one"
        )
    return f"{module}:{name}"
