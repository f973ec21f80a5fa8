"""Tests of the columns of a row."""

import inspect

import numpy as np
import pyarrow as pa
import pytest

from mi_duck.genome.annotation import Gene
from mi_duck.genome.base_scores import BaseScores
from mi_duck.genome.columns import dataset_schema, feature_columns, gene_facts, row_columns
from mi_duck.genome.sequence import encode, windows
from mi_duck.run.feature_names import SCORE_FEATURES

PLUS = Gene("P", "name", "lncRNA", "c", "+", 11, 60, 2, 3, ((20, 41),))
MINUS = Gene("M", "", "", "c", "-", 31, 100, 1, 2, ((50, 71),))
LETTERS = np.random.default_rng(6).integers(0, 4, 100).astype(np.uint8)


def even_scores(n_rows: int) -> BaseScores:
    third = np.full(n_rows, 1 / 3)
    return BaseScores(third, third, third, np.full((n_rows, 4), 1 / 3))


def columns(genes: list[int], offsets: list[int], cut: np.ndarray, scores: BaseScores | None = None) -> pa.Table:
    facts = gene_facts([PLUS, MINUS], clusters={"P": "x", "M": "x"}, n_overlaps=[1, 1], contig_lengths={"c": 100})
    found = row_columns(facts, np.array(genes), np.array(offsets), cut, scores or even_scores(len(genes)))
    return pa.table(found)


def test_schema__names_every_column_once_with_kmers_last() -> None:
    names = dataset_schema(annotation_features=False).names
    # 7 texts, 4 positions, 43 score features, 4 of the gene, 3 of the sequence, 1,088 k-mers
    assert len(names) == len(set(names)) == 7 + 4 + 43 + 4 + 3 + 1_088
    assert names[-1] == "5mer_TTTTT"
    assert set(feature_columns(annotation_features=False)) <= set(names)
    wider = dataset_schema(annotation_features=True).names
    added = {"gene_start", "gene_end", "n_transcripts", "n_exons", "n_introns"}
    assert set(wider) - set(names) == added


def test_positions__follow_the_strand_and_windows_end_with_the_contig() -> None:
    cut = np.concatenate([windows(LETTERS, np.array([15]), "+", 44), windows(LETTERS, np.array([96]), "-", 44)])
    row = columns([0, 1], [4, 4], cut).to_pydict()
    assert row["gene_id"] == ["P", "M"]
    assert row["position"] == [4, 4]
    # 11 + 4 and 100 - 4
    assert row["absolute_position"] == [15, 96]
    # plus: 22 before the position (cut at 1) and 21 after it; minus: 21 below and 22 above (cut at 100)
    assert row["window_start"] == [1, 75]
    assert row["window_end"] == [36, 100]
    assert row["sequence_length"] == [36, 26]
    assert row["gene_length"] == [50, 70]
    assert row["distance_to_start"] == [4, 65]
    assert row["distance_to_end"] == [45, 4]
    # what is named is what is counted
    for index, (first, last) in enumerate(((1, 36), (75, 100))):
        n_gc = int(np.isin(LETTERS[first - 1 : last], (1, 2)).sum())
        assert row["gc_content"][index] == pytest.approx(n_gc / (last - first + 1))


def test_complexity__is_the_entropy_of_3mers_over_its_maximum() -> None:
    cut = np.stack([encode("A" * 44), encode("AC" * 22), encode("N" * 44)])
    found = columns([0, 0, 0], [20, 21, 22], cut)["sequence_complexity"].to_pylist()
    # 42 3-mers: 21 ACA and 21 CAC, entropy log 2 of at most log 64 = 6 log 2
    assert found == pytest.approx([0, 1 / 6, 0], abs=1e-6)


def test_missing_scores__are_null_with_all_that_rests_on_them() -> None:
    scores = BaseScores(
        np.array([np.nan, 0.2]),
        np.array([np.nan, 0.1]),
        np.array([np.nan, 0.7]),
        np.array([[0.1, 0.1, 0.1, 0.1], [0.1, np.nan, 0.1, 0.1]]),
    )
    found = columns([0, 0], [1, 2], windows(LETTERS, np.array([12, 13]), "+", 44), scores).to_pydict()
    assert found["donor_score"] == [None, pytest.approx(0.2)]
    assert found["donor_is_local_peak"] == [None, None]
    assert found["context_max"] == [pytest.approx(0.1), None]
    assert found["splice_probability"][0] is None
    assert found["splice_probability"][1] == pytest.approx(0.3)
    assert not any(np.isnan(value) for name in SCORE_FEATURES for value in found[name] if value is not None)


def test_labels__are_unknown_to_the_columns() -> None:
    """The strongest form of "no column depends on the label": the function cannot see one."""
    parameters = inspect.signature(row_columns).parameters
    assert list(parameters) == ["facts", "genes", "offsets", "windows", "scores"]
