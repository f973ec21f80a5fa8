"""Scores equal those of scikit-learn, and intervals come from drawing whole fold groups."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, f1_score, log_loss

from mi_duck.train.evaluate import Metric, average_precisions, point_scores, score

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
    chances, labels, groups = rows(ties=ties)
    found = by_name(score(chances, labels, groups, CLASSES, seed=1, draws=5))
    expected = [average_precision_score(labels == index, chances[:, index]) for index in range(3)]
    for name, value in zip(CLASSES, expected, strict=True):
        assert found["average_precision", name].value == pytest.approx(value, abs=1e-12)
    assert found["average_precision", "macro"].value == pytest.approx(np.mean(expected[1:]), abs=1e-12)


@pytest.mark.parametrize("ties", [None, 2])
def test_average_precision__a_group_drawn_twice_counts_as_its_rows_twice(ties: int | None) -> None:
    chances, labels, groups = rows(n=200, n_groups=6, ties=ties)
    weights = np.array([[1, 1, 1, 1, 1, 1], [2, 0, 1, 3, 0, 0], [0, 0, 0, 0, 6, 0]], dtype=float)
    found = average_precisions(chances[:, 1], labels == 1, groups, weights)
    for line, value in zip(weights, found, strict=True):
        repeated = np.repeat(np.arange(len(labels)), line[groups].astype(int))
        assert value == pytest.approx(average_precision_score(labels[repeated] == 1, chances[repeated, 1]), abs=1e-12)


def test_average_precision__without_a_positive_is_no_number() -> None:
    chances, labels, groups = rows(n=50)
    assert np.isnan(average_precisions(chances[:, 1], labels == 9, groups, np.ones((1, 30)))).all()


def test_f1_and_log_loss__equal_scikit_learn() -> None:
    chances, labels, groups = rows(ties=3)
    found = by_name(score(chances, labels, groups, CLASSES, seed=1, draws=5))
    f1 = f1_score(labels, chances.argmax(axis=1), average=None)
    assert [found["f1", name].value for name in CLASSES] == pytest.approx(f1, abs=1e-12)
    assert found["f1", "macro"].value == pytest.approx(f1.mean(), abs=1e-12)
    assert found["log_loss", "all"].value == pytest.approx(log_loss(labels, chances), abs=1e-12)


def test_score__by_hand() -> None:
    """Four rows in two groups.

    Class b is row 1 (score .6) and row 3 (score .2): sorted .6+ .4- .3- .2+, precision 1 at recall 1/2 and 2/4 at
    recall 1, so average precision is .75. Calls are a b a a: b has one hit and one miss, F1 = 2/3; a has two hits and
    one false call, F1 = 4/5. Log loss = -(log .7 + log .6 + log .6 + log .2) / 4.
    """
    chances = np.array([[0.7, 0.3], [0.4, 0.6], [0.6, 0.4], [0.8, 0.2]])
    found = by_name(score(chances, np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1]), ("a", "b"), seed=0, draws=0))
    assert found["average_precision", "b"].value == pytest.approx(0.75)
    assert found["f1", "b"].value == pytest.approx(2 / 3)
    assert found["f1", "a"].value == pytest.approx(4 / 5)
    assert found["log_loss", "all"].value == pytest.approx(-np.log([0.7, 0.6, 0.6, 0.2]).mean())


def test_score__perfect_predictions_are_perfect() -> None:
    _, labels, groups = rows()
    found = by_name(score(np.eye(3)[labels], labels, groups, CLASSES, seed=1, draws=20))
    assert {(one.value, one.low, one.high) for one in found.values() if one.metric != "log_loss"} == {(1.0, 1.0, 1.0)}
    assert found["log_loss", "all"].value == 0


def test_intervals__contain_the_value_and_shrink_with_more_groups() -> None:
    few = by_name(score(*rows(n=600, n_groups=20), CLASSES, seed=3))
    many = by_name(score(*rows(n=9_600, n_groups=320), CLASSES, seed=3))
    for key, one in few.items():
        assert one.low < one.value < one.high
        assert many[key].low < many[key].value < many[key].high
    for key in (("average_precision", "macro"), ("f1", "macro"), ("log_loss", "all")):
        ratio = (many[key].high - many[key].low) / (few[key].high - few[key].low)
        assert ratio == pytest.approx(1 / 4, rel=0.5)  # 16 times the groups


def test_intervals__draw_whole_groups() -> None:
    """Rows repeated inside their groups change no interval, since the number of groups is the same."""
    chances, labels, groups = rows(n=300, n_groups=10)
    once = score(chances, labels, groups, CLASSES, seed=5)
    tripled = score(np.tile(chances, (3, 1)), np.tile(labels, 3), np.tile(groups, 3), CLASSES, seed=5)
    for one, other in zip(once, tripled, strict=True):
        assert (one.value, one.low, one.high) == pytest.approx((other.value, other.low, other.high), abs=1e-9)


def test_intervals__of_one_group_have_no_width() -> None:
    chances, labels, groups = rows(n=100)
    for one in score(chances, labels, np.zeros_like(groups), CLASSES, seed=5):
        assert one.low == pytest.approx(one.value)
        assert one.high == pytest.approx(one.value)


def test_score__is_a_function_of_the_seed() -> None:
    data = rows(n=300)
    assert score(*data, CLASSES, seed=1) == score(*data, CLASSES, seed=1)
    assert score(*data, CLASSES, seed=1) != score(*data, CLASSES, seed=2)


def test_point_scores__are_the_same_values_under_short_names() -> None:
    chances, labels, groups = rows()
    found = by_name(score(chances, labels, groups, CLASSES, seed=0, draws=3))
    short = point_scores(chances, labels, CLASSES)
    assert set(short) == {
        *(f"{name}_{kind}" for name in (*CLASSES, "macro") for kind in ("ap", "f1")),
        "log_loss",
    }
    assert short["donor_ap"] == pytest.approx(found["average_precision", "donor"].value)
    assert short["macro_f1"] == pytest.approx(found["f1", "macro"].value)


def test_point_scores__of_a_fold_without_a_class_leave_its_precision_open() -> None:
    chances, labels, _ = rows(n=50)
    short = point_scores(chances[labels != 2], labels[labels != 2], CLASSES)
    assert np.isnan(short["acceptor_ap"])
    assert np.isfinite(short["log_loss"])
