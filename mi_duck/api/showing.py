"""What Python shows while something runs: one line that changes in a notebook, a bar on a terminal, nothing elsewhere."""

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from html import escape
from typing import Any

from mi_duck.console import errors, reporting
from mi_duck.numbers import duration
from mi_duck.processes import WHOLE_RUN, Context, Report
from mi_duck.resources import usable_cores

SECONDS_BETWEEN_CHANGES = 0.5

logger = logging.getLogger("mi_duck")


@contextmanager
def showing(threads: int | None, progress: bool | None) -> Iterator[Context]:
    """Give what steps are handed: threads, a progress callback, and what says a sentence.

    Sentences go to the logger ``mi_duck``, warnings among them as warnings, which Python shows unless told otherwise.

    Parameters
    ----------
    progress
        Whether progress is shown; None: in a notebook and on a terminal.
    """
    shows = progress if progress is not None else in_notebook() or errors.is_terminal
    if not shows:
        source: Any = nullcontext(_silent)
    else:
        source = _notebook_line() if in_notebook() else reporting()
    with source as report:
        yield Context(threads or usable_cores(), report, say)


def say(words: str) -> None:
    """Log a sentence, as a warning where it is one."""
    if words.startswith("warning: "):
        logger.warning("%s", words)
    else:
        logger.info("%s", words)


def _silent(stage: str, done: int, total: int) -> None:
    """Show nothing."""


def in_notebook() -> bool:
    """Return whether this process is the kernel of a notebook."""
    try:
        from IPython import get_ipython
    except ImportError:
        return False
    shell = get_ipython()
    return shell is not None and type(shell).__name__ == "ZMQInteractiveShell"


@contextmanager
def _notebook_line() -> Iterator[Report]:
    """Give a progress callback that changes one line of a notebook's output, and takes it away at the end."""
    from IPython.display import HTML, display

    lock = threading.Lock()
    shown = display(HTML(""), display_id=True)
    last, left = 0.0, ""

    def change(stage: str, done: int, total: int) -> None:
        nonlocal last, left
        with lock:
            if stage == WHOLE_RUN:
                left = f"; about {duration(total - done)} left of {stage}"
                return
            now = time.monotonic()
            if now - last >= SECONDS_BETWEEN_CHANGES:
                last = now
                bar = f'<progress value="{done}" max="{max(total, 1)}"></progress>'
                shown.update(HTML(f"{bar} {escape(stage)}: {done:,} of {total:,}{left}"))

    try:
        yield change
    finally:
        shown.update(HTML(""))
