"""Options as keyword arguments: the names, ranges, defaults and help of `mi_duck.settings`, for functions of Python."""

import difflib
import inspect
import json
import types
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from mi_duck.errors import PlanError
from mi_duck.settings import DEFAULT_PRESET, PRESETS, Preset, is_repeated, joined_with, option_of

Records = Sequence[type]
Names = Collection[str] | None
"""Which options of the records are offered; None: all."""


def records_of(
    function: str,
    values: Mapping[str, Any],
    records: Records,
    names: Names = None,
    *,
    preset: Preset = DEFAULT_PRESET,
) -> list[Any]:
    """Return records of options filled with keyword arguments; what is not given has the preset's value, else its default.

    A list of names stands for names with commas between them, and a mapping for repeated ``NAME=VALUE``.

    Raises
    ------
    TypeError
        A name is not an option; the message has the nearest one.
    PlanError
        A value is of another type, out of its range, or not one of the values that are possible.
    """
    known = {name: one for one in options_of(records, names) for name in _names_of(one)}
    found: dict[str, Any] = {}
    for name, value in values.items():
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            raise TypeError(f"{function}() has no option '{name}'" + (f"; did you mean '{near[0]}'?" if near else ""))
        if known[name].name in found:
            first = next(one for one in values if known[one].name == known[name].name)
            raise TypeError(f"{function}() got '{first}' and '{name}', which are one option")
        found[known[name].name] = _checked(known[name], value)
    if preset not in PRESETS:
        raise PlanError(f"preset must be {' or '.join(map(repr, PRESETS))}, not {preset!r}{_nearest(preset, [Preset])}")
    for name, value in PRESETS[preset].items():
        found[name] = joined_with(value, found[name]) if name in found else value
    return [record(**{one.name: found[one.name] for one in fields(record) if one.name in found}) for record in records]


def options_of(records: Records, names: Names = None) -> "list[Field[Any]]":
    """Return the options of records as fields."""
    return [one for record in records for one in fields(record) if names is None or one.name in names]


def _names_of(one: "Field[Any]") -> Iterator[str]:
    yield one.name
    if other := option_of(one).also:
        yield other.removeprefix("--").replace("-", "_")


def _checked(one: "Field[Any]", value: Any) -> Any:
    """Return a value as the record takes it, or refuse it."""
    if value is None and one.default is None:
        return None
    kinds = [kind for kind in _alternatives(one.type) if kind is not type(None)]
    value = value.item() if hasattr(value, "item") and getattr(value, "ndim", 1) == 0 else value  # a number of NumPy
    if is_repeated(one):
        value = _texts(value)
    elif kinds == [str]:
        value = _text(value)
    elif kinds == [Path] and isinstance(value, str):
        value = Path(value)
    elif kinds == [float] and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if not is_repeated(one) and not _fits(value, kinds):
        raise PlanError(f"{one.name} must be {_words(one)}, not {value!r:.60}{_nearest(value, kinds)}")
    option = option_of(one)
    if isinstance(value, int | float) and not isinstance(value, bool):
        low, high = option.least, option.most
        if not ((low is None or value >= low) and (high is None or value <= high)):  # also refuses nan
            raise PlanError(f"{one.name} must be {_words(one)}, not {value!r}")
    return value


def _alternatives(kind: Any) -> tuple[Any, ...]:
    return get_args(kind) if isinstance(kind, types.UnionType) or get_origin(kind) is Union else (kind,)


def _fits(value: Any, kinds: Sequence[Any]) -> bool:
    for kind in kinds:
        if get_origin(kind) is Literal:
            if value in get_args(kind):
                return True
        elif isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
            return True
    return False


def _text(value: Any) -> Any:
    """Return a list of names, or a number such as a share, as the command line has it."""
    if isinstance(value, list | tuple):
        names = [str(part) for part in value]
        if bad := next((name for name in names if "," in name), None):
            raise PlanError(f"the name '{bad}' has a comma, which stands between names; rename it")
        return ",".join(names)
    return str(value) if isinstance(value, int | float | Path) and not isinstance(value, bool) else value


def _texts(value: Any) -> tuple[str, ...]:
    """Return repeated texts from one text, several, or a mapping of names to values."""
    if isinstance(value, Mapping):
        return tuple(
            f"{name}={json.dumps(one) if isinstance(one, Mapping | list | tuple) else one}"
            for name, one in value.items()
        )
    if value is None:
        return ()
    if isinstance(value, str | Path):
        return (str(value),)
    if not isinstance(value, list | tuple) or not all(isinstance(part, str | Path) for part in value):
        raise PlanError(
            f"a mapping of names to values is needed, such as {{'min_child_weight': 10}}, not {value!r:.60}"
        )
    return tuple(map(str, value))


def _nearest(value: Any, kinds: Sequence[Any]) -> str:
    known = [str(one) for kind in kinds if get_origin(kind) is Literal for one in get_args(kind)]
    near = difflib.get_close_matches(str(value), known, n=1)
    return f"; did you mean '{near[0]}'?" if near else ""


# ---- what help() shows ----------------------------------------------------------------------------------------------------


def with_options(records: Records, names: Names = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Give a function with ``**options`` the signature of its options, and its docstring their text for ``{options}``."""

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        own = inspect.signature(function)
        first = [one for one in own.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
        options = [
            inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=one.type)
            for one in options_of(records, names)
        ]
        function.__signature__ = own.replace(parameters=[*first, *options])  # type: ignore[attr-defined]
        function.__doc__ = with_text(function.__doc__, records, names)
        return function

    return decorate


def with_text(doc: str | None, records: Records, names: Names = None) -> str:
    """Return a docstring with an entry for each option in the place of ``{options}``."""
    lines = []
    for one in options_of(records, names):
        default = "" if one.default in (None, ()) else f", default {one.default!r}"
        lines += [f"{one.name} : {_words(one)}{default}", f"    {option_of(one).help}"]
    return inspect.cleandoc(doc or "").replace("{options}", "\n".join(lines))


def _words(one: "Field[Any]") -> str:
    """Return in words what an option takes."""
    option = option_of(one)
    if is_repeated(one):
        return "mapping of names to values" if option.metavar == "NAME=VALUE" else "texts"
    kinds = [kind for kind in _alternatives(one.type) if kind is not type(None)]
    choices = [repr(value) for kind in kinds if get_origin(kind) is Literal for value in get_args(kind)]
    if choices:
        return " or ".join(choices)
    (kind,) = kinds
    names = {bool: "True or False", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    text = "a list of names" if option.metavar == "NAMES" else names[kind]
    if kind in (int, float):
        ends = (("at least", option.least), ("at most", option.most))
        bounds = [
            f"{words} {int(end):,}" if kind is int else f"{words} {end:g}" for words, end in ends if end is not None
        ]
        text += f" ({' and '.join(bounds)})" if bounds else ""
    return text
