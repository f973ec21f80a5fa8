"""Which instances are trained at once: as many as are asked for, as long as their expected peaks fit in memory together."""

from collections.abc import Sequence
from dataclasses import dataclass

from mi_duck.plan.plan import Instance


@dataclass(frozen=True, slots=True)
class Job:
    """An instance to be trained, and its number in messages, from 1."""

    number: int
    instance: Instance


def expected_bytes(job: Job, over: Sequence[float]) -> int:
    """Return the peak that an instance is expected to have: the predicted one, by the peaks measured so far.

    Parameters
    ----------
    job
        The instance.
    over
        Measured over predicted peak of instances that are trained, 0 where it is not known.
    """
    return int(job.instance.predicted_bytes * (max(over, default=0) or 1))


def most_at_once(expected: Sequence[int], workers: int, room_bytes: int) -> int:
    """Return how many of the workers can ever work at once: as many as the smallest instances that fit together, at least 1.

    Parameters
    ----------
    expected
        Expected peaks of the instances that are to be trained, bytes.
    workers
        Most that are asked for.
    room_bytes
        Memory that they may take together.
    """
    smallest = sorted(expected)
    return max((n for n in range(1, min(workers, len(smallest)) + 1) if sum(smallest[:n]) <= room_bytes), default=1)


def next_job(
    waiting: Sequence[Job], running: Sequence[Job], over: Sequence[float], *, at_once: int, room_bytes: int
) -> Job | None:
    """Return the first instance that may begin now, None where all that wait must go on waiting.

    One that fits beside those that run goes before one that does not, which runs when enough of the others have ended: at
    last alone, because one always may.

    Parameters
    ----------
    waiting, running
        Instances.
    over
        As for `expected_bytes`.
    at_once
        Most that may run.
    room_bytes
        Memory that they may take together.
    """
    if not running:
        return waiting[0]
    if len(running) >= at_once:
        return None
    left = room_bytes - sum(expected_bytes(job, over) for job in running)
    return next((job for job in waiting if expected_bytes(job, over) <= left), None)
