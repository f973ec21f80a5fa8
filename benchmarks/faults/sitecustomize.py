"""Makes the k-th change of a file under one folder fail, in whichever process of a tree it happens.

Python imports this module by itself in every process that finds it on its path; it does nothing unless the environment
says so:

MI_DUCK_FAULT_AT      folder; only changes under it count
MI_DUCK_FAULT_COUNT   file with the number of changes so far, shared by all processes
MI_DUCK_FAULT         ``count`` (write each change to the count's file, one a line), ``copy:FOLDER`` (the same, and copy
                      the folder to FOLDER/k before change k), or ``kill:k``, ``kill-after:k``, ``EIO:k``, ``ENOSPC:k``,
                      ``short:k`` (half a write), ``full:k`` (ENOSPC from k on)

Changes are what Python does: open for writing, write, fsync, replace, rename, unlink, rmdir, mkdir, fallocate. What
DuckDB and Arrow write themselves passes unseen; full disks of `chaos` reach those.
"""

import builtins
import errno
import fcntl
import io
import os
import shutil
import signal
from pathlib import Path
from typing import Any

ORIGINAL = {name: getattr(os, name) for name in ("open", "write", "pwrite", "fsync", "replace", "close")}
GROWS = {"open", "write", "pwrite", "mkdir", "fsync", "replace", "rename", "posix_fallocate"}


def change(name: str, path: object) -> str:
    """Count a change of a path and do what the environment says; return ``short`` where a write is to be cut."""
    where = os.path.abspath(os.fsdecode(path)) if isinstance(path, str | bytes | os.PathLike) else str(path)
    root = os.environ["MI_DUCK_FAULT_AT"]
    if where != root and not where.startswith(root + "/"):
        return ""
    number = _next(f"{name} {where.removeprefix(root)}")
    kind, _, at = os.environ["MI_DUCK_FAULT"].partition(":")
    if kind == "copy" and os.path.isdir(root):
        shutil.copytree(root, f"{at}/{number}", symlinks=True)
    elif kind == "full" and number >= int(at) and name in GROWS:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), where)
    elif kind in ("kill", "EIO", "ENOSPC", "short", "kill-after") and number == int(at):
        if kind == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if kind in ("EIO", "ENOSPC"):
            raise OSError(getattr(errno, kind), os.strerror(getattr(errno, kind)), where)
        return kind
    return ""


def _next(line: str) -> int:
    """Return the number of this change, from 1, over all processes."""
    handle = ORIGINAL["open"](os.environ["MI_DUCK_FAULT_COUNT"], os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX)
        number = os.pread(handle, 1 << 22, 0).count(b"\n") + 1
        ORIGINAL["write"](handle, f"{os.getpid()} {line}\n".encode())
    finally:
        ORIGINAL["close"](handle)
    return number


def path_of(handle: object) -> str:
    """Return the path behind a file descriptor."""
    try:
        return os.readlink(f"/proc/self/fd/{handle}")
    except OSError:
        return ""


def _after(kind: str) -> None:
    if kind == "kill-after":
        os.kill(os.getpid(), signal.SIGKILL)


def _wrapped(name: str, original: Any) -> Any:
    def call(path: Any, *arguments: Any, **options: Any) -> Any:
        folder = options.get("dir_fd")
        where = f"{path_of(folder)}/{os.fsdecode(path)}" if folder is not None else path
        kind = change(name, path_of(path) if isinstance(path, int) else where)
        if kind == "short" and name in ("write", "pwrite") and len(arguments[0]) > 1:
            data = memoryview(arguments[0]).cast("B")
            arguments = (data[: len(data) // 2], *arguments[1:])
        result = original(path, *arguments, **options)
        _after(kind)
        return result

    return call


def _opens(original: Any) -> Any:
    def call(path: Any, flags: int, *arguments: Any, **options: Any) -> Any:
        if flags & (os.O_WRONLY | os.O_RDWR) and options.get("dir_fd") is None:
            change("open", path)
        return original(path, flags, *arguments, **options)

    return call


class CountedFile(io.FileIO):
    """A file whose writes are changes."""

    def write(self, data: Any, /) -> int:
        """Write, all or half."""
        kind = change("write", os.fsdecode(self.name) if not isinstance(self.name, int) else path_of(self.name))
        view = memoryview(data).cast("B")
        written = super().write(view[: len(view) // 2] if kind == "short" and len(view) > 1 else view)
        _after(kind)
        return int(written or 0)


def _opened(original: Any) -> Any:
    def call(file: Any, mode: str = "r", buffering: int = -1, *arguments: Any, **options: Any) -> Any:
        root = os.environ["MI_DUCK_FAULT_AT"]
        writes = any(letter in mode for letter in "wax+")
        if not writes or isinstance(file, int) or not os.path.abspath(os.fsdecode(file)).startswith(root + "/"):
            return original(file, mode, buffering, *arguments, **options)
        change("open", file)
        raw = CountedFile(file, mode.replace("b", "").replace("t", ""))
        if "b" in mode:
            return raw if buffering == 0 else io.BufferedWriter(raw)
        names = dict(zip(("encoding", "errors", "newline"), arguments, strict=False)) | options
        return io.TextIOWrapper(io.BufferedWriter(raw), **names)

    return call


def install() -> None:
    """Put the wrappers in the place of what they wrap."""
    for name in (
        "write",
        "pwrite",
        "fsync",
        "replace",
        "rename",
        "unlink",
        "remove",
        "rmdir",
        "mkdir",
        "posix_fallocate",
    ):
        original = getattr(os, name)
        wrapper = _wrapped("unlink" if name == "remove" else name, original)
        setattr(os, name, wrapper)
        if original in os.supports_dir_fd:  # shutil asks
            os.supports_dir_fd.add(wrapper)
    opened, os.open = os.open, _opens(os.open)
    if opened in os.supports_dir_fd:
        os.supports_dir_fd.add(os.open)
    builtins.open = io.open = _opened(io.open)  # type: ignore[assignment]


if os.environ.get("MI_DUCK_FAULT") and Path(os.environ["MI_DUCK_FAULT_AT"]).is_absolute():
    install()
