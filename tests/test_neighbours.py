"""Round sampled sites every row of the gene is there, and the summary is the mean of them."""

import numpy as np
import pytest

from mi_duck.evaluate.compare import by_distance, neighbours
from mi_duck.evaluate.scored_rows import Scored
from mi_duck.metrics.metrics import draw_groups

CLASSES = ("neither", "donor", "acceptor")
POSITIONS = np.array([10, 50, 110, 111, 300, 10, 20])
GENES = np.array([0, 0, 0, 0, 0, 1, 1])
LABELS = np.array([1, 0, 0, 0, 2, 0, 1])
META = np.array([[0.1 * row, 0.5 - 0.05 * row, 0.5 - 0.05 * row] for row in range(7)], dtype=np.float32)


def found(n_sites: int, seed: int = 0, base: np.ndarray | None = META) -> list[dict[str, object]]:
    group_draws = draw_groups(np.arange(2), seed=0, draws=0)
    rows = Scored(CLASSES, 0, LABELS, np.zeros(7), GENES, GENES, GENES, ("A", "B"), group_draws, seed, 0)
    return neighbours(base, META, rows, POSITIONS, n_sites=n_sites)


def test_neighbours__are_the_rows_of_the_gene_within_100_nt() -> None:
    """Donor A:10 has 10, 50 and 110 but not 111; acceptor A:300 itself; donor B:20 has 10 and 20."""
    lines = found(10)
    assert [(line["gene_id"], line["site_position"], line["position"], line["distance"]) for line in lines] == [
        ("A", 10, 10, 0),
        ("A", 10, 50, 40),
        ("A", 10, 110, 100),
        ("A", 300, 300, 0),
        ("B", 20, 10, -10),
        ("B", 20, 20, 0),
    ]
    assert [line["label"] for line in lines] == ["donor", "neither", "neither", "acceptor", "neither", "donor"]
    assert lines[1]["meta_donor"] == lines[1]["base_donor"] == pytest.approx(0.45)
    assert "base_donor" not in found(10, base=None)[0]


def test_neighbours__a_larger_sample_holds_a_smaller_one() -> None:
    for seed in range(5):
        some, more = ({line["site_position"] for line in found(n, seed)} for n in (1, 2))
        assert len(some) == 1
        assert some < more
    assert len({tuple(line["site_position"] for line in found(1, seed)) for seed in range(20)}) > 1


def test_by_distance__means_of_the_class_of_the_site() -> None:
    rows = {(row["site_class"], row["from_distance"], row["to_distance"]): row for row in by_distance(found(10))}
    assert set(rows) == {("donor", 0, 0), ("donor", 6, 10), ("donor", 26, 50), ("donor", 51, 100), ("acceptor", 0, 0)}
    at_sites = rows["donor", 0, 0]
    assert (at_sites["n_rows"], at_sites["n_true"]) == (2, 2)
    assert at_sites["mean_meta"] == pytest.approx((0.5 + 0.2) / 2)
    assert at_sites["called_base"] == 0.5
    assert by_distance([]) == []
