"""What a command is doing in a run folder right now, for others who look: ``status``, ``sql``.

The page is a small file that its writer maps into memory, so noting a stage costs no system call, and holds a lock on, so a
page that a kill left is known for what it is. Losing it costs nothing.
"""

import fcntl
import json
import mmap
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from mi_duck.atomic_files import storage_errors
from mi_duck.numbers import duration
from mi_duck.processes import WHOLE_RUN, Context, instance_of

LOG = "run.log"
PREFIX = ".progress"
SIZE = 1 << 14
SECONDS_BETWEEN = 0.2


@dataclass(frozen=True, slots=True)
class Stage:
    """A stage that is running.

    Parameters
    ----------
    command
        What was begun: ``run``, ``plan``, ``train`` and so on.
    name
        The stage, with the instance in front where several are trained at once.
    done, total
        What is done of what, in units of the stage.
    begun, command_begun
        Seconds since 1970.
    """

    command: str
    name: str
    done: int
    total: int
    begun: float
    command_begun: float

    def text(self, now: float) -> str:
        """Return it in words, with the time that is left of it at the speed so far."""
        if self.name == WHOLE_RUN:
            return f"{self.command}: about {duration(self.total - self.done)} left of {self.name}"
        since = time.strftime("%H:%M:%S", time.localtime(self.begun))
        words = f"{self.command}: {self.name}, {self.done:,} of {self.total:,}, for {duration(now - self.begun)} (since {since})"
        if 0 < self.done < self.total:
            words += f"; about {duration((now - self.begun) * (self.total - self.done) / self.done)} of it left"
        return words

    def record(self, now: float) -> dict[str, Any]:
        """Return it as JSON values, times in seconds; what is left is null where it is not known."""
        is_known = 0 < self.done < self.total
        left = (now - self.begun) * (self.total - self.done) / self.done if is_known else None
        return {
            "command": self.command,
            "stage": self.name,
            "done": self.done,
            "total": self.total,
            "seconds": round(now - self.begun, 1),
            "seconds_left": None if left is None else round(left, 1),
            "command_seconds": round(now - self.command_begun, 1),
        }


@contextmanager
def noting(root: Path, command: str, context: Context, *, suffix: str = "") -> Iterator[Context]:
    """Yield a context whose progress others can read in the run folder, and whose sentences are kept in its ``run.log``.

    Parameters
    ----------
    command
        What was begun.
    suffix
        Of the page's name, where several processes work on one run.
    """
    path = root / f"{PREFIX}{suffix}"
    with storage_errors(path):
        path.write_bytes(b" " * SIZE)  # all of it, so that the disk cannot be full later
        file = path.open("r+b")
    with file, mmap.mmap(file.fileno(), SIZE) as page:
        fcntl.flock(file, fcntl.LOCK_EX)
        note, log = _Note(page, command), _Log(root, f"{command}{suffix}")

        def report(stage: str, done: int, total: int) -> None:
            log.stage(stage)
            note(stage, done, total)
            context.report(stage, done, total)

        def say(words: str) -> None:
            log(words)
            context.say(words)

        try:
            log("begun")
            yield replace(context, report=report, say=say)
            log("ended")
        except BaseException as error:
            log(f"ended by {type(error).__name__}: {error}")
            raise
        finally:
            with suppress(OSError):  # a page that stays is not read: nobody holds its lock; what failed before counts
                path.unlink()


class _Log:
    """Appends what a command says and which stages it begins to ``run.log``, each with its time in UTC.

    Lines wait until the folder has a plan, so that a refused request leaves nothing.
    """

    def __init__(self, root: Path, command: str) -> None:
        self.path, self.plan, self.command = root / LOG, root / "plan.json", command
        self.waiting: list[str] = []
        self.begun: dict[str, str] = {}
        self.lock = threading.Lock()

    def stage(self, stage: str) -> None:
        """Note a stage when it begins."""
        who = instance_of(stage)
        if self.begun.get(who) != stage:
            self.begun[who] = stage
            self(stage)

    def __call__(self, words: str) -> None:
        """Note a sentence."""
        now = datetime.now(UTC).isoformat(timespec="seconds")
        with self.lock:
            self.waiting.append(f"{now} {self.command}: {' '.join(words.split())}\n")
            if self.plan.exists():
                with (
                    storage_errors(self.path),
                    self.path.open("a", encoding="utf-8", errors="backslashreplace") as file,
                ):
                    file.write("".join(self.waiting))
                self.waiting.clear()


class _Note:
    """Writes the stages onto the page; called from several threads."""

    def __init__(self, page: mmap.mmap, command: str) -> None:
        self.page, self.command, self.begun = page, command, time.time()
        self.stages: dict[str, dict[str, Any]] = {}
        self.lock = threading.Lock()
        self.written = 0.0
        self._write()

    def __call__(self, stage: str, done: int, total: int) -> None:
        who = instance_of(stage)
        now = time.time()
        with self.lock:
            before = self.stages.get(who)
            is_new = before is None or before["name"] != stage
            begun = now if before is None or is_new else before["begun"]
            if is_new and who != WHOLE_RUN:  # what it follows on is over
                self.stages = {
                    name: one
                    for name, one in self.stages.items()
                    if name == WHOLE_RUN or (who and name and one["done"] < one["total"])
                }
            self.stages[who] = {"name": stage, "done": done, "total": total, "begun": begun}
            if is_new or now - self.written > SECONDS_BETWEEN:
                self._write()

    def _write(self) -> None:
        self.written = time.time()
        stages = list(self.stages.values())
        while len(text := json.dumps({"command": self.command, "begun": self.begun, "stages": stages})) > SIZE:
            stages.pop(0)
        self.page[:] = text.encode().ljust(SIZE)


def stages_now(root: Path) -> list[Stage]:
    """Return what is being done in a run folder right now, by all processes; nothing is written."""
    found = []
    for path in sorted(root.glob(f"{PREFIX}*")):
        try:
            if not _is_held(path):
                continue
            values = json.loads(path.read_bytes())
            stages = values["stages"] or [{"name": "starting", "done": 0, "total": 1, "begun": values["begun"]}]
            found += [Stage(command=values["command"], command_begun=values["begun"], **one) for one in stages]
        except (OSError, ValueError, KeyError, TypeError):  # it is just being written, or ended just now
            continue
    return found


def _is_held(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def activity(root: Path) -> str | None:
    """Return in one line what is being done in a run folder right now, None where nothing is."""
    now = time.time()
    return "; ".join(stage.text(now) for stage in stages_now(root)) or None
