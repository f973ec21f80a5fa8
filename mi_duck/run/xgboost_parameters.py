"""The parameters of XGBoost that ``--xgb NAME=VALUE`` hands on: their types, their ranges, and how they are written in a plan.

What has an option of its own, such as the depth of trees, is set by that, for memory and time are planned from it. Those
here make trees smaller, or as large as their depth allows, which is planned for (`leaf_weight`). The joint refit of
leaves (`mi_duck.ensemble.refit`) has its own penalty and step: parameters act on which splits are made, and there no more
on the values of leaves, but for monotone constraints (`mi_duck.run.constraints`), which it keeps.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from math import inf

from mi_duck.errors import PlanError
from mi_duck.run.constraints import KINDS, constraint_in_one_form

SMALLEST, LARGEST = 2.0**-126, 3e38


@dataclass(frozen=True, slots=True)
class Range:
    """Which numbers a parameter may be, both ends included."""

    least: float
    most: float = LARGEST
    is_whole: bool = False

    def __str__(self) -> str:
        kind = "a whole number" if self.is_whole else "a number"
        return f"{kind} of at least {self.least:g} and at most {self.most:g}"

    def holds(self, value: float) -> bool:
        """Return whether a number lies in it, and in those of 32 bits, which XGBoost reads."""
        if value and not SMALLEST <= abs(value) <= LARGEST:
            return False
        return self.least <= value <= self.most and not (self.is_whole and value % 1)


SHARE = Range(0.01, 1)
PARAMETERS: dict[str, Range | tuple[str, ...]] = {
    "min_child_weight": Range(0),
    "gamma": Range(0),
    "reg_lambda": Range(0),
    "reg_alpha": Range(0),
    "max_delta_step": Range(0),
    "subsample": SHARE,
    "colsample_bytree": SHARE,
    "colsample_bylevel": SHARE,
    "colsample_bynode": SHARE,
    "grow_policy": ("depthwise", "lossguide"),
    "max_leaves": Range(2, 65_536, is_whole=True),
}
DRAWING = tuple(name for name, allowed in PARAMETERS.items() if allowed is SHARE)
"""Those by which rows or columns are drawn, unless they are 1."""

ALSO = {"lambda": "reg_lambda", "alpha": "reg_alpha", "min_split_loss": "gamma"}
"""XGBoost's other names."""

ROWS_OF_A_UNIT, HEAVIEST_LEAF = 1000, 10
FEWEST_TO_DRAW_FROM, SHARE_DRAWN = 30, 0.3

OWN = {
    "max_depth": "--max-depth",
    "eta": "--learning-rate",
    "learning_rate": "--learning-rate",
    "max_bin": "--max-bin",
    "seed": "--seed",
    "nthread": "--threads",
    "n_jobs": "--threads",
    "device": "--device",
    "n_estimators": "--n-estimators",
    "num_boost_round": "--n-estimators",
    "early_stopping_rounds": "--early-stopping-patience",
}
"""What has an option of its own."""


def checked_parameters(given: Sequence[str]) -> tuple[str, ...]:
    """Return NAME=VALUE texts in one form: XGBoost's main names, in alphabetical order, numbers as Python writes them.

    Raises
    ------
    PlanError
        A name is not known, stands twice or has an option of its own; or its value is not in its range.
    """
    found: dict[str, str] = {}
    for text in given:
        name, sign, value = (part.strip() for part in text.partition("="))
        name = ALSO.get(name, name)
        if not sign or not value:
            raise PlanError(f"--xgb {text}: a name and a value are needed, such as min_child_weight=10")
        if name in OWN:
            raise PlanError(f"--xgb {text}: this is an option of its own, {OWN[name]} {value}")
        if name not in PARAMETERS and name not in KINDS:
            near = get_close_matches(name, [*PARAMETERS, *KINDS, *OWN], n=1)
            there = ", ".join([*PARAMETERS, *KINDS])
            hint = f"did you mean {OWN.get(near[0], near[0])}?" if near else f"there are {there}"
            raise PlanError(f"--xgb {text}: '{name}' is not a parameter that is handed on; {hint}")
        if name in found:
            raise PlanError(f"--xgb {text}: {name} is given twice")
        found[name] = constraint_in_one_form(name, value) if name in KINDS else _checked(text, value, PARAMETERS[name])
    return tuple(f"{name}={found[name]}" for name in sorted(found))


def _checked(text: str, value: str, allowed: Range | tuple[str, ...]) -> str:
    if isinstance(allowed, tuple):
        if value not in allowed:
            raise PlanError(f"--xgb {text}: it must be {' or '.join(allowed)}")
        return value
    try:
        number = float(value)
    except ValueError:
        number = -inf
    if not allowed.holds(number):
        raise PlanError(f"--xgb {text}: it must be {allowed}")
    return str(int(number)) if allowed.is_whole else repr(number)


def with_usual(checked: Sequence[str], *, n_features: int, weight: float) -> tuple[str, ...]:
    """Return checked parameters with values for two that are not given: the weight of leaves and the columns of a node.

    Leaves weigh a thousandth of all rows at least, 1 to 10, and each node has .3 of the columns to choose from where there
    are 30 or more and columns are not drawn otherwise. Weights of 1, 3 and 10 and this share were measured by
    ``benchmarks/bench_settings.py``; where fewer rows or columns begin was not.

    Examples
    --------
    >>> with_usual((), n_features=100, weight=4000)
    ('colsample_bynode=0.3', 'min_child_weight=4.0')
    >>> with_usual(("colsample_bytree=0.5", "min_child_weight=1.0"), n_features=100, weight=1e6)
    ('colsample_bytree=0.5', 'min_child_weight=1.0')
    """
    names = {text.split("=", 1)[0] for text in checked}
    usual = []
    if n_features >= FEWEST_TO_DRAW_FROM and not any(name.startswith("colsample_") for name in names):
        usual.append(f"colsample_bynode={SHARE_DRAWN}")
    if "min_child_weight" not in names:
        usual.append(f"min_child_weight={min(max(weight / ROWS_OF_A_UNIT, 1.0), float(HEAVIEST_LEAF))!r}")
    return tuple(sorted((*checked, *usual)))


def as_dict(checked: Sequence[str]) -> dict[str, str]:
    """Return checked parameters by name, as `xgboost.train` takes them, but for constraints, which need columns.

    >>> as_dict(checked_parameters(["lambda=2", "grow_policy=lossguide", "monotone_constraints=dose:1"]))
    {'grow_policy': 'lossguide', 'reg_lambda': '2.0'}
    """
    values = dict(text.split("=", 1) for text in checked)
    return {name: value for name, value in values.items() if name not in KINDS}


def is_drawing(checked: Sequence[str]) -> bool:
    """Return whether rows or columns are drawn by chance.

    >>> [is_drawing(checked_parameters([text])) for text in ("subsample=1", "subsample=0.5")]
    [False, True]
    """
    return any(name in DRAWING and float(value) < 1 for name, value in as_dict(checked).items())


def leaf_weight(checked: Sequence[str]) -> float:
    """Return the least sum of hessians of a leaf; 0 where leaves may have fewer rows than XGBoost's defaults let them.

    >>> [leaf_weight([text]) for text in ("min_child_weight=0.5", "min_child_weight=5.0", "reg_lambda=0.0")]
    [0.0, 5.0, 0.0]
    """
    values = as_dict(checked)
    weight, penalty = (float(values.get(name, 1)) for name in ("min_child_weight", "reg_lambda"))
    return weight if weight >= 1 and penalty >= 1 else 0.0
