"""Factories of classifiers as a user might write them, good ones and others, for tests of ``mi-duck cv``."""

from typing import Any

import numpy as np


def bayes(**options: Any) -> Any:
    """Return a classifier that learns from blocks."""
    from sklearn.naive_bayes import GaussianNB

    return GaussianNB(**options)


def forest() -> Any:
    """Return a classifier that needs all rows, with a seed to be set."""
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(n_estimators=5, max_depth=4)


def neighbours() -> Any:
    """Return a classifier that takes no weights."""
    from sklearn.neighbors import KNeighborsClassifier

    return KNeighborsClassifier(3)


def regressor() -> Any:
    """Return what is not a classifier."""
    from sklearn.linear_model import LinearRegression

    return LinearRegression()


class Unsure:
    """A classifier whose rows do not sum to 1."""

    classes_ = np.arange(3)

    def get_params(self, deep: bool = True) -> dict[str, Any]:
        """Return no parameters."""
        return {}

    def fit(self, x: Any, y: Any) -> "Unsure":
        """Learn nothing."""
        return self

    def predict_proba(self, x: Any) -> Any:
        """Return too much."""
        return np.ones((len(x), 3))
