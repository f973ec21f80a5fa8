"""Measures by order of scores equal scikit-learn's on the repeated rows, and top-k equals brute force."""

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.metrics import average_precision_score, roc_auc_score

from mi_duck.metrics.ranking import rank_scores, ranking, top_k_hits, top_k_shares


def rows(n: int, share: float, ties: int | None, seed: int = 0) -> tuple[NDArray, NDArray, NDArray]:
    """Return (scores, truth, groups of 6); with ``ties`` scores take that many values only."""
    rng = np.random.default_rng(seed)
    truth = rng.random(n) < share
    scores = (rng.random(n) + 0.3 * truth).astype(np.float32)
    return (np.ceil(scores * ties) / ties if ties else scores), truth, rng.integers(0, 6, n)


WEIGHTS = np.array([[1, 1, 1, 1, 1, 1], [2, 0, 1, 3, 0, 0], [0, 0, 0, 0, 6, 0], [0, 5, 0, 1, 0, 0]], dtype=np.uint8)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
@pytest.mark.parametrize("ties", [None, 7, 2, 1])
def test_rank_scores__a_group_drawn_twice_counts_as_its_rows_twice(share: float, ties: int | None) -> None:
    """For rare and for frequent classes, which are summed in different ways."""
    scores, truth, groups = rows(400, share, ties)
    precision, area = rank_scores(ranking(scores), truth, groups, WEIGHTS)
    for line, one, other in zip(WEIGHTS, precision, area, strict=True):
        repeated = np.repeat(np.arange(len(truth)), line[groups])
        assert one == pytest.approx(average_precision_score(truth[repeated], scores[repeated]), abs=1e-12)
        assert other == pytest.approx(roc_auc_score(truth[repeated], scores[repeated]), abs=1e-12)


def test_rank_scores__weights_above_a_byte_and_sums_above_32_bits_are_exact() -> None:
    scores, truth, groups = rows(50, 0.4, None)
    weights = np.array([[1] * 6, [1 << 30] * 6], dtype=np.uint32)
    precision, area = rank_scores(ranking(scores), truth, groups, weights)
    assert precision[1] == pytest.approx(precision[0], abs=1e-12)
    assert area[1] == pytest.approx(area[0], abs=1e-12)


@pytest.mark.parametrize("share", [0.1, 0.9])
def test_rank_scores__of_one_side_alone_are_nan(share: float) -> None:
    scores, truth, groups = rows(100, share, None)
    truth[groups == 2] = True
    truth[groups == 3] = False
    weights = np.zeros((3, 6), dtype=np.uint8)
    weights[1, 2] = weights[2, 3] = 1
    precision, area = rank_scores(ranking(scores), truth, groups, weights)
    # no row at all; only positives: every call is right; only negatives
    assert np.isnan(precision).tolist() == [True, False, True]
    assert precision[1] == 1
    assert np.isnan(area).all()
    assert np.isnan(rank_scores(ranking(scores), np.zeros(100, bool), groups, weights)[0]).all()
    assert np.isnan(rank_scores(ranking(scores), np.ones(100, bool), groups, weights)[1]).all()


def test_rank_scores__by_hand() -> None:
    """Scores .9+ .8- .8+ .1-: blocks {+}, {-, +}, {-}.

    Average precision = 1/2 x 1 + 1/2 x 2/3 = 5/6. Of the four pairs, .9 beats both negatives, .8 beats .1 and ties with
    .8: 3.5 / 4.
    """
    scores, truth = np.array([0.8, 0.9, 0.1, 0.8]), np.array([False, True, False, True])
    precision, area = rank_scores(ranking(scores), truth, np.zeros(4, int), np.ones((1, 1), dtype=np.uint8))
    assert precision[0] == pytest.approx(5 / 6)
    assert area[0] == pytest.approx(3.5 / 4)


def test_ranking__blocks_are_the_distinct_scores_from_high_to_low() -> None:
    ranks = ranking(np.array([0.2, 0.5, 0.2, 0.9]))
    assert ranks.stops.tolist() == [1, 2, 4]
    assert ranks.order[:2].tolist() == [3, 1]
    assert ranks.block_of_rank().tolist() == [0, 1, 2, 2]


@pytest.mark.parametrize("ties", [None, 6, 2, 1])
def test_top_k_hits__equal_brute_force(ties: int | None) -> None:
    """By sorting the rows of each gene; rows with equal scores count in their order."""
    for seed in range(10):
        scores, truth, _ = rows(300, 0.2, ties, seed)
        genes = np.random.default_rng(seed).integers(0, 25, 300)
        genes[genes == 7] = 8  # a gene without rows
        sites, hits = top_k_hits(ranking(scores), truth, genes, 25)
        for gene in range(25):
            inside = np.flatnonzero(genes == gene)
            k = int(truth[inside].sum())
            best = inside[np.argsort(-scores[inside], kind="stable")][:k]
            assert (sites[gene], hits[gene]) == (k, truth[best].sum())


def test_top_k_hits__without_sites_are_none() -> None:
    sites, hits = top_k_hits(ranking(np.array([0.1, 0.2])), np.zeros(2, bool), np.array([0, 1]), 3)
    assert (sites.tolist(), hits.tolist()) == ([0, 0, 0], [0, 0, 0])


def test_top_k_shares__are_hits_of_sites_and_nan_without_sites() -> None:
    """Gene 0 has two sites, one of them among its two best rows; gene 1 has none."""
    ranks, genes = ranking(np.array([0.9, 0.8, 0.1, 0.7])), np.array([0, 0, 0, 1])
    shares = top_k_shares(ranks, np.array([True, False, True, False]), genes, 2)
    assert shares[0] == 0.5
    assert np.isnan(shares[1])
