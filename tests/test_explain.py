"""SHAP values, their means and errors, and groups of features: against other implementations and by hand."""

import itertools
import math
from typing import Any

import numpy as np
import pytest
import xgboost as xgb

from mi_duck.ensemble import shap as shap_module
from mi_duck.ensemble.shap import ClusteredMean, Contributions, Correlation, contributions, explain
from mi_duck.errors import DataError
from mi_duck.run.encoding import SENTINEL, Encoding
from mi_duck.run.feature_names import Group, feature_groups, kmer_families


def table(n_rows: int = 400, n_features: int = 9, seed: int = 0) -> np.ndarray:
    """Return rows with counts, real numbers and missing values."""
    rng = np.random.default_rng(seed)
    matrix = rng.normal(size=(n_rows, n_features)).astype(np.float32)
    matrix[:, :3] = rng.integers(0, 4, (n_rows, 3))
    matrix[rng.random(matrix.shape) < 0.1] = np.nan
    return matrix


def fitted(matrix: np.ndarray, *, rounds: int = 12, seed: int = 0, **parameters: Any) -> xgb.Booster:
    known = np.nan_to_num(np.clip(matrix, -9, None))
    noise = np.random.default_rng(seed).normal(size=len(matrix))
    label = (known[:, 0] - known[:, 4] * known[:, 5] + 0.5 * noise > 1).astype(float)
    settings = {"objective": "binary:logistic", "max_depth": 5, "eta": 0.4, "nthread": 1} | parameters
    return xgb.train(settings, xgb.DMatrix(matrix, label), rounds)


# ---- values -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", [1, 3, 6, 12])
def test_shap_values__equal_those_of_the_shap_package_with_missing_values(depth: int) -> None:
    shap = pytest.importorskip("shap")
    matrix = table()
    booster = fitted(matrix, max_depth=depth, min_child_weight=0.1, base_score=0.3)
    theirs = shap.TreeExplainer(booster).shap_values(matrix)
    np.testing.assert_allclose(contributions(booster, matrix)[0].T, theirs, atol=1e-5)


def test_shap_values__equal_the_definition_on_one_tree() -> None:
    """Shapley's sum over all subsets; features outside a subset are averaged along the tree by training weight."""
    matrix = table(n_features=6)[:, [0, 4, 5]].copy()
    known = np.nan_to_num(matrix)
    label = (known[:, 0] > 1) ^ ((known[:, 1] > 0) & (known[:, 2] > -0.3))
    settings = {"objective": "binary:logistic", "max_depth": 4, "min_child_weight": 0, "nthread": 1}
    booster = xgb.train(settings, xgb.DMatrix(matrix, label), 1)
    lines = {one["ID"]: one for one in nodes_of(booster)}

    def value(node: str, row: np.ndarray, known: tuple[int, ...]) -> float:
        here = lines[node]
        if here["Feature"] == "Leaf":
            return here["Gain"]
        number = row[int(here["Feature"][1:])]
        if int(here["Feature"][1:]) in known:
            if np.isnan(number):
                return value(here["Missing"], row, known)
            return value(here["Yes"] if number < np.float32(here["Split"]) else here["No"], row, known)
        weights = [lines[here[side]]["Cover"] for side in ("Yes", "No")]
        return (weights[0] * value(here["Yes"], row, known) + weights[1] * value(here["No"], row, known)) / sum(weights)

    found = contributions(booster, matrix[:40])[0].T
    for row, values in zip(matrix[:40], found, strict=True):
        for feature in range(3):
            others = [other for other in range(3) if other != feature]
            expected = sum(
                math.factorial(len(some))
                * math.factorial(2 - len(some))
                / 6
                * (value("0-0", row, (*some, feature)) - value("0-0", row, some))
                for size in range(3)
                for some in itertools.combinations(others, size)
            )
            assert values[feature] == pytest.approx(expected, abs=2e-4)  # the dump rounds covers


def nodes_of(booster: xgb.Booster) -> list[dict[str, Any]]:
    return booster.trees_to_dataframe().to_dict("records")  # type: ignore[no-any-return]


def test_shap_values__of_a_stump_by_hand() -> None:
    """Three of four rows left: a value below the cut gives v_left minus the mean, and only this feature speaks."""
    matrix = np.array([[0, 7], [0, 8], [0, 9], [1, 7]], dtype=np.float32)
    settings = {"objective": "reg:squarederror", "max_depth": 1, "eta": 1, "lambda": 0, "base_score": 0, "nthread": 1}
    booster = xgb.train(settings, xgb.DMatrix(matrix, [0.0, 0.0, 0.0, 4.0]), 1)
    # leaves 0 and 4, mean 1
    np.testing.assert_allclose(contributions(booster, matrix)[0].T, [[-1, 0], [-1, 0], [-1, 0], [3, 0]], atol=1e-6)


def test_shap_values__of_trees_without_splits_and_of_no_rows_are_zero() -> None:
    matrix = table(n_rows=20)
    booster = fitted(matrix, gamma=1e9)
    assert not contributions(booster, matrix)[0].T.any()
    assert contributions(booster, matrix[:0])[0].T.shape == (0, 9)


class WrongInOneRow(xgb.Booster):
    """A booster whose first SHAP value of the last row is wrong by a number."""

    wrong = 0.0

    def predict(self, data: xgb.DMatrix, *args: Any, **options: Any) -> np.ndarray:
        """Return what XGBoost does, but for that value."""
        found = super().predict(data, *args, **options)
        if options.get("pred_contribs"):
            found[-1, 0] += self.wrong
        return found


@pytest.mark.parametrize("wrong", [0.01, -1.0, math.nan])
def test_contributions__that_miss_the_margin_in_one_row_are_an_error(wrong: float) -> None:
    matrix = table()
    booster = WrongInOneRow(model_file=fitted(matrix).save_raw())
    assert contributions(booster, matrix)[1] < 1e-5
    booster.wrong = wrong
    with pytest.raises(DataError, match="miss the margin by"):
        contributions(booster, matrix)


# ---- means and errors -------------------------------------------------------------------------------------------------


def test_clustered_mean__by_hand() -> None:
    """Rows 1 and 3 of one cluster, 5 of another: mean 3, sums miss it by 4 - 6 and 5 - 3, so 2 (4 + 4) / 9 = 16 / 9."""
    mean = ClusteredMean(1)
    mean.add(np.array([[1.0, 3.0, 5.0]]), np.array([0, 0, 1]))
    value, error = mean.estimate()
    assert (value.tolist(), error.tolist()) == ([3.0], [pytest.approx(4 / 3)])
    assert mean.n_clusters == 2


def test_clustered_mean__is_the_same_in_any_batches_and_plain_where_every_row_is_a_cluster() -> None:
    rng = np.random.default_rng(0)
    values, clusters = rng.normal(size=(4, 90)), np.sort(rng.integers(0, 12, 90))
    found = []
    for sizes in ([90], [1] * 90, [7, 50, 33]):
        mean = ClusteredMean(4)
        begin = 0
        for size in sizes:
            mean.add(values[:, begin : begin + size], clusters[begin : begin + size])
            begin += size
        assert mean.n_clusters == len(np.unique(clusters))
        found.append(mean.estimate())
    for value, error in found:
        np.testing.assert_allclose(value, values.mean(axis=1))
        np.testing.assert_allclose(error, found[0][1])
    plain = ClusteredMean(4)
    plain.add(values, np.arange(90))
    np.testing.assert_allclose(plain.estimate()[1], values.std(axis=1, ddof=1) / np.sqrt(90))


def test_clustered_mean__of_one_cluster_has_no_error() -> None:
    mean = ClusteredMean(2)
    mean.add(np.ones((2, 5)), np.zeros(5, dtype=np.int64))
    mean.add(np.ones((2, 0)), np.zeros(0, dtype=np.int64))
    value, error = mean.estimate()
    assert value.tolist() == [1, 1]
    assert np.isnan(error).all()


def test_correlation__equals_that_of_numpy_without_missing_rows() -> None:
    rng = np.random.default_rng(0)
    first, second = rng.normal(size=(3, 60)) * 5 + 1e6, rng.normal(size=(3, 60))
    second[0] += (first[0] - 1e6) / 5
    first[1, :20] = np.nan
    first[2] = 7
    found = Correlation(3)
    for rows in (slice(0, 25), slice(25, 60)):
        found.add(first[:, rows], second[:, rows])
    values = found.values()
    assert values[0] == pytest.approx(np.corrcoef(first[0], second[0])[0, 1], abs=1e-7)
    assert values[1] == pytest.approx(np.corrcoef(first[1, 20:], second[1, 20:])[0, 1], abs=1e-7)
    assert np.isnan(values[2])


# ---- groups of features -----------------------------------------------------------------------------------------------


def test_kmer_families__pair_strands_and_neighbours() -> None:
    features = ["2mer_AC", "2mer_GT", "2mer_AT", "gc_content", "3mer_AAA", "2mer_TT", "9mer_AC"]
    families, notes = kmer_families(features)
    assert notes == []
    # AT is its own reverse complement; AA and TTT are absent
    assert [(one.name, one.members) for one in families if one.kind == "reverse complement"] == [("AC/GT", (0, 1))]
    assert {one.name: one.members for one in families if one.kind == "one mismatch"} == {
        "AC": (0, 2),
        "AT": (0, 1, 2, 5),
        "GT": (1, 2, 5),
        "TT": (1, 2, 5),
    }


def test_kmer_families__of_very_many_kmers_are_left_out_with_a_note() -> None:
    features = [f"7mer_{''.join(letters)}" for letters in itertools.product("ACGT", repeat=7)]
    families, notes = kmer_families(features)
    assert {one.kind for one in families} == {"reverse complement"}
    assert len(families) == 4**7 // 2
    assert len(notes) == 1
    assert "16,384 7-mers" in notes[0]


def test_feature_groups__are_kinds_and_kmers_against_the_others() -> None:
    groups = feature_groups(["4-mer", "other", "5-mer"])
    assert [(one.name, one.members) for one in groups] == [
        *(("4-mer", (0,)), ("5-mer", (2,)), ("other", (1,))),
        *(("all k-mers", (0, 2)), ("all others", (1,))),
    ]
    assert [one.name for one in feature_groups(["4-mer"])] == ["4-mer", "all k-mers"]


# ---- the ensemble -----------------------------------------------------------------------------------------------------

FEATURES = ("a", "b", "2mer_AC", "2mer_GT", "e", "f", "g", "h", "i")


@pytest.fixture(scope="module")
def boosters() -> list[list[xgb.Booster]]:
    """Three members of two classes."""
    return [[fitted(table(seed=seed), seed=seed), fitted(-table(seed=seed), seed=seed)] for seed in range(3)]


def explained(boosters: list[list[xgb.Booster]], **options: Any) -> Contributions:
    settings: dict[str, Any] = {"encoding": Encoding(), "features": FEATURES, "matrix": table(n_rows=700, seed=9)}
    return explain(boosters, (0.5, 0.3, 0.2), **(settings | options))


def test_explain__applies_weights_once_and_averages_over_classes(boosters: list[list[xgb.Booster]]) -> None:
    found, matrix = explained(boosters), table(n_rows=700, seed=9)
    size = [[np.abs(contributions(booster, matrix)[0].T) for booster in row] for row in boosters]
    joined = [0.5 * size[0][index] + 0.3 * size[1][index] + 0.2 * size[2][index] for index in range(2)]
    for index in range(2):
        np.testing.assert_allclose(found.by_class[index].value, joined[index].mean(axis=0))
        error = joined[index].std(axis=0, ddof=1) / np.sqrt(700)
        np.testing.assert_allclose(found.by_class[index].error, error)
        for member in range(3):
            np.testing.assert_allclose(found.by_booster[member][index].value, size[member][index].mean(axis=0))
    np.testing.assert_allclose(found.overall.value, np.mean([one.mean(axis=0) for one in joined], axis=0))
    np.testing.assert_allclose(found.by_instance[2].value, np.mean(size[2], axis=(0, 1)))
    assert found.largest_gap < 1e-5
    assert found.n_row_trees == 700 * 6 * 12


def test_explain__weighted_values_add_up_to_the_weighted_margin(boosters: list[list[xgb.Booster]]) -> None:
    """Up to a constant, the base value: what margin voting predicts is explained exactly."""
    kept: dict[int, list[np.ndarray]] = {0: [], 1: []}
    explained(boosters, keep=lambda index, values: kept[index].append(values))
    matrix = table(n_rows=700, seed=9)
    for index in range(2):
        margins = [row[index].inplace_predict(matrix, predict_type="margin") for row in boosters]
        rest = 0.5 * margins[0] + 0.3 * margins[1] + 0.2 * margins[2] - np.concatenate(kept[index], axis=1).sum(axis=0)
        assert np.ptp(rest) < 1e-5


def test_explain__gives_the_same_in_batches_and_with_threads(
    boosters: list[list[xgb.Booster]], monkeypatch: pytest.MonkeyPatch
) -> None:
    clusters = np.sort(np.random.default_rng(0).integers(0, 90, 700))
    groups = kmer_families(FEATURES)[0]
    whole = explained(boosters, clusters=clusters, groups=groups)
    assert whole.n_clusters == len(np.unique(clusters))
    threaded = explained(boosters, clusters=clusters, groups=groups, threads=4)
    monkeypatch.setattr(shap_module, "BATCH_BYTES", 1)  # 256 rows, the smallest batch
    batched = explained(boosters, clusters=clusters, groups=groups)
    for name in ("overall", "groups_overall"):
        one = getattr(whole, name)
        for field in ("value", "error"):
            np.testing.assert_array_equal(getattr(one, field), getattr(getattr(threaded, name), field))
            np.testing.assert_allclose(getattr(one, field), getattr(getattr(batched, name), field), rtol=1e-9)
    np.testing.assert_allclose(whole.direction, batched.direction, atol=1e-9)
    np.testing.assert_allclose(whole.mean_value, batched.mean_value, atol=1e-12)


def test_explain__a_group_moves_as_the_sum_of_its_members(boosters: list[list[xgb.Booster]]) -> None:
    """Groups of any size, that overlap, or of all features."""
    groups = [*kmer_families(FEATURES)[0], Group("any", "all", tuple(range(9))), Group("any", "overlapping", (3, 8, 0))]
    found, matrix = explained(boosters, groups=groups), table(n_rows=700, seed=9)
    assert groups[0].members == (2, 3)
    for number, group in enumerate(groups):
        members = list(group.members)
        sums = [
            [np.abs(contributions(one, matrix)[0].T[:, members].sum(axis=1)).mean() for one in row] for row in boosters
        ]
        expected = np.average(sums, axis=0, weights=(0.5, 0.3, 0.2))
        assert [one.value[number] for one in found.groups_by_class] == pytest.approx(expected.tolist())
        assert found.groups_overall.value[number] == pytest.approx(expected.mean())


@pytest.mark.parametrize("encoding", [Encoding(zero_is_missing=("a", "b")), Encoding(sentinel=SENTINEL)])
def test_explain__sees_rows_as_the_members_do(encoding: Encoding) -> None:
    matrix = table()
    booster = fitted(encoding.apply(matrix, FEATURES))
    found = explain([[booster]], (1.0,), encoding=encoding, features=FEATURES, matrix=matrix)
    expected = np.abs(contributions(booster, encoding.apply(matrix, FEATURES))[0].T).mean(axis=0)
    np.testing.assert_allclose(found.overall.value, expected)


def test_explain__a_background_makes_values_interventional(boosters: list[list[xgb.Booster]]) -> None:
    shap = pytest.importorskip("shap")
    background, matrix = table(n_rows=30, seed=5), table(n_rows=20, seed=9)
    found = explained(boosters, matrix=matrix, background=background)
    explainer = shap.TreeExplainer(boosters[1][0], data=background, feature_perturbation="interventional")
    expected = np.abs(explainer.shap_values(matrix)).mean(axis=0)
    np.testing.assert_allclose(found.by_booster[1][0].value, expected, atol=1e-5)
    assert not np.allclose(found.overall.value, explained(boosters, matrix=matrix).overall.value, atol=1e-3)
