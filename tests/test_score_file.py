"""Tests of reading another model's scores."""

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mi_duck.errors import DataError
from mi_duck.genome.loci import Gene
from mi_duck.genome.score_file import read_base_scores

PLUS = Gene("A", "", "", "c", "+", 10, 20, 1, 1, ())
MINUS = Gene("B", "", "", "c", "-", 100, 120, 1, 1, ())
HEADER = "chrom\tposition\tstrand\tdonor_score\tacceptor_score"


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "scores.tsv"
    path.write_text(text)
    return path


def test_table__is_joined_by_place_and_neither_is_the_rest(tmp_path: Path) -> None:
    text = f"{HEADER}\nc\t12\t+\t0.7\t0.1\nc\t13\t+\t0.2\t0.3\nc\t12\t-\t0.9\t0\nd\t12\t+\t0.9\t0\n"
    table = read_base_scores(written(tmp_path, text), [PLUS])
    found = table.at("c", "+", np.array([12, 11, 13]))
    assert np.allclose(found, [[0.7, 0.1, 0.2], [np.nan] * 3, [0.2, 0.3, 0.5]], equal_nan=True)
    assert np.isnan(table.at("c", "-", np.array([12]))).all()


def test_context__follows_the_strand(tmp_path: Path) -> None:
    rows = "".join(f"c\t{110 + i}\t-\t{i / 10}\t0.0\n" for i in range(5))
    scores = read_base_scores(written(tmp_path, f"{HEADER}\n{rows}"), [MINUS]).around("c", "-", np.array([112]))
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
        found = read_base_scores(path, [PLUS]).at("c", "+", np.array([12, 13]))
        assert np.allclose(found[0], [0.7, 0.1, 0.15])
        assert np.isnan(found[1]).all()


def test_bed__unites_the_lines_of_a_position(tmp_path: Path) -> None:
    text = "track name=x\nc\t11\t12\tgene_Donor\t800\t+\nc\t11\t12\tx_acceptor\t100\t+\nc\t12\t13\tdonor\t5\t+\n"
    found = read_base_scores(written(tmp_path, text), [PLUS]).at("c", "+", np.array([12, 13]))
    # starts are 0-based; scores above 1 are thousandths
    assert np.allclose(found, [[0.8, 0.1, 0.1], [0.005, 0, 0.995]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{HEADER}\nchr1\t12\t+\t0.7\t0.1\n", "its chromosomes are chr1, those of the genes c"),
        (f"{HEADER}\nc\t1200\t+\t0.7\t0.1\n", "no score of .* lies in a gene"),
        (f"{HEADER}\nc\t12\t+\t-3.5\t0.1\n", "score -3.5 in .* between 0 and 1"),
        (f"{HEADER}\nc\ttwelve\t+\t0.7\t0.1\n", "cannot read the scores"),
        ("chrom\tstrand\tdonor_score\n", "no column 'position'"),
        ("a,b,c\n", "neither Parquet"),
        ("c\t11\t12\tpeak\t0.4\t+\n", "must say donor or acceptor"),
        ("c\tx\t12\tdonor\t0.4\t+\n", "must be numbers"),
        ("PAR1 but not Parquet", "cannot read the scores"),
    ],
)
def test_bad_score_file__is_refused(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        read_base_scores(written(tmp_path, text), [PLUS])
