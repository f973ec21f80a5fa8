"""Tests of the cross-fitted position weight matrices and of reading another model's scores."""

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mi_duck.errors import DataError
from mi_duck.genome.annotation import Gene
from mi_duck.genome.base_scores import (
    N_FOLDS,
    cluster_fold,
    fit_matrices,
    letter_counts,
    matrix_scores,
)
from mi_duck.genome.score_files import read_base_scores
from mi_duck.genome.sequence import encode

EVEN = np.array([1_000, 1_000, 1_000, 1_000])
SPANS = np.full(N_FOLDS, 10_000)
PLUS = Gene("A", "", "", "c", "+", 10, 20, 1, 1, ())
MINUS = Gene("B", "", "", "c", "-", 100, 120, 1, 1, ())
HEADER = "chrom\tposition\tstrand\tdonor_score\tacceptor_score"


def site_counts(letters: str, n_sites: list[int]) -> np.ndarray:
    """Count one sequence at the given number of sites per fold."""
    rows = np.repeat(encode(letters)[None], sum(n_sites), axis=0)
    return letter_counts(rows, np.repeat(np.arange(N_FOLDS), n_sites))


DONORS = site_counts("AAGGTAAGT", [10] * N_FOLDS)
ACCEPTORS = site_counts("TTTTTTTTTTTTTTTTTCAGGTT", [10] * N_FOLDS)


def test_letter_counts__are_per_fold_and_offset() -> None:
    counts = letter_counts(np.stack([encode("AC"), encode("AN"), encode("GC")]), np.array([0, 0, 4]))
    assert counts.shape == (5, 2, 5)
    assert counts[0].tolist() == [[2, 0, 0, 0, 0], [0, 1, 0, 0, 1]]
    assert counts[4].tolist() == [[0, 0, 1, 0, 0], [0, 1, 0, 0, 0]]
    assert counts.sum() == 6


def test_matrices__are_fitted_without_the_own_fold() -> None:
    # fold 0 has the donor motif, folds 1 to 4 another one: the matrix for fold 0 has never seen A at offset 0
    counts = site_counts("AAAAAAAAA", [20, 0, 0, 0, 0]) + site_counts("CCCCCCCCC", [0, 5, 5, 5, 5])
    matrices = fit_matrices(counts, ACCEPTORS, EVEN, SPANS)
    # 20 C of 20: (20 + 1/4) / 21 over 1/4 = 3.857; A: (0 + 1/4) / 21 over 1/4 = 1/21
    assert np.allclose(matrices.donor[0, 0], [np.log(1 / 21), np.log(81 / 21), *[np.log(1 / 21)] * 2, 0])
    # without fold 1: 20 A, 15 C: (20.25 / 36) / .25 and (15.25 / 36) / .25
    assert np.allclose(matrices.donor[1, 0, :2], [np.log(81 / 36), np.log(61 / 36)])


def test_priors__are_site_frequencies_of_the_other_folds() -> None:
    matrices = fit_matrices(site_counts("AAGGTAAGT", [10, 30, 0, 0, 0]), ACCEPTORS, EVEN, SPANS)
    # without fold 0: 30 donors, 40 acceptors in 40,000 positions; one is added to each of the three numbers
    assert np.allclose(np.exp(matrices.log_priors[0]), np.array([31, 41, 39_931]) / 40_003)


def test_scores__find_planted_sites_and_sum_to_one() -> None:
    matrices = fit_matrices(DONORS, ACCEPTORS, EVEN, SPANS)
    rng = np.random.default_rng(3)
    windows = rng.integers(0, 4, (1_000, 100)).astype(np.uint8)
    windows[:10, 48:57] = encode("AAGGTAAGT")  # offsets -2 to 6 round column 50
    windows[10:20, 30:53] = encode("TTTTTTTTTTTTTTTTTCAGGTT")  # offsets -20 to 2
    windows[20:30, 47:56] = encode("AAGGTAAGT")  # the position is one downstream of a donor
    scores = matrix_scores(matrices, windows, np.arange(1_000) % N_FOLDS)
    assert np.allclose(scores.donor + scores.acceptor + scores.neither, 1)
    assert (scores.donor[:10] > 0.9).all()
    assert (scores.acceptor[10:20] > 0.9).all()
    assert (scores.neither[30:] > 0.9).mean() > 0.99
    # m1 is column 1 of the context
    assert (scores.context[20:30, 1] > 0.9).all()
    assert (scores.donor[20:30] < 0.1).all()


def test_scores__do_not_depend_on_the_other_rows() -> None:
    matrices = fit_matrices(DONORS, ACCEPTORS, EVEN, SPANS)
    windows = np.random.default_rng(4).integers(0, 5, (50, 44)).astype(np.uint8)
    folds = np.arange(50) % N_FOLDS
    together = matrix_scores(matrices, windows, folds)
    alone = [matrix_scores(matrices, windows[i : i + 1], folds[i : i + 1]) for i in range(50)]
    assert (together.context == np.concatenate([one.context for one in alone])).all()
    assert (together.donor == np.concatenate([one.donor for one in alone])).all()


def test_unknown_letters__add_nothing() -> None:
    matrices = fit_matrices(DONORS, ACCEPTORS, EVEN, SPANS)
    scores = matrix_scores(matrices, np.full((1, 44), 4, np.uint8), np.array([0]))
    # what is left is the prior: 40 donors, 40 acceptors, 39,920 others, one added to each
    assert np.allclose([scores.donor[0], scores.neither[0]], [41 / 40_003, 39_921 / 40_003])


def test_one_fold_only__is_defined() -> None:
    """With all sites in one fold its matrices have no site at all: log-odds 0, equal priors."""
    spans = np.array([1_000, 0, 0, 0, 0])
    donors = site_counts("AAGGTAAGT", [10, 0, 0, 0, 0])
    acceptors = site_counts("TTTTTTTTTTTTTTTTTCAGGTT", [10, 0, 0, 0, 0])
    matrices = fit_matrices(donors, acceptors, EVEN, spans)
    scores = matrix_scores(matrices, np.zeros((1, 44), np.uint8), np.array([0]))
    assert np.allclose([scores.donor, scores.acceptor, scores.neither], 1 / 3)


def test_cluster_folds__are_a_function_of_name_and_seed() -> None:
    folds = [cluster_fold(f"c:{i}-{i + 9}", 42) for i in range(500)]
    assert folds == [cluster_fold(f"c:{i}-{i + 9}", 42) for i in range(500)]
    assert set(folds) == set(range(N_FOLDS))
    assert folds != [cluster_fold(f"c:{i}-{i + 9}", 43) for i in range(500)]


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "scores.tsv"
    path.write_text(text)
    return path


def test_table__is_joined_by_position_and_neither_is_the_rest(tmp_path: Path) -> None:
    text = f"{HEADER}\nc\t12\t+\t0.7\t0.1\nc\t13\t+\t0.2\t0.3\nc\t12\t-\t0.9\t0\nd\t12\t+\t0.9\t0\n"
    table = read_base_scores([written(tmp_path, text)], [PLUS])
    found = table.at("c", "+", np.array([12, 11, 13]))
    assert np.allclose(found, [[0.7, 0.1, 0.2], [np.nan] * 3, [0.2, 0.3, 0.5]], equal_nan=True)
    assert np.isnan(table.at("c", "-", np.array([12]))).all()


def test_context__follows_the_strand(tmp_path: Path) -> None:
    rows = "".join(f"c\t{110 + i}\t-\t{i / 10}\t0.0\n" for i in range(5))
    scores = read_base_scores([written(tmp_path, f"{HEADER}\n{rows}")], [MINUS]).around("c", "-", np.array([112]))
    # upstream of 112 on the minus strand are 114 and 113
    assert np.allclose(scores.context, [[0.4, 0.3, 0.1, 0.0]])
    assert np.allclose(scores.donor, [0.2])


def test_parquet_and_gzip__give_the_same_scores(tmp_path: Path) -> None:
    text = f"{HEADER}\tneither_score\nc\t12\t+\t0.7\t0.1\t0.15\nc\t13\t+\t\t0.3\t0.1\n"
    packed = tmp_path / "scores.txt"
    packed.write_bytes(gzip.compress(text.encode()))
    parquet = tmp_path / "scores.parquet"
    columns = {
        "chrom": ["c", "c"],
        "strand": ["+", "+"],
        "position": [99, 99],  # relative ones, as in datasets of this package: absolute_position wins
        "absolute_position": [12, 13],
        "donor_score": [0.7, None],
        "acceptor_score": [0.1, 0.3],
        "neither_score": [0.15, 0.1],
    }
    pq.write_table(pa.table(columns), parquet)
    for path in (packed, parquet):
        found = read_base_scores([path], [PLUS]).at("c", "+", np.array([12, 13]))
        assert np.allclose(found[0], [0.7, 0.1, 0.15])
        assert np.isnan(found[1]).all()


def test_bed__unites_the_lines_of_a_position(tmp_path: Path) -> None:
    text = "track name=x\nc\t11\t12\tgene_Donor\t800\t+\nc\t11\t12\tx_acceptor\t100\t+\nc\t12\t13\tdonor\t5\t+\n"
    found = read_base_scores([written(tmp_path, text)], [PLUS]).at("c", "+", np.array([12, 13]))
    # starts are 0-based; scores above 1 are thousandths
    assert np.allclose(found, [[0.8, 0.1, 0.1], [0.005, 0, 0.995]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{HEADER}\nchr1\t12\t+\t0.7\t0.1\n", "its chromosomes are chr1, those of the genes c"),
        (f"{HEADER}\nc\t1200\t+\t0.7\t0.1\n", "no score of .* lies in a gene"),
        (f"{HEADER}\nc\t12\t+\t-3.5\t0.1\n", "the scores in .* run from -3.5 to 0.1; give probabilities"),
        (f"{HEADER}\nc\ttwelve\t+\t0.7\t0.1\n", "cannot read the scores"),
        ("chrom\tstrand\tdonor_score\n", "no column 'position'"),
        ("a,b,c\n", "neither Parquet"),
        ("c\t11\t12\tpeak\t0.4\t+\n", "must say donor or acceptor"),
        ("c\tx\t12\tdonor\t0.4\t+\n", "Could not convert string 'x'"),
        ("PAR1 but not Parquet", "cannot read the scores"),
    ],
)
def test_bad_score_file__is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_base_scores([written(tmp_path, text)], [PLUS])
