"""Locks of a run folder: the whole run, the partition of its rows, each instance."""

import fcntl
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import IO

from mi_duck.atomic_files import remove_leftovers, storage_errors
from mi_duck.errors import RunBusyError
from mi_duck.run.folder import RunFolder
from mi_duck.run.plan import Instance

PAUSES = (0.02, 0.05, 0.1)  # seconds between tries: whoever only looks whether a lock is free holds it for a moment


@contextmanager
def run_lock(out: Path, *, name: str = ".lock", shared: bool = False, wait: bool = False) -> Iterator[None]:
    """Hold a lock of the run folder.

    Parameters
    ----------
    out
        The run folder.
    name
        ``.lock`` is the whole run; an instance and the partition of the rows have their own.
    shared
        Hold it together with others that ask for it so: several instances may be trained at once, by array jobs.
    wait
        Wait for it instead of giving up.

    Raises
    ------
    RunBusyError
        Another process holds it.
    """
    with storage_errors(out):
        out.mkdir(parents=True, exist_ok=True)
        handle = (out / name).open("w")
    with handle:
        kind = fcntl.LOCK_SH if shared else fcntl.LOCK_EX
        with storage_errors(out / name):  # file systems of clusters may be mounted without locks
            if wait:
                fcntl.flock(handle, kind)
            is_ours = wait or any(_lock_now(handle, kind, pause) for pause in PAUSES)
        if not is_ours:
            raise RunBusyError(f"another mi-duck works on {out}; wait for it or choose another --out")
        if name == ".lock" and not shared:  # so nobody else writes here
            with storage_errors(out):
                remove_leftovers(out)
        yield


def _lock_now(handle: IO[str], kind: int, pause: float) -> bool:
    """Return whether a lock could be taken; after a pause if not."""
    try:
        fcntl.flock(handle, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        time.sleep(pause)
        return False
    return True


def is_locked(out: Path, name: str) -> bool:
    """Return whether another process holds a lock of the run folder; nothing is written."""
    try:
        with (out / name).open() as handle:
            return not _lock_now(handle, fcntl.LOCK_SH, 0)
    except OSError:  # there is none, or it is not ours to look at
        return False


def instance_lock(folder: RunFolder, instance: Instance) -> AbstractContextManager[None]:
    """Return the lock of an instance, to be held while it is trained; see `run_lock`."""
    return run_lock(folder.root, name=f".lock_{instance.name}")
