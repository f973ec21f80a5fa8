"""Which instance a task of a job array is to train: the scheduler says so in the environment."""

from collections.abc import Mapping
from dataclasses import dataclass

BEGINS_AT = {
    "SLURM_ARRAY_TASK_ID": 0,
    "JOB_COMPLETION_INDEX": 0,  # Kubernetes, jobs with indexed completion
    "PBS_ARRAY_INDEX": 0,
    "LSB_JOBINDEX": 1,
    "SGE_TASK_ID": 1,
}
"""Variables of schedulers, and what stands for instance 0: Slurm's, PBS's and Kubernetes' arrays may begin at 0."""
NO_ARRAY = {("LSB_JOBINDEX", "0"), ("SGE_TASK_ID", "undefined")}
"""What LSF and Grid Engine set in jobs that are not arrays."""


@dataclass(frozen=True, slots=True)
class ArrayIndex:
    """An index of a job array: the variable that holds it, its value, and the instance (from 0) that it stands for."""

    variable: str
    value: str
    instance_id: int


def array_index(environment: Mapping[str, str]) -> ArrayIndex | None:
    """Return the index of the job array that this process is a task of; None where it is of none.

    Parameters
    ----------
    environment
        Variables of the process.

    Raises
    ------
    ValueError
        A variable holds no index, or several schedulers give one.
    """
    found = {
        name: environment[name]
        for name in BEGINS_AT
        if environment.get(name) and (name, environment[name]) not in NO_ARRAY
    }
    if not found:
        return None
    if len(found) > 1:
        raise ValueError(
            f"{' and '.join(found)} are set, so which array this is a task of is unclear; give --instance N"
        )
    ((name, value),) = found.items()
    if not (value.isascii() and value.isdecimal()) or int(value) < BEGINS_AT[name]:
        raise ValueError(f"{name} is '{value}', no index from {BEGINS_AT[name]}; unset it or give --instance N")
    return ArrayIndex(name, value, int(value) - BEGINS_AT[name])
