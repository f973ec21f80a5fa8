"""Thresholds are the best of all that could be tried, and goals out of reach stay open."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from mi_duck.metrics.ranking import find_thresholds, values_of

CLASSES = ("neither", "donor")


def test_find_thresholds__equal_brute_force() -> None:
    """Every distinct probability is tried, with few and with many ties."""
    rng = np.random.default_rng(0)
    for trial in range(8):
        n = int(rng.integers(2, 40))
        probability = rng.integers(0, 12, n).astype(np.float32) / 12 if trial % 2 else rng.random(n, dtype=np.float32)
        truth = rng.random(n) < 0.4 + 0.4 * probability
        truth[0] = True
        found = find_thresholds(np.column_stack([1 - probability, probability]), truth.astype(int), CLASSES)["donor"]
        edges = sorted({float(edge) for edge in probability})
        f1, precision, recall = (
            {edge: measure(truth, probability >= edge, zero_division=0) for edge in edges}
            for measure in (f1_score, precision_score, recall_score)
        )
        best = found["best_f1"]
        assert best is not None
        assert best["f1"] == pytest.approx(max(f1.values()), abs=1e-12)
        assert best["f1"] == pytest.approx(f1[best["threshold"]], abs=1e-12)
        precise = [edge for edge in edges if precision[edge] >= 0.9]
        assert (found["precision_0.9"] or {}).get("threshold") == (min(precise) if precise else None)
        complete = found["recall_0.9"]
        assert complete is not None
        assert complete["threshold"] == max(edge for edge in edges if recall[edge] >= 0.9)
        assert complete["precision"] == pytest.approx(precision[complete["threshold"]])


def test_find_thresholds__of_a_class_without_rows_are_open() -> None:
    found = find_thresholds(np.array([[0.9, 0.1], [0.8, 0.2]]), np.zeros(2, int), CLASSES)
    assert values_of(found)["donor"] == {"best_f1": None, "precision_0.9": None, "recall_0.9": None}
    assert values_of(found)["neither"]["recall_0.9"] == pytest.approx(0.8)
