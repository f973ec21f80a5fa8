"""Constraints on boosters by the names of features: how ``--xgb`` takes them, which features they mean, how XGBoost has them.

A monotone constraint, ``monotone_constraints=dose:1,age:-1``, is on the log-odds of one class: with all else equal they never
fall (1) or never rise (-1) while the feature grows. Classes have boosters of their own, so a constraint is of the class that it
names, ``donor.donor_score:1``, and of no other. Of two classes, whose boosters are each other's complement, one without a class
is of the second. Probabilities of more than two classes are made to sum to 1, so other classes may move them.

An interaction constraint, ``interaction_constraints=dose+age,weight+height``, is of all classes: the features on each way from
root to leaf lie in one of the groups. A feature in no group stands with itself alone. A column of texts or dates stands for all
features that are made of it.

A plan keeps them as JSON, ``{"dose":1,"age":-1}`` and ``[["dose","age"],["weight","height"]]``, which is also how names are
given that hold a comma or a plus. Features that screening left out are in no model, so their constraints hold.
"""

import json
import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from itertools import chain
from typing import Any, Protocol

from mi_duck.errors import PlanError
from mi_duck.run.made import Made

MONOTONE, INTERACTION = "monotone_constraints", "interaction_constraints"
KINDS = {
    MONOTONE: "FEATURE:1 where log-odds must not fall as it grows and FEATURE:-1 where they must not rise, with commas between",
    INTERACTION: "groups of features that may meet in a tree, such as dose+age,weight+height",
}
"""Each constraint, and how it is written."""

SIGN = re.compile(r"([^,].*?):([+-]?1)(?:,|$)", re.DOTALL)


class Columns(Protocol):
    """What is known of a dataset, or of the data of a plan."""

    @property
    def features(self) -> tuple[str, ...]:
        """All features in the order that models use."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of the classes."""

    @property
    def made(self) -> tuple[Made, ...]:
        """Columns of which features are made."""


def constraint_in_one_form(kind: str, value: str) -> str:
    """Return a constraint as JSON.

    Raises
    ------
    PlanError
        It cannot be read, or names a feature twice.

    Examples
    --------
    >>> constraint_in_one_form(MONOTONE, "dose:1,age:-1")
    '{"dose":1,"age":-1}'
    >>> constraint_in_one_form(INTERACTION, "dose+age,weight")
    '[["dose","age"],["weight"]]'
    """
    if value[:1] in ("{", "["):
        found = _from_json(kind, value)
    elif kind == MONOTONE:
        found = SIGN.findall(value)
        if sum(len(name) + len(sign) + 2 for name, sign in found) != len(value) + 1:
            raise _unreadable(kind, value)
    else:
        found = [group.split("+") for group in value.split(",")]
    if kind == MONOTONE:
        signs = [(name.strip(), int(sign)) for name, sign in found]
        if len(dict(signs)) < len(signs):
            raise PlanError(f"--xgb {kind}={value}: a feature is named twice")
        return as_json(dict(signs))
    groups = [[name.strip() for name in group] for group in found]
    if not all(groups) or not all(chain.from_iterable(groups)):
        raise _unreadable(kind, value)
    return as_json([list(dict.fromkeys(group)) for group in groups])


def _from_json(kind: str, value: str) -> Any:
    """Return pairs of name and sign, or groups of names."""
    try:
        found = json.loads(value, object_pairs_hook=list)
    except (ValueError, RecursionError) as error:
        raise _unreadable(kind, value) from error
    if kind == MONOTONE:
        is_right = value[0] == "{" and all(type(sign) is int and sign in (-1, 1) for _, sign in found)
    else:
        is_right = all(
            isinstance(group, list) and all(isinstance(name, str) for name in group) for group in found or [None]
        )
    if not found or not is_right:
        raise _unreadable(kind, value)
    return found


def _unreadable(kind: str, value: str) -> PlanError:
    return PlanError(f"--xgb {kind}={value}: write {KINDS[kind]}; names with a comma or a plus need JSON")


def as_json(value: object) -> str:
    """Return a constraint as the text that plans hold."""
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _given(parameters: Iterable[str], kind: str) -> Any:
    """Return a constraint among checked parameters as it was in JSON; None where there is none."""
    text = next((one for one in parameters if one.startswith(f"{kind}=")), None)
    return None if text is None else json.loads(text.removeprefix(f"{kind}="))


def constraints_in(parameters: Iterable[str]) -> tuple[str, ...]:
    """Return those of checked parameters that are constraints."""
    return tuple(one for one in parameters if one.partition("=")[0] in KINDS)


def check_constraints(parameters: Sequence[str], columns: Columns) -> None:
    """Refuse constraints whose names are not features, or whose class is not clear; `PlanError`."""
    known = {*columns.features, *(one.column for one in columns.made)}
    for name in chain.from_iterable(_given(parameters, INTERACTION) or []):
        if name not in known:
            raise PlanError(f"--xgb {INTERACTION}: '{name}' is not a feature{_nearest(name, known)}")
    found = set()
    for name in _given(parameters, MONOTONE) or {}:
        index, feature = _class_and_feature(name, columns.classes)
        if feature not in columns.features:
            names = [*columns.features, *(f"{one}.{other}" for one in columns.classes for other in columns.features)]
            raise PlanError(f"--xgb {MONOTONE}: '{feature}' is not a feature{_nearest(name, names)}")
        if index is None:
            ways = " or ".join(f"{one}.{name}" for one in columns.classes[1:])
            raise PlanError(
                f"--xgb {MONOTONE}: {name} must say of which class, for each has boosters of its own; write {ways}"
            )
        of = (feature, 1 if len(columns.classes) == 2 else index)
        if of in found:
            raise PlanError(f"--xgb {MONOTONE}: {feature} is constrained twice")
        found.add(of)


def unused_in(parameters: Sequence[str], before: Columns, after: Columns) -> tuple[str, ...]:
    """Return the features that constraints name and that were left out after they were checked."""
    named = monotone_features(parameters, before) | set(chain.from_iterable(_given(parameters, INTERACTION) or []))
    return tuple(name for name in before.features if name in named and name not in after.features)


def monotone_signs(parameters: Sequence[str], columns: Columns, index: int) -> dict[int, int]:
    """Return 1 or -1 for each feature, by its number, in which the log-odds of a class are monotone."""
    number = {name: one for one, name in enumerate(columns.features)}
    found = {}
    for name, sign in (_given(parameters, MONOTONE) or {}).items():
        own, feature = _class_and_feature(name, columns.classes)
        if feature in number and (own == index or len(columns.classes) == 2):
            found[number[feature]] = sign if own == index else -sign
    return found


def monotone_features(parameters: Sequence[str], columns: Columns) -> frozenset[str]:
    """Return the features in which the log-odds of some class are monotone."""
    return frozenset(_class_and_feature(name, columns.classes)[1] for name in _given(parameters, MONOTONE) or {})


def as_xgboost_has_them(parameters: Sequence[str], columns: Columns, index: int) -> dict[str, str]:
    """Return the constraints of the booster of a class, by the numbers of features, as ``xgboost.train`` takes them."""
    found = {}
    signs = monotone_signs(parameters, columns, index)
    if signs:
        found[MONOTONE] = f"({','.join(str(signs.get(number, 0)) for number in range(len(columns.features)))})"
    groups = _given(parameters, INTERACTION)
    if groups is not None:
        numbers = {name: one for one, name in enumerate(columns.features)}
        parts = {one.column: one.features for one in columns.made}
        named = [chain.from_iterable(parts.get(name, (name,)) for name in group) for group in groups]
        present = [sorted({numbers[name] for name in group if name in numbers}) for group in named]
        # where all were left out, a group of one says the same: every feature stands alone
        found[INTERACTION] = as_json([group for group in present if group] or [[0]])
    return found


def _class_and_feature(name: str, classes: Sequence[str]) -> tuple[int | None, str]:
    """Return the index of the class that a name begins with, and the feature; of two classes the second is meant by none."""
    own = max((one for one in classes if name.startswith(f"{one}.")), key=len, default=None)
    if own is None:
        return (1 if len(classes) == 2 else None), name
    return classes.index(own), name.removeprefix(f"{own}.")


def _nearest(name: str, known: Iterable[str]) -> str:
    near = get_close_matches(name, sorted(known), n=1)
    return f"; did you mean {near[0]}?" if near else " of the dataset"
