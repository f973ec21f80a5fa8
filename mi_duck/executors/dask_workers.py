"""Trains instances by workers of Dask, started here or of a cluster that runs already.

A task is one instance, trained as by ``mi-duck train RUN --instance N``: in a child process of its worker, under its own lock,
from what was saved. Where leaves are fitted together and that takes long, the parts of that are tasks too. Only messages come
back; what is done lies in the run folder, which all workers must see. A worker has one task at a time, however many threads it
has. Dask's limits on memory count the worker alone, not its children, which have limits of their own; so workers started here
have none. They talk to this process alone, over TLS with keys made for it, because whoever reaches a scheduler of Dask can run
code.
"""

import logging
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from mi_duck.errors import MiDuckError, PlanError
from mi_duck.processes import Context
from mi_duck.resources import machine_budget
from mi_duck.rows.partition import partition
from mi_duck.run.folder import RunFolder, run_lock
from mi_duck.run.plan import Instance, Plan
from mi_duck.workflow.pipeline import train_run, untrained
from mi_duck.workflow.refit import is_worth_parts, n_parts, part_bytes, refit_part

if TYPE_CHECKING:
    from distributed import Client


WORKER_BYTES = 256 << 20  # a worker, its nanny, and what watches the training
SECONDS_TO_CONNECT = 30


def train_with_dask(
    root: Path,
    context: Context,
    *,
    scheduler: str | None,
    threads: int | None,
    at_once: int | None = None,
    is_finishing: bool = False,
) -> None:
    """Train the instances of a plan that are not done, at most ``at_once`` at a time; the run folder shows which were lost.

    Parameters
    ----------
    scheduler
        Address of a scheduler; None to start workers here, as many as memory and cores allow.
    threads
        Threads that the workers started here share; or of each instance on a cluster, by default as many as its worker has.
    is_finishing
        Whether the run is finished afterwards, so that leaves are fitted together too.

    Raises
    ------
    CheckpointError
        There is no plan.
    PlanError
        Dask is not installed, or there is no scheduler at the address.
    """
    folder = RunFolder(root)
    plan = folder.read_plan()
    left = [loss.instance for loss in untrained(folder, plan)]
    is_refitting = is_finishing and not folder.model.is_file() and is_worth_parts(plan, plan.asked.consolidation)
    if not left and not is_refitting:
        return
    n_tasks = max(len(left), n_parts(plan)[0] if is_refitting else 0)
    n_workers = min(at_once or n_tasks, n_tasks)
    if scheduler is None:
        n_workers = min(n_workers, _fitting(plan, left), threads or 1)
        threads = max((threads or 1) // n_workers, 1)
    with run_lock(root, shared=True), _client(scheduler, n_workers) as client:
        partition(folder, plan, replace(context, threads=threads or 1))
        if left:
            context.say(f"training {len(left)} instances by Dask at {client.scheduler.address}")
        do = partial(_do, client, str(root.absolute()), context=context, threads=threads, at_once=at_once)
        do({one.name: (train_there, one.instance_id) for one in left}, stage="training by Dask")
        if is_refitting and len(plan.cut.instances) - len(untrained(folder, plan)) > 1:
            of_folds, final = n_parts(plan)
            context.say(f"fitting leaves together by Dask, in {of_folds + final} parts")
            for parts in (range(of_folds), range(of_folds, of_folds + final)):
                do({f"refit_{number}": (refit_there, number) for number in parts}, stage="refitting leaves by Dask")


def _do(
    client: "Client",
    run: str,
    tasks: Mapping[str, tuple[Callable[[str, int, int], list[str]], int]],
    *,
    stage: str,
    context: Context,
    threads: int | None,
    at_once: int | None,
) -> None:
    """Do tasks, as many at once as there are workers; new workers are used, and what dead ones had goes to others.

    ``tasks`` are functions and their numbers, by name.
    """
    from distributed import as_completed

    waiting, running = list(tasks.items()), as_completed(loop=client.loop)
    n_running, n_done = 0, 0
    while n_done < len(tasks):
        workers = client.nthreads()
        while waiting and n_running < max(min(len(workers), at_once or len(tasks)), 1):
            name, (function, number) = waiting.pop(0)
            task = client.submit(
                function,
                run,
                number,
                threads or min(workers.values(), default=1),
                key=f"{name}-{uuid.uuid4().hex}",  # a scheduler gives old results under old names
                retries=0,
                pure=False,
            )
            running.add(task)
            n_running += 1
        ended = next(running)
        n_running, n_done = n_running - 1, n_done + 1
        context.report(stage, n_done, len(tasks))
        if ended.status == "finished":
            for line in ended.result():
                context.say(line)
        else:
            context.say(f"{ended.key}: {ended.exception() if ended.status == 'error' else ended.status}")


def train_there(run: str, instance_id: int, threads: int) -> list[str]:
    """Train an instance on a worker; return what was said."""
    return _said(lambda context: train_run(Path(run), context, instance_id=instance_id), threads)


def refit_there(run: str, number: int, threads: int) -> list[str]:
    """Fit the leaves of a part together on a worker; return what was said."""
    return _said(lambda context: refit_part(Path(run), number, context), threads)


def _said(work: Callable[[Context], None], threads: int) -> list[str]:
    """Do some work and return what it said, and why it ended if it could not be done."""
    lines: list[str] = []
    try:
        work(Context(threads, _quiet, lines.append))
    except MiDuckError as error:
        lines.append(str(error))
    return lines


def _quiet(stage: str, done: int, total: int) -> None:
    """Drop progress, which is not sent over the network."""


@contextmanager
def _client(scheduler: str | None, n_workers: int) -> Iterator["Client"]:
    """Give a client of a scheduler that runs already, or of one with workers started here."""
    try:
        from distributed import Client, LocalCluster
        from distributed.security import Security
    except ImportError as error:
        raise PlanError(f"--executor dask needs a package: {error}; pip install 'mi-duck[dask]'") from error
    logging.getLogger("distributed").setLevel(logging.ERROR)  # not its messages about workers that come and go
    if scheduler is not None:
        try:
            client = Client(scheduler, timeout=SECONDS_TO_CONNECT, set_as_default=False)
        except (OSError, ValueError) as error:
            raise PlanError(f"no Dask scheduler answers at --dask-scheduler {scheduler}: {error}") from error
        with client:
            yield client
        return
    with (
        LocalCluster(
            n_workers=n_workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,
            dashboard_address="127.0.0.1:0",  # any free port; there is no dashboard without further packages
            security=Security.temporary(),
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


def _fitting(plan: Plan, instances: list[Instance]) -> int:
    """Return how many instances fit this machine's memory at once, by the largest; at least one."""
    budget = machine_budget(plan.asked.memory_safety_factor).budget_bytes
    largest = max([part_bytes(plan), *(one.predicted_bytes for one in instances)])
    return max(int(budget // (largest + WORKER_BYTES)), 1)
