"""Merged boosters: the margin is the weighted sum, on rows made to disagree, and nothing wrong is let through."""

import json

import numpy as np
import pytest
import xgboost as xgb
from numpy.typing import NDArray

from mi_duck.errors import CheckpointError
from mi_duck.export.export import N_ROWS, border_rows, check_margins, join_outputs, merge_boosters

N_FEATURES = 6


def booster(seed: int, rounds: int = 12, n_features: int = N_FEATURES, **parameters: object) -> xgb.Booster:
    """Return a booster fitted to noise and a signal, with missing values."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(800, n_features)).astype(np.float32)
    truth = rows[:, 0] + rows[:, seed % 3] * rows[:, 2] + rng.normal(size=800) > 0.8
    rows[rng.random(rows.shape) < 0.1] = np.nan
    settings = {"objective": "binary:logistic", "max_depth": 4, "nthread": 1, "seed": seed} | parameters
    trained = xgb.train(settings, xgb.DMatrix(rows, truth), rounds)
    return xgb.Booster(model_file=bytearray(trained.save_raw("ubj")))


def margin(one: xgb.Booster, rows: NDArray[np.float32]) -> NDArray[np.float64]:
    return one.inplace_predict(rows, predict_type="margin").astype(np.float64)


@pytest.fixture(scope="module")
def members() -> list[list[xgb.Booster]]:
    """Three members of two classes; boosters of different length."""
    return [[booster(seed, 5 + seed), booster(seed + 10, 9 - seed)] for seed in range(3)]


@pytest.fixture(scope="module")
def rows() -> NDArray[np.float32]:
    rng = np.random.default_rng(99)
    found = rng.normal(size=(500, N_FEATURES)).astype(np.float32)
    found[rng.random(found.shape) < 0.2] = np.nan
    return found


def test_merge_boosters__adds_weighted_margins(members: list[list[xgb.Booster]], rows: NDArray[np.float32]) -> None:
    weights = (0.5, 0.3, 0.2)
    merged = merge_boosters([one[0] for one in members], weights)
    wanted = sum(weight * margin(one[0], rows) for one, weight in zip(members, weights, strict=True))
    assert np.abs(margin(merged, rows) - wanted).max() < 1e-6
    assert merged.num_boosted_rounds() == 5 + 6 + 7  # a tree a round of any of them


def test_merge_boosters__of_one_with_weight_one_is_that_one(
    members: list[list[xgb.Booster]], rows: NDArray[np.float32]
) -> None:
    merged = merge_boosters([members[0][0]], [1.0])
    assert np.abs(margin(merged, rows) - margin(members[0][0], rows)).max() < 1e-6


def test_merge_boosters__survives_its_file(members: list[list[xgb.Booster]], rows: NDArray[np.float32]) -> None:
    merged = merge_boosters([one[0] for one in members], (1.0, -0.5, 0.25))
    again = xgb.Booster(model_file=bytearray(merged.save_raw("ubj")))
    assert np.array_equal(margin(again, rows), margin(merged, rows))


def test_join_outputs__puts_classes_side_by_side(members: list[list[xgb.Booster]], rows: NDArray[np.float32]) -> None:
    weights = (0.2, 0.2, 0.6)
    by_class = [merge_boosters([one[index] for one in members], weights) for index in range(2)]
    joined = join_outputs(by_class)
    found = margin(joined, rows)
    assert found.shape == (500, 2)
    for index in range(2):
        assert np.abs(found[:, index] - margin(by_class[index], rows)).max() < 1e-6
    # a block of trees can be walked alone: those of the first class come first
    first = joined.inplace_predict(rows, predict_type="margin", iteration_range=(0, 5 + 6 + 7))
    assert np.abs(first[:, 0] - found[:, 0]).max() < 1e-6
    assert np.ptp(first[:, 1]) == 0


def test_merge_boosters__explains_as_the_members_do(
    members: list[list[xgb.Booster]], rows: NDArray[np.float32]
) -> None:
    """SHAP values of the merged model are the weighted sums of the members'."""
    weights = (0.5, 0.3, 0.2)
    matrix = xgb.DMatrix(rows)
    merged = merge_boosters([one[0] for one in members], weights).predict(matrix, pred_contribs=True)
    wanted = sum(
        weight * one[0].predict(matrix, pred_contribs=True) for one, weight in zip(members, weights, strict=True)
    )
    assert np.abs(merged - wanted).max() < 1e-5


def test_border_rows__lie_on_thresholds_below_them_at_zero_and_missing(members: list[list[xgb.Booster]]) -> None:
    one = members[0][0]
    found = border_rows([one], N_FEATURES, 4000, seed=1)
    tree = json.loads(bytes(one.save_raw("json")))["learner"]["gradient_booster"]["model"]["trees"][0]
    feature, threshold = tree["split_indices"][0], np.float32(tree["split_conditions"][0])
    column = found[:, feature]
    for value in (threshold, np.nextafter(threshold, np.float32(-np.inf)), np.float32(0)):
        assert (column == value).any()
    assert np.isnan(column).any()
    assert np.array_equal(found, border_rows([one], N_FEATURES, 4000, seed=1), equal_nan=True)


def test_check_margins__passes_the_sum_and_refuses_another(members: list[list[xgb.Booster]]) -> None:
    weights = (0.5, 0.3, 0.2)
    merged = join_outputs([merge_boosters([one[index] for one in members], weights) for index in range(2)])
    assert N_ROWS >= 10_000
    assert check_margins(merged, members, weights, n_features=N_FEATURES, seed=0) <= 1e-5
    with pytest.raises(CheckpointError, match="misses the members' margins by"):
        check_margins(merged, members, (0.5, 0.2, 0.3), n_features=N_FEATURES, seed=0)
    # one threshold moved by one unit in the last digit, which rows of a dataset would hardly show
    text = json.loads(bytes(merged.save_raw("json")))
    tree = text["learner"]["gradient_booster"]["model"]["trees"][0]
    tree["split_conditions"][0] = float(np.nextafter(np.float32(tree["split_conditions"][0]), np.float32(np.inf)))
    moved = xgb.Booster(model_file=bytearray(json.dumps(text).encode()))
    with pytest.raises(CheckpointError, match="misses"):
        check_margins(moved, members, weights, n_features=N_FEATURES, seed=0)


def test_merge_boosters__refuses_what_it_cannot_add(members: list[list[xgb.Booster]]) -> None:
    good = members[0][0]
    joined = join_outputs([good, good])
    for others, words in (
        ([joined], "gbtree, binary:logistic, 2 cannot be merged"),
        ([booster(0, objective="reg:squarederror")], "reg:squarederror"),
        ([booster(0, booster="dart")], "dart"),
        ([booster(0, n_features=4)], "boosters of 4 and of 6 features"),
    ):
        with pytest.raises(CheckpointError, match=words):
            merge_boosters([good, *others], (0.5, 0.5))
    for weights in ((), (1.0, 2.0)):
        with pytest.raises(CheckpointError, match="give one weight each"):
            merge_boosters([good], weights)
