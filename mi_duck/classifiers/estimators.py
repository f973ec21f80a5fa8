"""Which classifier is asked for: a name of ours with its options, or a factory of one's own that keeps scikit-learn's contract.

The contract is tried on a few rows before anything is planned: ``fit`` or ``partial_fit`` on class numbers, then
``predict_proba`` with a column for each of ``classes_``. What cannot do that is refused in one sentence.
"""

import ast
import difflib
import importlib
import importlib.util
import inspect
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mi_duck.classifiers.own_objects import with_working_folder
from mi_duck.errors import DataError, PlanError
from mi_duck.run.plan import Settings

ARRAY_COPIES = 1.4
"""Arrays of all rows at once that logistic regression takes, measured; it uses ours as it is."""
OWN_COPIES = 4.0
"""Those of a classifier of one's own: ours, one of twice the width that many make, and what they keep."""
DEFAULTS: dict[str, dict[str, Any]] = {
    "logistic": {"C": 0.1, "max_iter": 300},
    "sgd": {"alpha": 1e-4, "eta0": 0.03},
    "mlp": {"hidden": (128,), "dropout": 0.5, "learning_rate": 1e-3, "weight_decay": 1e-4, "batch_rows": 512},
    "tabnet": {"width": 8, "steps": 3, "gamma": 1.3, "sparsity": 1e-3, "learning_rate": 0.02, "batch_rows": 1024},
}
"""The classifiers that have a name, with what ``--set`` may set and its default."""
RANGES: dict[str, tuple[float, float]] = {
    **{"C": (1e-9, 1e9), "max_iter": (1, 10**6), "alpha": (0, 1e3), "eta0": (1e-9, 1e3)},
    **{"hidden": (1, 16_384), "dropout": (0, 0.95), "learning_rate": (1e-9, 10), "weight_decay": (0, 1e3)},
    **{"batch_rows": (2, 10**6), "width": (1, 1024), "steps": (1, 20), "gamma": (1, 10), "sparsity": (0, 10)},
}
"""Least and most of each option."""
NETWORKS = {"mlp": ("torch",), "tabnet": ("torch", "pytorch_tabnet")}
"""Those of PyTorch, with the packages that they need."""
STREAMED = ("sgd", *NETWORKS)
CALLED = (TypeError, ValueError, AttributeError, RuntimeError, ImportError, KeyError, IndexError, NotImplementedError)
"""What code of the user's own may raise where it is called otherwise than it was written for."""


@dataclass(frozen=True, slots=True)
class Estimator:
    """A classifier to be trained.

    Parameters
    ----------
    name
        One of `DEFAULTS`, or ``package.module:factory``.
    options
        NAME=VALUE texts in one form, all of them for a name of ours.
    is_streamed
        Whether it learns from blocks of rows, so that they need not all be in memory.
    copies
        Arrays of all training rows that it needs at once; 0 where it is streamed.
    takes_weights
        Whether rows may have weights.
    made
        A factory's classifier in words: its class and parameters. Empty for a name of ours.
    """

    name: str
    options: tuple[str, ...]
    is_streamed: bool
    copies: float
    takes_weights: bool = True
    made: str = ""

    @property
    def is_own(self) -> bool:
        """Whether it comes from a factory of the user's own."""
        return ":" in self.name

    @property
    def values(self) -> dict[str, Any]:
        """The options by name."""
        return {name: _value(text) for name, text in (one.split("=", 1) for one in self.options)}


def named_estimator(name: str, given: Sequence[str]) -> Estimator:
    """Return a classifier of ours with all its options, or one of the user's with those given; nothing is imported.

    Raises
    ------
    PlanError
        There is no such name or option, an option stands twice, or its value is of another kind.
    DataError
        PyTorch, or what else it needs, is not installed.
    """
    values = _given(given)
    if ":" in name:
        module, factory = name.split(":", 1)
        if not all(part.isidentifier() for part in [*module.split("."), *factory.split(".")]):
            raise PlanError(f"--estimator {name}: a factory is named package.module:function")
        return Estimator(name, _texts(values), False, OWN_COPIES)
    if name not in DEFAULTS:
        near = difflib.get_close_matches(name, DEFAULTS, n=1)
        hint = f"did you mean '{near[0]}'?" if near else f"there are {', '.join(DEFAULTS)}"
        raise PlanError(
            f"--estimator {name}: no such classifier; {hint} (one of your own is named package.module:factory)"
        )
    known = DEFAULTS[name]
    for option, value in values.items():
        if option not in known:
            raise PlanError(f"--set {option}: {name} has no such option; there are {', '.join(known)}")
        if not _fits(value, known[option], *RANGES[option]):
            least, most = RANGES[option]
            raise PlanError(
                f"--set {option}={value}: it must be of the kind of its default, {known[option]!r}, from {least:g} to {most:g}"
            )
        if isinstance(known[option], tuple) and isinstance(value, int):
            values[option] = (value,)
    absent = [package for package in NETWORKS.get(name, ()) if importlib.util.find_spec(package) is None]
    if absent:
        raise DataError(
            f"--estimator {name} needs {' and '.join(absent)}: pip install 'mi-duck[deep]', or take logistic or sgd"
        )
    is_streamed = name in STREAMED
    return Estimator(name, _texts(known | values), is_streamed, 0 if is_streamed else ARRAY_COPIES)


def _given(texts: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for text in texts:
        name, sign, value = (part.strip() for part in text.partition("="))
        if not (sign and value and name.isidentifier()):
            raise PlanError(f"--set {text}: a name and a value are needed, such as C=0.5")
        if name in found:
            raise PlanError(f"--set {text}: {name} is given twice")
        found[name] = _value(value)
    return found


def _value(text: str) -> Any:
    """Return the number, truth value, tuple or None that a text stands for, else the text."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _texts(values: Mapping[str, Any]) -> tuple[str, ...]:
    return tuple(f"{name}={values[name]!r}" for name in sorted(values))


def _fits(value: Any, default: Any, least: float, most: float) -> bool:
    if isinstance(default, tuple):
        sizes = value if isinstance(value, tuple) else (value,)
        return bool(sizes) and all(_fits(one, 1, least, most) for one in sizes)
    kinds = (int,) if isinstance(default, int) else (int, float)
    return type(value) in kinds and least <= value <= most


def estimator_of(settings: Settings) -> Estimator:
    """Return the classifier of a plan; a factory of the user's own is tried again, for its code may have changed."""
    found = named_estimator(settings.estimator, settings.estimator_options)
    if not found.is_own:
        return found
    found = tried(found, n_classes=2, seed=settings.seed)
    if found.made != settings.estimator_made:
        raise PlanError(
            f"{found.name} makes {found.made:.200} now and made {settings.estimator_made:.200} when the run was planned; choose "
            "another --out"
        )
    return found


def tried(estimator: Estimator, *, n_classes: int, seed: int) -> Estimator:
    """Return a factory's classifier with what is known after it was tried on a few rows.

    Raises
    ------
    DataError
        The factory cannot be imported, or what it makes does not keep the contract of scikit-learn.
    """
    one = made_by(estimator, seed)
    kind = type(one).__name__
    for needed in ("predict_proba", "get_params"):
        if not callable(getattr(one, needed, None)):
            raise DataError(
                f"{estimator.name} makes a {kind} without {needed}; return a classifier of scikit-learn's contract"
            )
    is_streamed = callable(getattr(one, "partial_fit", None))
    if not is_streamed and not callable(getattr(one, "fit", None)):
        raise DataError(f"{estimator.name} makes a {kind} that has neither fit nor partial_fit; return a classifier")
    learn = one.partial_fit if is_streamed else one.fit
    takes_weights = "sample_weight" in inspect.signature(learn).parameters
    rng = np.random.default_rng(0)
    y = np.arange(40 * n_classes) % n_classes
    x = (rng.normal(size=(len(y), 4)) + y[:, None]).astype(np.float32)
    try:
        learn(x, y, **({"classes": np.arange(n_classes)} if is_streamed else {}))
        found = np.asarray(one.predict_proba(x))
        known = np.asarray(one.classes_).astype(np.int64).ravel().tolist()
    except CALLED as error:
        raise DataError(
            f"{estimator.name}: its {kind} failed on {len(y)} rows of 4 columns and {n_classes} classes ({error!s:.200}); mend it"
        ) from error
    if found.shape != (len(y), n_classes) or known != list(range(n_classes)) or abs(found.sum(axis=1) - 1).max() > 1e-4:
        raise DataError(
            f"{estimator.name}: predict_proba of its {kind} gave shape {found.shape} for {len(y)} rows of {n_classes} classes, "
            "or rows that do not sum to 1; return a classifier of scikit-learn's contract"
        )
    words = ", ".join(f"{name}={value!r}" for name, value in sorted(one.get_params(deep=False).items()))
    made = re.sub(r" at 0x[0-9a-f]+", "", f"{type(one).__module__}.{kind}({words})")
    copies = 0 if is_streamed else OWN_COPIES
    return Estimator(estimator.name, estimator.options, is_streamed, copies, takes_weights, made)


def made_by(estimator: Estimator, seed: int) -> Any:
    """Return a new classifier from a factory of the user's own, called with the options; a random_state of None is the seed."""
    with_working_folder()
    module, path = estimator.name.split(":", 1)
    try:
        found: Any = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
        one = found(**estimator.values)
        if getattr(one, "random_state", 0) is None and hasattr(one, "set_params"):
            one.set_params(random_state=seed)
        return one
    except CALLED as error:
        raise DataError(
            f"--estimator {estimator.name} cannot be used: {error!s:.200}; name a function that can be imported from here and "
            "returns a new classifier"
        ) from error
