"""The command ``learning-curve``: models of ever more genes, trained, scored on the same rows, and thrown away.

It is a run of nested instances in a hidden folder of its own, so an interrupted one goes on where it stopped; in the end the plan
stays, by which a repeated request is known, and the results beside it.
"""

import shutil
from pathlib import Path
from typing import Any

from mi_duck.atomic_files import storage_errors
from mi_duck.data.dataset import Dataset, check_apart
from mi_duck.errors import CheckpointError, IncompleteRunError, MemoryBudgetError
from mi_duck.evaluate.learning_curve import read_learning_curve
from mi_duck.processes import Context, in_child
from mi_duck.rows.partition import partition
from mi_duck.run.folder import LEARNING_CURVE, RunFolder, run_lock
from mi_duck.run.progress import noting
from mi_duck.settings import Asked
from mi_duck.workflow import steps
from mi_duck.workflow.replace import CURVE, check_ours
from mi_duck.workflow.resume import differences_asked, plan_of_request
from mi_duck.workflow.training import loss_text, train

N_SIZES = 5
ADVICE = (
    "use fewer genes (--sample-genes), features (--screen-features) or rows (--sample-negatives); sizes that are trained stay "
    "until the curve is done"
)


def learning_curve(
    dataset: Dataset, out: Path, asked: Asked, context: Context, *, workers: int | None = None
) -> dict[str, Any]:
    """Train on 1/16, 1/8, 1/4, 1/2 and all of the genes and write what is in `mi_duck.evaluate.learning_curve`.

    Returns
    -------
    dict
        What ``learning_curve.json`` holds.

    Raises
    ------
    CheckpointError
        The folder holds something else, or the learning curve of another request.
    MemoryBudgetError
        A size needs too much memory; what is trained stays.
    IncompleteRunError
        A size was lost; the same command tries it again.
    """
    check_apart(dataset, out)
    folder, results = RunFolder(out / CURVE), out / LEARNING_CURVE
    if not folder.root.is_dir():
        check_ours(out)
        if RunFolder(out).plan.exists():
            raise CheckpointError(f"{out} holds a run; choose another --out for its learning curve")
    with run_lock(out), noting(out, "learning-curve", context) as context:
        if results.is_file():
            changed = differences_asked(folder.read_plan(), dataset, asked)
            if changed:
                raise CheckpointError(
                    f"{out} holds the learning curve of another request ({'; '.join(changed[:4])}); choose another --out"
                )
            context.say(f"nothing to do: {out} is complete")
            return read_learning_curve(out)
        with storage_errors(out):
            folder.root.mkdir(exist_ok=True)
        plan = plan_of_request(dataset, folder, asked, context, n_sizes=N_SIZES)
        if plan.cut.split_instances:  # by an earlier version
            folder.splits.unlink()
            plan = folder.read_plan()
        try:  # halves of an instance would be no size of the curve
            _, lost = train(folder, plan, context, workers=workers, may_split=False)
        except MemoryBudgetError as error:
            raise type(error)(f"{error}; {ADVICE}") from error
        plan = folder.read_plan()
        too_large = [one for one in lost if isinstance(one.cause, MemoryBudgetError)]
        if too_large:
            others = [one for one in lost if one not in too_large]
            raise type(too_large[0].cause)(f"{loss_text(plan, too_large + others)}; {ADVICE}")
        if lost:
            raise IncompleteRunError(loss_text(plan, lost))
        partition(folder, plan, context)
        in_child(steps.write_learning_curve, context)(run=str(folder.root), out=str(out), threads=context.threads)
        with storage_errors(folder.root):
            shutil.rmtree(folder.instances)
            shutil.rmtree(folder.stale, ignore_errors=True)  # sizes of another request
            shutil.rmtree(folder.scratch)
    return read_learning_curve(out)
