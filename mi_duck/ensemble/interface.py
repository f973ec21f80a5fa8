"""What every model has beside its probabilities, and what predicting a file needs of one that is not boosted trees."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from mi_duck.ensemble.feature_matrix import feature_matrices
from mi_duck.metrics.ranking import Floats, Floats32, Floats64
from mi_duck.run.made import Made
from mi_duck.run.training_data import TrainingData

Scored = tuple[Floats64, Floats | None]
"""Probabilities of rows, shape (n_rows, n_classes), and of a blend those of its members, (n_members, n_rows, n_classes)."""


class NamedClasses:
    """What every model has beside its probabilities, under the names of scikit-learn."""

    __slots__ = ()
    features: tuple[str, ...]
    classes: tuple[str, ...]

    def predict_proba(self, rows: Any, *, threads: int | None = None) -> Floats32:
        """Return probabilities, shape (n_rows, n_classes)."""
        raise NotImplementedError

    def predict(self, rows: Any, *, threads: int | None = None) -> NDArray[np.str_]:
        """Return the name of the most probable class of each row, shape (n_rows,); rows as for ``predict_proba``."""
        best = self.predict_proba(rows, threads=threads).argmax(axis=1)
        return np.asarray(self.classes_[best])

    @property
    def classes_(self) -> NDArray[np.str_]:
        """Names of the classes in the order of probabilities, shape (n_classes,)."""
        return np.array(self.classes)

    @property
    def feature_names_in_(self) -> NDArray[np.str_]:
        """Names of the features in the order of columns, shape (n_features,)."""
        return np.array(self.features)

    @property
    def n_features_in_(self) -> int:
        """Number of features."""
        return len(self.features)

    def get_feature_names(self) -> list[str]:
        """Return the features in the order of columns."""
        return list(self.features)


class MatrixModel(NamedClasses):
    """A model that scores matrices, as a classifier of ``mi-duck cv`` and a blend do."""

    __slots__ = ()
    made: tuple[Made, ...]
    training: TrainingData
    sha256: str

    def scores(self, matrix: Floats32) -> Scored:
        """Return the scores of rows in the order of the features, NaN where a value is missing."""
        raise NotImplementedError

    def predict_proba(self, rows: Any, *, threads: int | None = None) -> Floats32:
        """Return probabilities, shape (n_rows, n_classes); rows as for `ConsolidatedMetaModel.predict_proba`."""
        parts = [self.scores(matrix)[0] for matrix in feature_matrices(rows, self.features, self.made)]
        return np.concatenate(parts).astype(np.float32)
