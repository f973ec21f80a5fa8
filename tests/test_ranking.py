"""Measures by order of scores equal scikit-learn's on the repeated rows, and top-k equals brute force."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from mi_duck.metrics import ranking as module
from mi_duck.metrics.metrics import draw_groups
from mi_duck.metrics.ranking import TOP_K, others_at_recall, rank_scores, ranking, top_k_hits, top_k_shares


def rows(n: int, share: float, ties: int | None, seed: int = 0) -> tuple[NDArray, NDArray, NDArray]:
    """Return (scores, truth, groups of 6); with ``ties`` scores take that many values only."""
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < share
    scores = (rng.random(n) + 0.3 * truth).astype(np.float32)
    return (np.ceil(scores * ties) / ties if ties else scores), truth, rng.integers(0, 6, n)


WEIGHTS = np.array([[1, 1, 1, 1, 1, 1], [2, 0, 1, 3, 0, 0], [0, 0, 0, 0, 6, 0], [0, 5, 0, 1, 0, 0]], dtype=np.uint8)


def brute_top(scores: NDArray, truth: NDArray, factor: float) -> float:
    """Return the expectation of OpenSpliceAI's top-kL over random orders of rows with equal scores."""
    n_true = int(truth.sum())
    k = min(int(factor * n_true), len(truth))
    hits = 0.0
    for score in np.unique(scores)[::-1]:
        tied = truth[scores == score]
        before = int((scores > score).sum())
        hits += tied.mean() * min(max(k - before, 0), len(tied))
    return hits / min(k, n_true) if k else float("nan")


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("ties", [None, 7, 2, 1])
def test_rank_scores__a_group_drawn_twice_counts_as_its_rows_twice(share: float, ties: int | None) -> None:
    """For rare and for frequent classes, with and without ties."""
    scores, truth, groups = rows(400, share, ties)
    found = rank_scores(ranking(scores), truth, groups, WEIGHTS)
    for number, line in enumerate(WEIGHTS):
        repeated = np.repeat(np.arange(len(truth)), line[groups])
        expected = {
            "average_precision": average_precision_score(truth[repeated], scores[repeated]),
            "roc_auc": roc_auc_score(truth[repeated], scores[repeated]),
        } | {name: brute_top(scores[repeated], truth[repeated], factor) for name, factor in TOP_K.items()}
        for name, value in expected.items():
            assert found[name][number] == pytest.approx(value, abs=1e-12), name


@pytest.mark.parametrize("share", [0.05, 0.95])
def test_rank_scores__of_many_rows_draws_see_levels_and_hardly_differ(
    share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ten thousand rare rows share 512 levels; the first line stays exact, draws are off by a small part of their spread."""
    rng = np.random.default_rng(7)
    truth = rng.random(200_000) < share
    scores = (rng.normal(size=len(truth)) + 2 * truth).astype(np.float32)
    groups = np.sort(rng.integers(0, 300, len(truth)))
    group_draws = draw_groups(groups, seed=1, draws=60)
    found = rank_scores(ranking(scores), truth, groups, group_draws)
    monkeypatch.setattr(module, "LEVELS", 1 << 20)
    monkeypatch.setattr(module, "CELLS", 1 << 40)
    exact = rank_scores(ranking(scores), truth, groups, group_draws[:8])
    for name, values in exact.items():
        assert found[name][0] == values[0]
        part = 0.15 if name in TOP_K else 0.02  # the k-th row lies within a level
        assert np.abs(found[name][:8] - values).max() <= part * found[name].std(), name
    assert found["average_precision"][0] == pytest.approx(average_precision_score(truth, scores), abs=1e-12)


def test_rank_scores__weights_above_a_byte_and_sums_above_32_bits_are_exact() -> None:
    scores, truth, groups = rows(50, 0.4, None)
    weights = np.array([[1] * 6, [1 << 30] * 6], dtype=np.uint32)
    found = rank_scores(ranking(scores), truth, groups, weights)
    for name in ("average_precision", "roc_auc"):
        assert found[name][1] == pytest.approx(found[name][0], abs=1e-12)


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_rank_scores__of_one_side_alone_are_nan(share: float) -> None:
    scores, truth, groups = rows(100, share, None)
    truth[groups == 2] = True
    truth[groups == 3] = False
    weights = np.zeros((3, 6), dtype=np.uint8)
    weights[1, 2] = weights[2, 3] = 1
    whole = np.vstack([np.ones((1, 6), dtype=np.uint8), weights])
    found = rank_scores(ranking(scores), truth, groups, whole)
    # no row at all; only positives: every call is right; only negatives
    for name in ("average_precision", "top_k"):
        assert np.isnan(found[name][1:]).tolist() == [True, False, True]
        assert found[name][2] == 1
    assert np.isnan(found["roc_auc"][1:]).all()
    assert np.isnan(rank_scores(ranking(scores), np.zeros(100, bool), groups, whole)["average_precision"]).all()
    assert np.isnan(rank_scores(ranking(scores), np.ones(100, bool), groups, whole)["roc_auc"]).all()


def test_rank_scores__by_hand() -> None:
    """Scores .9+ .8- .8+ .1-: blocks {+}, {-, +}, {-}.

    Average precision = 1/2 x 1 + 1/2 x 2/3 = 5/6. Of the four pairs, .9 beats both negatives, .8 beats .1 and ties with
    .8: 3.5 / 4. Of k = 2 sites the best two rows hold the first and, in half of all orders, the second: 3/4. Half of k is one
    row, which is true; 2 k are all rows.
    """
    scores, truth = np.array([0.8, 0.9, 0.1, 0.8]), np.array([False, True, False, True])
    found = rank_scores(ranking(scores), truth, np.zeros(4, int), np.ones((1, 1), dtype=np.uint8))
    assert {name: values.tolist() for name, values in found.items()} == {
        "average_precision": [pytest.approx(5 / 6)],
        "roc_auc": [pytest.approx(3.5 / 4)],
        "top_0.5k": [1.0],
        "top_k": [0.75],
        "top_2k": [1.0],
        "top_4k": [1.0],
    }


def test_rank_scores__top_k_does_not_depend_on_the_order_of_rows() -> None:
    scores, truth, groups = rows(300, 0.2, 5)
    order = np.argsort(~truth, kind="stable")
    one, other = (
        rank_scores(ranking(scores[index]), truth[index], groups[index], WEIGHTS) for index in (order, order[::-1])
    )
    for name, values in one.items():
        assert np.array_equal(values, other[name])


@pytest.mark.parametrize("ties", [None, 9])
def test_others_at_recall__of_each_draw_are_above_its_own_last_hit(ties: int | None) -> None:
    scores, truth, groups = rows(300, 0.3, ties)
    repeats = [np.repeat(np.arange(300), line[groups]) for line in WEIGHTS]
    hits = np.array([np.floor(0.6 * truth[rows].sum()) for rows in repeats])
    found = others_at_recall(ranking(scores), truth, groups, WEIGHTS, hits)
    for number, repeated in enumerate(repeats):
        values, is_true = scores[repeated], truth[repeated]
        edge = np.sort(values[is_true])[::-1][int(hits[number]) - 1]
        above, tied = values > edge, values == edge
        part = (hits[number] - (above & is_true).sum()) / (tied & is_true).sum()
        assert found[number] == pytest.approx((above & ~is_true).sum() + part * (tied & ~is_true).sum())


def test_ranking__blocks_are_the_distinct_scores_from_high_to_low() -> None:
    ranks = ranking(np.array([0.2, 0.5, 0.2, 0.9]))
    assert ranks.stops.tolist() == [1, 2, 4]
    assert ranks.order[:2].tolist() == [3, 1]
    assert ranks.block_of_rank().tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize("ties", [None, 6, 2, 1])
def test_top_k_hits__equal_brute_force(ties: int | None) -> None:
    """By the rows of each gene; rows with equal scores count as expected in random order."""
    for seed in range(10):
        scores, truth, _ = rows(300, 0.2, ties, seed)
        genes = np.random.default_rng(seed).integers(0, 25, 300)
        genes[genes == 7] = 8  # a gene without rows
        sites, hits = top_k_hits(ranking(scores), truth, genes, 25)
        for gene in range(25):
            inside = genes == gene
            k = int(truth[inside].sum())
            assert sites[gene] == k
            expected = k * brute_top(scores[inside], truth[inside], 1) if k else 0
            assert hits[gene] == pytest.approx(expected)


def test_top_k_hits__without_sites_are_none() -> None:
    sites, hits = top_k_hits(ranking(np.array([0.1, 0.2])), np.zeros(2, bool), np.array([0, 1]), 3)
    assert (sites.tolist(), hits.tolist()) == ([0, 0, 0], [0, 0, 0])


def test_top_k_shares__are_hits_of_sites_and_nan_without_sites() -> None:
    """Gene 0 has two sites, one of them among its two best rows; gene 1 has none."""
    ranks, genes = ranking(np.array([0.9, 0.8, 0.1, 0.7])), np.array([0, 0, 0, 1])
    shares = top_k_shares(ranks, np.array([True, False, True, False]), genes, 2)
    assert shares[0] == 0.5
    assert np.isnan(shares[1])
