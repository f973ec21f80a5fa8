"""Fits the leaves of several instances together, part by part: several parts at once, or one alone as a task of a scheduler.

A part is one class of one fold, then of the final boosters; `mi_duck.ensemble.refit` does it, and what is done lies in the
scratch of the run. Sums over leaves keep one core busy, so parts are done side by side, each in a process of its own. Where
the whole refit is short, or memory runs out beside each other, the process that consolidates does what is left alone.
"""

from functools import partial
from pathlib import Path

from mi_duck.atomic_files import free_bytes
from mi_duck.errors import MemoryBudgetError, PlanError, StorageError
from mi_duck.plan.times import leaves_bytes, refit_seconds, usual_rounds
from mi_duck.processes import ChildResult, Context, Pool, Report, Task, in_child
from mi_duck.resources import machine_budget
from mi_duck.rows.partition import partition
from mi_duck.run.costs import refit_bytes
from mi_duck.run.folder import RunFolder, run_lock
from mi_duck.run.instance_folder import trained_instances
from mi_duck.run.plan import Plan, fitted_classes
from mi_duck.run.progress import noting
from mi_duck.run.stage_times import REFITTING, keep_stages
from mi_duck.usage import StageUsage, joined
from mi_duck.workflow import steps
from mi_duck.workflow.training import boosted_plan

WORTH_SECONDS = 90.0  # of the whole refit on one core: a process for each part takes a second to begin
FREE_SHARE = 0.9  # of the disk that leaf numbers may take


def n_parts(plan: Plan) -> tuple[int, int]:
    """Return the numbers of parts: of folds, then of final boosters."""
    n_classes = len(fitted_classes(len(plan.data.classes)))
    return plan.settings.n_folds * n_classes, n_classes


def is_refitted(plan: Plan, consolidation: str) -> bool:
    """Return whether the leaves of several instances are fitted together."""
    return consolidation != "voting" and len(plan.cut.instances) > 1


def is_worth_parts(plan: Plan, consolidation: str) -> bool:
    """Return whether leaves are refitted, and that takes so long that its parts are worth processes of their own."""
    return is_refitted(plan, consolidation) and core_seconds(plan) >= WORTH_SECONDS


def core_seconds(plan: Plan, rounds: int | None = None) -> float:
    """Return the predicted seconds of the whole refit on one core, of boosters of so many rounds, by default the usual ones."""
    n_boosters = len(plan.cut.instances) * n_parts(plan)[1]
    return refit_seconds(n_boosters, refitted_rows(plan), plan.settings, rounds or usual_rounds(plan.settings))


def refitted_rows(plan: Plan) -> int:
    """Return the rows that leaves are fitted on, those that several instances have counted once, as far as the plan knows."""
    return min(plan.data.n_rows, sum(one.n_training_rows for one in plan.cut.instances))


def part_bytes(plan: Plan) -> int:
    """Return the memory that a part takes."""
    return refit_bytes(plan.data.n_rows, refitted_rows(plan))


def parts_on_disk(folder: RunFolder, plan: Plan) -> int:
    """Return how many parts the free disk has room for, at least one: it is tried."""
    rounds = usual_rounds(plan.settings)
    leaves = leaves_bytes(len(plan.cut.instances), refitted_rows(plan), plan.settings, rounds)
    return max(1, int(FREE_SHARE * free_bytes(folder.root)) // leaves)


def refit(folder: RunFolder, plan: Plan, context: Context) -> None:
    """Refit all parts that are not done, as many at once as there are threads, memory and disk for; the run is partitioned."""
    of_folds, final = n_parts(plan)
    total = of_folds + final
    room = machine_budget(plan.asked.memory_safety_factor).budget_bytes // part_bytes(plan)
    at_once = max(1, min(context.threads, of_folds, room, parts_on_disk(folder, plan)))
    done = [0] * total
    stages: list[StageUsage] = []

    def report_of(number: int) -> Report:
        def report(stage: str, now: int, of: int) -> None:
            done[number] = now
            context.report(stage, sum(done), of * total)

        return report

    try:
        for parts in (range(of_folds), range(of_folds, total)):  # the final ones need the passes of the folds
            waiting = list(parts)
            with Pool[int, ChildResult[bool]]() as pool:
                while waiting or pool.running:
                    if waiting and len(pool.running) < at_once:
                        number = waiting.pop(0)
                        own = Context(
                            max(1, context.threads // min(at_once, len(parts))), report_of(number), context.say
                        )
                        pool.start(number, partial(_refit, folder, number, own), is_alone=at_once == 1)
                        continue
                    _, found = pool.next()
                    stages += found.stages if found.value else ()
    except (MemoryBudgetError, StorageError) as error:
        context.say(f"refitting leaves part after part: {error}")
    if stages:  # what other machines or an earlier process did is not known
        keep_stages(folder, REFITTING, joined(stages))


def _refit(folder: RunFolder, number: int, context: Context, task: Task) -> ChildResult[bool]:
    """Refit one part in a child process."""
    return in_child(steps.refit_part, context, is_cancelled=task.is_cancelled)(
        run=str(folder.root), number=number, threads=context.threads
    )


def refit_part(root: Path, number: int, context: Context) -> None:
    """Refit one part of a run, unless that is done; others may be under way.

    Raises
    ------
    PlanError
        There is no such part.
    CheckpointError
        No instance is trained, or the part is a final one and a fold of its class is not refitted.
    """
    folder = RunFolder(root)
    plan = boosted_plan(folder)
    of_folds, final = n_parts(plan)
    if len(plan.cut.instances) < 2:
        raise PlanError(f"--refit-part {number}: {root} has one instance, so there is nothing to fit together")
    if number >= of_folds + final:
        raise PlanError(
            f"--refit-part {number}: parts are 0 to {of_folds - 1}, then the final ones, {of_folds} to {of_folds + final - 1}"
        )
    with (
        run_lock(root, shared=True),
        run_lock(root, name=f".lock_refit_{number}"),
        noting(root, "consolidate", context, suffix=f"_refit_{number}") as context,
    ):
        if len(trained_instances(folder, plan)) < 2:
            context.say("one instance is trained, so there is nothing to fit together")
            return
        partition(folder, plan, context)
        _refit(folder, number, context, Task())
