"""A forest predicts what its boosters predict, to the last bit, from the features that they look at."""

from collections.abc import Sequence

import numpy as np
import pytest
import xgboost as xgb
from numpy.typing import NDArray
from test_merge import N_FEATURES, booster

from mi_duck.boosting.forest import forest_of
from mi_duck.boosting.ubjson import read_object, write_object
from mi_duck.errors import CheckpointError
from mi_duck.export.export import border_rows
from mi_duck.run.encoding import SENTINEL, Encoding

FEATURES = tuple(f"f{number}" for number in range(N_FEATURES))
ENCODINGS = (Encoding(), Encoding(("f1", "f4", "f2")), Encoding((), SENTINEL))


@pytest.fixture(scope="module")
def boosters() -> list[xgb.Booster]:
    """Of different lengths and intercepts; one is a single leaf."""
    return [booster(seed, 4 + 3 * seed) for seed in range(4)] + [booster(7, 2, gamma=1e9)]


@pytest.fixture(scope="module")
def rows(boosters: list[xgb.Booster]) -> NDArray[np.float32]:
    """Where the trees decide, and more zeros."""
    found = border_rows(boosters, N_FEATURES, 3000, seed=3)
    found[np.random.default_rng(4).random(found.shape) < 0.2] = 0
    return found


def by_hand(
    boosters: Sequence[xgb.Booster], rows: NDArray[np.float32], encoding: Encoding = ENCODINGS[0]
) -> NDArray[np.float32]:
    encoded = encoding.apply(rows.copy(), FEATURES)
    return np.column_stack([one.inplace_predict(encoded, predict_type="margin") for one in boosters])


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_forest__margins_are_those_of_its_boosters_to_the_last_bit(
    boosters: list[xgb.Booster], rows: NDArray[np.float32], encoding: Encoding
) -> None:
    forest = forest_of(boosters, FEATURES, encoding)
    before = rows.copy()
    assert np.array_equal(forest.margins(rows, threads=1), by_hand(boosters, rows, encoding))
    assert np.array_equal(rows, before, equal_nan=True)  # what it is given stays as it is
    assert (forest.n_zero, forest.sentinel) == (len(encoding.zero_is_missing), encoding.sentinel)


@pytest.mark.parametrize(("nodes", "n_groups"), [(1, 5), (10**9, 1), (450, None)])
def test_forest__groups_of_boosters_and_rows_and_threads_change_nothing(
    boosters: list[xgb.Booster],
    rows: NDArray[np.float32],
    nodes: int,
    n_groups: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("mi_duck.boosting.forest.BLOCKS_BYTES", 1)
    forest = forest_of(boosters, FEATURES, Encoding(), nodes_at_once=nodes)
    for threads in (1, 2, 7):
        assert np.array_equal(forest.margins(rows, threads=threads), by_hand(boosters, rows))
    assert [output for _, first, stop in forest.groups for output in range(first, stop)] == list(range(5))
    assert len(forest.groups) == n_groups if n_groups else 1 < len(forest.groups) < 5


def test_forest__knows_only_the_features_that_its_trees_use(rows: NDArray[np.float32]) -> None:
    """The third feature cannot be used, because it is constant where the booster is trained; zeros as missing come first."""
    rng = np.random.default_rng(0)
    matrix = rng.normal(size=(500, N_FEATURES)).astype(np.float32)
    matrix[:, 2] = 1
    settings = {"objective": "binary:logistic", "nthread": 1, "max_depth": 6}
    trained = xgb.train(settings, xgb.DMatrix(matrix, matrix[:, 0] * matrix[:, 5] > 0.2), 20)
    used = [f"f{number}" for number in (0, 1, 3, 4, 5)]
    assert sorted(trained.get_score()) == used
    encoding = Encoding(("f5", "f2", "f3"))
    forest = forest_of([trained], FEATURES, encoding)
    assert forest.features == ("f3", "f5", "f0", "f1", "f4")
    assert forest.columns.tolist() == [3, 5, 0, 1, 4]
    assert forest.n_zero == 2
    assert np.array_equal(forest.margins(rows, threads=1)[:, 0], by_hand([trained], rows, encoding)[:, 0])
    gathered = np.ascontiguousarray(rows[:, forest.columns])
    assert np.array_equal(forest.margins_of_used(gathered), forest.margins(rows, threads=1))


def test_forest__of_leaves_alone_and_of_no_rows(rows: NDArray[np.float32]) -> None:
    leaf = booster(7, 2, gamma=1e9)
    forest = forest_of([leaf, leaf], FEATURES, Encoding())
    assert np.array_equal(forest.margins(rows, threads=1), by_hand([leaf, leaf], rows))
    assert forest.margins(rows[:0], threads=2).shape == (0, 2)


def test_forest_of__refuses_what_mi_duck_does_not_train(boosters: list[xgb.Booster]) -> None:
    for other, words in (
        (booster(0, objective="reg:squarederror"), "reg:squarederror"),
        (booster(0, booster="dart"), "dart"),
        (booster(0, n_features=4), "boosters of 4 and of 6 features"),
    ):
        with pytest.raises(CheckpointError, match=words):
            forest_of([boosters[0], other], FEATURES, Encoding())


def test_write_object__reads_back_the_same_and_is_the_same_booster(
    boosters: list[xgb.Booster], rows: NDArray[np.float32]
) -> None:
    raw = bytes(boosters[2].save_raw("ubj"))
    values, end = read_object(raw)
    assert end == len(raw)
    again = write_object(values)
    assert read_object(again) == (values, len(again))
    assert np.array_equal(by_hand([xgb.Booster(model_file=bytearray(again))], rows), by_hand([boosters[2]], rows))
