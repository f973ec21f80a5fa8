"""Classifiers as they are after training: what they make of prepared rows, and how they are written without pickle.

Linear models and networks are arrays, and predicting with them is arithmetic of NumPy in double precision, so neither
scikit-learn nor PyTorch is needed to use one. Any other classifier is kept as skops writes it, where skops is installed and
trusts all that it holds; else as a pickle, which is read only where that was allowed, for reading it may run any code.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Protocol

import numpy as np

from mi_duck.classifiers.arrays import array_bytes, read_array
from mi_duck.classifiers.own_objects import object_from_parts, object_parts
from mi_duck.classifiers.tabnet import TABNET, TabNet
from mi_duck.errors import DataError
from mi_duck.metrics.calibrate import logistic, softmax
from mi_duck.metrics.ranking import Floats32, Floats64

LINEAR, PERCEPTRON, OBJECT = "linear", "perceptron", "object"
SOFTMAX, ONE_AGAINST_REST = "softmax", "one against the rest"


class Fitted(Protocol):
    """A trained classifier."""

    @property
    def form(self) -> str:
        """Its kind: `LINEAR`, `PERCEPTRON`, `TABNET` or `OBJECT`."""

    def probabilities(self, prepared: Floats32) -> Floats64:
        """Return probabilities of prepared rows, shape (n_rows, n_classes)."""

    def parts(self) -> dict[str, bytes]:
        """Return it as bytes, for `fitted_of`."""


@dataclass(frozen=True, slots=True)
class Linear:
    """One weight per class and column.

    Parameters
    ----------
    coefficients, intercepts
        Shapes (n_classes, n_columns) and (n_classes,).
    link
        From scores to probabilities: `SOFTMAX`, or the logistic function of each, normalised.
    """

    coefficients: Floats64
    intercepts: Floats64
    link: str
    form: str = field(default=LINEAR, init=False)

    def probabilities(self, prepared: Floats32) -> Floats64:
        """Return probabilities of prepared rows, shape (n_rows, n_classes)."""
        scores: Floats64 = prepared.astype(np.float64) @ self.coefficients.T + self.intercepts
        if self.link == SOFTMAX:
            return softmax(scores)
        each = np.maximum(logistic(scores), 1e-300)
        found: Floats64 = each / each.sum(axis=1, keepdims=True)
        return found

    def parts(self) -> dict[str, bytes]:
        """Return the arrays as bytes."""
        return {
            "coefficients.npy": array_bytes(self.coefficients),
            "intercepts.npy": array_bytes(self.intercepts),
            "link.txt": self.link.encode(),
        }


@dataclass(frozen=True, slots=True)
class Perceptron:
    """Layers of rectified linear units, the last one linear, then the softmax function.

    Parameters
    ----------
    layers
        Weights of shape (n_outputs, n_inputs) and intercepts of shape (n_outputs,) of each layer.
    """

    layers: tuple[tuple[Floats32, Floats32], ...]
    form: str = field(default=PERCEPTRON, init=False)

    def probabilities(self, prepared: Floats32) -> Floats64:
        """Return probabilities of prepared rows, shape (n_rows, n_classes)."""
        values: Floats64 = prepared.astype(np.float64)
        for number, (weights, intercepts) in enumerate(self.layers):
            values = values @ weights.T.astype(np.float64) + intercepts
            if number < len(self.layers) - 1:
                np.maximum(values, 0, out=values)
        return softmax(values)

    def parts(self) -> dict[str, bytes]:
        """Return the arrays as bytes."""
        return {
            f"{name}_{number}.npy": array_bytes(array)
            for number, layer in enumerate(self.layers)
            for name, array in zip(("weights", "intercepts"), layer, strict=True)
        }


@dataclass(frozen=True, slots=True)
class Own:
    """A classifier with the interface of scikit-learn, trained on class numbers."""

    estimator: Any
    n_classes: int
    form: str = field(default=OBJECT, init=False)

    def probabilities(self, prepared: Floats32) -> Floats64:
        """Return probabilities of prepared rows, shape (n_rows, n_classes); a class that training had no row of gets 0."""
        found = np.asarray(self.estimator.predict_proba(prepared), dtype=np.float64)
        known = np.asarray(self.estimator.classes_).astype(np.int64).ravel()
        if found.shape != (len(prepared), len(known)) or not np.isfinite(found).all():
            raise DataError(
                f"predict_proba of {type(self.estimator).__name__} gave numbers of shape {found.shape} that are no probabilities "
                f"of {len(prepared)} rows and {len(known)} classes; mend the estimator"
            )
        every = np.zeros((len(prepared), self.n_classes))
        every[:, known] = found
        total: Floats64 = every / np.maximum(every.sum(axis=1, keepdims=True), 1e-300)
        return total

    def parts(self) -> dict[str, bytes]:
        """Return the object as skops writes it, or as a pickle."""
        return object_parts(self.estimator)


def fitted_of(
    form: str, parts: Mapping[str, bytes], *, n_columns: int, n_classes: int, trust_pickle: bool = False
) -> Fitted:
    """Read a classifier from its parts; a `ValueError` or `KeyError` where they are not what `Fitted.parts` gave.

    Raises
    ------
    CheckpointError
        It is a pickle, and nothing says that it may be read.
    """
    if form == LINEAR:
        link = parts["link.txt"].decode()
        if link not in (SOFTMAX, ONE_AGAINST_REST):
            raise ValueError("an unknown link")
        coefficients = read_array(parts["coefficients.npy"], np.float64, (n_classes, n_columns))
        return Linear(coefficients, read_array(parts["intercepts.npy"], np.float64, (n_classes,)), link)
    if form == TABNET:
        return TabNet.of_parts(parts, n_columns, n_classes)
    if form == OBJECT:
        return Own(object_from_parts(parts, trust_pickle=trust_pickle), n_classes)
    if form != PERCEPTRON:
        raise ValueError(f"a classifier of an unknown kind, {form!r:.40}")
    layers: list[tuple[Floats32, Floats32]] = []
    width = n_columns
    for number in count():
        if f"weights_{number}.npy" not in parts:
            break
        weights = read_array(parts[f"weights_{number}.npy"], np.float32, (None, width))
        width = len(weights)
        layers.append((weights, read_array(parts[f"intercepts_{number}.npy"], np.float32, (width,))))
    if width != n_classes or not layers:
        raise ValueError("layers that do not end in the classes")
    return Perceptron(tuple(layers))
