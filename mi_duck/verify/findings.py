"""The finding of a check, one line each; a file that cannot be read becomes one too."""

import csv
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pyarrow as pa

from mi_duck.errors import MiDuckError

OK, NOT_APPLICABLE, MISSING, DAMAGED = "ok", "not applicable", "missing", "damaged"
STATUSES = (OK, NOT_APPLICABLE, MISSING, DAMAGED)
UNREADABLE = (
    *(OSError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, RecursionError, MemoryError),
    *(StopIteration, csv.Error, pa.ArrowException, msgspec.MsgspecError, MiDuckError),
)
"""What Python, Arrow, msgspec and the readers of this package raise for damaged bytes and values."""
MOST_NAMED = 3

Verdict = tuple[str, str]
"""Status and detail of a check."""


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check.

    Parameters
    ----------
    name
        What was checked.
    status
        One of `STATUSES`, which go from good to bad.
    detail
        What was found.
    """

    name: str
    status: str
    detail: str


def guarded(name: str, check: Callable[[], Verdict]) -> Finding:
    """Return the finding of a check; a file that is absent is missing, and one that cannot be read is damaged."""
    try:
        status, detail = check()
    except FileNotFoundError as error:
        status, detail = MISSING, f"{Path(str(error.filename)).name} is not there"
    except UNREADABLE as error:
        words = " ".join(str(error).split())
        status, detail = DAMAGED, f"cannot be read: {words[:300] or type(error).__name__}"
    return Finding(name, status, detail)


def verdict(problems: Sequence[str], fine: str) -> Verdict:
    """Return ``damaged`` with the first problems, or ``ok`` with what was checked."""
    return (DAMAGED, listed(problems, "; ")) if problems else (OK, fine)


def listed(names: Sequence[str], joint: str = ", ") -> str:
    """Return the first of some names and how many more there are."""
    more = f"{joint}and {len(names) - MOST_NAMED:,} more" if len(names) > MOST_NAMED else ""
    return joint.join(names[:MOST_NAMED]) + more


def skipped(name: str, reason: str) -> Finding:
    """Return the finding of a check that cannot be made."""
    return Finding(name, NOT_APPLICABLE, reason)
