"""The command ``distil``: one fast model instead of the ensemble of a run, and what that costs."""

import json
import shutil
from pathlib import Path
from typing import Any

from mi_duck.atomic_files import file_sha256, storage_errors
from mi_duck.errors import CheckpointError, DataError
from mi_duck.evaluate.distilled import facts_file
from mi_duck.processes import Context, in_child
from mi_duck.rows.partition import partition
from mi_duck.run.folder import RunFolder, run_lock
from mi_duck.run.progress import noting
from mi_duck.workflow import steps
from mi_duck.workflow.pipeline import delete_scratch, is_finished

FOLDER = "distil"


def distil(root: Path, out: Path, context: Context, *, trees: int) -> dict[str, Any]:
    """Fit one booster per class to the ensemble of a run; write a model and, beside it, what it is worth.

    A killed call goes on where it stopped. Of the run nothing changes.

    Returns
    -------
    dict
        What the JSON beside the model holds; see `mi_duck.evaluate.distilled`.

    Raises
    ------
    CheckpointError
        The run has no ensemble yet.
    DataError
        The file is something else than a distilled model.
    """
    folder = RunFolder(root)
    plan = folder.read_plan()
    if not (folder.model.is_file() and folder.out_of_fold.is_file() and folder.summary.is_file()):
        raise CheckpointError(f"{root} has no consolidated model yet; run 'mi-duck consolidate {root}'")
    known = _known(out)
    with run_lock(root), noting(root, "distil", context) as context:
        if known is not None and (known["trees"], known["run_model_sha256"]) == (trees, file_sha256(folder.model)):
            context.say(f"nothing to do: {out} is complete")
            return known
        partition(folder, plan, context)
        made = in_child(steps.write_distilled, context)(
            run=str(root), out=str(out), trees=trees, threads=context.threads
        ).value
        with storage_errors(folder.scratch):
            shutil.rmtree(folder.scratch / FOLDER)
        if is_finished(folder, plan) and not folder.members.is_file():  # these a consolidation left for an evaluation
            delete_scratch(folder)
    return made


def _known(out: Path) -> dict[str, Any] | None:
    """Return what is known of a distilled model that is there and whole; refuse a file that is something else."""
    facts = facts_file(out)
    if out.suffix != ".miduck":
        raise DataError(f"{out} does not end in .miduck, as models do; choose another --out")
    if not out.exists() and not facts.exists():
        return None
    try:
        known: dict[str, Any] = json.loads(facts.read_bytes())
        is_ours = {"trees", "run_model_sha256", "model_sha256"} <= known.keys()
    except (OSError, ValueError, AttributeError):
        is_ours = False
    if not is_ours:
        raise DataError(
            f"{out} or {facts.name} beside it is there and is not of a distilled model; choose another --out"
        )
    return known if out.is_file() and file_sha256(out) == known["model_sha256"] else None
