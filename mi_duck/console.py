"""What a terminal shows: errors in one line, progress, tables, facts, JSON. Results go to stdout, all else to stderr."""

import io
import json
import logging
import math
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from types import FrameType
from typing import Any

import rich.table
import typer
import typer.core
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from mi_duck.errors import MiDuckError
from mi_duck.numbers import duration
from mi_duck.processes import WHOLE_RUN, Report, instance_of

SECONDS_BETWEEN_LINES = 15.0
# Ctrl-C; asked to end; the terminal closed; what Slurm warns with before a time limit
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)


class Screen(Console):
    """A console whose reader may leave, as `| head` does: the rest is dropped, and the work goes on."""

    def on_broken_pipe(self) -> None:
        """Drop what is left to print."""
        self.quiet = True
        os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


logger = logging.getLogger("mi_duck")
errors = Screen(stderr=True, highlight=False, soft_wrap=True)
output = Screen(highlight=False, soft_wrap=True)


class Ended(SystemExit):
    """A signal asked the process to end: 130 for SIGINT, 143 for the others, which workflow managers try again."""

    def __init__(self, number: int) -> None:
        super().__init__(130 if number == signal.SIGINT else 143)
        self.signal = signal.Signals(number).name


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Turn signals that ask to end, and whatever the work fails with because of them, into `Ended`.

    DuckDB answers an error of a handler with one of its own.
    """
    came: list[int] = []

    def end(number: int, frame: FrameType | None) -> None:
        # a closing terminal sends several signals, of which one is enough; a second Ctrl-C ends at once
        if not came or number == signal.SIGINT:
            came.append(number)
            raise Ended(number)

    before = {
        number: signal.signal(number, end)
        for number in ENDING
        if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler)  # not where nohup has it ignored
    }
    try:
        yield
    except BaseException as error:
        if came:  # the handlers stay: more signals change nothing now
            raise Ended(came[0]) from error
        raise
    finally:
        if not came:
            for number, handler in before.items():
                signal.signal(number, handler)


class Commands(typer.core.TyperGroup):
    """Turns the errors of mi_duck into one line and their exit code, in one place."""

    def invoke(self, ctx: Any) -> Any:
        """Run a command; print ``error: ...`` for what the user can correct."""
        try:
            with _ended_by_signals():
                result = super().invoke(ctx)
                sys.stdout.flush()  # here, where a reader that left is not an error
            return result
        except MiDuckError as error:
            if logger.isEnabledFor(logging.DEBUG):
                traceback.print_exc()
            line = " ".join(str(error).splitlines())  # names from data may steer a terminal
            errors.print(f"error: {''.join(one if one.isprintable() else '?' for one in line)}", markup=False)
            raise typer.Exit(error.exit_code) from error
        except Ended as error:
            errors.print(f"ended by {error.signal}; the same command goes on where it stopped")
            raise
        except BrokenPipeError as error:
            # whoever read our output has gone, as `| head` does; nothing is left to say
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(0) from error
        except typer.Abort:
            raise
        except Exception as error:
            if hasattr(error, "exit_code"):  # one of Typer's own
                raise
            traceback.print_exc()
            errors.print("this is a bug in mi_duck: please report the lines above and the command")
            raise typer.Exit(70) from error


class _Messages(logging.Handler):
    """Prints messages above the progress bar, whole lines, without markup."""

    def emit(self, record: logging.LogRecord) -> None:
        """Print one message."""
        errors.print(self.format(record), markup=False)


def set_up_messages() -> None:
    """Send messages to standard error; let standard output write any name."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # a terminal may lack letters of a name
    logging.basicConfig(level=logging.INFO, format="%(message)s", handlers=[_Messages()], force=True)
    logger.setLevel(logging.NOTSET)


# ---- progress -----------------------------------------------------------------------------------------------------------


class _Done(MofNCompleteColumn):
    """How much of a stage is done; nothing of the whole run, whose seconds the next column has."""

    def render(self, task: Task) -> Text:
        """Return the text of a bar."""
        return Text() if task.description == WHOLE_RUN else super().render(task)


class _Left(ProgressColumn):
    """The time that is left: of the whole run where that is known, else of the stage."""

    def __init__(self) -> None:
        super().__init__()
        self.of_stage, self.is_known = TimeRemainingColumn(), False

    def render(self, task: Task) -> Text:
        """Return the text of a bar."""
        if task.description == WHOLE_RUN:
            self.is_known = True
            return Text(f"about {duration(task.remaining or 0)} left", style="progress.remaining")
        return Text() if self.is_known else self.of_stage.render(task)


@contextmanager
def reporting() -> Iterator[Report]:
    """Give a progress callback: bars on a terminal, a line every 15 seconds elsewhere, nothing with ``--quiet``.

    Instances that are trained at once report from threads of their own, each with its name in front: each has a bar. So
    has the whole run where it is reported, with the time that is left of it, which then stands there alone.
    """
    lock = threading.Lock()
    if errors.is_terminal and logger.isEnabledFor(logging.INFO):
        columns = (TextColumn("{task.description:<40}"), BarColumn(), _Done(), _Left())
        with Progress(*columns, console=errors, transient=True) as progress:
            bars: dict[str, tuple[str, Any]] = {}

            def show(stage: str, done: int, total: int) -> None:
                who = instance_of(stage)
                with lock:
                    if bars.get(who, ("",))[0] != stage:
                        for old in {who, ""} & bars.keys() if who else bars.keys() - {WHOLE_RUN}:
                            progress.remove_task(bars.pop(old)[1])
                        bars[who] = (stage, progress.add_task(stage, total=total))
                    progress.update(bars[who][1], completed=done, total=total)
                    if who and done >= total:  # perhaps all of it; what comes next makes another bar
                        progress.remove_task(bars.pop(who)[1])

            yield show
    else:
        begun = time.monotonic()
        last: dict[str, float] = {}

        def line(stage: str, done: int, total: int) -> None:
            who, now = instance_of(stage), time.monotonic()
            with lock:
                if who != WHOLE_RUN and now - last.get(who, max(last.values(), default=begun)) > SECONDS_BETWEEN_LINES:
                    last[who] = now
                    logger.info("    %s: %s of %s", stage, f"{done:,}", f"{total:,}")

        yield line


# ---- results ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Table:
    """Names of columns, and the rows below them."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]


def table_of(records: Sequence[Mapping[str, Any]]) -> Table:
    """Return a table of one or more records that have the same keys."""
    return Table(tuple(records[0]), tuple(tuple(record.values()) for record in records))


def print_table(table: Table) -> None:
    """Print a table: drawn on a terminal, tab-separated elsewhere so that other programs can read it."""
    texts = [["" if value is None else str(value) for value in row] for row in table.rows]
    if not output.is_terminal:
        for line in (table.columns, *texts):
            print("\t".join(line))
        return
    drawn = rich.table.Table(*table.columns, header_style="bold", box=None)
    for row in texts:
        drawn.add_row(*row)
    # a terminal breaks lines that are too long for it; what would be cut off to fit is lost
    needed = output.measure(drawn, options=output.options.update(width=100_000)).maximum
    Screen(highlight=False, width=max(needed, output.width)).print(drawn, crop=False)


def print_json(value: Any) -> None:
    """Print JSON; numbers that JSON lacks become null."""
    print(json.dumps(plain(value), indent=1, default=_value, allow_nan=False))


def _value(value: Any) -> Any:
    """Return what JSON has for a value of a type that it lacks: decimals are numbers, all else is text."""
    return float(value) if isinstance(value, Decimal) else str(value)


def print_facts(facts: Mapping[str, Any], as_json: bool = False) -> None:
    """Print facts as lines of a name and a value, or as JSON."""
    if as_json:
        print_json(facts)
        return
    for name, value in facts.items():
        output.print(f"{name.replace('_', ' '):<28} {_words(value)}", markup=False)


def _words(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key} {_number(number)}" for key, number in value.items()) or "none"
    if isinstance(value, list | tuple):
        return "; ".join(str(item) for item in value) or "none"
    return _number(value)


def _number(value: Any) -> str:
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def plain(value: Any) -> Any:
    """Return a value without NaN and infinities, which JSON lacks: they become null."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def unique(names: Sequence[str]) -> list[str]:
    """Return names of which none is lost as a key: the second ``a`` becomes ``a_2``."""
    return [name if name not in names[:at] else f"{name}_{names[:at].count(name) + 1}" for at, name in enumerate(names)]
