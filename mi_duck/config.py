"""Reads the values of flags from a TOML file: checks its keys; the values are checked by the command line, as flags are.

A key is a flag without its dashes, ``n-estimators`` or ``n_estimators``. Keys at the top are for all commands, and a command
passes over those of others; keys in a table named after a command are for it alone and win over those at the top.
"""

import difflib
import math
import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mi_duck.errors import PlanError

LARGEST_FILE = 1 << 20
MOST_DOTS = 100  # in a line: a key of 200,000 parts took minutes and gigabytes, tomllib keeps every beginning of it
WORDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text in quotes"}


@dataclass(frozen=True, slots=True)
class Flag:
    """A flag that a file may set: the parameter it fills, and what its value is: bool, int, float or str."""

    parameter: str
    kind: type


@dataclass(frozen=True, slots=True)
class Setting:
    """A value of a file, and the key under which it stands there."""

    key: str
    value: Any


def read_settings(path: Path, command: str, flags: Mapping[str, Mapping[str, Flag]]) -> dict[str, Setting]:
    """Return what a file sets for one command.

    Parameters
    ----------
    path
        The file, at most 1 MB of UTF-8; a byte order mark is passed over.
    command
        Name of the command.
    flags
        For every command its flags, by their names with dashes between words and none in front.

    Returns
    -------
    dict[str, Setting]
        By parameter.

    Raises
    ------
    PlanError
        The file cannot be read or is no TOML; a key is unknown or stands there twice; a value is of another kind.
    """
    contents = _contents(path)
    top = {name: flag for one in flags.values() for name, flag in one.items()}
    _refuse_unknown(path, [name for name in contents if name not in flags], top, [*top, *flags])
    found = _settings(path, {name: value for name, value in contents.items() if name not in flags}, flags[command])
    for table in flags.keys() & contents.keys():
        if not isinstance(contents[table], dict):
            raise PlanError(f"{path}: '{table}' is a command; write its flags under [{table}]")
        _refuse_unknown(path, contents[table], flags[table], flags[table], table=table)
    return found | _settings(path, contents.get(command, {}), flags[command], table=command)


def _contents(path: Path) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            data = file.read(LARGEST_FILE + 1)
    except OSError as error:
        raise PlanError(f"cannot read --config {path}: {error.strerror}; give a TOML file") from error
    if len(data) > LARGEST_FILE:
        raise PlanError(f"--config {path} is larger than 1 MB, more than any list of flags; give a TOML file")
    if any(line.count(b".") > MOST_DOTS for line in data.splitlines()):
        raise PlanError(f"--config {path} has a line with more than {MOST_DOTS} dots, more than any flag needs")
    try:
        return tomllib.loads(data.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise PlanError(f"--config {path} is no UTF-8 at byte {error.start:,}; save it as UTF-8") from error
    except RecursionError as error:
        raise PlanError(f"--config {path} is nested deeper than any list of flags") from error
    except ValueError as error:  # of TOML, and of numbers with thousands of digits
        raise PlanError(f"--config {path} is no TOML: {error}") from error


def _refuse_unknown(
    path: Path, keys: Iterable[str], known: Mapping[str, Flag], offered: Iterable[str], *, table: str = ""
) -> None:
    for key in keys:
        if _name(key) not in known:
            close = difflib.get_close_matches(_name(key), list(offered), n=1)
            where = f" in [{table}]" if table else ""
            advice = f"did you mean '{close[0]}'?" if close else f"'mi-duck {table or 'COMMAND'} --help' lists them"
            raise PlanError(f"{path}: unknown key '{key}'{where}; {advice}")


def _settings(
    path: Path, values: Mapping[str, Any], flags: Mapping[str, Flag], *, table: str = ""
) -> dict[str, Setting]:
    """Return by parameter the values that the command knows, each of the kind that its flag takes."""
    found: dict[str, Setting] = {}
    for name, value in values.items():
        flag = flags.get(_name(name))
        if flag is None:
            continue
        key = f"{table}.{name}" if table else name
        if flag.parameter in found:
            raise PlanError(f"{path}: '{found[flag.parameter].key}' and '{key}' are the same flag; keep one")
        if not _is(value, flag.kind):
            raise PlanError(f"{path}: '{key}' needs {WORDS[flag.kind]}, not {_short(value)}")
        found[flag.parameter] = Setting(key, value)
    return found


def _is(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if kind is str:
        return isinstance(value, str) and "\0" not in value
    return type(value) is kind


def _short(value: Any) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:60]}..."


def _name(key: str) -> str:
    return key.replace("_", "-")
