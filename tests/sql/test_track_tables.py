"""Given scored positions, expect what tracks hold: positions from 0, the highest score where genes overlap."""

import pyarrow as pa
import pytest

from mi_duck.data.database import Database


@pytest.fixture
def scored(db: Database) -> Database:
    """Position 12 of two overlapping genes on the forward strand, 12 and 13 on the other strand, 14 on another contig."""
    columns = {
        "chrom": ["c", "c", "c", "c", "d"],
        "absolute_position": pa.array([12, 12, 12, 13, 14], pa.int32()),
        "strand": ["+", "+", "-", "-", "+"],
        "p_donor": pa.array([0.7, 0.25, 0.9, 0.2, 1.0]),
        "p_acceptor": pa.array([0.1, 0.6, 0.05, 0.8, 0.0]),
    }
    db.load("scored_positions", pa.table(columns))
    return db


def test_track_scores__take_the_highest_of_a_position(scored: Database) -> None:
    def rows(**asked: object) -> list[tuple[int, float]]:
        found = scored.rows("track_scores", chrom="c", **asked)
        return [(row["position"], round(row["score"], 3)) for row in found]

    assert rows(strand="+", site="donor", least=0.0) == [(12, 0.7)]
    assert rows(strand="+", site="acceptor", least=0.0) == [(12, 0.6)]
    assert rows(strand="-", site="donor", least=0.0) == [(12, 0.9), (13, 0.2)]
    assert rows(strand="-", site="donor", least=0.5) == [(12, 0.9)]


def test_track_calls__are_lines_of_bed_that_reach_the_threshold_of_their_site(scored: Database) -> None:
    lines = [tuple(row.values()) for row in scored.rows("track_calls", chrom="c", least_donor=0.7, least_acceptor=0.8)]
    # position 12 from 1 is the interval 11 to 12 from 0; .8 of the acceptor reaches its threshold just so
    assert lines == [
        ("c", 11, 12, "donor", 700, "+"),
        ("c", 11, 12, "donor", 900, "-"),
        ("c", 12, 13, "acceptor", 800, "-"),
    ]
