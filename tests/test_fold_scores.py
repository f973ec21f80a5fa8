"""Scores of a fold: worked out by hand, and against scikit-learn."""

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, f1_score, roc_auc_score

from mi_duck.evaluate.instance_scores import (
    BASE_COLUMNS,
    aggregate,
    fold_scores,
    gene_top_k,
    score_names,
)
from mi_duck.metrics.calibrate import NO_BASE

CLASSES = ("neither", "donor", "acceptor")

# gene 0: rows 0-4, gene 1: rows 5-7
GENES = np.array([0, 0, 0, 0, 0, 1, 1, 1])
LABELS = np.array([1, 1, 0, 2, 0, 0, 1, 0])
PROBABILITIES = np.array(
    [
        [0.1, 0.8, 0.1],  # donor, found
        [0.7, 0.2, 0.1],  # donor, missed
        [0.4, 0.5, 0.1],  # neither, called donor
        [0.2, 0.1, 0.7],  # acceptor, found
        [0.9, 0.0, 0.1],  # neither
        [0.8, 0.1, 0.1],  # neither
        [0.6, 0.3, 0.1],  # donor, missed
        [0.7, 0.2, 0.1],  # neither
    ]
)
BASE = np.array([[1 - p, p, 0.0] for p in (0.9, 0.9, 0.8, 0.1, 0.7, 0.1, 0.6, 0.1)])


def test_fold_scores__are_those_worked_out_by_hand() -> None:
    found = fold_scores(PROBABILITIES, (BASE, BASE), LABELS, GENES, CLASSES)
    # calls: donor rows 0 and 2, acceptor row 3, else neither. donor: 1 of 2 right, 1 of 3 found: F1 = 2/(2+1+2) = .4;
    # acceptor: 1; neither: calls 1 4 5 6 7, right 4 5 7, of 4 true: 2*3/(6+2+1) = 2/3
    assert found["donor_f1"] == pytest.approx(0.4)
    assert found["acceptor_f1"] == 1
    assert found["neither_f1"] == pytest.approx(2 / 3)
    assert found["test_macro_f1"] == pytest.approx((0.4 + 1 + 2 / 3) / 3)
    assert found["splice_macro_f1"] == pytest.approx(0.7)
    # donor by score: rows 0 (.8, true), 2 (.5), 6 (.3, true), then 1 (.2, true) and 7 (.2) tied
    # AP = 1/3 (1/1 + 2/3 + 3/5)
    assert found["donor_ap"] == pytest.approx((1 + 2 / 3 + 3 / 5) / 3)
    assert found["acceptor_ap"] == 1
    assert found["test_macro_avg_precision"] == pytest.approx((found["donor_ap"] + 1) / 2)
    # donor: k = 3, best rows 0 2 6, two true; acceptor: k = 1, best row 3, true
    assert found["top_k_donor"] == pytest.approx(2 / 3)
    assert found["top_k_acceptor"] == 1
    assert found["top_k_accuracy"] == pytest.approx(5 / 6)
    # donor, gene 0: k = 2, best rows 0 and 2, one true: 1/2; gene 1: k = 1, best row 6, true: 1; mean 3/4. acceptor: gene 0: 1
    assert found["top_k_per_gene_donor"] == pytest.approx(0.75)
    assert found["top_k_per_gene_acceptor"] == 1
    assert found["top_k_per_gene"] == pytest.approx(0.875)
    assert found["top_k_n_genes"] == 2
    # sites at one half: instance calls rows 0 (.9), 2 (.6), 3 (.8): 2 right, 1 wrong, rows 1 and 6 missed: F1 = 4/(4+1+2)
    assert found["meta_f1"] == pytest.approx(4 / 7)
    # base calls rows 0 1 2 4 6: 3 right, 2 wrong, row 3 missed: F1 = 6/(6+2+1)
    assert found["base_f1"] == pytest.approx(2 / 3)
    assert (found["delta_fp"], found["delta_fn"]) == (2 - 1, 1 - 2)
    # of the 4 sites, base has rows 0 1 among its best 0 1 2 4, the instance rows 0 3 6 among its best 0 3 2 6
    assert (found["base_topk"], found["meta_topk"]) == (0.5, 0.75)


def test_fold_scores__equal_scikit_learn_with_ties_and_many_genes() -> None:
    rng = np.random.default_rng(0)
    n = 3000
    labels = rng.choice(3, n, p=(0.8, 0.12, 0.08))
    genes = rng.integers(0, 40, n)
    probabilities, base = (
        np.round(rng.dirichlet((3, 1, 1), n) * 0.7 + 0.3 * np.eye(3)[labels] * power, 2) for power in (1, 0.4)
    )
    found = fold_scores(probabilities, (base, base), labels, genes, CLASSES)
    called = probabilities.argmax(axis=1)
    assert found["test_macro_f1"] == pytest.approx(f1_score(labels, called, average="macro"))
    for index, name in enumerate(CLASSES):
        assert found[f"{name}_f1"] == pytest.approx(f1_score(labels == index, called == index))
        assert found[f"{name}_ap"] == pytest.approx(average_precision_score(labels == index, probabilities[:, index]))
    site = labels > 0
    for name, values in (("meta", probabilities), ("base", base)):
        score = values[:, 1:].sum(axis=1)
        assert found[f"{name}_f1"] == pytest.approx(f1_score(site, score >= 0.5))
        assert found[f"auc_{name}"] == pytest.approx(roc_auc_score(site, score))
        assert found[f"ap_{name}"] == pytest.approx(average_precision_score(site, score))
        assert found[f"{name}_topk"] == pytest.approx(top_k(score, site), abs=1e-3)


def top_k(score: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean over many random orders of rows with equal scores."""
    rng, k = np.random.default_rng(1), int(truth.sum())
    orders = (rng.permutation(len(score)) for _ in range(2_000))
    return float(np.mean([truth[order[np.argsort(-score[order], kind="stable")[:k]]].mean() for order in orders]))


def test_fold_scores__without_a_base_model_or_a_class_are_none() -> None:
    found = fold_scores(PROBABILITIES, None, LABELS, GENES, CLASSES)
    assert {name for name, value in found.items() if value is None} == set(BASE_COLUMNS)
    without = LABELS != 2
    found = fold_scores(
        PROBABILITIES[without], (BASE[without], BASE[without]), LABELS[without], GENES[without], CLASSES
    )
    assert found["acceptor_ap"] is None
    assert found["top_k_acceptor"] is None
    assert found["donor_ap"] is not None
    nothing = np.zeros(8, dtype=np.int64)
    found = fold_scores(PROBABILITIES, (BASE, BASE), nothing, GENES, CLASSES)
    assert found["auc_meta"] is None
    assert found["top_k_n_genes"] == 0
    assert np.isnan(gene_top_k(PROBABILITIES[:, 1], nothing > 0, GENES))


def test_fold_scores__without_rows_are_none_under_the_same_names() -> None:
    """As in a fold of an instance whose genes there all chose the features."""
    none = np.zeros(0, dtype=np.int64)
    found = fold_scores(PROBABILITIES[:0], (BASE[:0], BASE[:0]), none, none, CLASSES)
    assert list(found) == list(fold_scores(PROBABILITIES, (BASE, BASE), LABELS, GENES, CLASSES)) == score_names(CLASSES)
    assert set(found.values()) == {None}


def test_fold_scores__of_two_classes_have_one_site_class() -> None:
    labels = (LABELS > 0).astype(np.int64)
    found = fold_scores(PROBABILITIES[:, :2], None, labels, GENES, ("no", "yes"))
    assert found["test_macro_avg_precision"] == found["yes_ap"]
    assert found["splice_macro_f1"] == found["yes_f1"]


def test_aggregate__is_mean_and_standard_deviation_over_folds_that_have_a_value() -> None:
    rows = [
        {"fold": 0, "donor_f1": "0.5", "base_f1": "", "donor_ap": "", "test_rows": "10"},
        {"fold": 1, "donor_f1": 0.7, "base_f1": None, "donor_ap": "0.25", "test_rows": 20},
        {"fold": 2, "donor_f1": 0.9, "base_f1": None, "donor_ap": float("nan"), "test_rows": 60},
    ]
    found = aggregate(rows)
    assert found["n_folds"] == 3
    # mean .7, squares of .2, 0, .2 over 2: .04
    assert found["metrics"]["donor_f1"] == {"mean": pytest.approx(0.7), "sd": pytest.approx(0.2), "n": 3}
    assert found["metrics"]["donor_ap"] == {"mean": 0.25, "sd": None, "n": 1}
    assert found["metrics"]["test_rows"]["mean"] == 30
    assert found["left_out"] == {"base_f1": NO_BASE}
    assert "fold" not in found["metrics"]
