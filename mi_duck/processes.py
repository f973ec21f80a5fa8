"""Runs steps in child processes, several at once where asked: memory returns, peaks are measured, deaths are reported.

The child is a fresh interpreter, so it holds nothing that its parent imported; it finds modules where its parent does,
never in the working directory. Progress, messages for debugging (if its parent shows them) and result come back as lines
of JSON over a pipe of their own; standard output stays free.

`Pool` does several pieces of work at once, each in a thread of its own that waits for child processes; one that fails ends
all. Threads and not one loop over all children: what a piece of work does between two children, such as hashing what was
written, must not blind the watch over the memory of the others. A child is begun and awaited by the same thread, because
the kernel ends it when that thread ends.
"""

import ctypes
import importlib
import json
import logging
import math
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from pathlib import Path
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, TypeVar

from mi_duck import errors
from mi_duck.errors import IncompleteRunError, KilledError, MemoryBudgetError, MiDuckError, OverBudgetError
from mi_duck.numbers import gibibytes, mebibytes
from mi_duck.usage import Meter, StageUsage, peak_bytes, records


class _Absent(MetaPathFinder):
    """Refuses to find a module, and so keeps other finders from it; what is loaded already stays."""

    def __init__(self, module: str) -> None:
        self.module = module

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        """Refuse the module, leave the rest to others."""
        if name == self.module:
            raise ModuleNotFoundError(f"{name} is not used here", name=name)


NO_PANDAS, NO_SKLEARN = _Absent("pandas"), _Absent("sklearn")


def without_pandas() -> None:
    """Make pandas look absent to the rest of this process.

    Where it is installed, Arrow loads it to turn a column into NumPy numbers, and XGBoost too: 48 MiB and 0.2 s for nothing.
    """
    if NO_PANDAS not in sys.meta_path:
        sys.meta_path.insert(0, NO_PANDAS)


def with_pandas() -> None:
    """Let pandas be found again, for code of others that may need it."""
    # a child runs this file as __main__, so its object is another one
    sys.meta_path[:] = [one for one in sys.meta_path if getattr(one, "module", "") != "pandas"]


@contextmanager
def without_sklearn() -> Iterator[None]:
    """Make scikit-learn look absent for a while, so that XGBoost does not load it."""
    sys.meta_path.insert(0, NO_SKLEARN)
    try:
        yield
    finally:
        sys.meta_path.remove(NO_SKLEARN)


Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")

logger = logging.getLogger("mi_duck.processes")  # by name, because a child runs this file as __main__

Report = Callable[[str, int, int], None]
"""Progress callback, called with (stage, done, total)."""
Say = Callable[[str], None]
"""Takes a sentence for the user."""


WHOLE_RUN = "the whole run"  # a stage of the progress: seconds passed, of seconds expected


@dataclass(frozen=True, slots=True)
class Context:
    """What every step of a run is handed: threads for all that is done at once, and how it reaches the user.

    ``report`` and ``say`` may be called from several threads. ``in_this_process`` is for few data and the main thread: steps run
    here instead of in children, a second saved for each.
    """

    threads: int
    report: Report
    say: Say
    in_this_process: bool = False


# Freed memory goes back to the system at once instead of staying in the heap: 0.4 GiB at a thousand features.
THRESHOLD = 65536  # bytes
ALLOCATOR = {
    "MALLOC_TRIM_THRESHOLD_": str(THRESHOLD),
    "MALLOC_MMAP_THRESHOLD_": str(THRESHOLD),
    "ARROW_DEFAULT_MEMORY_POOL": "system",
}
# A step whose peak nobody predicts keeps a little: fetching the same pages for every array took a fifth of its time.
TOP_PAD = 16 << 20  # bytes
KEPT = {"MALLOC_TOP_PAD_": str(TOP_PAD)}
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD = -1, -2, -3  # of glibc's malloc.h
# Threads that wait for each other spin for a tenth of a millisecond, then sleep. Where they spin longer, cores that others
# use too are wasted; where they sleep at once, one is sometimes woken on the core of the other, and two are as slow as one
# (benchmarks/bench_waiting.py).
SPINS = "10000"
OUT_OF_MEMORY = ("bad_alloc", "bad_malloc")  # XGBoost's error is a ValueError with the words of C++
SECONDS_BETWEEN_REPORTS = 0.2
SECONDS_BETWEEN_LOOKS = 0.02  # new pages come at 2-4 GB/s, so a limit is passed by less than 100 MB
LEAST_LEFT = 192 << 20  # of the machine's memory; below it a machine swaps or freezes
SECONDS_TO_SAVE = 25.0  # that a child gets to end its round; schedulers give 30 or more before they kill
PR_SET_PDEATHSIG = 1
TERMINATED = 143  # asked to end, the state saved; 128 + SIGTERM, as shells count
# The parent gets these too, from a terminal or a scheduler, and ends the child with SIGTERM; so they never reach it.
FOR_THE_PARENT = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)


@dataclass(frozen=True, slots=True)
class ChildResult(Generic[Result]):
    """What a child returned, its peak resident memory, and what each of its stages used."""

    value: Result
    peak_bytes: int
    wall_seconds: float
    stages: tuple[StageUsage, ...] = ()


def waiting(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the variable that says how long threads spin, empty where the user has said how they wait."""
    is_said = "OMP_WAIT_POLICY" in environment or "GOMP_SPINCOUNT" in environment
    return {} if is_said else {"GOMP_SPINCOUNT": SPINS}


def share_the_machine() -> None:
    """Give freed memory back to the system, but for a little, and let waiting threads soon sleep, as children of this process do.

    To be called before Arrow and XGBoost are loaded. Where the C library knows no such thresholds, none are set.
    """
    os.environ |= waiting(os.environ)
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", ALLOCATOR["ARROW_DEFAULT_MEMORY_POOL"])
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        for option in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD):
            set_option(option, THRESHOLD)
        set_option(M_TOP_PAD, TOP_PAD)


class CancelledError(Exception):
    """The work of this thread was cancelled; see `mi_duck.processes`."""


def in_child(
    step: Callable[Concatenate[Report, Parameters], Result],
    context: Context,
    *,
    limit_bytes: int | None = None,
    frees_at_once: bool = False,
    is_cancelled: Callable[[], bool] | None = None,
) -> Callable[Parameters, ChildResult[Result]]:
    """Return a step that runs in a child process when it is called; see `run_child`.

    Parameters
    ----------
    step
        A function of a module; it takes the progress callback first. Its other arguments, given by name, and its result
        pass through JSON.
    context
        Threads of the numeric libraries in the child, and the progress callback.
    """

    def call(*positional: Parameters.args, **arguments: Parameters.kwargs) -> ChildResult[Result]:
        if positional:
            raise TypeError(f"{step.__name__} takes its arguments by name")
        if context.in_this_process:
            return run_here(step, arguments, context.report)
        return run_child(
            f"{step.__module__}:{step.__name__}",
            arguments,
            threads=context.threads,
            report=context.report,
            limit_bytes=limit_bytes,
            frees_at_once=frees_at_once,
            is_cancelled=is_cancelled,
        )

    return call


def run_here(step: Callable[..., Result], arguments: Mapping[str, Any], report: Report) -> ChildResult[Result]:
    """Run a step in this process, its arguments and result through JSON and BLAS with one thread, as in a child."""
    from threadpoolctl import threadpool_limits

    begun, meter = time.monotonic(), Meter()
    with threadpool_limits(1, "blas"):
        value = json.loads(json.dumps(step(meter.watching(report), **json.loads(json.dumps(arguments)))))
    return ChildResult(value, peak_bytes(), time.monotonic() - begun, meter.stages())


def run_child(
    function: str,
    arguments: Mapping[str, Any],
    *,
    threads: int,
    report: Report,
    limit_bytes: int | None = None,
    frees_at_once: bool = False,
    is_cancelled: Callable[[], bool] | None = None,
) -> ChildResult[Any]:
    """Run ``module:function`` in a child process and wait for it; `in_child` is its typed front.

    Parameters
    ----------
    function
        As ``package.module:name``; it is called with the progress callback and the arguments, which must be JSON.
    limit_bytes
        Resident memory at which the child is killed; by default only the machine's own memory is watched.
    frees_at_once
        Whether all freed memory goes back to the system at once, as where its peak is predicted by `mi_duck.run.costs`.
    is_cancelled
        Asked again and again whether the work was cancelled meanwhile, by another thread.

    Raises
    ------
    MiDuckError
        The same error that the function raised in the child.
    OverBudgetError, MemoryBudgetError
        The child passed its limit, or left the machine too little memory, and was killed here.
    KilledError
        It was killed by signal 9 from outside, as the kernel does when memory runs out.
    IncompleteRunError
        The child died in another way.
    CancelledError
        The work was cancelled; the child has ended.

    Notes
    -----
    Where waiting is interrupted, as by SIGINT, or cancelled, the child is asked to end, which a training does after its round,
    and killed after `SECONDS_TO_SAVE`. The kernel ends a child with the thread that began it, which therefore waits here.
    """
    if is_cancelled is not None and is_cancelled():
        raise CancelledError
    name = function.split(":")[-1]
    begun = time.monotonic()
    child, read_end = _begin(threads, frees_at_once=frees_at_once)
    answers: dict[str, Any] = {}
    reader = threading.Thread(target=_read_lines, args=(read_end, report, answers), daemon=True)
    reader.start()
    peak, excess = 0, None
    try:
        _ask(child, {"function": function, "arguments": dict(arguments)})
        while not _has_ended(child):
            peak = max(peak, peak_bytes(child.pid))
            excess = _excess(child.pid, limit_bytes)
            if excess is not None:
                _send(child, signal.SIGKILL)
                _wait(child)
                break
            if is_cancelled is not None and is_cancelled():
                raise CancelledError
            time.sleep(SECONDS_BETWEEN_LOOKS)
    finally:
        _end(child)
    reader.join()
    seconds = time.monotonic() - begun
    peak = max(peak, answers.get("peak_bytes", 0))
    end = "" if child.returncode == 0 else f", exit code {child.returncode}"
    logger.debug("child %s: %.2f s, peak %s MiB%s", function, seconds, mebibytes(peak), end)
    if excess is not None:
        raise type(excess)(f"{name} was stopped: {excess}")
    if "error" in answers:
        raise getattr(errors, answers["error"]["kind"])(answers["error"]["message"])
    # a scheduler asks parent and children at once
    if child.returncode == TERMINATED and is_cancelled is not None and is_cancelled():
        raise CancelledError
    if child.returncode != 0 or "result" not in answers:
        raise _death(name, child.returncode, peak)
    return ChildResult(answers["result"], peak, seconds, tuple(StageUsage(**one) for one in answers["stages"]))


def _begin(threads: int, *, frees_at_once: bool) -> "tuple[subprocess.Popen[bytes], int]":
    """Begin a child that waits for a request; return it and the end of the pipe at which its answers are read."""
    read_end, write_end = os.pipe()
    environment = (
        os.environ
        | waiting(os.environ)
        | ALLOCATOR
        | ({} if frees_at_once else KEPT)
        | {
            "OMP_NUM_THREADS": str(threads),
            "OPENBLAS_NUM_THREADS": "1",  # its sums depend on its threads in the last bit, and calibrators with them
            "PYTHONPATH": os.pathsep.join(_search_path()),
            "MI_DUCK_PIPE": str(write_end),
            "MI_DUCK_PARENT": str(os.getpid()),
        }
    )
    # a child inherits what is blocked, so there is no moment at which it could be hit
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, FOR_THE_PARENT)
    try:
        child = subprocess.Popen(
            [sys.executable, "-P", "-m", "mi_duck.processes"],
            stdin=subprocess.PIPE,
            env=environment,
            pass_fds=(write_end,),
        )
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    os.close(write_end)
    return child, read_end


def _search_path() -> list[str]:
    """Return where a child finds modules: where its parent does, without the user's folders, whose files may have any name."""
    ours = str(Path(__file__).resolve().parents[1])
    script = getattr(sys.modules.get("__main__"), "__file__", None)
    users = {"", str(Path.cwd()), str(Path(script).resolve().parent) if script else ""} - {ours}
    kept = [one for one in sys.path if one not in users]
    return kept if ours in kept else [*kept, ours]


def _ask(child: "subprocess.Popen[bytes]", request: dict[str, Any]) -> None:
    if child.stdin is not None:
        with suppress(BrokenPipeError), child.stdin:  # a child that died already is reported by its exit code
            child.stdin.write(json.dumps(request | {"is_traced": logger.isEnabledFor(logging.DEBUG)}).encode())


def _end(child: "subprocess.Popen[bytes]") -> None:
    """Ask a child that still runs to end, and kill it where it takes too long."""
    _send(child, signal.SIGTERM)
    if not _wait(child, SECONDS_TO_SAVE):
        _send(child, signal.SIGKILL)
        _wait(child)


def _has_ended(child: "subprocess.Popen[bytes]") -> bool:
    """Return whether a child has ended; its exit code is in ``returncode`` then.

    `Popen.poll` takes a lock. A signal handler that raises in that moment leaves it locked, and `Popen.wait` waits for ever.
    """
    if child.returncode is None:
        try:
            pid, status = os.waitpid(child.pid, os.WNOHANG)
        except ChildProcessError:  # an interrupt came between its end and the note of it
            pid, status = child.pid, signal.SIGTERM
        if pid == child.pid:
            child.returncode = os.waitstatus_to_exitcode(status)
    return child.returncode is not None


def _send(child: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    """Send a signal to a child that has not ended: until it is waited for, no other process has its number."""
    if not _has_ended(child):
        os.kill(child.pid, number)


def _wait(child: "subprocess.Popen[bytes]", seconds: float = math.inf) -> bool:
    """Wait until a child has ended, at most so many seconds; return whether it has."""
    end = time.monotonic() + seconds
    while not _has_ended(child) and time.monotonic() < end:
        time.sleep(SECONDS_BETWEEN_LOOKS)
    return _has_ended(child)


def _death(name: str, code: int, peak: int) -> MiDuckError:
    """Return the error to raise for a child that ended without a result, by its exit code."""
    if code == -signal.SIGKILL:
        return KilledError(
            f"{name} was killed by signal 9 at {gibibytes(peak)} GiB, as the system does when memory runs out; set a smaller "
            "--max-memory-per-instance-gb"
        )
    if code == TERMINATED:
        return IncompleteRunError(f"{name} was asked to end (SIGTERM); what it had done is saved")
    cause = f"of signal {-code} ({signal.strsignal(-code)})" if code < 0 else f"with exit code {code}"
    return IncompleteRunError(f"{name} died {cause}; its final output, if any, is above")


def _excess(pid: int, limit_bytes: int | None) -> MemoryBudgetError | None:
    """Return why a process must not go on, None where it may."""
    import psutil  # not at the top: a child has no use for it

    try:
        resident = psutil.Process(pid).memory_info().rss
        left = psutil.virtual_memory().available
    except psutil.NoSuchProcess:
        return None
    holds = f"it holds {gibibytes(resident)} GiB"
    if limit_bytes is not None and resident > limit_bytes:
        return OverBudgetError(f"{holds}, and its limit is {gibibytes(limit_bytes)} GiB")
    if left < LEAST_LEFT:
        return MemoryBudgetError(f"{holds}, and only {left >> 20} MiB are left on the machine for everything else")
    return None


def _read_lines(read_end: int, report: Report, answers: dict[str, Any]) -> None:
    with os.fdopen(read_end, encoding="utf-8") as lines:
        for line in lines:
            if not line.endswith("\n"):  # the child was killed in the middle of it
                break
            message = json.loads(line)
            if "progress" in message:
                report(*message["progress"])
            elif "trace" in message:
                logger.debug("%s", message["trace"])
            else:
                answers.update(message)


def instance_of(stage: str) -> str:
    """Return which of several instances a stage of the progress belongs to, empty where only one thing is done.

    `WHOLE_RUN` stands beside all of them.
    """
    if stage == WHOLE_RUN:
        return stage
    return stage.partition(":")[0] if stage.startswith("instance_") else ""


@contextmanager
def ending_deferred() -> Iterator[Callable[[], bool]]:
    """Note SIGTERM instead of dying of it; yield the question whether it came, and end the process afterwards if it did.

    An error that a handler raises could arrive inside C++, so the handler only takes a note.
    """
    came: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: came.append(number))
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGTERM, before)
    if came:
        raise SystemExit(TERMINATED)


class _ToParent(logging.Handler):
    """Sends log messages over the pipe, for the parent to show."""

    def __init__(self, send: Callable[..., None]) -> None:
        super().__init__()
        self.send = send

    def emit(self, record: logging.LogRecord) -> None:
        """Send one message."""
        self.send(trace=record.getMessage())


def _die_with_parent() -> None:
    """Ask the kernel to end this process when its parent ends, however that happens."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.environ.get("MI_DUCK_PARENT", str(os.getppid())) != str(os.getppid()):
        sys.exit("the parent ended while this process began")


def main() -> int:
    """Serve one call, as a child of `run_child`."""
    _die_with_parent()
    pipe = os.fdopen(int(os.environ["MI_DUCK_PIPE"]), "w", encoding="utf-8", buffering=1)
    last, meter = 0.0, Meter(is_fresh=True)

    def send(**message: Any) -> None:
        pipe.write(json.dumps(message) + "\n")

    def report(stage: str, done: int, total: int) -> None:
        nonlocal last
        meter.see(stage)
        now = time.monotonic()
        if done >= total or now - last > SECONDS_BETWEEN_REPORTS:
            last = now
            send(progress=[stage, done, total])

    request = sys.stdin.read()
    if not request:  # the parent was interrupted before it could ask
        return 1
    call = json.loads(request)
    if call["is_traced"]:
        ours = logging.getLogger("mi_duck")
        ours.setLevel(logging.DEBUG)
        ours.addHandler(_ToParent(send))
    module, name = call["function"].split(":")
    try:
        without_pandas()
        with without_sklearn():
            function = getattr(importlib.import_module(module), name)
        result = function(report=report, **call["arguments"])
    except MiDuckError as error:
        logger.debug("in %s:\n%s", call["function"], traceback.format_exc().rstrip())
        send(error={"kind": type(error).__name__, "message": str(error)})
        return error.exit_code
    except (MemoryError, ValueError) as error:
        if not isinstance(error, MemoryError) and not any(words in str(error) for words in OUT_OF_MEMORY):
            raise
        message = f"{name} could not get more memory at {gibibytes(peak_bytes())} GiB; set a smaller budget"
        send(error={"kind": "MemoryBudgetError", "message": message})
        return MemoryBudgetError.exit_code
    send(result=result, peak_bytes=peak_bytes(), stages=records(meter.stages()))
    return 0


Key = TypeVar("Key")

SECONDS_BETWEEN_WAKINGS = 0.2  # a signal that reaches another thread waits for this one to wake


class Task:
    """What a piece of work may ask while it is done: whether it is to end, and whether others were done beside it."""

    def __init__(self) -> None:
        self.ran_concurrently = False
        self._cancelled = threading.Event()

    def is_cancelled(self) -> bool:
        """Return whether the work is to end now."""
        return self._cancelled.is_set()

    def cancel(self) -> None:
        """Ask the work to end."""
        self._cancelled.set()


class Pool(Generic[Key, Result]):
    """Pieces of work under way, by key; at the end of a ``with`` block those that are left are cancelled and awaited."""

    def __init__(self) -> None:
        self.running: dict[Key, Task] = {}
        self._threads: list[threading.Thread] = []
        self._ended: SimpleQueue[tuple[Key, Result | MiDuckError | None]] = SimpleQueue()

    def __enter__(self) -> "Pool[Key, Result]":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for task in self.running.values():
            task.cancel()
        for thread in self._threads:
            while thread.is_alive():
                thread.join(SECONDS_BETWEEN_WAKINGS)

    def start(self, key: Key, work: Callable[[Task], Result], *, is_alone: bool = False) -> None:
        """Begin a piece of work, which gets its task; one beside which none will begin is done here and now."""
        task = Task()
        for other in self.running.values():
            other.ran_concurrently = task.ran_concurrently = True
        self.running[key] = task
        if is_alone:
            self._do(key, task, work)
            return
        # a daemon, so that Ctrl-C twice ends the process at once, and the kernel the children
        self._threads.append(threading.Thread(target=self._do, args=(key, task, work), daemon=True))
        self._threads[-1].start()

    def next(self) -> tuple[Key, Result]:
        """Wait for the next piece of work that ends; return its key and result, or raise the `MiDuckError` that it raised."""
        while True:
            with suppress(Empty):
                key, result = self._ended.get(timeout=SECONDS_BETWEEN_WAKINGS)
                break
        del self.running[key]
        if isinstance(result, MiDuckError):
            raise result
        if result is None:
            raise RuntimeError(f"the thread of {key} died")  # of a bug; its traceback stands above
        return key, result

    def _do(self, key: Key, task: Task, work: Callable[[Task], Result]) -> None:
        result: Result | MiDuckError | None = None
        try:
            result = work(task)
        except MiDuckError as error:
            result = error
        except CancelledError:
            pass
        finally:
            self._ended.put((key, result))


if __name__ == "__main__":
    sys.exit(main())
