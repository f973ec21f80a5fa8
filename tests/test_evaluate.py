"""Scores equal those of scikit-learn, and intervals come from drawing whole fold groups."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import (
    average_precision_score,
    brier_score_loss,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
    roc_auc_score,
)

from mi_duck.metrics.metrics import (
    METRICS,
    Metric,
    differences,
    draw_groups,
    drawn_scores,
    equal_mass_bins,
    headline_scores,
    log_loss_of_rows,
    point_scores,
    score,
    summary,
)
from mi_duck.metrics.ranking import ranking

CLASSES = ("neither", "donor", "acceptor")


def rows(
    n: int = 900, n_groups: int = 30, seed: int = 0, ties: int | None = None
) -> tuple[NDArray[np.float64], NDArray[np.int64], NDArray[np.int64]]:
    """Return (probabilities, labels, groups); with ``ties`` scores take that many values only."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(3, n, p=[0.7, 0.2, 0.1])
    raw = rng.gamma(1.0, size=(n, 3)) + 1.5 * np.eye(3)[labels] * rng.random((n, 1))
    if ties:
        raw = np.ceil(raw * ties) / ties
    return raw / raw.sum(axis=1, keepdims=True), labels, rng.integers(0, n_groups, n)


def by_name(found: list[Metric]) -> dict[tuple[str, str], Metric]:
    return {(one.metric, one.class_name): one for one in found}


@pytest.mark.parametrize("ties", [None, 2, 1])
def test_average_precision__equals_scikit_learn_with_and_without_ties(ties: int | None) -> None:
    probabilities, labels, groups = rows(ties=ties)
    found = by_name(score(probabilities, labels, groups, CLASSES, seed=1, draws=5))
    expected = [average_precision_score(labels == index, probabilities[:, index]) for index in range(3)]
    for name, value in zip(CLASSES, expected, strict=True):
        assert found["average_precision", name].value == pytest.approx(value, abs=1e-12)
    assert found["average_precision", "macro"].value == pytest.approx(np.mean(expected[1:]), abs=1e-12)


def test_f1_and_log_loss__equal_scikit_learn() -> None:
    probabilities, labels, groups = rows(ties=3)
    found = by_name(score(probabilities, labels, groups, CLASSES, seed=1, draws=5))
    f1 = f1_score(labels, probabilities.argmax(axis=1), average=None)
    assert [found["f1", name].value for name in CLASSES] == pytest.approx(f1, abs=1e-12)
    assert found["f1", "macro"].value == pytest.approx(f1.mean(), abs=1e-12)
    assert found["log_loss", "all"].value == pytest.approx(log_loss(labels, probabilities), abs=1e-12)


def test_areas_calls_and_brier__equal_scikit_learn() -> None:
    probabilities, labels, groups = rows(ties=5)
    found = by_name(score(probabilities, labels, groups, CLASSES, seed=1, draws=5))
    precision, recall, _, _ = precision_recall_fscore_support(labels, probabilities.argmax(axis=1))
    for index, name in enumerate(CLASSES):
        truth = labels == index
        assert found["roc_auc", name].value == pytest.approx(roc_auc_score(truth, probabilities[:, index]), abs=1e-12)
        assert found["brier", name].value == pytest.approx(brier_score_loss(truth, probabilities[:, index]), abs=1e-12)
        assert found["log_loss", name].value == pytest.approx(log_loss(truth, probabilities[:, index]), abs=1e-12)
        assert found["precision", name].value == pytest.approx(precision[index], abs=1e-12)
        assert found["recall", name].value == pytest.approx(recall[index], abs=1e-12)
    assert found["precision", "macro"].value == pytest.approx(precision.mean())
    assert found["roc_auc", "macro"].value == pytest.approx(
        np.mean([found["roc_auc", name].value for name in CLASSES[1:]])
    )
    assert found["brier", "all"].value == pytest.approx(np.square(probabilities - np.eye(3)[labels]).sum(axis=1).mean())


def test_calibration_error__by_hand_of_bins_of_equal_mass() -> None:
    """30 rows, 15 bins of two: probabilities .01, .02, ... .30, true where the number is odd.

    Every bin has one true row, so its gap is |mean probability - .5|; the mean of the means is .155, all below .5.
    """
    probability = np.arange(1, 31) / 100
    labels = np.arange(1, 31) % 2
    found = by_name(
        score(np.column_stack([1 - probability, probability]), labels, np.arange(30) % 4, ("a", "b"), seed=0)
    )
    assert found["ece", "b"].value == pytest.approx(0.5 - 0.155)
    assert found["ece", "a"].value == pytest.approx(0.5 - 0.155)


def test_equal_mass_bins__hold_equal_rows_and_keep_equal_scores_together() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(3_000)
    ranks = ranking(scores)
    bins = equal_mass_bins(ranks.order, ranks.stops)
    assert np.bincount(bins).tolist() == [200] * 15
    assert (np.diff(bins[np.argsort(scores)]) >= 0).all()
    coarse = np.round(scores, 1)
    ranks = ranking(coarse)
    bins = equal_mass_bins(ranks.order, ranks.stops)
    assert all(len(set(bins[coarse == value])) == 1 for value in set(coarse))
    assert set(equal_mass_bins(*(lambda one: (one.order, one.stops))(ranking(np.zeros(4))))) == {7}


def test_calibration_error__is_small_for_true_probabilities_and_large_for_inflated_ones() -> None:
    rng = np.random.default_rng(1)
    probability = rng.random(60_000)
    labels = (rng.random(60_000) < probability).astype(int)
    groups = rng.integers(0, 50, 60_000)
    for given, low, high in ((probability, 0, 0.01), (np.sqrt(probability), 0.15, 0.18)):
        # the mean of sqrt(x) - x on [0, 1] is 2/3 - 1/2
        found = by_name(score(np.column_stack([1 - given, given]), labels, groups, ("a", "b"), seed=0, draws=3))
        assert low <= found["ece", "b"].value <= high


def test_top_k_per_gene__is_the_mean_over_genes_with_sites() -> None:
    """Gene 0 has two donors, one among its two best rows: 1/2. Gene 1 has one, its best row: 1. Gene 2 has none."""
    probability = np.array([0.9, 0.8, 0.1, 0.2, 0.7, 0.6])
    labels = np.array([1, 0, 1, 0, 1, 0])
    genes = np.array([0, 0, 0, 1, 1, 2])
    groups = np.array([0, 0, 0, 1, 1, 1])
    probabilities = np.column_stack([1 - probability, probability])
    found = by_name(score(probabilities, labels, groups, ("neither", "donor"), seed=0, draws=9, genes=genes))
    assert found["top_k_per_gene", "donor"].value == pytest.approx(0.75)
    assert found["top_k_per_gene", "macro"].value == pytest.approx(0.75)
    # a draw of group 0 alone gives 1/2, of group 1 alone 1
    assert (found["top_k_per_gene", "donor"].low, found["top_k_per_gene", "donor"].high) == (0.5, 1.0)
    without = score(probabilities, labels, groups, ("neither", "donor"), seed=0, draws=0)
    assert "top_k_per_gene" not in {one.metric for one in without}


def test_drawn_scores__equal_those_of_rows_that_are_there_as_often_as_drawn() -> None:
    """Every metric, under every draw; bins of the calibration error alone are cut on the data as they are."""
    probabilities, labels, groups = rows(n=400, n_groups=8, ties=6)
    genes = groups * 5 + np.random.default_rng(0).integers(0, 5, 400)
    group_draws = draw_groups(np.arange(8), seed=3, draws=4)
    metrics = [name for name in METRICS if name not in ("ece", "top_k_per_gene")]
    drawn = drawn_scores(probabilities, labels, groups, CLASSES, group_draws=group_draws, genes=genes, metrics=metrics)
    assert {name for name, _ in drawn} == set(metrics)
    for number, line in enumerate(group_draws):
        again = np.repeat(np.arange(400), line[groups])
        alone = by_name(
            score(probabilities[again], labels[again], groups[again], CLASSES, seed=0, draws=0, metrics=metrics)
        )
        for key, values in drawn.items():
            assert values[number] == pytest.approx(alone[key].value, abs=1e-12)


def test_headline_scores__are_some_of_all() -> None:
    probabilities, labels, groups = rows()
    group_draws = draw_groups(np.arange(30), seed=3, draws=4)
    whole = drawn_scores(probabilities, labels, groups, CLASSES, group_draws=group_draws)
    some = headline_scores(probabilities, labels, groups, CLASSES, group_draws=group_draws)
    names = ("donor", "acceptor", "macro")
    kinds = ("average_precision", "top_k")
    assert set(some) == {*((kind, name) for kind in kinds for name in names), ("f1", "macro"), ("log_loss", "all")}
    assert all(np.array_equal(values, whole[key]) for key, values in some.items())


def test_differences__have_a_narrower_interval_than_two_models_alone() -> None:
    probabilities, labels, groups = rows(n=3_000, n_groups=60)
    worse = 0.9 * probabilities + 0.1 / 3
    group_draws = draw_groups(np.arange(60), seed=4, draws=200)
    drawn = [drawn_scores(given, labels, groups, CLASSES, group_draws=group_draws) for given in (probabilities, worse)]
    one, other = (by_name(summary(values)) for values in drawn)
    found = by_name(summary(differences(*drawn)))
    key = ("log_loss", "all")
    assert found[key].value == pytest.approx(one[key].value - other[key].value)
    assert found[key].high - found[key].low < 0.3 * (one[key].high - one[key].low)
    # the same order of scores: neither area moves in any draw
    assert (found["roc_auc", "donor"].low, found["roc_auc", "donor"].high) == (0, 0)
    none = summary(differences(drawn[0], drawn[0]))
    assert all(metric.value == metric.low == metric.high == 0 for metric in none)


def test_log_loss_of_rows__is_that_of_the_label_and_finite() -> None:
    found = log_loss_of_rows(np.array([[0.25, 0.75], [1.0, 0.0]]), np.array([1, 1]))
    assert found == pytest.approx([-np.log(0.75), -np.log(1e-15)])


def test_metric__values_are_null_in_files_where_they_are_not_defined() -> None:
    assert Metric("f1", "a", 0.5, np.nan, np.nan).values() == {"value": 0.5, "low": None, "high": None}


def test_draw_groups__begin_with_the_data_and_draw_as_many_groups() -> None:
    group_draws = draw_groups(np.arange(40), seed=1, draws=10)
    assert group_draws.dtype == np.uint8
    assert (group_draws[0] == 1).all()
    assert (group_draws.sum(axis=1) == 40).all()
    assert np.array_equal(group_draws, draw_groups(np.arange(40), seed=1, draws=10))


def test_score__by_hand() -> None:
    """Four rows in two groups.

    Class b is row 1 (score .6) and row 3 (score .2): sorted .6+ .4- .3- .2+, precision 1 at recall 1/2 and 2/4 at
    recall 1, so average precision is .75. Calls are a b a a: b has one hit and one miss, F1 = 2/3; a has two hits and
    one false call, F1 = 4/5. Log loss = -(log .7 + log .6 + log .6 + log .2) / 4.
    """
    probabilities = np.array([[0.7, 0.3], [0.4, 0.6], [0.6, 0.4], [0.8, 0.2]])
    found = by_name(score(probabilities, np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]), ("a", "b"), seed=0, draws=0))
    assert found["average_precision", "b"].value == pytest.approx(0.75)
    assert found["f1", "b"].value == pytest.approx(2 / 3)
    assert found["f1", "a"].value == pytest.approx(4 / 5)
    assert found["log_loss", "all"].value == pytest.approx(-np.log([0.7, 0.6, 0.6, 0.2]).mean())


def test_score__perfect_predictions_are_perfect() -> None:
    _, labels, groups = rows()
    found = by_name(score(np.eye(3)[labels], labels, groups, CLASSES, seed=1, draws=20))
    errors = {"log_loss", "brier", "ece"}
    assert {(one.value, one.low, one.high) for one in found.values() if one.metric not in errors} == {(1.0, 1.0, 1.0)}
    assert {(one.value, one.low, one.high) for one in found.values() if one.metric in errors} == {(0.0, 0.0, 0.0)}


def test_intervals__contain_the_value_and_shrink_with_more_groups() -> None:
    few = by_name(score(*rows(n=600, n_groups=20), CLASSES, seed=3))
    many = by_name(score(*rows(n=9_600, n_groups=320), CLASSES, seed=3))
    for key, one in few.items():
        for metric in (one, many[key]):
            assert metric.low < metric.value
            assert metric.value < metric.high or metric.value == 1  # all sites among the best 4 k
    for key in (("average_precision", "macro"), ("f1", "macro"), ("log_loss", "all")):
        ratio = (many[key].high - many[key].low) / (few[key].high - few[key].low)
        assert ratio == pytest.approx(1 / 4, rel=0.5)  # 16 times the groups


def test_intervals__draw_whole_groups() -> None:
    """Rows repeated inside their groups change no interval, since the number of groups is the same."""
    probabilities, labels, groups = rows(n=300, n_groups=10)
    once = score(probabilities, labels, groups, CLASSES, seed=5)
    tripled = score(np.tile(probabilities, (3, 1)), np.tile(labels, 3), np.tile(groups, 3), CLASSES, seed=5)
    for one, other in zip(once, tripled, strict=True):
        if one.metric == "top_0.5k":  # half of an odd number of sites is rounded down
            continue
        assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high), abs=1e-9)


def test_intervals__of_one_group_have_no_width() -> None:
    probabilities, labels, groups = rows(n=100)
    for one in score(probabilities, labels, np.zeros_like(groups), CLASSES, seed=5):
        assert one.low == pytest.approx(one.value)
        assert one.high == pytest.approx(one.value)


def test_score__is_a_function_of_the_seed() -> None:
    data = rows(n=300)
    assert score(*data, CLASSES, seed=1) == score(*data, CLASSES, seed=1)
    assert score(*data, CLASSES, seed=1) != score(*data, CLASSES, seed=2)


def test_point_scores__are_the_same_values_under_short_names() -> None:
    probabilities, labels, groups = rows()
    found = by_name(score(probabilities, labels, groups, CLASSES, seed=0, draws=3))
    short = point_scores(probabilities, labels, CLASSES)
    of_class = ("ap", "auc", "f1", "precision", "recall", "brier", "ece", "log_loss")
    of_sites = ("top_0.5k", "top_k", "top_2k", "top_4k")
    of_macro = ("ap", "auc", "f1", "precision", "recall", *of_sites)
    assert set(short) == {
        *(f"{name}_{kind}" for name in CLASSES for kind in of_class),
        *(f"{name}_{kind}" for name in CLASSES[1:] for kind in of_sites),
        *(f"macro_{kind}" for kind in of_macro),
        "log_loss",
        "brier",
    }
    assert short["donor_ap"] == pytest.approx(found["average_precision", "donor"].value)
    assert short["macro_f1"] == pytest.approx(found["f1", "macro"].value)
    assert "macro_top_k_per_gene" in point_scores(probabilities, labels, CLASSES, genes=groups)


def test_point_scores__of_a_fold_without_a_class_leave_its_precision_open() -> None:
    probabilities, labels, _ = rows(n=50)
    short = point_scores(probabilities[labels != 2], labels[labels != 2], CLASSES)
    assert np.isnan(short["acceptor_ap"])
    assert np.isfinite(short["log_loss"])
