"""Trains the instances of a plan, one child process each under the budget.

An instance that runs out of memory is split in halves, once; one that dies is noted with its cause, and the others go on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from mi_duck.catalogue import measurement
from mi_duck.checkpoint import write_json
from mi_duck.children import Report, Say, run_child
from mi_duck.errors import CheckpointError, IncompleteRunError, KilledError, MemoryBudgetError, MiDuckError, PlanError
from mi_duck.folders import RunFolder
from mi_duck.locks import instance_lock, run_lock
from mi_duck.plan.filling import layout_of
from mi_duck.plan.memory import MemoryModel
from mi_duck.plan.plan import Instance, Plan
from mi_duck.plan.splitting import halves_of, with_split, write_splits
from mi_duck.provenance import take_files_out
from mi_duck.resources import GIB
from mi_duck.stages import partition
from mi_duck.train.instance_state import instance_state, is_trained, write_lost
from mi_duck.train.instances import read_gene_table
from mi_duck.train.segments import read_filling, segments_of

COUNTED_MORE = 1.05  # times the planned peak: then it is said


@dataclass(frozen=True, slots=True)
class Lost:
    """An instance that was not trained, and why."""

    instance: Instance
    cause: MiDuckError


def train(folder: RunFolder, plan: Plan, *, threads: int, report: Report, say: Say) -> tuple[int, tuple[Lost, ...]]:
    """Train every instance that is not done, one child process each; return how many were, and those that were lost.

    Raises
    ------
    MemoryBudgetError, IncompleteRunError
        Every instance was lost.
    CheckpointError
        An instance's folder holds what another plan trained.
    """
    done = [instance for instance in plan.instances if is_trained(folder, plan, instance)]
    if done:
        say(f"Checkpointing: found {len(done)} existing instance{'s' if len(done) > 1 else ''} to reuse")
    if len(done) < len(plan.instances):
        partition(folder, plan, threads=threads, report=report)
    lost: list[Lost] = []
    over = [peak_over_prediction(folder, instance) for instance in done]
    waiting = list(plan.instances)
    n_trained, number = 0, 0
    while number < len(waiting):
        instance = waiting[number]
        number += 1
        place = f"[Instance {number}/{len(waiting)}]"
        if instance in done:
            say(f"{place} reusing {instance.name}")
            continue
        if any(over):
            expected = max(over) * instance.predicted_bytes
            say(f"{place} expected peak {expected / GIB:.2f} GiB, by the instances measured so far")
        halves, cause = train_or_split(folder, instance, place, threads=threads, report=report, say=say)
        if halves:
            waiting += halves
        elif cause is not None:
            lost.append(Lost(instance, cause))
        else:
            n_trained += 1
            over.append(peak_over_prediction(folder, instance))
    if lost and not n_trained and not done:
        raise type(lost[0].cause)(loss_text(folder.read_plan(), lost))
    return n_trained, tuple(lost)


def train_or_split(
    folder: RunFolder, instance: Instance, place: str, *, threads: int, report: Report, say: Say
) -> tuple[tuple[Instance, ...], MiDuckError | None]:
    """Train one instance; where memory ran out, split it and return its halves; where it is lost, return the cause.

    Parameters
    ----------
    folder, instance
        What to train.
    place
        What messages begin with, such as ``[Instance 3/7]``.
    threads, report, say
        As for `train`.

    Raises
    ------
    CheckpointError
        The instance's folder holds what another plan trained.
    """
    with instance_lock(folder, instance):
        plan = folder.read_plan()
        state = instance_state(folder, plan, instance)
        if state.name == "done":  # by another job, meanwhile
            say(f"{place} reusing {instance.name}")
            return (), None
        if state.name == "foreign":
            raise CheckpointError(
                f"{folder.instance(instance)} was trained by another plan ({state.detail}); 'mi-duck run' sets it aside, or "
                "choose another --out"
            )
        if state.name == "damaged":
            say(f"{place} {instance.name} is damaged, so it is trained again: {state.detail}")
        say(f"{place} training on {instance.n_genes:,} genes, {instance.n_rows:,} rows")
        try:
            try:
                train_one(folder, plan, instance, threads=threads, report=report, say=say)
            except KilledError as error:  # by whom is not known; what was saved makes another try cheap
                say(f"{place} tried once more, from where it was saved: {error}")
                train_one(folder, plan, instance, threads=threads, report=report, say=say)
            return (), None
        except (MemoryBudgetError, IncompleteRunError) as error:
            halves = _split(folder, instance) if isinstance(error, MemoryBudgetError) else ()
            if not halves:
                say(f"{place} lost: {error}")
                write_lost(folder, instance, str(error))
                return (), error
            names = " and ".join(half.name for half in halves)
            say(f"{place} out of memory, so {instance.name} is split in halves, {names}: {error}")
    partition(folder, folder.read_plan(), threads=threads, report=report)
    return halves, None


def _split(folder: RunFolder, instance: Instance) -> tuple[Instance, ...]:
    """Split an instance and note it, unless it cannot be; several jobs may do so at once."""
    with run_lock(folder.root, name=".lock_splits", wait=True):
        plan = folder.read_plan()
        genes = read_gene_table(folder, plan)
        halves = halves_of(plan, instance, genes)
        if halves is None:
            return ()
        write_splits(folder.splits, with_split(plan, instance, halves, genes.n_rows))
    return halves


def loss_text(plan: Plan, lost: Sequence[Lost], remedy: str = "the same command tries them again") -> str:
    """Return in one line which instances were lost, why, what that means, and what to do."""
    kept = [one for one in plan.instances if one not in {loss.instance for loss in lost}]
    covered = {rank for one in kept for rank in range(one.first_rank, one.stop_rank)}
    return (
        f"{len(lost)} of {len(plan.instances)} instances lost ({', '.join(one.instance.name for one in lost)}), and with "
        f"them {plan.n_genes - len(covered):,} of {plan.n_genes:,} genes; first cause: {lost[0].cause}; {remedy}"
    )


def peak_over_prediction(folder: RunFolder, instance: Instance) -> float:
    """Return measured over predicted peak of a trained instance; 0 where it was not measured."""
    peak = measurement(folder, instance).get("peak_bytes")
    return peak / instance.predicted_bytes if isinstance(peak, int | float) else 0.0


def train_one(folder: RunFolder, plan: Plan, instance: Instance, *, threads: int, report: Report, say: Say) -> None:
    """Train one instance in a child process under its budget, and note its peak memory and time.

    Raises
    ------
    MemoryBudgetError, PlanError
        The rows as they are need more than the budget, or the process passed it.
    """
    counted = check_filling(folder, plan, instance)
    if counted > COUNTED_MORE * instance.predicted_bytes:
        say(
            f"    its rows, now counted, have a column that is filled less than those that were measured: "
            f"{counted / GIB:.2f} GiB expected, {instance.predicted_bytes / GIB:.2f} planned"
        )
    take_files_out(folder)
    try:
        result = run_child(
            "mi_duck.train.train:train_instance",
            {"run": str(folder.root), "instance_id": instance.instance_id, "threads": threads},
            threads=threads,
            report=report,
            limit_bytes=plan.budget_bytes,
        )
    except KilledError:
        raise
    except MemoryBudgetError as error:
        fewer = max(int(0.8 * instance.n_genes * min(1.0, plan.budget_bytes / max(instance.predicted_bytes, 1))), 1)
        raise MemoryBudgetError(
            f"{error}; predicted were {instance.predicted_bytes / GIB:.2f} GiB. Plan anew with "
            f"--genes-per-instance {fewer:,}, a larger --max-memory-per-instance-gb, or --strategy external"
        ) from error
    phases: dict[str, int] = result.value["phases"]
    peak = max([result.peak_bytes, result.value["peak_before"], *phases.values()])
    seconds = result.wall_seconds + result.value["seconds_before"]
    rounds_before = result.value["rounds_before"]
    write_json(
        folder.instance(instance) / "measurement.json",
        {
            "peak_bytes": peak,
            "phases": phases,
            "wall_seconds": round(seconds, 3),
            "build_seconds": round(result.value["build_seconds"], 3),
            "boost_seconds": round(result.value["boost_seconds"], 3),
        },
    )
    say(
        f"    {seconds:.0f} s, peak {peak / GIB:.2f} GiB (predicted "
        f"{instance.predicted_bytes / GIB:.2f}), rounds {', '.join(str(n) for n in result.value['rounds'])}"
        + (f"; {rounds_before:,} rounds were saved before" if rounds_before else "")
    )


def check_filling(folder: RunFolder, plan: Plan, instance: Instance) -> int:
    """Return what an instance needs, now that all its rows are counted; refuse one that needs more than its budget.

    The plan knows missing values and zeros from the rows that the probes read; partitioning has counted them all.

    Returns
    -------
    int
        Predicted peak in bytes; that of the plan where a number of the user's stands for the memory model.

    Raises
    ------
    MemoryBudgetError, PlanError
        They do.
    """
    model = MemoryModel.from_dict(plan.memory)
    if model.megabytes_per_gene is not None:
        return instance.predicted_bytes
    filling = read_filling(plan, segments_of(plan, instance.first_rank, instance.stop_rank), folder.segments)
    layout = layout_of(model.layout, filling, plan.settings.layout, plan.zero_is_missing)
    needed = model.with_layout(layout).needed_bytes(instance.n_training_rows, instance.n_genes)
    if needed > plan.budget_bytes:
        refuse = PlanError if plan.budget_is_users_number else MemoryBudgetError
        share = layout.missing_share - model.layout.missing_share
        raise refuse(
            f"{instance.name} needs {needed / GIB:.2f} GiB, but the budget is {plan.budget_bytes / GIB:.2f} GiB "
            f"({plan.budget_source}): {share:.2%} more of its cells are missing than in the rows that were measured; plan "
            "anew with --layout sentinel or a smaller --genes-per-instance"
        )
    return model.with_layout(layout).predict_bytes(instance.n_training_rows, instance.n_genes)
