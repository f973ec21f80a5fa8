"""Given rows, expect tables: the places of rows when a dataset is sorted by gene."""

from collections.abc import Callable

from mi_duck.data.database import Database

Given = Callable[[str, str], None]

ROWS = """
    gene_id position file row_number
    B       5        f1   0
    A       7        f1   1
    B       5        f2   0
    A       3        f2   1
    B       -        f2   2
    C       1        f1   2
    """
GENES = """
    gene_id n_rows first_row
    A       2      0
    B       3      2
    C       1      5
    """


def test_clustered_genes__begin_where_the_genes_before_them_end(db: Database, given: Given) -> None:
    given(
        "label_counts",
        """
        gene_id fold_group label_text label n_rows first_file
        B       c1         neither    0     2      f1
        A       c1         donor      1     2      f1
        B       c1         donor      1     1      f1
        C       c2         acceptor   2     1      f2
        """,
    )
    rows = db.rows("clustered_genes")
    assert [tuple(row.values()) for row in rows] == [("A", 2, 0), ("B", 3, 2), ("C", 1, 5)]


def test_row_places__rows_are_sorted_by_gene_position_and_then_as_they_come(db: Database, given: Given) -> None:
    given("source_rows", ROWS)
    given("clustered_genes", GENES)
    rows = db.rows("row_places", files=["f1", "f2"])
    assert [tuple(row.values()) for row in rows] == [
        (0, 0, 3),  # B at 5, of the first file
        (0, 1, 1),  # A at 7 comes after A at 3
        (0, 2, 5),
        (1, 0, 4),  # B at 5, of the second file
        (1, 1, 0),
        (1, 2, 2),  # B without a position comes first
    ]
    assert [row["place"] for row in db.rows("row_places", files=["f2", "f1"])][:1] == [3]


def test_group_genes__counts_the_genes_of_each_row_group(db: Database, given: Given) -> None:
    given("source_rows", ROWS)
    given(
        "row_groups",
        """
        file row_group first_row n_rows
        f1   0         0         3
        f2   0         0         1
        f2   1         1         2
        """,
    )
    assert [tuple(row.values()) for row in db.rows("group_genes")] == [
        ("f1", 0, 3, 3),
        ("f2", 0, 1, 1),
        ("f2", 1, 2, 2),
    ]
