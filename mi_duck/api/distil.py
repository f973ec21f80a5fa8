"""`distil`: what ``mi-duck distil`` does, as a function."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from mi_duck.api.arguments import records_of, with_options
from mi_duck.api.showing import showing
from mi_duck.settings import Distilling, Executing
from mi_duck.workflow.distil import distil as distil_run

if TYPE_CHECKING:
    from mi_duck.ensemble.model import ConsolidatedMetaModel, InstanceModel

RECORDS = (Distilling, Executing)
OPTIONS = ("trees", "threads")


@with_options(RECORDS, OPTIONS)
def distil(
    run: str | Path, out: str | Path, *, progress: bool | None = None, **options: Any
) -> "ConsolidatedMetaModel | InstanceModel":
    """Fit one booster per class to the ensemble of a run: a model of the same kind, nearly as good and much faster.

    Parameters
    ----------
    run
        Folder of a run that has an ensemble.
    out
        File of the model, which ends in ``.miduck``. What it loses and gains, out of fold, stands in a JSON file beside it.
    progress
        Whether to show how far it is; by default in a notebook and on a terminal.
    {options}

    Returns
    -------
    ConsolidatedMetaModel
        The model, with ``consolidation_method`` ``distilled``, as `mi_duck.load_unified_model` reads it from the file.

    Raises
    ------
    TypeError
        There is no such option.
    mi_duck.errors.MiDuckError
        The run has no ensemble, its data changed, or the file is something else.
    """
    distilling, executing = records_of("distil", options, RECORDS, OPTIONS)
    with showing(executing.threads, progress) as context:
        distil_run(Path(run), Path(out), context, trees=distilling.trees)
    from mi_duck.ensemble.model_file import load_unified_model

    return load_unified_model(out)
