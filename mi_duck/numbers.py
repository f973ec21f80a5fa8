"""How numbers are written for people: scores, intervals, differences, memory and time; each in one form.

The text is ASCII, so that every terminal and file takes it; `typeset` turns it into what the report shows. A number that is
not known (None or NaN) is a dash.
"""

import re

from mi_duck.resources import GIB

MIB = 1 << 20


def decimal(value: float | None, digits: int = 4, *, signed: bool = False) -> str:
    """Return a number with a fixed count of decimals; a difference is ``signed``, so that a gain has a plus.

    Examples
    --------
    >>> decimal(0.88564), decimal(-0.00001), decimal(1234.5, 1), decimal(None)
    ('0.8856', '0.0000', '1,234.5', '-')
    >>> decimal(0.0031, signed=True), decimal(-0.0031, signed=True)
    ('+0.0031', '-0.0031')
    """
    if value is None or value != value:
        return "-"
    return format(value, f"{'+' if signed else ''}z,.{digits}f")  # z: what rounds to zero has no minus


def interval(
    value: float | None, low: float | None, high: float | None, digits: int = 4, *, signed: bool = False
) -> str:
    """Return a number with its interval, alone where it has none.

    Examples
    --------
    >>> interval(0.8856, 0.8825, 0.8884), interval(0.8856, None, None)
    ('0.8856 (0.8825-0.8884)', '0.8856')
    >>> interval(0.01, -0.02, 0.04, 2, signed=True)
    '+0.01 (-0.02 to +0.04)'
    """
    middle, *ends = (decimal(one, digits, signed=signed) for one in (value, low, high))
    if value is None or low is None or high is None:
        return middle
    return f"{middle} ({(' to ' if signed or low < 0 else '-').join(ends)})"


def gibibytes(n_bytes: float | None) -> str:
    """Return bytes in GiB with two decimals, below one GiB with three, without the unit.

    Examples
    --------
    >>> gibibytes(3 << 29), gibibytes(3 << 26)
    ('1.50', '0.188')
    """
    return decimal(None if n_bytes is None else n_bytes / GIB, 3 if (n_bytes or 0) < GIB else 2)


def mebibytes(n_bytes: float | None) -> str:
    """Return bytes in whole MiB, without the unit.

    Examples
    --------
    >>> mebibytes(3 << 30)
    '3,072'
    """
    return decimal(None if n_bytes is None else n_bytes / MIB, 0)


def plain_text(text: str) -> str:
    """Return what `typeset` made as text that every terminal shows.

    Examples
    --------
    >>> plain_text("−.5000 (.8825–.8884)")
    '-.5000 (.8825-.8884)'
    """
    return text.replace("−", "-").replace("–", "-")


def duration(seconds: float) -> str:
    """Return a time in the unit that suits it.

    Examples
    --------
    >>> duration(59), duration(600), duration(9000)
    ('59 s', '10 min', '2.5 h')
    """
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def typeset(text: str) -> str:
    """Return numbers as print has them: minus signs, en dashes between numbers, no zero before the point of a fraction.

    Examples
    --------
    >>> typeset("0.8856 (0.8825-0.8884)"), typeset("-0.5000 (-0.6000 to 0.0000)"), typeset("10.5"), typeset("-")
    ('.8856 (.8825–.8884)', '−.5000 (−.6000 to .0000)', '10.5', '–')
    """
    text = re.sub(r"(?<![\d.,])0\.", ".", text)
    return re.sub(r"(?<!\d)-(?=[\d.])", "−", text).replace("-", "–")
