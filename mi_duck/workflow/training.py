"""Trains the instances of a plan, one child process each under the budget, several at once where they fit.

An instance that runs out of memory, or needs more than its budget, is split in halves, once; one that dies is noted with its
cause, and the others go on. One that the machine has too little memory for while others run is tried again beside fewer, and
only what it does alone counts: so the models do not depend on how many run at once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from mi_duck.boosting.steps import train_instance
from mi_duck.errors import (
    CheckpointError,
    IncompleteRunError,
    KilledError,
    MemoryBudgetError,
    MiDuckError,
    OverAskedBudgetError,
    OverBudgetError,
)
from mi_duck.numbers import gibibytes
from mi_duck.plan.layouts import layout_of
from mi_duck.plan.windows import halves_of
from mi_duck.processes import Context, Pool, Report, Task, in_child
from mi_duck.resources import Budget, machine_budget
from mi_duck.rows.partition import partition
from mi_duck.rows.segments import read_density, segments_of
from mi_duck.run.folder import RunFolder, instance_lock, invalidate_file_list, run_lock
from mi_duck.run.genes import read_gene_table
from mi_duck.run.instance_folder import instance_state, is_trained, measurement, write_lost, write_measurement
from mi_duck.run.plan import Instance, Plan, n_genes_covered, with_split, write_splits

TOLD_FROM = 1.05  # times the planned peak: then the user is informed


@dataclass(frozen=True, slots=True)
class Job:
    """An instance to be trained, and its number in messages, from 1."""

    number: int
    instance: Instance


def expected_bytes(job: Job, over: Sequence[float]) -> int:
    """Return the predicted peak of an instance, times the largest of measured over predicted so far (0: not known)."""
    return int(job.instance.predicted_bytes * (max(over, default=0) or 1))


def most_at_once(expected: Sequence[int], workers: int, room_bytes: int) -> int:
    """Return how many of the workers can ever work at once: as many as the smallest instances that fit together, at least 1."""
    smallest = sorted(expected)
    return max((n for n in range(1, min(workers, len(smallest)) + 1) if sum(smallest[:n]) <= room_bytes), default=1)


def next_job(
    waiting: Sequence[Job], running: Sequence[Job], over: Sequence[float], *, at_once: int, room_bytes: int
) -> Job | None:
    """Return the first instance that may begin now, None where all that wait must go on waiting.

    One that fits beside those that run goes before one that does not, which runs when enough of the others have ended: at
    last alone, because one always may.
    """
    if not running:
        return waiting[0]
    if len(running) >= at_once:
        return None
    left = room_bytes - sum(expected_bytes(job, over) for job in running)
    return next((job for job in waiting if expected_bytes(job, over) <= left), None)


def threads_of(threads: int, *, at_once: int, n_started: int, n_waiting: int) -> int:
    """Return how many threads an instance that begins now gets, when so many have begun and so many still wait.

    Each gets its share of all; the last ones, which nothing follows, share those of the ones that end before them.

    Examples
    --------
    >>> [threads_of(2, at_once=2, n_started=n, n_waiting=2 - n) for n in range(3)]
    [1, 1, 2]
    """
    beside = at_once if n_started < at_once else min(at_once, n_waiting + 1)
    return max(1, threads // beside)


@dataclass(frozen=True, slots=True)
class Lost:
    """An instance that is not trained, and why; one that was never begun is not lost, but still to do."""

    instance: Instance
    cause: MiDuckError
    was_begun: bool = True


@dataclass(frozen=True, slots=True)
class Outcome:
    """How training an instance ended: halves in its place, the cause of its loss, too little memory beside others, or well."""

    halves: tuple[Instance, ...] = ()
    cause: MiDuckError | None = None
    is_crowded: bool = False


def train(
    folder: RunFolder, plan: Plan, context: Context, *, workers: int | None = None, may_split: bool = True
) -> tuple[int, tuple[Lost, ...]]:
    """Train every instance that is not done, one child process each; return how many were, and those that were lost.

    Parameters
    ----------
    context
        Its threads are those of all children together; reports and messages come from several threads.
    workers
        Most instances at once; by default as many as there are threads, because the threads of one fit wait for each other
        at every level of every tree (`benchmarks/bench_workers.py`).
    may_split
        Whether an instance that needs too much memory is split in halves; else it is lost.

    Raises
    ------
    MemoryBudgetError, IncompleteRunError
        Every instance was lost.
    """
    jobs = [Job(number, instance) for number, instance in enumerate(plan.cut.instances, 1)]
    done = [job for job in jobs if is_trained(folder, plan, job.instance)]
    if done:
        context.say(f"Checkpointing: found {len(done)} existing instance{'s' if len(done) > 1 else ''} to reuse")
    for job in done:
        context.say(f"[Instance {job.number}/{len(jobs)}] reusing {job.instance.name}")
    waiting = [job for job in jobs if job not in done]
    if waiting:
        partition(folder, plan, context)
        invalidate_file_list(folder)  # once, before several threads would
    over = [peak_over_prediction(folder, job.instance) for job in done]
    room = machine_budget(plan.asked.memory_safety_factor)
    at_once = _usable_workers(plan, [expected_bytes(job, over) for job in waiting], workers, room, context)
    lost: list[tuple[Job, Lost]] = []
    n_trained, n_jobs, n_started = 0, len(jobs), 0
    with Pool[Job, Outcome]() as pool:
        while waiting or pool.running:
            starting = next_job(waiting, list(pool.running), over, at_once=at_once, room_bytes=room.budget_bytes)
            if starting is not None:
                waiting.remove(starting)
                label = f"[Instance {starting.number}/{n_jobs}]"
                if any(over):
                    expected = expected_bytes(starting, over)
                    context.say(f"{label} expected peak {gibibytes(expected)} GiB, by the instances measured so far")
                report = partial(_report_of, context.report, starting.instance.name)
                threads = threads_of(context.threads, at_once=at_once, n_started=n_started, n_waiting=len(waiting))
                n_started += 1
                # a child even where other steps are in this process: there XGBoost's threads could not be told to sleep
                own = Context(threads, report, context.say)
                work = partial(train_or_split, folder, starting.instance, label, context=own, may_split=may_split)
                pool.start(starting, work, is_alone=at_once == 1)
                continue
            ended, outcome = pool.next()
            if outcome.is_crowded:
                at_once = max(at_once - 1, 1)
                waiting.append(ended)
            elif outcome.halves:
                waiting += [Job(n_jobs + number, half) for number, half in enumerate(outcome.halves, 1)]
                n_jobs += len(outcome.halves)
            elif outcome.cause is not None:
                lost.append((ended, Lost(ended.instance, outcome.cause)))
            else:
                n_trained += 1
                over.append(peak_over_prediction(folder, ended.instance))
    losses = tuple(loss for _, loss in sorted(lost, key=lambda pair: pair[0].number))
    if losses and not n_trained and not done:
        raise type(losses[0].cause)(loss_text(folder.read_plan(), losses))
    return n_trained, losses


def _usable_workers(plan: Plan, expected: Sequence[int], workers: int | None, room: Budget, context: Context) -> int:
    """Return how many workers may train at once; say why they are fewer than were asked for."""
    at_once = most_at_once(expected, workers or context.threads, room.budget_bytes)
    if plan.settings.device != "cpu" and at_once > 1:
        if workers:
            context.say(f"1 of {workers} workers: the memory of the device is planned for one instance at a time")
        return 1
    if workers and at_once < min(workers, len(expected)):
        needed = sum(sorted(expected)[: at_once + 1])
        context.say(
            f"{at_once} of {workers} workers: {at_once + 1} instances at once need {gibibytes(needed)} GiB at least, and "
            f"{gibibytes(room.budget_bytes)} GiB may be taken ({room.won}); free memory or plan smaller instances "
            "(--genes-per-instance) to let more run"
        )
    return at_once


def _report_of(report: Report, name: str, stage: str, done: int, total: int) -> None:
    """Report progress with the name of the instance that makes it."""
    report(f"{name}: {stage}", done, total)


def boosted_plan(folder: RunFolder) -> Plan:
    """Return the plan of a run of boosted trees.

    Raises
    ------
    CheckpointError
        It is one of another classifier, which 'mi-duck cv' trains as a whole, or a blend.
    """
    plan = folder.read_plan()
    if not plan.settings.is_boosted:
        maker = "blend" if plan.settings.estimator == "blend" else "cv"
        raise CheckpointError(
            f"{folder.root} is a run of {plan.settings.estimator}, not of boosted trees; 'mi-duck {maker}' with the same "
            "arguments does all of its steps"
        )
    return plan


def train_or_split(
    folder: RunFolder, instance: Instance, label: str, task: Task, context: Context, *, may_split: bool = True
) -> Outcome:
    """Train one instance; split it where it needs too much memory, note it as lost where it died; refuse one of another plan."""
    say = context.say
    with instance_lock(folder, instance):
        plan = folder.read_plan()
        state = instance_state(folder, plan, instance)
        if state.name == "done":  # by another job, meanwhile
            say(f"{label} reusing {instance.name}")
            return Outcome()
        if state.name == "foreign":
            raise CheckpointError(
                f"{folder.instance(instance)} was trained by another plan ({state.detail}); 'mi-duck run' sets it aside, or "
                "choose another --out"
            )
        if state.name == "damaged":
            say(f"{label} {instance.name} is damaged, so it is trained again: {state.detail}")
        say(f"{label} training on {plan.data.noun.count(instance.n_genes)}, {instance.n_training_rows:,} rows")
        once = partial(
            train_one, folder, plan, instance, context, is_cancelled=task.is_cancelled, with_advice=may_split
        )
        try:
            try:
                once()
            except KilledError as error:  # by whom is not known; what was saved makes another try cheap
                say(f"{label} tried once more, from where it was saved: {error}")
                once()
            return Outcome()
        except (MemoryBudgetError, IncompleteRunError) as error:
            is_memory = isinstance(error, MemoryBudgetError)
            if is_memory and not isinstance(error, OverBudgetError) and task.ran_concurrently:
                say(f"{label} tried again later, with fewer beside it: {error}")
                return Outcome(is_crowded=True)
            halves = _split(folder, instance, task, context) if is_memory and may_split else ()
            if not halves:
                say(f"{label} lost: {error}")
                write_lost(folder, instance, str(error))
                return Outcome(cause=error)
            names = " and ".join(half.name for half in halves)
            why = "needs more than its budget" if isinstance(error, OverBudgetError) else "out of memory"
            say(f"{label} {why}, so {instance.name} is split in halves, {names}: {error}")
            return Outcome(halves=halves)


def _split(folder: RunFolder, instance: Instance, task: Task, context: Context) -> tuple[Instance, ...]:
    """Split an instance and note it, unless it cannot be; several jobs may do so at once."""
    with run_lock(folder.root, name=".lock_splits", wait=True):
        plan = folder.read_plan()
        genes = read_gene_table(folder, plan)
        halves = halves_of(plan, instance, genes)
        if halves is None:
            return ()
        after = with_split(plan, instance, halves, genes.n_rows)
        # before the splits are noted, because whoever reads of a segment may begin with it
        partition(folder, after, context, is_cancelled=task.is_cancelled)
        write_splits(folder.splits, after)
    return halves


def loss_text(plan: Plan, lost: Sequence[Lost], remedy: str = "the same command tries them again") -> str:
    """Return in one line which instances were lost, why, what that means, and what to do.

    What needs more than its budget does so again: there the cause says what to do.
    """
    names = {
        was_begun: [one.instance.name for one in lost if one.was_begun is was_begun] for was_begun in (True, False)
    }
    counts = [
        f"{len(names[was_begun])} of {len(plan.cut.instances)} instances {words} ({', '.join(names[was_begun])})"
        for was_begun, words in ((True, "lost"), (False, "not trained yet"))
        if names[was_begun]
    ]
    kept = [one for one in plan.cut.instances if one not in {loss.instance for loss in lost}]
    n_genes = plan.data.n_genes
    n_missing = n_genes - n_genes_covered(kept)
    what = f"{', '.join(counts)}, and with them {n_missing:,} of {plan.data.noun.count(n_genes)}"
    is_vain = all(isinstance(one.cause, OverBudgetError) for one in lost)
    return f"{what}; first cause: {lost[0].cause}" + ("" if is_vain else f"; {remedy}")


def peak_over_prediction(folder: RunFolder, instance: Instance) -> float:
    """Return measured over predicted peak of a trained instance; 0 where it was not measured."""
    peak = measurement(folder, instance).get("peak_bytes")
    return peak / instance.predicted_bytes if isinstance(peak, int | float) else 0.0


def train_one(
    folder: RunFolder,
    plan: Plan,
    instance: Instance,
    context: Context,
    *,
    is_cancelled: Callable[[], bool] | None = None,
    with_advice: bool = True,
) -> None:
    """Train one instance in a child process under its budget, and note its peak memory and time.

    ``with_advice``: whether an error of memory says how instances can be planned that fit.

    Raises `OverBudgetError` where its rows need more than the budget, `MemoryBudgetError` where the machine has too little
    memory left.
    """
    budget = plan.cut.budget.budget_bytes
    advice = ""
    if with_advice:
        fewer = max(int(0.8 * instance.n_genes * min(1.0, budget / max(instance.predicted_bytes, 1))), 1)
        advice = f"; plan anew with --genes-per-instance {fewer}, a larger --max-memory-per-instance-gb, or --strategy external"
    try:
        recounted = recounted_peak(folder, plan, instance)
    except MemoryBudgetError as error:
        raise type(error)(f"{error}{advice}") from error
    if recounted > TOLD_FROM * instance.predicted_bytes:
        context.say(
            f"    {instance.name}: its rows have more missing values, or an emptier column, than those that the plan rests on: "
            f"{gibibytes(recounted)} GiB predicted now, {gibibytes(instance.predicted_bytes)} by the plan"
        )
    invalidate_file_list(folder)
    try:
        result = in_child(train_instance, context, limit_bytes=budget, frees_at_once=True, is_cancelled=is_cancelled)(
            run=str(folder.root), instance_id=instance.instance_id, threads=context.threads
        )
    except KilledError:
        raise
    except MemoryBudgetError as error:
        predicted = gibibytes(instance.predicted_bytes)
        raise type(error)(f"{error}; predicted were {predicted} GiB{advice}") from error
    phases: dict[str, int] = result.value["phases"]
    peak = max([result.peak_bytes, result.value["peak_before"], *phases.values()])
    seconds = result.wall_seconds + result.value["seconds_before"]
    rounds_before = result.value["rounds_before"]
    write_measurement(
        folder,
        instance,
        peak_bytes=peak,
        phases=phases,
        wall_seconds=seconds,
        build_seconds=result.value["build_seconds"],
        boost_seconds=result.value["boost_seconds"],
        stages=result.stages,
    )
    context.say(
        f"    {instance.name}: {seconds:.0f} s, peak {gibibytes(peak)} GiB (predicted "
        f"{gibibytes(instance.predicted_bytes)}), rounds {', '.join(str(n) for n in result.value['rounds'])}"
        + (f"; {rounds_before:,} rounds were saved before" if rounds_before else "")
    )


def recounted_peak(folder: RunFolder, plan: Plan, instance: Instance) -> int:
    """Return the predicted peak in bytes, by the missing values and zeros of all rows; refuse one that is above the budget.

    The plan knows their shares from the rows that the probes read; partitioning has counted them in all. Where a number of the
    user's stands for the memory model, the peak is that of the plan.
    """
    model = plan.costs.model
    if model.megabytes_per_gene is not None:
        return instance.predicted_bytes
    density = read_density(plan, segments_of(plan, instance), folder.segments)
    layout = layout_of(model.layout, density, plan.settings.layout_used, plan.settings.zero_is_missing)
    needed = model.with_layout(layout).needed_bytes(instance.n_training_rows, instance.n_genes)
    budget = plan.cut.budget
    if needed > budget.budget_bytes:
        refuse = OverAskedBudgetError if budget.is_users_number else OverBudgetError
        raise refuse(
            f"{instance.name} needs {gibibytes(needed)} GiB, but the budget is {gibibytes(budget.budget_bytes)} GiB "
            f"({budget.won}): {layout.missing_share:.2%} of its cells are missing, {model.layout.missing_share:.2%} in the "
            f"rows that the plan rests on{', and a column is nearly empty' if layout.has_sparse_column else ''}; --layout "
            "sentinel needs less where values are missing"
        )
    return model.with_layout(layout).predict_bytes(instance.n_training_rows, instance.n_genes)
