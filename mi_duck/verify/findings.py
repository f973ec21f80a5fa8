"""What a check found, in one line, and how a file that cannot be read becomes such a line."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from mi_duck.errors import MiDuckError

OK, NOT_APPLICABLE, MISSING, DAMAGED = "ok", "not applicable", "missing", "damaged"
STATUSES = (OK, NOT_APPLICABLE, MISSING, DAMAGED)
UNREADABLE = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, MemoryError),
    *(StopIteration, csv.Error, pa.ArrowException, MiDuckError),
)
"""What Python, Arrow, XGBoost and our own readers raise at bytes or values that make no sense."""
MOST_NAMED = 3

Verdict = tuple[str, str]
"""Status and detail of a check."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check.

    Parameters
    ----------
    name
        What was looked at.
    status
        One of `STATUSES`, which are in the order of their weight.
    detail
        What was found, in words.
    """

    name: str
    status: str
    detail: str


def guarded(name: str, check: Callable[[], Verdict]) -> Finding:
    """Return what a check finds; what it cannot read is damaged, or missing where the file is not there."""
    try:
        status, detail = check()
    except FileNotFoundError as error:
        status, detail = MISSING, f"{Path(str(error.filename)).name} is not there"
    except UNREADABLE as error:
        words = " ".join(str(error).split())
        status, detail = DAMAGED, f"cannot be read: {words[:300] or type(error).__name__}"
    return Finding(name, status, detail)


def verdict(problems: Sequence[str], fine: str) -> Verdict:
    """Return ``damaged`` with the first problems, or ``ok`` with what was looked at."""
    return (DAMAGED, listed(problems, "; ")) if problems else (OK, fine)


def listed(names: Sequence[str], joint: str = ", ") -> str:
    """Return the first of some names and how many more there are."""
    more = f"{joint}and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    return joint.join(names[:MOST_NAMED]) + more


def skipped(name: str, reason: str) -> Finding:
    """Return the finding of a check that cannot be made."""
    return Finding(name, NOT_APPLICABLE, reason)
