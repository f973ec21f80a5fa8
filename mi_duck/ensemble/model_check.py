"""Whether a model file whose hash is right holds a model: nothing in it is believed before it is checked here.

The hash says that a file is whole, not where it comes from. So its parts must be those that a model has, by names that come from
code; its facts (JSON) must be of the right types and within their ranges; its boosters are checked by
`mi_duck.ensemble.booster_check` before XGBoost sees them.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mi_duck.ensemble.booster_check import check_booster, require
from mi_duck.errors import CheckpointError
from mi_duck.train.calibrate import METHODS

LARGEST_FACTS = 256 << 20  # bytes of JSON; isotonic steps are most of them
MOST_CLASSES = 1_000
LARGEST_COEFFICIENT = 1e100
LARGEST_COUNT = 1 << 62
LARGEST_SINGLE = 3.4e38  # of numbers in single precision


def read_facts(data: bytes, source: str) -> dict[str, Any]:
    """Return the JSON of a model, without doubled keys, NaN or infinity.

    Raises
    ------
    CheckpointError
        It is no such JSON object.
    """
    try:
        require(len(data) <= LARGEST_FACTS, f"its facts take {len(data):,} bytes")
        facts = json.loads(data, object_pairs_hook=_once, parse_constant=_no_number)
        require(isinstance(facts, dict), "its facts are no JSON object")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(_refusal(source, error)) from error
    found: dict[str, Any] = facts
    return found


def check_model(facts: Mapping[str, Any], parts: Mapping[str, bytes], source: str) -> None:
    """Check facts and boosters of a model of any kind: ``ensemble``, ``instance`` or ``folds``.

    Parameters
    ----------
    facts
        From `read_facts`.
    parts
        All parts of the file.
    source
        Its name, for messages.

    Raises
    ------
    CheckpointError
        Something is missing, too much, of another type, or out of its range.
    """
    try:
        rounds = _check_facts(facts)
        names = {
            f"booster_{number}_{index}.ubj" if facts["kind"] != "instance" else f"booster_{index}.ubj": (number, index)
            for number, of_classes in enumerate(rounds)
            for index in range(len(of_classes))
        }
        require(
            set(parts) == {"model.json", *names}, f"its {len(parts):,} parts are not those of {len(names)} boosters"
        )
        for name, (number, index) in names.items():
            check_booster(parts[name], name, n_features=len(facts["features"]), n_rounds=rounds[number][index])
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(_refusal(source, error)) from error


# ---- facts -----------------------------------------------------------------------------------------------------------


def _check_facts(facts: Mapping[str, Any]) -> list[list[int]]:
    """Return the rounds of every booster: one list a member, or fold, with a number a class."""
    kind = facts["kind"]
    features, classes = (_texts(facts[name], name) for name in ("features", "classes"))
    require(bool(features), "it has no feature")
    require(1 < len(classes) <= MOST_CLASSES, f"it has {len(classes):,} classes")
    _check_encoding(facts["encoding"], features)
    if kind == "folds":
        rounds, calibrators = _list(facts["rounds"], "rounds"), _list(facts["calibrators"], "calibrators")
        require(len(rounds) == len(calibrators), "rounds and calibrators are of different folds")
        for row in calibrators:
            _check_calibrators(row, len(classes))
        return [_rounds(row, len(classes)) for row in rounds]
    members = [facts] if kind == "instance" else _list(facts["members"], "members")
    require(bool(members), "it has no member")
    if kind != "instance":
        weights = [_number(weight, "a weight", 0, 1) for weight in _list(facts["weights"], "weights")]
        require(len(weights) == len(members), f"it has {len(members)} members and {len(weights)} weights")
        require(abs(sum(weights) - 1) < 1e-6, f"its weights sum to {sum(weights):g}, not 1")
        require(isinstance(facts["voting"], str), "its voting is no text")
        _check_thresholds(facts["thresholds"], classes)
        _whole(facts["n_genes"], "n_genes")
        _check_calibrators(facts["calibrators"], len(facts["calibrators"]))
    for member in members:
        for name in ("instance_id", "n_genes", "n_rows", "n_training_rows"):
            _whole(member[name], name)
        _check_calibrators(member["calibrators"], len(classes))
    return [_rounds(member["rounds"], len(classes)) for member in members]


def _check_encoding(values: Mapping[str, Any], features: Sequence[str]) -> None:
    chosen = _texts(values["zero_is_missing"], "zero_is_missing")
    require(set(chosen) <= set(features), "zero_is_missing names what is no feature")
    if values["sentinel"] is not None:
        _number(values["sentinel"], "the sentinel", -LARGEST_SINGLE, LARGEST_SINGLE)


def _check_thresholds(values: Mapping[str, Any], classes: Sequence[str]) -> None:
    require(set(values) <= set(classes), "thresholds are of other classes")
    for name, kinds in values.items():
        for kind, value in kinds.items():
            if value is not None:
                _number(value, f"threshold {kind} of '{name}'", 0, 1)


def _check_calibrators(several: Any, n: int) -> None:
    require(len(_list(several, "calibrators")) == n, f"it has {len(several)} calibrators for {n} classes")
    for one in several:
        require(one["method"] in METHODS, f"calibration '{one['method']}'; this program knows {', '.join(METHODS)}")
        for name in ("slope", "intercept"):
            _number(one[name], f"the {name} of a calibrator", -LARGEST_COEFFICIENT, LARGEST_COEFFICIENT)
        steps = [_list(one[name], name) for name in ("margins", "probabilities")]
        for name, most, values in zip(("margin", "probability"), (LARGEST_COEFFICIENT, 1), steps, strict=True):
            for value in values:
                _number(value, f"a {name} of a calibrator", -most if most > 1 else 0, most)
            require(all(a <= b for a, b in zip(values, values[1:], strict=False)), f"a {name} of a calibrator falls")
        n_steps = {len(values) for values in steps}
        require(len(n_steps) == 1, "a calibrator has steps without a value")
        require((n_steps != {0}) == (one["method"] == "isotonic"), f"steps of calibration '{one['method']}'")


def _rounds(values: Any, n_classes: int) -> list[int]:
    found = [_whole(value, "rounds") for value in _list(values, "rounds")]
    require(len(found) == n_classes, f"it has rounds of {len(found)} boosters for {n_classes} classes")
    return found


def _texts(values: Any, what: str) -> list[str]:
    """Return distinct texts that can be written down; half of a surrogate pair cannot."""
    found: list[str] = _list(values, what)
    for value in found:
        require(isinstance(value, str), f"one of {what} is no text")
        value.encode()
    require(len(set(found)) == len(found), f"one of {what} is there twice")
    return found


def _list(values: Any, what: str) -> list[Any]:
    require(isinstance(values, list), f"{what} is no list")
    found: list[Any] = values
    return found


def _number(value: Any, what: str, least: float, most: float) -> float:
    require(isinstance(value, int | float) and not isinstance(value, bool), f"{what} is no number")
    require(least <= value <= most, f"{what} is {value!r:.40}, not within {least:g} to {most:g}")
    return float(value)


def _whole(value: Any, what: str) -> int:
    require(isinstance(value, int) and not isinstance(value, bool), f"{what} is no whole number")
    require(0 <= value <= LARGEST_COUNT, f"{what} is negative or huge")
    return int(value)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    require(len(found) == len(pairs), "a key of its JSON is there twice")
    return found


def _no_number(text: str) -> float:
    raise ValueError(f"its JSON holds {text}")


def _refusal(source: str, error: Exception) -> str:
    if isinstance(error, KeyError):
        words = f"{error} is not there"
    else:
        words = "something is of another type" if isinstance(error, TypeError | AttributeError) else str(error)
    return f"{source} is no model that mi_duck wrote: {words}"
