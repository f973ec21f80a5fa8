"""Thresholds are the best of all that could be tried, goals out of reach stay open, and what they reach is cross-fitted."""

import numpy as np
import pytest
from sklearn.metrics import f1_score, precision_score, recall_score

from mi_duck.metrics.ranking import find_thresholds, values_of

CLASSES = ("neither", "donor")


def brute_force(probability: np.ndarray, truth: np.ndarray) -> dict[str, float | None]:
    """Return the thresholds of one class, by trying every distinct probability."""
    if not truth.any():
        return dict.fromkeys(("best_f1", "precision_0.9", "recall_0.9"))
    edges = sorted({float(edge) for edge in probability})
    f1, precision, recall = (
        {edge: measure(truth, probability >= edge, zero_division=0) for edge in edges}
        for measure in (f1_score, precision_score, recall_score)
    )
    best = max(f1.values())
    precise = [edge for edge in edges if precision[edge] >= 0.9]
    return {
        "best_f1": max(edge for edge in edges if f1[edge] >= best - 1e-12),
        "precision_0.9": min(precise) if precise else None,
        "recall_0.9": max(edge for edge in edges if recall[edge] >= 0.9),
    }


def test_find_thresholds__equal_brute_force() -> None:
    """With few and with many ties; what they reach is counted in each fold at the threshold of the other folds."""
    rng = np.random.default_rng(0)
    for trial in range(8):
        n = int(rng.integers(12, 40))
        probability = rng.integers(0, 12, n).astype(np.float32) / 12 if trial % 2 else rng.random(n, dtype=np.float32)
        truth = rng.random(n) < 0.4 + 0.4 * probability
        folds = rng.permutation(np.arange(n) % 3)
        truth[[np.flatnonzero(folds == fold)[0] for fold in range(2)]] = True
        probabilities = np.column_stack([1 - probability, probability])
        found = find_thresholds(probabilities, truth.astype(int), folds, CLASSES)["donor"]
        final = brute_force(probability, truth)
        assert {kind: (facts or {}).get("threshold") for kind, facts in found.items()} == final
        apart = [brute_force(probability[folds != fold], truth[folds != fold]) for fold in range(3)]
        for kind, facts in found.items():
            if facts is None:
                continue
            edges = [tuned[kind] for tuned in apart]
            if None in edges:
                assert facts["precision"] is facts["recall"] is facts["f1"] is None
                continue
            called = probability >= np.array(edges)[folds]
            assert facts["recall"] == pytest.approx(recall_score(truth, called))
            assert facts["f1"] == pytest.approx(f1_score(truth, called))
            assert facts["precision"] == pytest.approx(precision_score(truth, called)) if called.any() else True


def test_find_thresholds__of_noise_promise_no_more_than_other_folds_find() -> None:
    """Tuned and scored on the same 30 rows, noise has an F1 above that of calling everything; cross-fitted it has not."""
    rng = np.random.default_rng(5)
    tuned, honest = [], []
    for _ in range(40):
        probability, truth = rng.random(30), rng.random(30) < 0.3
        found = find_thresholds(np.column_stack([1 - probability, probability]), truth, np.arange(30) % 3, CLASSES)
        facts = found["donor"]["best_f1"]
        if facts is not None and facts["f1"] is not None:
            tuned.append(f1_score(truth, probability >= facts["threshold"]))
            honest.append(facts["f1"])
    of_all = 2 * 0.3 / 1.3
    assert np.mean(tuned) > of_all + 0.05
    assert np.mean(honest) < of_all


def test_find_thresholds__of_a_class_without_rows_are_open() -> None:
    found = find_thresholds(np.array([[0.9, 0.1], [0.8, 0.2]]), np.zeros(2, int), np.arange(2), CLASSES)
    assert values_of(found)["donor"] == {"best_f1": None, "precision_0.9": None, "recall_0.9": None}
    assert values_of(found)["neither"]["recall_0.9"] == pytest.approx(0.8)
