"""`train`: what ``mi-duck run`` does, as a function."""

from pathlib import Path
from typing import Any

from mi_duck.api.arguments import records_of, with_options
from mi_duck.api.run import Run
from mi_duck.api.showing import showing
from mi_duck.api.tables import open_data
from mi_duck.errors import PlanError
from mi_duck.executors.anywhere import run_request
from mi_duck.executors.elsewhere import useless_option
from mi_duck.run.xgboost_parameters import checked_parameters
from mi_duck.settings import DEFAULT_PRESET, Asked, Columns, Diagnostics, Executing, Preset, Resuming

RECORDS = (Columns, Asked, Diagnostics, Resuming, Executing)


@with_options(RECORDS)
def train(
    data: Any, out: str | Path, *, progress: bool | None = None, preset: Preset = DEFAULT_PRESET, **options: Any
) -> Run:
    """Plan, train, join, score and explain models of some data; the same call goes on after an interruption.

    Parameters
    ----------
    data
        Rows with a label and a group: a path, glob or URL of Parquet files, CSV or TSV; a list of Parquet files; or a data
        frame of pandas or Polars, an Arrow table or a relation of DuckDB, which is written once beside ``out``.
    out
        Folder of the run. All that it holds is described in ``mi_duck/README.md``.
    progress
        Whether to show how far it is; by default in a notebook and on a terminal. Sentences about what is decided go to
        the logger ``mi_duck``.
    preset
        ``fast``, ``balanced``, ``best`` or ``levels``: values for options that are not given, see `mi_duck.settings.PRESETS`.
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
        The data, the request or the disk cannot be used as they are; the message says what to do.

    Examples
    --------
    A table of 400 rows of 40 groups, of which one column carries the label with noise:

    >>> import numpy as np, pyarrow as pa, mi_duck
    >>> rng = np.random.default_rng(0)
    >>> label = rng.integers(0, 2, 400)
    >>> table = pa.table({"patient": np.arange(400) // 10, "ill": label, "dose": label + rng.normal(size=400)})
    >>> folder = getfixture("tmp_path") / "run"
    >>> run = mi_duck.train(table, folder, group_column="patient", label_column="ill", n_estimators=20, skip_shap=True,
    ...                     minimal_diagnostics=True, threads=1)
    >>> run.model.predict_proba(table).shape
    (400, 2)
    """
    columns, asked, diagnostics, resuming, executing = records_of("train", options, RECORDS, preset=preset)
    if words := useless_option(executing):
        raise PlanError(words)
    checked_parameters(asked.xgb)  # refuses before anything is read or written
    out = Path(out)
    dataset = open_data(data, out, columns, asked)
    with showing(executing.threads, progress) as context:
        run_request(dataset, out, asked, context, resuming, diagnostics, executing)
    return Run(out)
