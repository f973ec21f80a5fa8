"""Where a request is written: into its folder, or, where that holds a finished run, beside it until all is complete.

A finished run that is asked for something else is done anew in a hidden folder beside it. The old results stay, byte for
byte, until the new ones are complete; then the two folders change places in one step, and the old one is deleted. A mark
inside the new folder says how far that is: a hidden folder with the mark is a run to go on with, one without is what is left
of old results, and a run with the mark has just changed places. What is not a run of ours is never written into.
"""

import ctypes
import errno
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from mi_duck.atomic_files import storage_errors, sync_folder, write_file
from mi_duck.errors import CheckpointError, StorageError
from mi_duck.processes import Say
from mi_duck.run.folder import RunFolder
from mi_duck.run.instance_folder import checkpoint_key, key_of_folder
from mi_duck.run.plan import Plan
from mi_duck.settings import Resuming

MARK = ".replacing"
CURVE = ".learning_curve"
"""Folder in that of a learning curve in which its sizes are trained."""
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux
NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP)
MOST_DIFFERENCES = 4


def check_ours(out: Path) -> None:
    """Refuse a folder that is neither absent, nor empty, nor a run; nothing is written.

    Raises
    ------
    CheckpointError
        It holds something else, or is a file.
    """
    if out.is_file():
        raise CheckpointError(f"{out} is a file, and a run is a folder; choose another --out")
    with storage_errors(out):
        names = sorted(entry.name for entry in out.iterdir()) if out.is_dir() else []
    if not names:
        return
    if (out / CURVE).is_dir():
        raise CheckpointError(f"{out} holds a learning curve; choose another --out")
    lock = out / ".lock"
    if lock.is_file() and lock.stat().st_size == 0:  # every run holds it, from its first second on
        return
    try:
        plan = json.loads((out / "plan.json").read_bytes())
        is_ours = isinstance(plan, dict) and {"version", "seal"} <= plan.keys()
    except (OSError, ValueError):
        is_ours = False
    if not is_ours:
        more = f" and {len(names) - 3:,} more" if len(names) > 3 else ""
        raise CheckpointError(
            f"{out} is not empty and not a run of mi-duck (it holds {', '.join(names[:3])}{more}); choose another --out"
        )


def folder_to_write(out: Path, resuming: Resuming, say: Say, differences: Callable[[Plan], Sequence[str]]) -> RunFolder:
    """Return the folder in which a request is done: ``out``, or one beside the finished run there; its lock is held.

    ``differences`` returns in what the request differs from a plan, each in words.

    Raises
    ------
    CheckpointError
        A finished run was made for another request, and nothing says that it may be replaced.
    StorageError
        The folder beside it cannot be made.
    """
    whole = out.resolve()
    clear_remains(whole)
    folder, other = RunFolder(out), beside(whole)
    if not was_finished(folder):
        return folder
    try:
        plan = folder.read_plan()
        changed = list(differences(plan))
    except CheckpointError:
        if not resuming.replaces:
            raise
        changed = ["another format of plans"]
    if not changed and not resuming.force_retrain_all:
        return folder
    if not resuming.replaces:
        raise CheckpointError(
            f"{out} is a finished run of another request ({'; '.join(changed[:MOST_DIFFERENCES])}); choose another --out, or "
            "give --replace: its results then stay until the new ones are complete"
        )
    if os.path.ismount(whole):
        raise StorageError(
            f"{out} is a mount point, which cannot change places with another folder; choose another --out"
        )
    say(f"{out} stays as it is until the new results, made in {other}, are complete")
    if not (other / MARK).is_file():
        with storage_errors(other):
            other.mkdir(exist_ok=True)
        write_file(other / MARK, f"{whole.name}\n".encode())
    return RunFolder(other)


def beside(whole: Path) -> Path:
    """Return the hidden folder beside a run, given by its absolute path, in which it is done anew."""
    return whole.parent / f".{whole.name}{MARK}"


def target_of(root: Path) -> Path | None:
    """Return the run that a hidden folder is to replace, None where the folder is none such."""
    whole = root.resolve()
    is_beside = (whole / MARK).is_file() and whole.name.startswith(".") and whole.name.endswith(MARK)
    return whole.parent / whole.name[1 : -len(MARK)] if is_beside else None


def was_finished(folder: RunFolder) -> bool:
    """Return whether a run was finished once, whatever has become of its files."""
    try:
        return bool(json.loads(folder.provenance.read_bytes())["status"] == "finished")
    except (OSError, ValueError, KeyError, TypeError):
        return False


def link_matching(old: RunFolder, new: RunFolder, plan: Plan) -> None:
    """Give a new run the instances of an old one that it would train alike: the same files under a second name."""
    found = {
        key: where
        for root in (old.stale, old.instances)
        for where in root.glob("instance_*")
        if (key := key_of_folder(where)) is not None
    }
    with storage_errors(new.root):
        for instance in plan.cut.instances:
            source, target = found.get(checkpoint_key(plan, instance)), new.instance(instance)
            if source is None or target.exists():
                continue
            partial = target.with_name(f".{target.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            shutil.copytree(source, partial, copy_function=_link)
            partial.rename(target)


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:  # a file system without links
        shutil.copy2(source, target)


@contextmanager
def discarded_if_refused(folder: RunFolder, out: Path) -> Iterator[None]:
    """Delete the folder beside a finished run where planning in it ended without a plan."""
    try:
        yield
    finally:
        if folder.root != out and not folder.plan.exists():
            shutil.rmtree(folder.root)


def change_places(new: Path, out: Path) -> None:
    """Put a complete run where an old one is, in one step where the file system can, and delete the old one.

    Files that a user put beside the old results move along.
    """
    whole = out.resolve()
    with storage_errors(whole):
        if not _exchange(new, whole):
            # two steps, between which the old run is beside under another name: see `clear_remains`
            whole.rename(_set_aside(whole))
            new.rename(whole)
            _set_aside(whole).rename(new)
        sync_folder(whole.parent)
    clear_remains(whole)


def clear_remains(whole: Path) -> None:
    """End a change of places that was interrupted: give names back, take the user's files along, delete old results."""
    other, aside = beside(whole), _set_aside(whole)
    with storage_errors(whole.parent):
        if aside.exists():
            if whole.exists():
                aside.rename(other)
            else:
                (other if (other / MARK).is_file() else aside).rename(whole)
                if aside.exists():
                    aside.rename(other)
        if other.exists() and not (other / MARK).is_file():
            for path in sorted(other.iterdir()):
                if is_foreign(path) and not (whole / path.name).exists():
                    path.rename(whole / path.name)
        if (whole / MARK).is_file():
            (whole / MARK).unlink()
        if other.exists() and not (other / MARK).is_file():
            shutil.rmtree(other)


def is_foreign(path: Path) -> bool:
    """Return whether a file or folder in a run folder is none that a run writes."""
    folder = RunFolder(path.parent)
    ours = {
        *(folder.plan, folder.splits, folder.genes, folder.memory, folder.stage_times, *folder.memory_plots),
        folder.provenance,
        *(folder.instances, folder.stale, folder.leakage, folder.root / "slurm"),
        *folder.results,
        *folder.result_folders,
    }
    return path not in ours and not path.name.startswith(".")


def _set_aside(whole: Path) -> Path:
    return whole.parent / f".{whole.name}.replaced"


def _exchange(one: Path, other: Path) -> bool:
    """Let two folders change places in one step; return False where the system or the file system cannot."""
    rename: Callable[..., int] | None = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if rename is None:
        return False
    if rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(other))
