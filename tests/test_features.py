"""The score features against numbers worked out by hand."""

import math

import numpy as np
import pytest

from mi_duck.genome.features import score_features
from mi_duck.run.feature_names import SCORE_FEATURES, feature_kind

# One row: d = .6, a = .2, n = .2; m2 = .1, m1 = .3, p1 = .5, p2 = .1; mean4 = 1.0 / 4 = .25; max4 = .5.
# The epsilon of 1e-10 changes no digit at the precision tested.
BY_HAND = {
    "donor_score": 0.6,
    "acceptor_score": 0.2,
    "neither_score": 0.2,
    "relative_donor_probability": 0.75,  # .6 / (.6 + .2)
    "splice_probability": 0.8,  # .8 / (.8 + .2)
    "donor_acceptor_diff": 2 / 3,  # (.6 - .2) / max(.6, .2) = .4 / .6
    "splice_neither_diff": 2 / 3,  # (.6 - .2) / max(.6, .2, .2) = .4 / .6
    "donor_acceptor_logodds": math.log(3),  # ln .6 - ln .2
    "splice_neither_logodds": math.log(4),  # ln .8 - ln .2
    # -(.6 ln .6 + .2 ln .2 + .2 ln .2) = .6 x .510826 + .4 x 1.609438 = .306495 + .643775
    "probability_entropy": 0.950271,
    "context_score_m2": 0.1,
    "context_score_m1": 0.3,
    "context_score_p1": 0.5,
    "context_score_p2": 0.1,
    "context_neighbor_mean": 0.25,  # (.1 + .3 + .5 + .1) / 4
    "context_asymmetry": -0.2,  # (.3 + .1) - (.5 + .1)
    "context_max": 0.5,
    "donor_diff_m1": 0.3,  # .6 - .3
    "donor_diff_m2": 0.5,  # .6 - .1
    "donor_diff_p1": 0.1,  # .6 - .5
    "donor_diff_p2": 0.5,  # .6 - .1
    "donor_surge_ratio": 0.75,  # .6 / (.3 + .5)
    "donor_is_local_peak": 1,  # .6 > .3, .6 > .5, .6 > .001
    "donor_weighted_context": 0.42,  # .01 + .06 + .24 + .10 + .01
    "donor_peak_height_ratio": 2.4,  # .6 / .25
    "donor_second_derivative": 0.4,  # (.6 - .3) - (.5 - .6) = .3 + .1
    "donor_signal_strength": 0.35,  # .6 - .25
    "donor_context_diff_ratio": 1.2,  # .6 / .5
    "acceptor_diff_m1": -0.1,  # .2 - .3
    "acceptor_diff_m2": 0.1,  # .2 - .1
    "acceptor_diff_p1": -0.3,  # .2 - .5
    "acceptor_diff_p2": 0.1,  # .2 - .1
    "acceptor_surge_ratio": 0.25,  # .2 / .8
    "acceptor_is_local_peak": 0,  # .2 < .3
    "acceptor_weighted_context": 0.26,  # .01 + .06 + .08 + .10 + .01
    "acceptor_peak_height_ratio": 0.8,  # .2 / .25
    "acceptor_second_derivative": -0.4,  # (.2 - .3) - (.5 - .2) = -.1 - .3
    "acceptor_signal_strength": -0.05,  # .2 - .25
    "acceptor_context_diff_ratio": 0.4,  # .2 / .5
    "donor_acceptor_peak_ratio": 3.0,  # 2.4 / .8
    "type_signal_difference": 0.4,  # .35 - -.05
    "score_difference_ratio": 0.5,  # (.6 - .2) / (.6 + .2)
    "signal_strength_ratio": -7.0,  # .35 / -.05
}


def one_row(donor: float, acceptor: float, neither: float, context: list[float]) -> dict[str, float]:
    """Return the features of a single row as numbers."""
    columns = score_features(np.array([donor]), np.array([acceptor]), np.array([neither]), np.array([context]))
    return {name: column[0].item() for name, column in columns.items()}


def test_score_features__have_the_names_and_order_of_the_schema() -> None:
    columns = score_features(np.zeros(2), np.zeros(2), np.ones(2), np.zeros((2, 4)))
    assert tuple(columns) == SCORE_FEATURES == tuple(BY_HAND)
    assert len(set(SCORE_FEATURES)) == 43


@pytest.mark.parametrize("name", SCORE_FEATURES)
def test_score_features__agree_with_hand_computed_numbers(name: str) -> None:
    assert one_row(0.6, 0.2, 0.2, [0.1, 0.3, 0.5, 0.1])[name] == pytest.approx(BY_HAND[name], rel=1e-5)


def test_score_features__are_float32_and_the_peaks_int8() -> None:
    columns = score_features(np.zeros(3), np.zeros(3), np.ones(3), np.zeros((3, 4)))
    for name, column in columns.items():
        assert column.dtype == (np.int8 if name.endswith("is_local_peak") else np.float32)
        assert column.shape == (3,)


def test_score_features__are_finite_for_zero_scores() -> None:
    features = one_row(0.0, 0.0, 1.0, [0.0, 0.0, 0.0, 0.0])
    assert all(math.isfinite(value) for value in features.values())
    # ln(0 + 1e-10) - ln(1 + 1e-10) = -23.02585; 0 / 1e-10 = 0
    assert features["splice_neither_logodds"] == pytest.approx(-23.02585, abs=1e-4)
    assert features["donor_acceptor_logodds"] == 0
    assert features["donor_surge_ratio"] == 0


def test_score_features__divide_by_epsilon_where_the_context_is_zero() -> None:
    # .5 / (0 + 0 + 1e-10) = 5e9
    assert one_row(0.5, 0.0, 0.5, [0.0] * 4)["donor_surge_ratio"] == pytest.approx(5e9)


@pytest.mark.parametrize(("score", "peak"), [(0.0005, 0), (0.002, 1)])
def test_local_peak__needs_a_score_above_one_thousandth(score: float, peak: int) -> None:
    assert one_row(score, 0.0, 1.0, [0.0] * 4)["donor_is_local_peak"] == peak


def test_local_peak__needs_to_exceed_the_next_neighbours_only() -> None:
    assert one_row(0.5, 0.0, 0.5, [0.9, 0.4, 0.4, 0.9])["donor_is_local_peak"] == 1
    assert one_row(0.5, 0.0, 0.5, [0.0, 0.5, 0.0, 0.0])["donor_is_local_peak"] == 0


def test_score_features__of_a_missing_donor_score_are_missing_where_it_enters() -> None:
    features = one_row(math.nan, 0.2, 0.2, [0.1, 0.3, 0.5, 0.1])
    missing = {name for name, value in features.items() if math.isnan(value)}
    untouched = {"acceptor_score", "neither_score", "donor_is_local_peak"}
    untouched |= {name for name in SCORE_FEATURES if name.startswith(("context_", "acceptor_"))}
    assert missing == set(SCORE_FEATURES) - untouched
    assert features["donor_is_local_peak"] == 0


def test_score_features__of_a_missing_neighbour_are_missing_where_it_enters() -> None:
    features = one_row(0.6, 0.2, 0.2, [math.nan, 0.3, 0.5, 0.1])
    assert math.isnan(features["context_neighbor_mean"])
    assert math.isnan(features["context_max"])
    assert math.isnan(features["donor_diff_m2"])
    assert features["donor_surge_ratio"] == pytest.approx(0.75)
    assert features["donor_is_local_peak"] == 1


def test_score_features__are_never_infinite() -> None:
    # The logarithm of a negative score and anything from an infinite one has no finite value.
    for donor in (-1.0, math.inf, -math.inf, 1e300):
        features = one_row(donor, 0.2, 0.2, [0.1, 0.3, 0.5, 0.1])
        assert not any(math.isinf(value) for value in features.values())
    assert math.isnan(one_row(-1.0, 0.2, 0.2, [0.1, 0.3, 0.5, 0.1])["donor_acceptor_logodds"])


def test_score_features__of_no_rows_are_empty() -> None:
    columns = score_features(np.zeros(0), np.zeros(0), np.zeros(0), np.zeros((0, 4)))
    assert all(column.shape == (0,) for column in columns.values())


def test_score_features__do_not_change_or_share_their_input() -> None:
    donor = np.array([0.6, math.inf], dtype=np.float32)
    columns = score_features(donor, np.zeros(2), np.zeros(2), np.zeros((2, 4)))
    assert donor.tolist() == [pytest.approx(0.6), math.inf]
    assert not np.shares_memory(columns["donor_score"], donor)


def test_score_features__of_shapes_that_do_not_match_are_refused() -> None:
    with pytest.raises(ValueError, match=r"context \(2, 3\)"):
        score_features(np.zeros(2), np.zeros(2), np.zeros(2), np.zeros((2, 3)))
    with pytest.raises(ValueError, match=r"acceptor \(3,\)"):
        score_features(np.zeros(2), np.zeros(3), np.zeros(2), np.zeros((2, 4)))


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("3mer_AAA", "k-mer"),
        ("5mer_ACGTN", "k-mer"),
        ("12mer_ACGTACGTACGT", "k-mer"),
        ("3mer_AAx", "other"),
        ("donor_score", "base score"),
        ("neither_score", "base score"),
        ("donor_surge_ratio", "score"),
        ("splice_probability", "score"),
        ("context_score_m2", "score"),
        ("context_score_p10", "score"),
        ("signal_strength_ratio", "score"),
        ("gc_content", "sequence"),
        ("sequence_complexity", "sequence"),
        ("distance_to_end", "gene"),
        ("num_exons", "gene"),
        ("signal_donor_0", "other"),
        ("noise_0", "other"),
    ],
)
def test_feature_kind__follows_the_name(name: str, kind: str) -> None:
    assert feature_kind(name) == kind
