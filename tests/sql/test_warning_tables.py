"""What a user is warned of: genes that are written in several ways, positions with rows of several labels."""

from collections.abc import Sequence

import pyarrow as pa
import pytest

from mi_duck.data.database import Database

Row = tuple[str, int | None, str]


def load(db: Database, rows: Sequence[Row]) -> None:
    """Make the tables that both statements read; genes rank as they come first."""
    genes = list(dict.fromkeys(gene for gene, _, _ in rows))
    names = ("gene_id", "position", "label_text")
    db.load(
        "source_rows", pa.table(dict(zip(names, (pa.array(list(one)) for one in zip(*rows, strict=True)), strict=True)))
    )
    db.load("gene_index", pa.table({"gene_id": genes, "gene_rank": range(len(genes))}))
    db.load("holdout_genes", pa.table({"gene_id": pa.array([], pa.string())}))


def test_similar_genes__differ_in_case_or_outer_space(db: Database) -> None:
    load(db, [(gene, 1, "donor") for gene in ("b ", "B", "a", "A", " a", "c", "c d", "cd", "c", "B")])
    assert db.rows("similar_genes") == [{"n_names": 2, "genes": [" a", "A", "a"]}]


def test_similar_genes__may_be_held_out(db: Database) -> None:
    load(db, [("a", 1, "donor"), ("b", 1, "donor")])
    db.load("holdout_genes", pa.table({"gene_id": ["B"]}))
    assert db.rows("similar_genes") == [{"n_names": 1, "genes": ["B", "b"]}]


def test_similar_genes__of_names_that_differ_are_none(db: Database) -> None:
    load(db, [("ENSG1.5", 1, "donor"), ("ENSG1.6", 1, "donor")])
    assert db.rows("similar_genes") == [{"n_names": 0, "genes": None}]


@pytest.mark.parametrize(
    ("n_genes", "expected"),
    [
        (1, {"n_positions": 0, "gene_id": None, "position": None}),
        (2, {"n_positions": 2, "gene_id": "b", "position": 5}),
        (3, {"n_positions": 3, "gene_id": "a", "position": 9}),
    ],
)
def test_conflicting_rows__counts_positions_of_the_first_genes(
    n_genes: int, expected: dict[str, object], db: Database
) -> None:
    """Gene c has one label per position, b two positions with two labels, a one position with three; null is not counted."""
    load(
        db,
        [
            *(("c", 5, "donor"), ("c", 5, "donor"), ("c", 6, "neither"), ("c", None, "donor"), ("c", None, "neither")),
            *(("b", 7, "donor"), ("b", 7, "neither"), ("b", 5, "neither"), ("b", 5, "donor")),
            *(("a", 9, "donor"), ("a", 9, "neither"), ("a", 9, "acceptor")),
        ],
    )
    assert db.rows("conflicting_rows", n_genes=n_genes) == [expected]
