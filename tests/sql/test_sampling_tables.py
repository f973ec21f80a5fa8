"""Given rows, expect tables: which negatives are easy, which of them are trained on, and how many rows that leaves a gene."""

from collections.abc import Callable
from hashlib import md5
from pathlib import Path

import pytest

from mi_duck.data.database import Database

Given = Callable[[str, str], None]
WriteRows = Callable[..., Path]

ROWS = """
    gene_id fold_group label_text position site_score content file row_number
    A       A          neither    1        0.1        a       f1   0
    A       A          neither    2        0.2        b       f1   1
    A       A          donor      3        0.05       c       f1   2
    A       A          neither    4        0.8        d       f1   4
    B       B          neither    1        0.3        e       f1   3
    B       B          neither    2        -          f       f2   0
    B       B          acceptor   3        0.9        g       f2   1
    C       C          neither    1        0.4        h       f2   2
    """
INDEX = """
    gene_id fold_group n_rows label_counts gene_rank first_row
    B       B          3      2/0/1        0         0
    A       A          4      3/1/0        1         3
    C       C          1      1/0/0        2         7
    """


def probability(*row: object, seed: int = 42) -> float:
    """Return the number from 0 to 1 that decides whether an easy negative is kept: the lower half of an MD5 digest."""
    digest = md5(":".join(map(str, (seed, *row))).encode()).digest()
    return int.from_bytes(digest[8:], "little") / 2**64


@pytest.fixture
def rows(db: Database, given: Given) -> Database:
    given("source_rows", ROWS)
    given("gene_index", INDEX)
    return db


def test_easy_below__is_a_quantile_of_the_negatives_of_the_first_genes(rows: Database) -> None:
    def easy_below(share: float, n_genes: int) -> float | None:
        (row,) = rows.rows("easy_below", background="neither", quantile=share, n_genes=n_genes)
        return row["easy_below"]  # type: ignore[no-any-return]

    # negatives with a score: .3 of B, then .1, .2, .8 of A, then .4 of C
    assert easy_below(0.5, 3) == 0.3  # the third of five
    assert easy_below(0.8, 3) == 0.4  # the fourth
    assert easy_below(1.0, 3) == 0.8
    assert easy_below(0.5, 2) == 0.2  # the second of .1, .2, .3, .8
    assert easy_below(0.9, 1) == 0.3  # B's other negative has no score
    assert easy_below(0.5, 0) is None


def test_sampling__is_one_row_of_what_was_given(db: Database) -> None:
    assert db.rows("sampling", easy_below=0.25, share=0.5, seed=7, background="neither") == [
        {"easy_below": 0.25, "share": 0.5, "seed": 7, "background": "neither"}
    ]


@pytest.mark.parametrize(("share", "seed"), [(0.5, 42), (0.5, 7), (0.01, 42), (1.0, 42)])
def test_row_uses__keep_sites_hard_negatives_and_easy_ones_by_digest(rows: Database, share: float, seed: int) -> None:
    """At .35 the negatives of .1, .2 and .3 are easy; those of .8 and .4, and the one without a score, are hard."""
    rows.table("sampling", easy_below=0.35, share=share, seed=seed, background="neither")
    rows.table("repeated_rows")
    rows.view("row_uses")

    def easy(gene: str, position: int, score: float) -> int:
        return 2 if probability(gene, position, score, seed=seed) < share else 0

    expected = {
        "f1": [(0, easy("A", 1, 0.1)), (1, easy("A", 2, 0.2)), (2, 1), (3, easy("B", 1, 0.3)), (4, 1)],
        "f2": [(0, 1), (1, 1), (2, 1)],
    }
    for file, uses in expected.items():
        assert [(row["row_number"], row["use"]) for row in rows.rows("file_row_uses", file=file)] == uses
    n_easy = {"A": sum(use > 0 for _, use in expected["f1"][:2]), "B": int(expected["f1"][3][1] > 0)}
    # beside the easy ones B has two rows, A two, C one
    assert rows.rows("gene_training_rows") == [
        {"gene_rank": 0, "n_training_rows": 2 + n_easy["B"]},
        {"gene_rank": 1, "n_training_rows": 2 + n_easy["A"]},
        {"gene_rank": 2, "n_training_rows": 1},
    ]


def test_row_uses__the_border_itself_is_hard(rows: Database) -> None:
    rows.table("sampling", easy_below=0.1, share=0.0, seed=42, background="neither")
    rows.table("repeated_rows")
    rows.view("row_uses")
    assert {row["use"] for row in rows.rows("file_row_uses", file="f1")} == {1}


ALIKE = """
    gene_id fold_group label_text position site_score content file row_number
    A       A          neither    1        0.1        b       f1   0
    A       A          neither    1        0.1        a       f1   1
    A       A          neither    1        0.1        a       f2   0
    A       A          donor      1        0.1        a       f2   1
    A       A          neither    1        0.2        a       f2   2
    A       A          neither    -        0.1        d       f2   3
    A       A          neither    -        0.1        c       f2   4
    B       B          neither    1        0.1        a       f2   5
    A       A          neither    1        0.9        a       f2   6
    A       A          neither    1        0.9        a       f2   7
    """


def test_repeated_rows__are_numbered_by_content_among_those_that_agree(db: Database, given: Given) -> None:
    """Of the three at position 1 the two of content a come first; of the two without a position that of content c."""
    given("source_rows", ALIKE)
    db.table("sampling", easy_below=0.5, share=0.5, seed=42, background="neither")
    found = {(row["file"], row["row_number"]): row["number"] for row in db.rows("repeated_rows")}
    assert found == {("f2", 0): 1, ("f1", 0): 2, ("f2", 3): 1}


def test_row_uses__rows_that_agree_are_decided_one_by_one(db: Database, given: Given) -> None:
    given("source_rows", ALIKE)
    db.table("sampling", easy_below=0.5, share=0.5, seed=42, background="neither")
    db.table("repeated_rows")
    db.view("row_uses")
    uses = [row["use"] for row in db.rows("file_row_uses", file="f2")][:1] + [
        row["use"] for row in db.rows("file_row_uses", file="f1")
    ]
    expected = [2 if probability(*row) < 0.5 else 0 for row in (("A", 1, 0.1, 1), ("A", 1, 0.1, 2), ("A", 1, 0.1))]
    assert uses == expected


def test_gene_training_rows__a_gene_may_have_none(db: Database, given: Given) -> None:
    given("source_rows", ROWS)
    given("gene_index", INDEX)
    db.table("sampling", easy_below=0.5, share=0.0, seed=42, background="neither")
    db.table("repeated_rows")
    db.view("row_uses")
    # C's only row is an easy negative; A keeps its site and .8, B its site and the row without a score
    assert [row["n_training_rows"] for row in db.rows("gene_training_rows")] == [2, 2, 0]


def test_open_source__the_site_score_is_the_largest_and_unknown_where_one_is(
    db: Database, write_rows: WriteRows
) -> None:
    nan = float("nan")
    scores = [(0.1, 0.2), (0.4, 0.3), (None, 0.9), (0.9, nan), (nan, None)]
    rows = [
        {"gene_id": "A", "label": "neither", "position": number, "five": five, "three three": three}
        for number, (five, three) in enumerate(scores)
    ]
    files = sorted(write_rows(rows).glob("*.parquet"))
    db.open_source(
        files,
        gene_column="gene_id",
        label_column="label",
        fold_column="gene_id",
        position_column="position",
        site_scores=["five", "three three"],
    )
    found = sorted((row["position"], row["site_score"]) for row in db.read("source_rows").to_pylist())
    assert found == [(0, 0.2), (1, 0.4), (2, None), (3, None), (4, None)]
